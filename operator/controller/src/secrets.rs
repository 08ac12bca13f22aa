//! Secrets that servers name: whether they exist and carry the label that lets models use them. Asked one by one, by name, and for
//! metadata only; what a Secret holds never comes here. Nothing is watched, so an answer is believed for a short time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use operator_core::{names, observed::FoundSecret};
use tokio::time::Instant;

/// How long a marked Secret is believed to be so: then at the next reconcile of a settled server it is looked at again.
const MARKED_FOR: Duration = Duration::from_secs(50);
/// How long one that is not there or not marked is believed to be so.
const MISSED_FOR: Duration = Duration::from_secs(5);

/// What was found, by namespace and name.
#[derive(Debug)]
pub(crate) struct Secrets {
    may_look: bool,
    found: Mutex<HashMap<(String, String), (Instant, FoundSecret)>>,
}

impl Secrets {
    /// `may_look`: whether the operator was given the right to.
    pub(crate) fn new(may_look: bool) -> Self {
        Self { may_look, found: Mutex::default() }
    }

    /// What those Secrets of a namespace are. A right that is missing is no error: the Secrets are unseen.
    pub(crate) async fn find(
        &self,
        client: &Client,
        namespace: &str,
        names: BTreeSet<String>,
    ) -> Result<BTreeMap<String, FoundSecret>, kube::Error> {
        let mut all = BTreeMap::new();
        for name in names {
            let found = self.find_one(client, namespace, &name).await?;
            all.insert(name, found);
        }
        Ok(all)
    }

    async fn find_one(&self, client: &Client, namespace: &str, name: &str) -> Result<FoundSecret, kube::Error> {
        if !self.may_look {
            return Ok(FoundSecret::Unseen);
        }
        if !names::is_of_object(name) {
            return Ok(FoundSecret::NotForModels); // it would be another path at the API server
        }
        let id = (namespace.to_owned(), name.to_owned());
        if let Some(found) = self.known(&id, Instant::now()) {
            return Ok(found);
        }
        let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let found = match api.get_metadata_opt(name).await {
            Ok(secret) => FoundSecret::of(secret.and_then(|secret| secret.metadata.labels).as_ref()),
            Err(kube::Error::Api(status)) if status.code == 403 => FoundSecret::Unseen,
            Err(error) => return Err(error),
        };
        self.note(id, found, Instant::now());
        Ok(found)
    }

    fn known(&self, id: &(String, String), now: Instant) -> Option<FoundSecret> {
        let all = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(id).filter(|(at, found)| is_fresh(*at, *found, now)).map(|(_, found)| *found)
    }

    fn note(&self, id: (String, String), found: FoundSecret, now: Instant) {
        let mut all = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() == all.capacity() {
            all.retain(|_, (at, found)| is_fresh(*at, *found, now)); // before it would grow
        }
        all.insert(id, (now, found));
    }
}

fn is_fresh(at: Instant, found: FoundSecret, now: Instant) -> bool {
    let lasts = if found == FoundSecret::ForModels { MARKED_FOR } else { MISSED_FOR };
    now.duration_since(at) < lasts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> (String, String) {
        ("ml".to_owned(), name.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_believed_for_a_while_and_a_missing_one_for_less() {
        let secrets = Secrets::new(true);
        let start = Instant::now();
        secrets.note(id("marked"), FoundSecret::ForModels, start);
        secrets.note(id("missing"), FoundSecret::NotForModels, start);
        let known = |name, after| secrets.known(&id(name), start + after);
        assert_eq!(known("marked", MARKED_FOR / 2), Some(FoundSecret::ForModels));
        assert_eq!(known("marked", MARKED_FOR), None);
        assert_eq!(known("missing", MISSED_FOR / 2), Some(FoundSecret::NotForModels));
        assert_eq!(known("missing", MISSED_FOR), None);
        assert_eq!(known("other", Duration::ZERO), None);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_nobody_asks_for_any_more_take_no_room() {
        let secrets = Secrets::new(true);
        let start = Instant::now();
        for number in 0..10_000_u32 {
            secrets.note(id(&number.to_string()), FoundSecret::NotForModels, start + MISSED_FOR * number);
        }
        assert!(secrets.found.lock().unwrap().len() < 10);
    }
}
