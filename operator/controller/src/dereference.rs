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
use operator_core::{
    Observed, access,
    build::{self, Kind},
    names, pinned, surge,
};

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
    let config_map = ours(context, key, Kind::ConfigMap, &names::manifest_config_map(&key.name), &uid).await?;
    let config_map: Option<ConfigMap> = config_map.and_then(typed);
    let deployment = ours(context, key, Kind::Deployment, &key.name, &uid).await?;
    let deployment: Option<Deployment> = deployment.and_then(typed);
    let pods = context.watches.pods(key);
    let observed = Observed {
        manifest: config_map.as_ref().and_then(build::manifest_of),
        template: deployment.as_ref().and_then(pinned::pinned_of),
        replicas: deployment.as_ref().and_then(|it| it.spec.as_ref()?.replicas),
        config_maps: context.config_maps.named_by(&context.client, &context.watches, &key.namespace, &models).await?,
        absent_claims: absent_claims(context, key, server, &models).await?,
        secrets: Some(
            context.secrets.find(&context.client, &key.namespace, access::secrets_to_look_for(server)).await?,
        ),
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
    Ok(Surroundings { observed, models, unreadable, pods, deployment })
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
        return Ok(Some((*object).clone()));
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

async fn absent_claims(
    context: &Context,
    key: &ServerKey,
    server: &TritonServer,
    models: &[TritonModel],
) -> Result<BTreeSet<String>, kube::Error> {
    let of_models = models.iter().filter_map(|model| Some(model.spec.source.pvc.as_ref()?.claim_name.as_str()));
    let named: BTreeSet<&str> = of_models.chain(access::claims_to_look_for(server)).collect();
    let api: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &key.namespace);
    let mut absent = BTreeSet::new();
    for claim in named {
        if api.get_metadata_opt(claim).await?.is_none() {
            absent.insert(claim.to_owned());
        }
    }
    Ok(absent)
}
