//! Labels and annotations on what the operator makes. Selectors use only those that never change.

use std::collections::BTreeMap;

/// Value of `app.kubernetes.io/managed-by`, and the field manager of every apply.
pub const MANAGER: &str = "triton-operator";
/// Value of `app.kubernetes.io/name` on everything of a server.
pub const NAME: &str = "triton-server";
/// Names the server on its Service and its metrics.
pub const SERVER: &str = "tritonserver";
/// Label of an EndpointSlice: the Service it belongs to.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label of an EndpointSlice: who looks after it. The cluster leaves alone those that others do.
pub const SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Annotation of a pod: hash of the manifest published last. Its change makes the kubelet hand over the manifest at once.
pub const MANIFEST_HASH: &str = "triton-operator.dev/manifest-hash";
/// Annotation of a pod: hash of the ConfigMaps its models come from, as they were last. Likewise for their files.
pub const SOURCES_HASH: &str = "triton-operator.dev/sources-hash";
/// Annotation of a pod: which contents in rollout it may serve, as [`crate::ManifestModel::adopt_word`]s, sorted, with commas
/// between them. It reaches the agent as the file [`crate::pod::ADOPT`].
pub const ADOPT: &str = "triton-operator.dev/adopt";
/// Annotation of a pod: `true` where its server speaks TLS at its ports.
pub const TLS: &str = "triton-operator.dev/tls";
/// Annotation of a TritonModel: any text. A new one has a content tried again that was given up.
pub const RETRY: &str = "triton-operator.dev/retry";

/// Annotation of a TritonServer that lets its pods follow the operator: `triton-operator.dev/upgrade: "true"`.
pub const UPGRADE: &str = "triton-operator.dev/upgrade";
/// Label by which the owner of a Secret lets models and servers of its namespace use it.
pub const MODEL_ACCESS: &str = "triton-operator.dev/model-access";

/// Labels by which the pods of `server` are selected. They must never change: selectors cannot be edited.
pub fn selector(server: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("app.kubernetes.io/instance".into(), server.into()),
        ("app.kubernetes.io/name".into(), NAME.into()),
    ])
}

/// All labels of an object made for `server`.
pub fn common(server: &str) -> BTreeMap<String, String> {
    let mut labels = selector(server);
    labels.extend([
        ("app.kubernetes.io/component".into(), "inference".into()),
        ("app.kubernetes.io/managed-by".into(), MANAGER.into()),
        ("app.kubernetes.io/part-of".into(), MANAGER.into()),
        (SERVER.into(), server.into()),
    ]);
    labels
}

/// Domain of what the operator itself reads and writes.
const DOMAIN: &str = "triton-operator.dev";

/// Whether a label or annotation is of the operator's own domain.
pub fn is_of_operator(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    domain == DOMAIN || domain.strip_suffix(DOMAIN).is_some_and(|rest| rest.ends_with('.'))
}

/// Whether a label of pods is set by the controllers of workloads, which select by it.
pub fn is_of_workloads(key: &str) -> bool {
    matches!(key, "pod-template-hash" | "controller-revision-hash" | "pod-template-generation")
}

/// Labels as the text of a label selector.
pub fn to_selector_text(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_carries_what_its_selector_asks_for() {
        let all = common("vision");
        assert!(selector("vision").iter().all(|(name, value)| all.get(name) == Some(value)));
        assert_eq!(
            to_selector_text(&selector("vision")),
            "app.kubernetes.io/instance=vision,app.kubernetes.io/name=triton-server"
        );
    }
}
