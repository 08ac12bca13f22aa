//! `spec.podTemplate`: what becomes of the pods, and what is refused, each with its place.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use crds::TritonServer;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::PodTemplateSpec};
use operator_core::{
    Observed,
    access::secrets_to_look_for,
    build, compile,
    decide::{self, Settings},
    kind::Kind,
    observed::FoundSecret,
    pinned,
};
use serde_json::{Value, json};

fn server(patch: Value) -> TritonServer {
    let metadata = json!({ "name": "vision", "namespace": "ml", "uid": "00000000-0000-0000-0000-000000000009" });
    serde_json::from_value(json!({
        "apiVersion": crds::API_VERSION, "kind": "TritonServer", "metadata": metadata, "spec": { "podTemplate": patch },
    }))
    .unwrap()
}

fn deployment(server: &TritonServer, observed: &Observed) -> Result<Deployment, Vec<String>> {
    let settings = Settings { image: "registry.example/triton-server:1.0".into(), ..Settings::default() };
    let compiled = compile(server, &[], observed);
    let validated = decide::decide(server, &compiled, observed, &settings)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let objects = build::build(&validated).objects();
    let deployment = objects.into_iter().find(|object| object.kind == Kind::Deployment).unwrap();
    Ok(serde_json::from_value(deployment.value).unwrap())
}

fn template(patch: Value) -> PodTemplateSpec {
    deployment(&server(patch), &Observed::default()).unwrap().spec.unwrap().template
}

#[track_caller]
fn refused(patch: Value, expect: &[&str]) {
    let problems = deployment(&server(patch), &Observed::default()).unwrap_err();
    let expect: Vec<String> = expect.iter().map(|line| format!("spec.podTemplate.{line}")).collect();
    assert_eq!(problems, expect);
}

#[test]
fn a_patch_that_says_nothing_changes_nothing() {
    let mut plain = server(json!({}));
    plain.spec.pod_template = None;
    let plain = deployment(&plain, &Observed::default()).unwrap().spec.unwrap().template;
    for patch in [json!({}), json!({ "spec": {} }), json!({ "spec": { "containers": [{ "name": "server" }] } })] {
        assert_eq!(template(patch.clone()), plain, "{patch}");
    }
}

#[test]
fn sidecars_volumes_environment_and_metadata_are_added() {
    let template = template(json!({
        "metadata": { "labels": { "team": "a" }, "annotations": { "example.com/inject": "true" } },
        "spec": {
            "initContainers": [{ "name": "warm", "image": "registry.example/warm:1" }],
            "containers": [
                { "name": "log", "image": "registry.example/log:1", "securityContext": { "capabilities": { "add": ["NET_BIND_SERVICE"] } } },
                { "name": "server", "envFrom": [{ "configMapRef": { "name": "settings" } }], "env": [{ "name": "A", "value": "1" }],
                  "volumeMounts": [{ "name": "extra", "mountPath": "/extra" }], "ports": [{ "containerPort": 9000 }] },
            ],
            "volumes": [{ "name": "extra", "configMap": { "name": "extra" } }],
            "dnsConfig": { "options": [{ "name": "ndots", "value": "2" }] },
            "hostAliases": [{ "ip": "10.0.0.1", "hostnames": ["a"] }],
        },
    }));
    let metadata = template.metadata.unwrap();
    assert_eq!(metadata.labels.as_ref().unwrap()["team"], "a");
    assert_eq!(metadata.labels.unwrap()["tritonserver"], "vision");
    assert_eq!(metadata.annotations.unwrap().len(), 2);
    let spec = template.spec.unwrap();
    let names = |containers: &[k8s_openapi::api::core::v1::Container]| -> Vec<String> {
        containers.iter().map(|container| container.name.clone()).collect()
    };
    assert_eq!(names(&spec.containers), ["server", "log"]);
    assert_eq!(names(spec.init_containers.as_ref().unwrap()), ["agent", "warm"]);
    let server = &spec.containers[0];
    assert!(server.command.as_ref().unwrap().contains(&"tritonserver".to_owned()));
    assert_eq!(server.ports.as_ref().unwrap().len(), 4);
    assert!(server.env_from.is_some() && server.env.as_ref().unwrap()[0].name == "A");
    // as restricted as ours where nothing else is said
    for added in [&spec.containers[1], &spec.init_containers.as_ref().unwrap()[1]] {
        let context = added.security_context.as_ref().unwrap();
        assert_eq!(context.allow_privilege_escalation, Some(false));
        assert_eq!(context.capabilities.as_ref().unwrap().drop.as_ref().unwrap(), &["ALL"]);
    }
    assert!(spec.volumes.unwrap().iter().any(|volume| volume.name == "extra"));
}

