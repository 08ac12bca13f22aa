//! How a store keeps an object: as text. An object of types, most of whose fields are empty, takes several times the room of what it
//! says, and there may be ten thousand. Whoever asks for one gets it made anew, which costs less than the requests it is needed for.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Resource,
    api::DynamicObject,
    core::{DeserializeGuard, PartialObjectMeta},
};
use serde::{Serialize, de::DeserializeOwned};

/// An object as text that its own type reads, or as it is where it has none.
#[derive(Debug)]
pub(super) enum Kept<K> {
    Text(Box<[u8]>),
    Whole(Arc<K>),
}

/// What can be kept.
pub(super) trait Keep: Resource + Clone + DeserializeOwned {
    /// Its text; nothing if there is none that would be read as the same.
    fn text(&self) -> Option<Vec<u8>>;
}

impl<K: Keep> Kept<K> {
    pub(super) fn of(object: K) -> Self {
        match object.text() {
            Some(text) => Self::Text(text.into_boxed_slice()),
            None => Self::Whole(Arc::new(object)),
        }
    }

    /// The object; nothing would be left of one only if its type did not read what it wrote.
    pub(super) fn object(&self) -> Option<K> {
        match self {
            Self::Text(text) => serde_json::from_slice(text).ok(),
            Self::Whole(object) => Some(K::clone(object)),
        }
    }
}

fn text(object: &impl Serialize) -> Option<Vec<u8>> {
    serde_json::to_vec(object).ok()
}

impl Keep for Pod {
    fn text(&self) -> Option<Vec<u8>> {
        text(self)
    }
}

impl Keep for ConfigMap {
    fn text(&self) -> Option<Vec<u8>> {
        text(self)
    }
}

impl Keep for DynamicObject {
    fn text(&self) -> Option<Vec<u8>> {
        text(self)
    }
}

impl Keep for PartialObjectMeta<ConfigMap> {
    fn text(&self) -> Option<Vec<u8>> {
        text(self)
    }
}

impl<K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned> Keep for DeserializeGuard<K> {
    fn text(&self) -> Option<Vec<u8>> {
        self.0.as_ref().ok().and_then(text)
    }
}

#[cfg(test)]
mod tests {
    use crds::{TritonModel, TritonServer};
    use operator_core::documents::Resource as Read;
    use serde_json::{Value, json};

    use super::*;

    fn check<K: Keep + std::fmt::Debug>(object: &Value) {
        let read: K = serde_json::from_value(object.clone()).unwrap();
        let kept = Kept::of(read.clone()).object().unwrap();
        assert_eq!(format!("{kept:?}"), format!("{read:?}"));
    }

    #[test]
    fn what_is_kept_comes_back_as_it_was() {
        let meta = json!({ "name": "a", "namespace": "ml", "uid": "1", "resourceVersion": "7", "generation": 2,
                           "creationTimestamp": "2026-01-01T00:00:00Z" });
        check::<DynamicObject>(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": { "ports": [{ "port": 8000, "x": null }] },
        }));
        check::<Pod>(&json!({
            "metadata": meta, "spec": { "containers": [{ "name": "server", "resources": { "limits": { "cpu": "1" } } }] },
            "status": { "podIP": "10.0.0.1", "conditions": [{ "type": "Ready", "status": "True" }] },
        }));
        check::<PartialObjectMeta<ConfigMap>>(&json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": meta }));
    }

    /// Every field that the examples have, and a status.
    #[test]
    fn resources_come_back_as_they_were() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crds/examples");
        let mut kinds = [0, 0];
        for file in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            for document in operator_core::documents::read(&text).documents {
                let with_status = |resource: Value| {
                    let mut resource = resource;
                    resource["status"] = json!({ "observedGeneration": 3, "conditions": [{
                        "type": "Ready", "status": "True", "reason": "Loaded", "message": "m",
                        "lastTransitionTime": "2026-01-01T00:00:00Z",
                    }] });
                    resource
                };
                match document.resource {
                    Read::Server(server) => {
                        check::<DeserializeGuard<TritonServer>>(&with_status(serde_json::to_value(server).unwrap()));
                        kinds[0] += 1;
                    }
                    Read::Model(model) => {
                        check::<DeserializeGuard<TritonModel>>(&with_status(serde_json::to_value(model).unwrap()));
                        kinds[1] += 1;
                    }
                    _ => {}
                }
            }
        }
        assert!(kinds.iter().all(|count| *count > 0), "{kinds:?}");
    }

    #[test]
    fn what_cannot_be_read_stays_what_it_is() {
        let unreadable = json!({ "metadata": { "name": "m", "namespace": "ml" }, "spec": { "serverRef": 7 } });
        let guard: DeserializeGuard<TritonModel> = serde_json::from_value(unreadable).unwrap();
        let kept = Kept::of(guard);
        assert!(matches!(kept, Kept::Whole(_)));
        let invalid = kept.object().unwrap().0.unwrap_err();
        assert_eq!(invalid.metadata.name.as_deref(), Some("m"));
        assert!(!invalid.error.is_empty());
    }
}
