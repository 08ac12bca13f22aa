//! ConfigMaps that models come from: fetched when the watch reports a version that was not fetched yet, and kept in the form
//! in which decisions need them. The watch itself keeps no contents: a cluster may have many, and models come from few.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crds::TritonModel;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use operator_core::{names, observed::FoundConfigMap};

use crate::watches::{Watches, version};

/// Contents by namespace and name, with the version they are of.
#[derive(Debug, Default)]
pub(crate) struct ConfigMaps(Mutex<HashMap<(String, String), (String, FoundConfigMap)>>);

impl ConfigMaps {
    /// Those that `models` of `namespace` name.
    pub(crate) async fn named_by(
        &self,
        client: &Client,
        watches: &Watches,
        namespace: &str,
        models: &[TritonModel],
    ) -> Result<BTreeMap<String, FoundConfigMap>, kube::Error> {
        let mut found = BTreeMap::new();
        for source in models.iter().filter_map(|model| model.spec.source.config_map.as_ref()) {
            if !names::is_of_object(&source.name) {
                found.insert(source.name.clone(), FoundConfigMap::Absent); // it would be another path at the API server
            } else if !found.contains_key(&source.name) {
                found.insert(source.name.clone(), self.find(client, watches, namespace, &source.name).await?);
            }
        }
        Ok(found)
    }

    async fn find(
        &self,
        client: &Client,
        watches: &Watches,
        namespace: &str,
        name: &str,
    ) -> Result<FoundConfigMap, kube::Error> {
        let id = (namespace.to_owned(), name.to_owned());
        let Some(watched) = watches.config_map_version(namespace, name) else {
            self.all().remove(&id);
            return Ok(FoundConfigMap::Absent);
        };
        if let Some((version, found)) = self.all().get(&id)
            && *version == watched
        {
            return Ok(found.clone());
        }
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let Some(config_map) = api.get_opt(name).await? else { return Ok(FoundConfigMap::Absent) };
        let version = version(&config_map.metadata).unwrap_or_default();
        let found = FoundConfigMap::of(config_map);
        self.all().insert(id, (version, found.clone()));
        Ok(found)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<(String, String), (String, FoundConfigMap)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