#[test]
fn what_is_ours_to_leave_out_can_be_replaced_and_deleted() {
    let template = template(json!({
        "metadata": { "annotations": { "kubectl.kubernetes.io/default-container": null } },
        "spec": {
            "enableServiceLinks": null,
            "topologySpreadConstraints": [{ "topologyKey": "kubernetes.io/hostname", "$patch": "delete" }],
            "securityContext": { "fsGroupChangePolicy": "Always" },
        },
    }));
    assert!(template.metadata.unwrap().annotations.unwrap_or_default().is_empty());
    let spec = template.spec.unwrap();
    assert_eq!(spec.enable_service_links, None);
    assert!(spec.topology_spread_constraints.unwrap_or_default().is_empty());
    let context = spec.security_context.unwrap();
    assert_eq!((context.fs_group_change_policy.as_deref(), context.run_as_non_root), (Some("Always"), Some(true)));
}

#[test]
fn wrong_types_unknown_fields_and_directives_are_named_with_their_place() {
    refused(
        json!({ "spec": { "containers": [{ "name": "log", "tty": "yes" }] } }),
        &["spec.containers[log].tty: has the wrong type: invalid type: string \"yes\", expected a boolean"],
    );
    refused(
        json!({ "spec": { "containers": {} } }),
        &["spec.containers: has the wrong type: invalid type: map, expected a sequence"],
    );
    refused(
        json!({ "spec": { "dnsPolice": "None", "containers": [{ "name": "log", "imag": "x" }] }, "other": 1 }),
        &[
            "other: is no field of a pod template",
            "spec.containers[log].imag: is no field of a pod template",
            "spec.dnsPolice: is no field of a pod template",
        ],
    );
    refused(
        json!({ "spec": { "volumes": [{ "emptyDir": {} }, { "name": "a", "$patch": "drop" }], "$setElementOrder/volumes": [] } }),
        &[
            "spec.$setElementOrder/volumes: is no directive: there are $patch and $retainKeys",
            "spec.volumes[0]: has no 'name', by which the items of this list are told apart",
            "spec.volumes[a].$patch: is one of merge, replace and delete",
        ],
    );
}

