//! Step 1 of a reconcile: what the spec points at. Objects of ours come from the stores, or from the API server where a store
//! lags behind our own writes; ConfigMaps with models are fetched, claims and labels of Secrets asked for by name.

use std::{collections::BTreeSet, sync::Arc};

use crds::{TritonModel, TritonServer};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, PersistentVolumeClaim, Pod},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Resource, ResourceExt, api::DynamicObject};
use operator_core::{Observed, access, autoscaling::Autoscale, build, kind::Kind, names, pinned, replicas, surge};

use serde_json::Value;

use crate::{context::Context, queue::ServerKey};

/// What surrounds a server.
pub(crate) struct Surroundings {
    /// What decisions are made from.
    pub(crate) observed: Observed,
    /// The models that name the server.
    pub(crate) models: Vec<TritonModel>,
    /// Metadata of the models of the namespace that cannot be read.
    pub(crate) unreadable: Vec<ObjectMeta>,
    /// Its pods.
    pub(crate) pods: Vec<Arc<Pod>>,
    /// Its Deployment as it is now.
    pub(crate) deployment: Option<Deployment>,
    /// Something was asked for that is not watched: a claim, or the label of a Secret.
    pub(crate) has_unwatched: bool,
    /// What scales it, as it is now.
    pub(crate) autoscaler: Option<Value>,
}

/// Fetches what surrounds `server`.
pub(crate) async fn dereference(
    context: &Context,
    key: &ServerKey,
    server: &TritonServer,
) -> Result<Surroundings, kube::Error> {
    let models = context.watches.models(key);
    let unreadable = context.watches.unreadable_models(&key.namespace);
    let uid = server.uid().unwrap_or_default();
    let config_map_name = names::manifest_config_map(&key.name);
    let (config_map, deployment) = tokio::try_join!(
        ours(context, key, Kind::ConfigMap, &config_map_name, &uid),
        ours(context, key, Kind::Deployment, &key.name, &uid),
    )?;
    let config_map: Option<ConfigMap> = config_map.and_then(typed);
    let deployment: Option<Deployment> = deployment.and_then(typed);
    let pods = context.watches.pods(key);
    let claims = claims(server, &models);
    let secrets = access::secrets_to_look_for(server);
    let has_unwatched = !claims.is_empty() || !secrets.is_empty();
    let observed = Observed {
        manifest: config_map.as_ref().and_then(build::manifest_of),
        template: deployment.as_ref().and_then(pinned::pinned_of),
        replicas: deployment.as_ref().and_then(|it| it.spec.as_ref()?.replicas),
        replicas_before: deployment.as_ref().and_then(replicas::noted),
        config_maps: context.config_maps.named_by(&context.client, &context.watches, &key.namespace, &models).await?,
        absent_claims: absent_claims(context, key, &claims).await?,
        secrets: Some(context.secrets.find(&context.client, &key.namespace, secrets).await?),
        allowed_addresses: context.allowed_addresses.clone(),
        unreadable: unreadable
            .iter()
            .filter_map(|(metadata, error)| Some((metadata.name.clone()?, error.clone())))
            .collect(),
        has_no_room: surge::has_no_room(deployment.as_ref(), pods.iter().map(|pod| &**pod)),
        kinds: context.watches.optional_kinds(&key.namespace),
        activators: None, // decided once more is known
        rests_not: None,
    };
    let unreadable = unreadable.into_iter().map(|(metadata, _)| metadata).collect();
    let autoscaler = autoscaler(context, key, server, &uid).await?;
    Ok(Surroundings { observed, models, unreadable, pods, deployment, has_unwatched, autoscaler })
}

/// What scales a server, if it is there already.
async fn autoscaler(
    context: &Context,
    key: &ServerKey,
    server: &TritonServer,
    uid: &str,
) -> Result<Option<Value>, kube::Error> {
    let Some(autoscale) = Autoscale::of(&server.spec) else { return Ok(None) };
    let found = ours(context, key, autoscale.kind(), &key.name, uid).await?;
    Ok(found.map(|object| object.data))
}

/// An object as it is now: from the store, or from the API server if the store has none or lags behind our last write.
pub(crate) async fn current(
    context: &Context,
    key: &ServerKey,
    kind: Kind,
    name: &str,
) -> Result<Option<DynamicObject>, kube::Error> {
    let stored = context.watches.object(kind, &key.namespace, name);
    if let Some(object) = stored
        && context.written.is_fresh(key, kind, name, object.metadata.resource_version.as_deref())
    {
        return Ok(Some(object));
    }
    match api(context, key, kind).get(name).await {
        Ok(mut object) => {
            object.managed_fields_mut().clear();
            Ok(Some(object))
        }
        // the object, or the whole kind, is not there
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

/// Objects of a kind in the namespace of a server.
pub(crate) fn api(context: &Context, key: &ServerKey, kind: Kind) -> Api<DynamicObject> {
    Api::namespaced_with(context.client.clone(), &key.namespace, &kind.api_resource())
}

async fn ours(
    context: &Context,
    key: &ServerKey,
    kind: Kind,
    name: &str,
    uid: &str,
) -> Result<Option<DynamicObject>, kube::Error> {
    let found = current(context, key, kind, name).await?;
    Ok(found.filter(|object| object.owner_references().iter().any(|owner| owner.uid == uid)))
}

fn typed<K: Resource + serde::de::DeserializeOwned>(object: DynamicObject) -> Option<K> {
    object.try_parse().ok()
}

/// The claims that matter to a server.
fn claims(server: &TritonServer, models: &[TritonModel]) -> BTreeSet<String> {
    let of_models = models.iter().filter_map(|model| Some(model.spec.source.pvc.as_ref()?.claim_name.as_str()));
    // what no claim can be called would be another path at the API server; it is reported as a mistake
    let named = of_models.chain(access::claims_to_look_for(server)).filter(|name| names::is_of_object(name));
    named.map(str::to_owned).collect()
}

async fn absent_claims(
    context: &Context,
    key: &ServerKey,
    named: &BTreeSet<String>,
) -> Result<BTreeSet<String>, kube::Error> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &key.namespace);
    let mut absent = BTreeSet::new();
    for claim in named {
        if api.get_metadata_opt(claim).await?.is_none() {
            absent.insert(claim.clone());
        }
    }
    Ok(absent)
}
