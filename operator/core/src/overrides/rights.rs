//! Rights that the pods of a server are not given, whatever its owner makes of their template: more than Pod Security `baseline` allows
//! and volumes that `restricted` does not, root, tokens of the API server, and questions that the kubelet would ask for them elsewhere.

use serde_json::{Value, json};

use crate::{
    defaults::POD_TIME_MAX,
    strategic::{Mistake, item, items},
    typed::is_nothing,
};

const OF_NODE: &str = "the pods see nothing of their node";
const ROOT: &str = "nothing in the pod runs as root";
const ROOT_GROUP: &str = "nothing in the pod is in root's group";
const ESCALATION: &str = "nothing in the pod gains rights";
const CAPABILITIES: &str = "of capabilities, NET_BIND_SERVICE can be added";
const UNCONFINED: &str = "Unconfined takes the guard off";
const SHARES_NODE: &str = "the pods share nothing with their node";

/// Adds every place of `template`, a pod template as it is written, that would give its pods more than they may have.
pub(super) fn refuse(template: &Value, mistakes: &mut Vec<Mistake>) {
    let mut refuse = |path: String, why: &str| mistakes.push(Mistake { path, message: format!("is refused: {why}") });
    let spec = &template["spec"];
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec[field] == true {
            refuse(format!("spec.{field}"), SHARES_NODE);
        }
    }
    if spec["shareProcessNamespace"] == true {
        refuse("spec.shareProcessNamespace".into(), "the launcher is the first process of its container");
    }
    if spec["priorityClassName"].as_str().is_some_and(|class| class.starts_with("system-")) {
        refuse("spec.priorityClassName".into(), "the classes system-* are for the pods of the cluster itself");
    }
    if !is_nothing(&spec["ephemeralContainers"]) {
        refuse("spec.ephemeralContainers".into(), "they are added to a running pod (kubectl debug)");
    }
    refuse_context(&spec["securityContext"], "spec.securityContext", &mut refuse);
    for list in ["containers", "initContainers"] {
        for (at, container) in items(template, list).iter().enumerate() {
            refuse_of_container(container, &item(&format!("spec.{list}"), at, container), &mut refuse);
        }
    }
    for (at, volume) in items(template, "volumes").iter().enumerate() {
        refuse_volume(volume, &item("spec.volumes", at, volume), &mut refuse);
    }
}

/// Adds every limit of `base`, our own template, that `template` has lost: what is absent is whatever image and node make of it.
pub(super) fn refuse_loss(base: &Value, template: &Value, mistakes: &mut Vec<Mistake>) {
    let mut refuse = |path: String, why: &str| {
        mistakes.push(Mistake { path, message: format!("cannot be taken away: {why}") });
    };
    let context = |value: &Value| value["securityContext"].clone();
    let (ours, now) = (context(&base["spec"]), context(&template["spec"]));
    // a platform that chooses the user chooses its groups as well
    let is_chosen_elsewhere = now["runAsUser"].is_null();
    for (field, why, may_go) in [
        ("runAsNonRoot", ROOT, false),
        ("runAsGroup", ROOT_GROUP, is_chosen_elsewhere),
        ("seccompProfile", UNCONFINED, false),
    ] {
        if !ours[field].is_null() && now[field].is_null() && !may_go {
            refuse(format!("spec.securityContext.{field}"), why);
        }
    }
    for list in ["containers", "initContainers"] {
        for container in items(base, list) {
            let Some(now) = items(template, list).iter().find(|it| it["name"] == container["name"]) else { continue };
            let path = format!("spec.{list}[{}].securityContext", container["name"].as_str().unwrap_or_default());
            let (ours, now) = (context(container), context(now));
            if !ours["allowPrivilegeEscalation"].is_null() && now["allowPrivilegeEscalation"].is_null() {
                refuse(format!("{path}.allowPrivilegeEscalation"), ESCALATION);
            }
            if !is_nothing(&ours["capabilities"]["drop"]) && is_nothing(&now["capabilities"]["drop"]) {
                refuse(format!("{path}.capabilities.drop"), CAPABILITIES);
            }
        }
    }
}