#[test]
fn what_the_operator_relies_on_stays() {
    refused(
        json!({ "metadata": { "labels": { "app.kubernetes.io/instance": "x", "tritonserver": null }, "name": "x",
                                  "annotations": { "triton-operator.dev/adopt": "x" } } }),
        &[
            "metadata.name: cannot be changed: pods are given labels and annotations only",
            "metadata.labels[app.kubernetes.io/instance]: cannot be changed: the pods are found by it",
            "metadata.labels[tritonserver]: cannot be changed: the pods are found by it",
            "metadata.annotations[triton-operator.dev/adopt]: cannot be changed: it is the operator's own",
        ],
    );
    let mut encrypted = server(json!({ "metadata": { "annotations": { "triton-operator.dev/tls": null } },
                                       "spec": { "volumes": [{ "name": "tls", "$patch": "delete" }] } }));
    encrypted.spec.tls = Some(serde_json::from_value(json!({ "secretName": "vision-serving" })).unwrap());
    let expect = [
        "spec.podTemplate.metadata.annotations[triton-operator.dev/tls]: cannot be changed: it is the operator's own",
        "spec.podTemplate.spec.volumes[tls]: cannot be changed: the containers live on it",
    ];
    assert_eq!(deployment(&encrypted, &Observed::default()).unwrap_err(), expect);
    refused(
        json!({ "spec": { "restartPolicy": "Never", "serviceAccountName": "x", "automountServiceAccountToken": true, "nodeName": "n",
                              "terminationGracePeriodSeconds": 1 } }),
        &[
            "spec.restartPolicy: cannot be changed: pods of a Deployment are always restarted",
            "spec.serviceAccountName: cannot be changed: use spec.serviceAccountName",
            "spec.automountServiceAccountToken: cannot be changed: the pods are given no token of the API server",
            "spec.terminationGracePeriodSeconds: cannot be changed: it follows from spec.server.drainTimeout and spec.server.exitTimeout",
            "spec.nodeName: cannot be changed: use spec.nodeSelector or spec.affinity",
        ],
    );
    refused(
        json!({ "spec": { "containers": [
        { "name": "server", "image": "x", "command": ["sh"], "readinessProbe": null,
          "ports": [{ "containerPort": 8000, "name": "web" }],
          "volumeMounts": [{ "mountPath": "/models", "name": "tmp" }, { "mountPath": "/run", "name": "tmp" }] },
    ] } }),
        &[
            "spec.containers[server].image: cannot be changed: use spec.image",
            "spec.containers[server].command: cannot be changed: the operator starts it",
            "spec.containers[server].readinessProbe: cannot be changed: use spec.probes",
            "spec.containers[server].ports[8000]: cannot be changed: it is what is asked",
            "spec.containers[server].volumeMounts[/models]: cannot be changed: the container lives on it",
            "spec.containers[server].volumeMounts[/run]: cannot be changed: it would hide /run/triton",
        ],
    );
    refused(
        json!({ "spec": { "containers": [{ "name": "server", "$patch": "delete" }, { "name": "x", "image": "x" }],
                              "initContainers": [{ "$patch": "replace" }, { "name": "y", "image": "y" }] } }),
        &[
            "spec.containers[server]: cannot be changed: it is what the pod is for",
            "spec.initContainers[agent]: cannot be changed: it is what the pod is for",
        ],
    );
    refused(
        json!({ "spec": { "volumes": [{ "name": "secret-a", "emptyDir": {} }, { "name": "secrets", "emptyDir": {} }] } }),
        &["spec.volumes[secret-a]: cannot be changed: what models use is named so: choose another name"],
    );
    refused(
        json!({ "spec": { "volumes": [{ "name": "models", "$retainKeys": ["name", "hostPath"], "hostPath": { "path": "/" } }] } }),
        &[
            "spec.volumes[models]: cannot be changed: the containers live on it",
            "spec.volumes[models].hostPath: is refused: the pods see nothing of their node",
        ],
    );
}

#[test]
fn pods_get_no_rights_that_their_template_does_not_have() {
    refused(
        json!({ "spec": {
        "hostNetwork": true, "hostPID": true, "hostIPC": true, "shareProcessNamespace": true,
        "priorityClassName": "system-node-critical", "initContainers": [{ "name": "agent", "env": [{ "name": "HOST_IPS", "value": "" }] }],
        "securityContext": { "runAsUser": 0, "runAsNonRoot": false, "seccompProfile": { "type": "Unconfined" }, "sysctls": [{ "name": "a", "value": "1" }] },
        "containers": [{ "name": "x", "image": "x", "ports": [{ "containerPort": 80, "hostPort": 80 }],
            "securityContext": { "privileged": true, "allowPrivilegeEscalation": true, "procMount": "Unmasked", "capabilities": { "add": ["SYS_ADMIN"] } } }],
        "volumes": [{ "name": "root", "hostPath": { "path": "/" } },
                    { "name": "token", "projected": { "sources": [{ "serviceAccountToken": { "path": "t" } }] } }],
    } }),
        &[
            "spec.initContainers[agent].env[HOST_IPS]: cannot be changed: the agent goes by it",
            "spec.hostNetwork: is refused: the pods share nothing with their node",
            "spec.hostPID: is refused: the pods share nothing with their node",
            "spec.hostIPC: is refused: the pods share nothing with their node",
            "spec.shareProcessNamespace: is refused: the launcher is the first process of its container",
            "spec.priorityClassName: is refused: the classes system-* are for the pods of the cluster itself",
            "spec.securityContext.runAsNonRoot: is refused: nothing in the pod runs as root",
            "spec.securityContext.runAsUser: is refused: nothing in the pod runs as root",
            "spec.securityContext.seccompProfile: is refused: Unconfined takes the guard off",
            "spec.securityContext.sysctls: is refused: it is a setting of the node",
            "spec.containers[x].securityContext.privileged: is refused: it is all rights on the node",
            "spec.containers[x].securityContext.allowPrivilegeEscalation: is refused: nothing in the pod gains rights",
            "spec.containers[x].securityContext.capabilities.add: is refused: of capabilities, NET_BIND_SERVICE can be added",
            "spec.containers[x].securityContext.procMount: is refused: it uncovers the node's kernel",
            "spec.containers[x].ports[80].hostPort: is refused: it is a port of the node: use spec.service",
            "spec.volumes[root].hostPath: is refused: the pods see nothing of their node",
            "spec.volumes[token].projected: is refused: the pods are given no token of the API server",
        ],
    );
}

