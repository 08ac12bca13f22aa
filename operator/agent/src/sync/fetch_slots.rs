//! How many fetches run at once: so many from each place that files come from, so that one slow place holds up nobody else's
//! models, and so many in all. What the manifest carries, or what lies in the pod already, waits for nobody.

use std::{collections::HashMap, sync::Arc};

use operator_core::manifest::ManifestSource;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Fetches at once in all: each may hold a connection, a file and a buffer.
const IN_ALL: usize = 64;

/// The slots of one agent.
#[derive(Debug)]
pub(super) struct FetchSlots {
    per_place: usize,
    in_all: Arc<Semaphore>,
    places: HashMap<String, Arc<Semaphore>>,
}

/// What one fetch has to have before it begins; held until it ends.
#[derive(Debug)]
pub(super) struct FetchSlot(Option<[Arc<Semaphore>; 2]>);

impl FetchSlots {
    /// So many fetches at once from each place.
    pub(super) fn new(per_place: usize) -> Self {
        Self { per_place: per_place.max(1), in_all: Arc::new(Semaphore::new(IN_ALL)), places: HashMap::new() }
    }

    /// The slot for a fetch from `source`.
    pub(super) fn of(&mut self, source: &ManifestSource) -> FetchSlot {
        let Some(place) = place(source) else { return FetchSlot(None) };
        self.places.retain(|_, slots| Arc::strong_count(slots) > 1); // the others are nobody's
        let slots = self.places.entry(place).or_insert_with(|| Arc::new(Semaphore::new(self.per_place)));
        FetchSlot(Some([Arc::clone(slots), Arc::clone(&self.in_all)]))
    }
}

impl FetchSlot {
    /// Waits for its turn: at its own place first, so that what waits for a slow place takes nothing from others.
    pub(super) async fn taken(self) -> Vec<OwnedSemaphorePermit> {
        let mut permits = Vec::new();
        for slots in self.0.into_iter().flatten() {
            permits.extend(slots.acquire_owned().await); // never closed
        }
        permits
    }
}

/// Where the files come from, as far as one place may be slower than another; none if they are at hand.
fn place(source: &ManifestSource) -> Option<String> {
    match source {
        ManifestSource::Inline { .. } | ManifestSource::ConfigMap { .. } => None,
        ManifestSource::Pvc { claim, .. } => Some(format!("claim {claim}")),
        ManifestSource::Http { uri: address, .. }
        | ManifestSource::HuggingFace { endpoint: address, .. }
        | ManifestSource::Oci { reference: address, .. } => Some(authority(address).to_owned()),
        ManifestSource::S3 { uri, endpoint, .. }
        | ManifestSource::Gcs { uri, endpoint, .. }
        | ManifestSource::Azure { uri, endpoint, .. } => Some(authority(endpoint.as_ref().unwrap_or(uri)).to_owned()),
    }
}

/// The part of an address that names the machine.
fn authority(uri: &str) -> &str {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;

    fn http(uri: &str) -> ManifestSource {
        ManifestSource::Http { uri: uri.into(), secret: None }
    }

    async fn has_turn(slots: &mut FetchSlots, source: &ManifestSource) -> Option<Vec<OwnedSemaphorePermit>> {
        tokio::time::timeout(Duration::from_secs(1), slots.of(source).taken()).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_slow_holds_up_no_other() {
        let mut slots = FetchSlots::new(2);
        let slow = http("http://slow.example:8080/a.zip?x=1");
        let first = has_turn(&mut slots, &slow).await.unwrap();
        let _second = has_turn(&mut slots, &slow).await.unwrap();
        assert!(has_turn(&mut slots, &http("http://slow.example:8080/b.zip")).await.is_none());
        assert!(has_turn(&mut slots, &http("https://other.example/a.zip")).await.is_some());
        assert!(has_turn(&mut slots, &ManifestSource::Pvc { claim: "a".into(), path: String::new() }).await.is_some());
        drop(first);
        assert!(has_turn(&mut slots, &slow).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_at_hand_waits_for_nobody() {
        let mut slots = FetchSlots::new(1);
        let mut held = Vec::new();
        for number in 0..IN_ALL {
            held.push(has_turn(&mut slots, &http(&format!("http://{number}.example/"))).await.unwrap());
        }
        assert!(has_turn(&mut slots, &http("http://one.more.example/")).await.is_none());
        assert!(has_turn(&mut slots, &ManifestSource::Inline { files: BTreeMap::new() }).await.is_some());
        let map = ManifestSource::ConfigMap { name: "m".into(), items: Vec::new(), keys: None };
        assert!(has_turn(&mut slots, &map).await.is_some());
    }
}
