//! From what happened to an object to the servers it may matter to. A model that moves matters to two of them, so what each
//! model named last is remembered.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use crds::{TritonModel, TritonServer};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;

use super::Guarded;
use crate::queue::ServerKey;

/// Whether an object is there after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Is,
    IsGone,
}

/// The server that this is the metadata of.
pub(super) fn own_key(meta: &ObjectMeta) -> Option<ServerKey> {
    Some(ServerKey { namespace: meta.namespace.clone()?, name: meta.name.clone()? })
}

/// The server an object was made for: by its owner, or by its label where the owner is another object or was removed.
pub(super) fn owning_server(meta: &ObjectMeta) -> Option<ServerKey> {
    let kind = TritonServer::kind(&());
    let owner = meta.owner_references.iter().flatten().find(|owner| owner.kind == kind).map(|owner| owner.name.clone());
    let label = || meta.labels.as_ref()?.get("app.kubernetes.io/instance").cloned();
    Some(ServerKey { namespace: meta.namespace.clone()?, name: owner.or_else(label)? })
}

/// The server a model names.
pub(super) fn server_of(model: &TritonModel) -> Option<ServerKey> {
    let namespace = model.metadata.namespace.clone()?;
    Some(ServerKey { namespace, name: model.spec.server_ref.name.clone() })
}

/// The servers of models whose files come from a ConfigMap.
pub(super) fn config_map_users(models: &[Arc<Guarded<TritonModel>>], config_map: &ObjectMeta) -> Vec<ServerKey> {
    let uses_it = |model: &&TritonModel| {
        let source = model.spec.source.config_map.as_ref();
        model.metadata.namespace == config_map.namespace
            && source.is_some_and(|source| Some(&source.name) == config_map.name.as_ref())
    };
    let models = models.iter().filter_map(|model| model.0.as_ref().ok());
    let keys: BTreeSet<_> = models.filter(uses_it).filter_map(server_of).collect();
    keys.into_iter().collect()
}

/// The server a model names and the one it named before.
pub(super) fn moved(
    servers_of_models: &Mutex<HashMap<String, ServerKey>>,
    change: &Change,
    model: &Guarded<TritonModel>,
) -> Vec<ServerKey> {
    let Some(uid) = model.meta().uid.clone() else { return vec![] };
    let mut servers_of_models = servers_of_models.lock().unwrap_or_else(PoisonError::into_inner);
    let before = servers_of_models.get(&uid).cloned();
    let now = match (change, &model.0) {
        (Change::IsGone, _) => None,
        (Change::Is, Ok(model)) => server_of(model),
        // no more deleted than moved: it goes on belonging to the server it named last
        (Change::Is, Err(invalid)) => {
            let name = model.meta().name.as_deref().unwrap_or_default();
            tracing::warn!(model = name, error = %invalid, "a TritonModel cannot be read");
            before.clone()
        }
    };
    match &now {
        Some(now) => servers_of_models.insert(uid, now.clone()),
        None => servers_of_models.remove(&uid),
    };
    let mut keys: Vec<_> = before.into_iter().chain(now).collect();
    keys.dedup();
    keys
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn model(server: &str) -> Guarded<TritonModel> {
        serde_json::from_value(json!({
            "apiVersion": "triton-operator.dev/v1alpha1", "kind": "TritonModel",
            "metadata": { "name": "m", "namespace": "ml", "uid": "1" },
            "spec": { "serverRef": { "name": server }, "source": {} },
        }))
        .unwrap()
    }

    #[test]
    fn a_model_that_moves_is_looked_after_on_both_sides() {
        let servers_of_models = Mutex::default();
        let names = |change, model| -> Vec<String> {
            moved(&servers_of_models, &change, &model).into_iter().map(|key| key.name).collect()
        };
        assert_eq!(names(Change::Is, model("a")), ["a"]);
        assert_eq!(names(Change::Is, model("a")), ["a"]);
        assert_eq!(names(Change::Is, model("b")), ["a", "b"]);
        assert_eq!(names(Change::IsGone, model("b")), ["b"]);
        assert!(servers_of_models.lock().unwrap().is_empty());
    }

    #[test]
    fn a_config_map_leads_to_the_servers_whose_models_come_from_it() {
        let model = |name: &str, server: &str, source| -> Arc<Guarded<TritonModel>> {
            let model = json!({
                "apiVersion": "triton-operator.dev/v1alpha1", "kind": "TritonModel",
                "metadata": { "name": name, "namespace": "ml", "uid": name },
                "spec": { "serverRef": { "name": server }, "source": source },
            });
            Arc::new(serde_json::from_value(model).unwrap())
        };
        let files = |name: &str| json!({ "configMap": { "name": name } });
        let models = [
            model("a", "vision", files("files")),
            model("b", "vision", files("files")),
            model("c", "speech", files("files")),
            model("d", "other", files("others")),
            model("e", "other", json!({})),
        ];
        let users = |name: &str, namespace: &str| -> Vec<String> {
            let meta = serde_json::from_value(json!({ "name": name, "namespace": namespace })).unwrap();
            config_map_users(&models, &meta).into_iter().map(|key| key.to_string()).collect()
        };
        assert_eq!(users("files", "ml"), ["ml/speech", "ml/vision"]);
        assert_eq!(users("files", "elsewhere"), [""; 0]);
        assert_eq!(users("vision-models", "ml"), [""; 0]);
    }

    #[test]
    fn an_object_leads_to_its_server_even_without_its_owner() {
        let meta = |value| owning_server(&serde_json::from_value(value).unwrap()).map(|key| key.to_string());
        let owner = json!([{ "apiVersion": "x", "kind": "TritonServer", "name": "a", "uid": "1" }]);
        assert_eq!(meta(json!({ "namespace": "ml", "ownerReferences": owner })), Some("ml/a".into()));
        let labels = json!({ "app.kubernetes.io/instance": "b" });
        assert_eq!(meta(json!({ "namespace": "ml", "labels": labels })), Some("ml/b".into()));
        assert_eq!(meta(json!({ "namespace": "ml" })), None);
    }

    #[test]
    fn a_model_that_cannot_be_read_stays_with_the_server_it_named_last() {
        let servers = Mutex::default();
        let names = |change, model: &Guarded<TritonModel>| -> Vec<String> {
            moved(&servers, &change, model).into_iter().map(|key| key.name).collect()
        };
        let unreadable: Guarded<TritonModel> = serde_json::from_value(json!({
            "metadata": { "name": "m", "namespace": "ml", "uid": "1" }, "spec": { "serverRef": 7 },
        }))
        .unwrap();
        assert!(unreadable.0.is_err());
        assert_eq!(names(Change::Is, &unreadable), [""; 0], "nobody knows which that is");
        assert_eq!(names(Change::Is, &model("a")), ["a"]);
        assert_eq!(names(Change::Is, &unreadable), ["a"]);
        assert_eq!(names(Change::IsGone, &unreadable), ["a"]);
        assert!(servers.lock().unwrap().is_empty());
    }
}
