//! Step 6 of a reconcile: a status is written only if it says something else than before. It has a field manager of its own,
//! so that what is no longer said is taken out, and what others say beside it stays.

use std::{cmp::Reverse, time::Duration};

use crds::{
    TritonModel, TritonModelStatus,
    parts::{Condition, ConditionStatus, condition::find},
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use k8s_openapi::{
    NamespaceResourceScope,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::SignedDuration,
};
use kube::{
    Api, Resource, ResourceExt,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use operator_core::{
    events::{self, Event},
    status::is_progress_of_model,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{context::Context, queue::ServerKey, rewrites::progress_hold};

/// Field manager of statuses.
const MANAGER: &str = "triton-operator-status";

/// The status of `resource` as it was last written, by us or by what the store has.
pub(crate) fn before<K, S>(context: &Context, key: &ServerKey, resource: &K, stored: Option<&S>) -> S
where
    K: Resource,
    S: Clone + Default + DeserializeOwned,
{
    let meta = resource.meta();
    let uid = meta.uid.as_deref().unwrap_or_default();
    let newer = context.written.newer_status(key, uid, meta.resource_version.as_deref());
    newer.and_then(|status| serde_json::from_value(status).ok()).or_else(|| stored.cloned()).unwrap_or_default()
}

/// Statuses of the models of one server that are written at the same time: it may have a thousand.
const AT_ONCE: usize = 8;

/// Whether a status is in the cluster; the greatest comes soonest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Written {
    /// As it should be.
    Now,
    /// Somebody else writes it as well: it is put back later.
    Later,
    /// It tells of progress only: it comes with the next one, or after this time.
    Soon(Reverse<Duration>),
}

/// The status of a model, as it was and as it is to be.
pub(crate) struct Change<'a> {
    pub(crate) model: &'a TritonModel,
    pub(crate) before: &'a TritonModelStatus,
    pub(crate) after: &'a TritonModelStatus,
    /// The model does not fit its definition: the API server may refuse whatever is written to it.
    pub(crate) is_unreadable: bool,
}

impl Change<'_> {
    /// When the model was applied, if the change says that it became ready.
    pub(crate) fn became_ready(&self) -> Option<Time> {
        became_ready(&self.model.metadata, (&self.before.conditions, &self.after.conditions))
    }
}

/// How long after it was made a resource has its first status, as a rule. What ceased to be ready later was ready before.
const FIRST_STATUS: SignedDuration = SignedDuration::from_secs(120);

/// When a resource was applied, or ceased to be ready otherwise, if these conditions say that it became ready now: the moment at
/// which it was first seen as not ready, or at which it was made.
pub(crate) fn became_ready(metadata: &ObjectMeta, (before, after): (&[Condition], &[Condition])) -> Option<Time> {
    let ready = |conditions: &[Condition]| find(conditions, "Ready").cloned();
    ready(after).filter(|ready| ready.status == ConditionStatus::True)?;
    match ready(before) {
        Some(before) if before.status == ConditionStatus::True => None,
        Some(before) => {
            let is_first = |made: &Time| before.last_transition_time.0.duration_since(made.0) <= FIRST_STATUS;
            let made =
                metadata.creation_timestamp.clone().filter(|made| metadata.generation == Some(1) && is_first(made));
            Some(made.unwrap_or(before.last_transition_time))
        }
        None => metadata.creation_timestamp.clone(),
    }
}

/// Writes the statuses of models that differ from what they were, with the events of each change.
///
/// Errors: one could not be written. The others were, unless the API server could not be asked.
pub(crate) async fn write_models(
    context: &Context,
    key: &ServerKey,
    changes: Vec<Change<'_>>,
) -> Result<Written, kube::Error> {
    let mut waiting = changes.into_iter();
    let mut under_way = FuturesUnordered::new();
    let mut all = Ok(Written::Now);
    loop {
        under_way
            .extend(waiting.by_ref().take(AT_ONCE - under_way.len()).map(|change| write_model(context, key, change)));
        match under_way.next().await {
            Some(Ok(one)) => all = all.map(|all| all.max(one)),
            Some(Err(error @ kube::Error::Api(_))) => all = all.and(Err(error)),
            Some(Err(error)) => return Err(error),
            None => return all,
        }
    }
}