fn refuse_of_container(container: &Value, path: &str, refuse: &mut impl FnMut(String, &str)) {
    refuse_context(&container["securityContext"], &format!("{path}.securityContext"), refuse);
    for (at, port) in container["ports"].as_array().into_iter().flatten().enumerate() {
        if port["hostPort"].as_i64().is_some_and(|port| port != 0) {
            let path = format!("{}.hostPort", item(&format!("{path}.ports"), at, port));
            refuse(path, "it is a port of the node: use spec.service");
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let (probe, path) = (&container[probe], format!("{path}.{probe}"));
        refuse_host(probe, &path, refuse);
        refuse_long_times(probe, &path, refuse);
    }
    for hook in ["postStart", "preStop"] {
        refuse_host(&container["lifecycle"][hook], &format!("{path}.lifecycle.{hook}"), refuse);
    }
}

/// Hosts of what the kubelet asks: it does so from the node, past every NetworkPolicy, so that the pod would learn what the node sees.
/// Pod Security `baseline` refuses them since Kubernetes 1.34.
fn refuse_host(handler: &Value, path: &str, refuse: &mut impl FnMut(String, &str)) {
    for action in ["httpGet", "tcpSocket"] {
        if handler[action]["host"].as_str().is_some_and(|host| !host.is_empty()) {
            let why = "the node would ask it: leave host out, so that the pod itself is asked";
            refuse(format!("{path}.{action}.host"), why);
        }
    }
}

/// Times of a probe that a pod could outlive everything with.
fn refuse_long_times(probe: &Value, path: &str, refuse: &mut impl FnMut(String, &str)) {
    let most = POD_TIME_MAX.as_secs();
    for field in ["initialDelaySeconds", "periodSeconds", "timeoutSeconds", "terminationGracePeriodSeconds"] {
        if let Some(seconds) = probe[field].as_u64().filter(|seconds| *seconds > most) {
            refuse(format!("{path}.{field}"), &format!("it is {seconds} s, the most is {most} (a day): shorten it"));
        }
    }
}

/// Kinds of volumes that Pod Security `restricted` allows.
const VOLUMES: [&str; 8] =
    ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];

fn refuse_volume(volume: &Value, path: &str, refuse: &mut impl FnMut(String, &str)) {
    let kinds = volume.as_object().into_iter().flatten().map(|(kind, _)| kind.as_str()).filter(|kind| *kind != "name");
    for kind in kinds.filter(|kind| !VOLUMES.contains(kind)) {
        let path = format!("{path}.{kind}");
        if kind == "hostPath" {
            refuse(path, OF_NODE);
        } else {
            refuse(path, &format!("volumes are one of {}: use a persistentVolumeClaim", VOLUMES.join(", ")));
        }
    }
    let sources = volume["projected"]["sources"].as_array().map_or(&[][..], Vec::as_slice);
    for (kind, why) in [
        ("serviceAccountToken", "the pods are given no token of the API server"),
        ("podCertificate", "the pods are given no certificate of the cluster"),
    ] {
        if sources.iter().any(|source| !source[kind].is_null()) {
            refuse(format!("{path}.projected"), why);
        }
    }
}

