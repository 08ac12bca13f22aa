//! How a store keeps an object: as text, and of that only what differs from the first one of its store. An object of types, most of
//! whose fields are empty, takes several times the room of what it says, objects of one kind say much the same, and there may be ten
//! thousand. Whoever asks for one gets it made anew, which costs less than the requests it is needed for.

use std::sync::{Arc, OnceLock};

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Resource,
    api::DynamicObject,
    core::{DeserializeGuard, PartialObjectMeta},
};
use lz4_flex::block::{compress_with_dict, decompress_with_dict};
use serde::{Serialize, de::DeserializeOwned};

/// The text of the first object of a store: what the others are told apart from.
#[derive(Debug, Default)]
pub(super) struct First(OnceLock<Box<[u8]>>);

/// An object as text that its own type reads, packed; or as it is where it has none.
#[derive(Debug)]
pub(super) enum Kept<K> {
    Text { packed: Box<[u8]>, length: usize },
    Whole(Arc<K>),
}

/// What can be kept.
pub(super) trait Keep: Resource + Clone + DeserializeOwned {
    /// Its text; nothing if there is none that would be read as the same.
    fn text(&self) -> Option<Vec<u8>>;
}

impl First {
    /// The object as it is kept.
    pub(super) fn keep<K: Keep>(&self, object: K) -> Kept<K> {
        let Some(text) = object.text() else { return Kept::Whole(Arc::new(object)) };
        let first = self.0.get_or_init(|| text.clone().into_boxed_slice());
        Kept::Text { packed: compress_with_dict(&text, first).into_boxed_slice(), length: text.len() }
    }

    /// The object; nothing would be left of one only if its type did not read what it wrote.
    pub(super) fn object<K: Keep>(&self, kept: &Kept<K>) -> Option<K> {
        match kept {
            Kept::Text { packed, length } => {
                let text = decompress_with_dict(packed, *length, self.0.get()?).ok()?;
                serde_json::from_slice(&text).ok()
            }
            Kept::Whole(object) => Some(K::clone(object)),
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
        let first = First::default();
        for _ in 0..2 {
            let kept = first.object(&first.keep(read.clone())).unwrap();
            assert_eq!(format!("{kept:?}"), format!("{read:?}"));
        }
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
        let first = First::default();
        let kept = first.keep(guard);
        assert!(matches!(kept, Kept::Whole(_)));
        let invalid = first.object(&kept).unwrap().0.unwrap_err();
        assert_eq!(invalid.metadata.name.as_deref(), Some("m"));
        assert!(!invalid.error.is_empty());
    }

    #[test]
    fn objects_that_say_much_the_same_take_little_and_come_back_each_as_it_was() {
        let config_map = |number: usize, note: &str| -> ConfigMap {
            let data =
                json!({ "manifest.json": format!("{{\"models\":[{note}]}}"), "for": "the agents of one server" });
            let meta = json!({ "name": format!("s{number:04}-models"), "namespace": "ml", "uid": format!("{number:036}"),
                               "labels": { "app.kubernetes.io/managed-by": "triton-operator" } });
            serde_json::from_value(json!({ "metadata": meta, "data": data })).unwrap()
        };
        let first = First::default();
        let long = (0..20_000).map(|number| format!("\"{number}\",")).collect::<String>();
        let all: Vec<_> = (0..50)
            .map(|number| config_map(number, ""))
            .chain([config_map(50, &long), config_map(51, "another"), config_map(52, &long)])
            .collect();
        let kept: Vec<_> = all.iter().map(|object| first.keep(object.clone())).collect();
        for (object, kept) in all.iter().zip(&kept) {
            assert_eq!(first.object(kept).as_ref(), Some(object));
        }
        let Kept::Text { packed, length } = &kept[49] else { panic!("it has a text") };
        assert!(packed.len() * 3 < *length, "{} of {length}", packed.len());
    }
}
