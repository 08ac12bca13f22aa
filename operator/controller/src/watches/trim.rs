//! What of an object is not worth keeping: nobody here reads it, and there may be thousands.

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod};
use kube::{Resource, ResourceExt, core::PartialObjectMeta};

/// The annotation in which kubectl keeps a copy of what was applied.
const COPY_OF_KUBECTL: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A resource of ours.
pub(super) fn resource<K: Resource>(resource: &mut K) {
    resource.annotations_mut().remove(COPY_OF_KUBECTL);
}

/// Of a ConfigMap matters that it is there, and in which version.
pub(super) fn config_map(config_map: &mut PartialObjectMeta<ConfigMap>) {
    config_map.annotations_mut().clear();
    config_map.labels_mut().clear();
    config_map.owner_references_mut().clear();
}

/// What the template of a pod says is in its Deployment: of its spec stays what tells pods apart, and what they may use.
pub(super) fn pod(pod: &mut Pod) {
    let Some(spec) = &mut pod.spec else { return };
    spec.init_containers.iter_mut().flatten().chain(&mut spec.containers).for_each(container);
    spec.volumes = None;
    spec.affinity = None;
    spec.tolerations = None;
    spec.topology_spread_constraints = None;
    spec.security_context = None;
}

fn container(container: &mut Container) {
    *container = Container {
        name: std::mem::take(&mut container.name),
        image: container.image.take(),
        ports: container.ports.take(),
        resources: container.resources.take(),
        restart_policy: container.restart_policy.take(),
        startup_probe: container.startup_probe.take(),
        readiness_probe: container.readiness_probe.take(),
        ..Container::default()
    };
}

#[cfg(test)]
mod tests {
    use operator_core::replica::{self, Replica};
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_decided_from_a_pod_is_the_same_without_what_is_trimmed() {
        let running = |name: &str, ended: serde_json::Value| {
            json!([{ "name": name, "image": "x", "imageID": "", "ready": false, "restartCount": 1,
                     "state": { "running": {} }, "lastState": { "terminated": ended } }])
        };
        let whole: Pod = serde_json::from_value(json!({
            "metadata": { "name": "a", "uid": "u", "annotations": { "triton-operator.dev/adopt": "ab" } },
            "spec": {
                "nodeName": "n1", "volumes": [{ "name": "v", "emptyDir": {} }], "tolerations": [{ "key": "gpu" }],
                "initContainers": [{ "name": "agent", "env": [{ "name": "A", "value": "b" }] }],
                "containers": [{ "name": "server", "args": ["--x"],
                                 "readinessProbe": { "periodSeconds": 1, "failureThreshold": 2 }, "volumeMounts": [{ "name": "v", "mountPath": "/v" }],
                                 "resources": { "limits": { "memory": "64Mi" } } }],
            },
            "status": { "phase": "Running", "podIP": "10.0.0.1", "initContainerStatuses": running("agent", json!({ "exitCode": 0 })),
                        "containerStatuses": running("server", json!({ "exitCode": 137, "reason": "OOMKilled" })) },
        }))
        .unwrap();
        let mut trimmed = whole.clone();
        pod(&mut trimmed);
        assert_eq!(Replica::of(&trimmed), Replica::of(&whole));
        assert!(Replica::of(&trimmed).trouble.unwrap().message.contains("64Mi"));
        assert_eq!(replica::address(&trimmed), Some("10.0.0.1"));
        let length = |pod: &Pod| serde_json::to_string(pod).unwrap().len();
        assert!(length(&trimmed) < length(&whole));
    }
}
