//! Step 6 of a reconcile: a status is written only if it says something else than before. It has a field manager of its own,
//! so that what is no longer said is taken out, and what others say beside it stays.

use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Resource, ResourceExt,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use operator_core::events::Event;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{context::Context, queue::ServerKey};

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

/// Writes `after` if it differs from `before`, and writes the events of the change.
pub(crate) async fn write_status<K, S>(
    context: &Context,
    key: &ServerKey,
    resource: &K,
    before: &S,
    after: &S,
    events: &[Event],
) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    S: Serialize + PartialEq,
{
    if before == after {
        return Ok(());
    }
    let status = serde_json::to_value(after).map_err(kube::Error::SerdeError)?;
    if !context.written.may_write_status(key, resource.meta().uid.as_deref().unwrap_or_default(), &status) {
        tracing::warn!(server = %key, name = resource.name_any(), "somebody else writes this status as well: it is put back later");
        return Ok(());
    }
    if apply(context, key, resource, status).await? {
        context.events.write_all(&resource.object_ref(&()), "Observe", events, &context.metrics).await;
    }
    Ok(())
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
