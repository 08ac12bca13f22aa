//! Names: of objects as problems name them, of the objects made for a server, of models on the wire. The rules are here and
//! nowhere else, so that two modules never disagree about where something is.

use crds::TritonModel;
use kube_core::Resource;

use crate::ObjectRef;

/// Namespace of a resource that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Which object `resource` is.
pub fn object<K: Resource<DynamicType = ()>>(resource: &K) -> ObjectRef {
    let meta = resource.meta();
    ObjectRef {
        kind: K::kind(&()).into_owned(),
        namespace: namespace(resource).to_owned(),
        name: meta.name.clone().unwrap_or_default(),
    }
}

/// The namespace of `resource`.
pub fn namespace<K: Resource>(resource: &K) -> &str {
    resource.meta().namespace.as_deref().filter(|name| !name.is_empty()).unwrap_or(DEFAULT_NAMESPACE)
}

/// What [`is_of_object`] wants, behind "is not".
pub(crate) const RULE_OF_OBJECTS: &str =
    "a name: use lower-case letters, digits, '-' and '.', with a letter or digit at both ends";

/// Whether an object of Kubernetes can have that name, as [`crds::parts::reference::NAME_PATTERN`] says it too. Such a name is one part of a path, on a disk as in an address, as it stands.
pub fn is_of_object(name: &str) -> bool {
    let is_label = |label: &str| {
        let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && label.bytes().all(is_inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// The name by which clients know `model`.
pub fn wire_name(model: &TritonModel) -> &str {
    model.spec.model_name.as_deref().or(model.metadata.name.as_deref()).unwrap_or_default()
}

/// The ConfigMap that holds the manifest of `server`.
pub fn manifest_config_map(server: &str) -> String {
    format!("{server}-models")
}

/// The key of that ConfigMap under which the manifest lies.
pub const MANIFEST_KEY: &str = "manifest.json";

/// The Service whose name resolves to each ready pod of `server`.
pub fn headless_service(server: &str) -> String {
    format!("{server}-headless")
}

/// The EndpointSlice that leads the Service of `server` to the activators.
pub fn activator_slice(server: &str) -> String {
    format!("{server}-activator")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_an_object_is_one_part_of_a_path() {
        let pattern = regex_lite::Regex::new(crds::parts::reference::NAME_PATTERN).unwrap();
        for name in ["a", "1st", "s3-keys", "a.b-c.d", &"x".repeat(253)] {
            assert!(is_of_object(name) && pattern.is_match(name), "{name}");
        }
        let long = "x".repeat(254);
        let wrong = [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "a b",
            "x?watch=true",
            "%2e%2e",
            "UPPER",
            "under_score",
            "-a",
            "a-",
            "a..b",
            ".a",
            "é",
            &long,
        ];
        for name in wrong {
            assert!(!is_of_object(name), "{name}");
            assert!(!pattern.is_match(name) || name.len() > 253, "{name}");
        }
    }
}
