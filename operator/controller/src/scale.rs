//! Takes a server between zero and one replica, where an autoscaler sets the number otherwise. It is not part of what is applied: the
//! number stays the autoscaler's, and it is changed only if it still is what the decision was made from.

use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{apply::SCALE_MANAGER, context::Context, queue::ServerKey};

/// Sets the replicas of a server's Deployment, if they are `from`. Somebody may have changed them meanwhile: that counts.
pub(crate) async fn set_replicas(context: &Context, key: &ServerKey, from: i32, to: i32) -> Result<(), kube::Error> {
    let api: Api<Deployment> = Api::namespaced(context.client.clone(), &key.namespace);
    let patch = json!([
        { "op": "test", "path": "/spec/replicas", "value": from },
        { "op": "replace", "path": "/spec/replicas", "value": to },
    ]);
    let patch = Patch::Json::<()>(serde_json::from_value(patch).map_err(kube::Error::SerdeError)?);
    let params = PatchParams { field_manager: Some(SCALE_MANAGER.into()), ..PatchParams::default() };
    match api.patch_metadata(&key.name, &params, &patch).await {
        Ok(_) => {
            context.metrics.wrote("Deployment", "patch");
            tracing::info!(server = %key, from, to, "replicas were set");
            Ok(())
        }
        // 422: it is another number by now
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => {
            tracing::debug!(server = %key, from, to, error = status.message, "replicas were not set");
            Ok(())
        }
        Err(error) => Err(error),
    }
}