#[test]
fn limits_of_the_pods_are_not_taken_away_either() {
    let of_containers = |list: &str, name: &str| {
        [
            format!(
                "spec.{list}[{name}].securityContext.allowPrivilegeEscalation: cannot be taken away: nothing in the pod gains rights"
            ),
            format!(
                "spec.{list}[{name}].securityContext.capabilities.drop: cannot be taken away: of capabilities, NET_BIND_SERVICE can be added"
            ),
        ]
    };
    let of_pod = [
        "spec.securityContext.runAsNonRoot: cannot be taken away: nothing in the pod runs as root".to_owned(),
        "spec.securityContext.seccompProfile: cannot be taken away: Unconfined takes the guard off".to_owned(),
    ];
    let all: Vec<String> = of_pod
        .into_iter()
        .chain(of_containers("containers", "server"))
        .chain(of_containers("initContainers", "agent"))
        .collect();
    refused(
        json!({ "spec": {
            "securityContext": null,
            "containers": [{ "name": "server", "securityContext": null }],
            "initContainers": [{ "name": "agent", "securityContext": { "allowPrivilegeEscalation": null, "capabilities": { "drop": null } } }],
        } }),
        &all.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    refused(
        json!({ "spec": { "securityContext": { "runAsGroup": null } } }),
        &["spec.securityContext.runAsGroup: cannot be taken away: nothing in the pod is in root's group"],
    );
    // a platform that chooses user and groups by itself
    template(json!({ "spec": { "securityContext": { "runAsUser": null, "runAsGroup": null, "fsGroup": null } } }));
}

#[test]
fn the_kubelet_mounts_and_asks_nothing_for_the_pods_that_they_could_not() {
    let host = "is refused: the node would ask it: leave host out, so that the pod itself is asked";
    let kind = "is refused: volumes are one of configMap, csi, downwardAPI, emptyDir, ephemeral, persistentVolumeClaim, projected, \
                secret: use a persistentVolumeClaim";
    let expect = [
        format!("spec.containers[server].lifecycle.postStart.httpGet.host: {host}"),
        format!("spec.containers[x].livenessProbe.httpGet.host: {host}"),
        format!("spec.containers[x].readinessProbe.tcpSocket.host: {host}"),
        format!("spec.initContainers[agent].lifecycle.preStop.httpGet.host: {host}"),
        format!("spec.initContainers[y].startupProbe.tcpSocket.host: {host}"),
        format!("spec.volumes[f].nfs: {kind}"),
        format!("spec.volumes[g].gitRepo: {kind}"),
    ];
    refused(
        json!({ "spec": {
        "containers": [
            { "name": "server", "lifecycle": { "postStart": { "httpGet": { "host": "169.254.169.254", "port": 80, "path": "/latest" } } } },
            { "name": "x", "image": "x",
              "livenessProbe": { "httpGet": { "host": "169.254.169.254", "port": 80 } },
              "readinessProbe": { "tcpSocket": { "host": "127.0.0.1", "port": 10250 } } }],
        "initContainers": [
            { "name": "agent", "lifecycle": { "preStop": { "httpGet": { "host": "::1", "port": 80 } } } },
            { "name": "y", "image": "y", "restartPolicy": "Always",
              "startupProbe": { "tcpSocket": { "host": "localhost", "port": 22 } } }],
        "volumes": [{ "name": "f", "nfs": { "server": "nfs.example", "path": "/" } },
                    { "name": "g", "gitRepo": { "repository": "https://git.example/a" } }],
    } }),
        &expect.each_ref().map(String::as_str),
    );
    // what is no field of a volume that we know
    refused(
        json!({ "spec": { "volumes": [{ "name": "n", "ofNextYear": { "path": "/" } }] } }),
        &["spec.volumes[n].ofNextYear: is no field of a pod template"],
    );
}

#[test]
fn a_secret_is_used_only_if_its_owner_has_marked_it() {
    let server = server(json!({ "spec": {
        "volumes": [
            { "name": "a", "secret": { "secretName": "one" } },
            { "name": "b", "projected": { "sources": [{ "secret": { "name": "two" } }] } },
            { "name": "c", "csi": { "driver": "d", "nodePublishSecretRef": { "name": "three" } } },
            { "name": "d", "csi": { "driver": "d", "volumeAttributes": { "secretName": "four" } } },
        ],
        "containers": [{ "name": "server",
            "envFrom": [{ "secretRef": { "name": "five" } }],
            "env": [{ "name": "A", "valueFrom": { "secretKeyRef": { "name": "six", "key": "k" } } }] }],
    } }));
    let names: Vec<String> = secrets_to_look_for(&server).into_iter().collect();
    assert_eq!(names, ["five", "four", "one", "six", "three", "two"]);
    let all = |found: FoundSecret| Observed {
        secrets: Some(names.iter().map(|name| (name.clone(), found)).collect()),
        ..Observed::default()
    };
    assert!(deployment(&server, &all(FoundSecret::ForModels)).is_ok());
    let problems = deployment(&server, &all(FoundSecret::NotForModels)).unwrap_err();
    assert_eq!(problems.len(), 6, "{problems:#?}");
    let place = "spec.podTemplate.spec.containers[server].env[A].valueFrom.secretKeyRef.name: ";
    assert!(problems.iter().any(|problem| problem.starts_with(place)), "{problems:#?}");
}

#[test]
fn a_patch_has_a_limit() {
    let problems = deployment(
        &server(json!({ "metadata": { "annotations": { "a": "x".repeat(40 << 10) } } })),
        &Observed::default(),
    );
    assert!(problems.unwrap_err()[0].contains("the most is 32768"));
    let volumes: Vec<Value> =
        (0..65).map(|at| json!({ "name": format!("v{at}"), "secret": { "secretName": format!("s{at}") } })).collect();
    let problems = deployment(&server(json!({ "spec": { "volumes": volumes } })), &Observed::default());
    assert!(problems.unwrap_err()[0].contains("names 65 Secrets, the most is 64"));
}

#[test]
fn a_template_stays_until_the_patch_says_otherwise() {
    let patch = json!({ "spec": { "containers": [{ "name": "log", "image": "registry.example/log:1" }] } });
    let first = deployment(&server(patch.clone()), &Observed::default()).unwrap();
    let observed = Observed { template: pinned::pinned_of(&first), ..Observed::default() };
    assert_eq!(deployment(&server(patch.clone()), &observed).unwrap(), first);
    let mut changed = patch;
    changed["spec"]["containers"][0]["image"] = json!("registry.example/log:2");
    let second = deployment(&server(changed), &observed).unwrap();
    assert_eq!(
        second.spec.unwrap().template.spec.unwrap().containers[1].image.as_deref(),
        Some("registry.example/log:2")
    );
}
