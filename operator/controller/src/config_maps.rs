//! ConfigMaps that models come from: fetched when the watch reports a version that was not fetched yet, and kept in the form
//! in which decisions need them. The watch itself keeps no contents: a cluster may have many, and models come from few.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crds::TritonModel;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use operator_core::observed::FoundConfigMap;

use crate::{context::Context, queue::ServerKey, watches::version};

/// Contents by namespace and name, with the version they are of.
#[derive(Debug, Default)]
pub(crate) struct ConfigMaps(Mutex<HashMap<(String, String), (String, FoundConfigMap)>>);

/// Those that `models` name.
pub(crate) async fn named_by(
    context: &Context,
    key: &ServerKey,
    models: &[TritonModel],
) -> Result<BTreeMap<String, FoundConfigMap>, kube::Error> {
    let mut found = BTreeMap::new();
    for source in models.iter().filter_map(|model| model.spec.source.config_map.as_ref()) {
        if !found.contains_key(&source.name) {
            found.insert(source.name.clone(), find(context, key, &source.name).await?);
        }
    }
    Ok(found)
}

async fn find(context: &Context, key: &ServerKey, name: &str) -> Result<FoundConfigMap, kube::Error> {
    let id = (key.namespace.clone(), name.to_owned());
    let Some(watched) = context.watches.config_map_version(&key.namespace, name) else {
        context.config_maps.all().remove(&id);
        return Ok(FoundConfigMap::Absent);
    };
    if let Some((version, found)) = context.config_maps.all().get(&id)
        && *version == watched
    {
        return Ok(found.clone());
    }
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), &key.namespace);
    let Some(config_map) = api.get_opt(name).await? else { return Ok(FoundConfigMap::Absent) };
    let version = version(&config_map.metadata).unwrap_or_default();
    let found = FoundConfigMap::of(config_map);
    context.config_maps.all().insert(id, (version, found.clone()));
    Ok(found)
}

impl ConfigMaps {
    fn all(&self) -> MutexGuard<'_, HashMap<(String, String), (String, FoundConfigMap)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