async fn write_model(context: &Context, key: &ServerKey, change: Change<'_>) -> Result<Written, kube::Error> {
    let Change { model, before, after, is_unreadable } = change;
    let events = events::of_model(before, after);
    let is_progress = is_progress_of_model(before, after);
    match write_status(context, key, model, (before, after), is_progress, &events).await {
        Err(error) if is_unreadable => {
            tracing::warn!(server = %key, model = model.name_any(), %error, "the status of an unreadable model is not written");
            Ok(Written::Now)
        }
        written => written,
    }
}

/// Writes `after` if it differs from `before`, and writes the events of the change. `is_progress`: it differs in nothing that anybody
/// waits for.
pub(crate) async fn write_status<K, S>(
    context: &Context,
    key: &ServerKey,
    resource: &K,
    (before, after): (&S, &S),
    is_progress: bool,
    events: &[Event],
) -> Result<Written, kube::Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    S: Serialize + PartialEq,
{
    if before == after {
        return Ok(Written::Now);
    }
    let uid = resource.meta().uid.as_deref().unwrap_or_default();
    if is_progress && events.is_empty() {
        let hold = progress_hold(context.queue.waiting().1);
        if let Some(left) = context.written.wait_for_progress(key, uid, hold) {
            return Ok(Written::Soon(Reverse(left)));
        }
    }
    let status = serde_json::to_value(after).map_err(kube::Error::SerdeError)?;
    if !context.written.may_write_status(key, uid, &status) {
        tracing::warn!(server = %key, name = resource.name_any(), "somebody else writes this status as well: it is put back later");
        return Ok(Written::Later);
    }
    if apply(context, key, resource, status).await? {
        context.events.record(&resource.object_ref(&()), "Observe", events);
    }
    Ok(Written::Now)
}

/// `false` if the resource is gone.
async fn apply<K>(context: &Context, key: &ServerKey, resource: &K, status: Value) -> Result<bool, kube::Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let kind = ApiResource::erase::<K>(&());
    let (name, uid) = (resource.name_any(), resource.uid().unwrap_or_default());
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &key.namespace, &kind);
    let patch = json!({
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        // the uid: a resource of the same name that was made since is another one
        "metadata": { "name": name, "uid": uid },
        "status": status,
    });
    match api.patch_status(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&patch)).await {
        Ok(written) => {
            context.metrics.wrote(&kind.kind, "status");
            context.written.status(key, &uid, written.metadata.resource_version.as_deref(), status);
            tracing::debug!(server = %key, kind = kind.kind, name, "status written");
            Ok(true)
        }
        // gone, or another one: nothing to write to
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(status: ConditionStatus, since: &str) -> Condition {
        serde_json::from_value(json!({
            "type": "Ready", "status": status, "reason": "R", "message": "", "lastTransitionTime": since,
        }))
        .unwrap()
    }

    #[track_caller]
    fn check(generation: i64, before: &[Condition], after: ConditionStatus, expect: Option<&str>) {
        let metadata: ObjectMeta =
            serde_json::from_value(json!({ "generation": generation, "creationTimestamp": "2026-01-01T00:00:00Z" }))
                .unwrap();
        let after = [condition(after, "2026-01-01T00:09:00Z")];
        let expect = expect.map(|time| serde_json::from_value::<Time>(json!(time)).unwrap());
        assert_eq!(became_ready(&metadata, (before, &after)), expect);
    }

    #[test]
    fn the_time_to_ready_begins_when_a_resource_was_made_or_changed() {
        let (yes, no) = (ConditionStatus::True, ConditionStatus::False);
        let (made, changed) = ("2026-01-01T00:00:00Z", "2026-01-01T00:05:00Z");
        check(1, &[], yes, Some(made));
        check(1, &[condition(no, "2026-01-01T00:00:30Z")], yes, Some(made));
        check(1, &[condition(no, changed)], yes, Some(changed)); // it was ready meanwhile
        check(2, &[condition(no, changed)], yes, Some(changed));
        check(2, &[condition(yes, changed)], yes, None);
        check(2, &[condition(no, changed)], no, None);
    }
}