fn refuse_context(context: &Value, path: &str, refuse: &mut impl FnMut(String, &str)) {
    for (field, wrong, why) in [
        ("privileged", json!(true), "it is all rights on the node"),
        ("allowPrivilegeEscalation", json!(true), ESCALATION),
        ("runAsNonRoot", json!(false), ROOT),
        ("runAsUser", json!(0), ROOT),
        ("runAsGroup", json!(0), ROOT_GROUP),
        ("fsGroup", json!(0), ROOT_GROUP),
    ] {
        if context[field] == wrong {
            refuse(format!("{path}.{field}"), why);
        }
    }
    if context["supplementalGroups"].as_array().into_iter().flatten().any(|id| *id == 0) {
        refuse(format!("{path}.supplementalGroups"), ROOT_GROUP);
    }
    let added = context["capabilities"]["add"].as_array().into_iter().flatten();
    if added.into_iter().any(|capability| capability != "NET_BIND_SERVICE") {
        refuse(format!("{path}.capabilities.add"), CAPABILITIES);
    }
    if context["procMount"].as_str().is_some_and(|mount| mount != "Default") {
        refuse(format!("{path}.procMount"), "it uncovers the node's kernel");
    }
    for profile in ["seccompProfile", "appArmorProfile"] {
        if context[profile]["type"] == "Unconfined" {
            refuse(format!("{path}.{profile}"), UNCONFINED);
        }
    }
    for field in ["seLinuxOptions", "sysctls"] {
        if !is_nothing(&context[field]) {
            refuse(format!("{path}.{field}"), "it is a setting of the node");
        }
    }
    if context["windowsOptions"]["hostProcess"] == true {
        refuse(format!("{path}.windowsOptions.hostProcess"), SHARES_NODE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Places of `template` that are refused, each with why.
    fn refused(template: &Value) -> Vec<String> {
        let mut mistakes = vec![];
        refuse(template, &mut mistakes);
        mistakes.into_iter().map(|mistake| format!("{}: {}", mistake.path, mistake.message)).collect()
    }

    fn container(list: &str, fields: Value) -> Value {
        let mut container = json!({ "name": "x" });
        container.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        json!({ "spec": { list: [container] } })
    }

    fn with_action(place: &str, action: &Value) -> Value {
        match place.split_once('.') {
            Some((outer, inner)) => json!({ outer: { inner: action } }),
            None => json!({ place: action }),
        }
    }

    #[test]
    fn the_kubelet_asks_no_other_host_for_any_container() {
        for list in ["containers", "initContainers"] {
            for place in ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle.postStart", "lifecycle.preStop"]
            {
                for action in ["httpGet", "tcpSocket"] {
                    for host in ["169.254.169.254", "127.0.0.1", "::1", "localhost"] {
                        let asked = with_action(place, &json!({ action: { "host": host, "port": 80 } }));
                        let expect = format!(
                            "spec.{list}[x].{place}.{action}.host: is refused: the node would ask it: leave host out, so that the pod \
                             itself is asked"
                        );
                        assert_eq!(refused(&container(list, asked)), [expect]);
                    }
                    for harmless in [json!({ "port": 80 }), json!({ "host": "", "port": 80 }), json!({ "host": null })]
                    {
                        let asked = with_action(place, &json!({ action: harmless }));
                        assert_eq!(refused(&container(list, asked)), [""; 0], "{list} {place} {action}");
                    }
                }
            }
        }
        let header = json!({ "httpGet": { "port": 80, "httpHeaders": [{ "name": "Host", "value": "example.com" }] } });
        assert_eq!(refused(&container("containers", json!({ "livenessProbe": header }))), [""; 0]);
        let grpc = json!({ "grpc": { "port": 80, "service": "x" } });
        assert_eq!(refused(&container("containers", json!({ "readinessProbe": grpc }))), [""; 0]);
    }

    #[test]
    fn times_of_probes_are_a_day_at_most() {
        for field in ["initialDelaySeconds", "periodSeconds", "timeoutSeconds", "terminationGracePeriodSeconds"] {
            let probe = |seconds: u64| container("containers", json!({ "livenessProbe": { field: seconds } }));
            assert_eq!(refused(&probe(86_400)), [""; 0]);
            let expect = format!(
                "spec.containers[x].livenessProbe.{field}: is refused: it is 86401 s, the most is 86400 (a day): shorten it"
            );
            assert_eq!(refused(&probe(86_401)), [expect]);
        }
    }

    #[test]
    fn volumes_are_of_the_kinds_of_restricted_pods() {
        let volume = |kind: &str| json!({ "spec": { "volumes": [{ "name": "v", kind: {} }] } });
        for kind in VOLUMES {
            assert_eq!(refused(&volume(kind)), [""; 0], "{kind}");
        }
        let others = "awsElasticBlockStore azureDisk azureFile cephfs cinder fc flexVolume flocker gcePersistentDisk gitRepo glusterfs \
                      image iscsi nfs photonPersistentDisk portworxVolume quobyte rbd scaleIO storageos vsphereVolume ofNextYear";
        for kind in others.split_whitespace() {
            let expect = format!(
                "spec.volumes[v].{kind}: is refused: volumes are one of configMap, csi, downwardAPI, emptyDir, ephemeral, \
                 persistentVolumeClaim, projected, secret: use a persistentVolumeClaim"
            );
            assert_eq!(refused(&volume(kind)), [expect]);
        }
        let expect = "spec.volumes[v].hostPath: is refused: the pods see nothing of their node";
        assert_eq!(refused(&volume("hostPath")), [expect]);
    }

    #[test]
    fn nothing_is_in_the_group_of_root() {
        let pod = |context: Value| json!({ "spec": { "securityContext": context } });
        let fine = json!({ "runAsGroup": 1000, "fsGroup": 1000, "supplementalGroups": [1, 2] });
        assert_eq!(refused(&pod(fine)), [""; 0]);
        let expect = |field: &str| format!("spec.{field}: is refused: nothing in the pod is in root's group");
        let of_pod = ["runAsGroup", "fsGroup", "supplementalGroups"].map(|field| format!("securityContext.{field}"));
        assert_eq!(
            refused(&pod(json!({ "runAsGroup": 0, "fsGroup": 0, "supplementalGroups": [1000, 0] }))),
            of_pod.each_ref().map(|field| expect(field))
        );
        for list in ["containers", "initContainers"] {
            let context = |group: u32| container(list, json!({ "securityContext": { "runAsGroup": group } }));
            assert_eq!(refused(&context(1000)), [""; 0]);
            assert_eq!(refused(&context(0)), [expect(&format!("{list}[x].securityContext.runAsGroup"))]);
        }
    }
}
