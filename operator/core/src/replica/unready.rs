//! What a pod waits for that is not ready, though nothing has crashed or was refused: a container that does not exist yet, a probe that
//! does not succeed, a condition that somebody else sets. What a probe was answered stands in the pod's events alone, which the
//! operator has no right to read; so it is said which probe it is, what the container ended with before, and where to look.

use k8s_openapi::{
    api::core::v1::{Container, ContainerStatus, Pod, PodStatus, Probe},
    apimachinery::pkg::{apis::meta::v1::Time, util::intstr::IntOrString},
    jiff::SignedDuration,
};

use super::ended::{end, has_ended_well, is_leaving};

/// How long a pod is not ready before that is said: most starts take less.
pub(crate) const NOTICED: SignedDuration = SignedDuration::from_mins(1);

/// What a pod waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// In one clause, such as `the readiness probe of container server (GET /v2/health/ready at port http) fails`.
    pub what: String,
    /// Since when, in whole seconds.
    pub since: Time,
    /// The container whose probe does not succeed, if that is it.
    pub probed: Option<Probed>,
    /// The cluster has not made a ResourceClaim that it is to have: most likely there is no such template.
    pub lacks_claim: bool,
}

/// A container whose probe does not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// Its name.
    pub container: String,
    /// The probe has succeeded before.
    pub has_started: bool,
}

/// What `pod` waits for; `None` if it is ready, ends, or has no node.
pub(super) fn waiting(pod: &Pod) -> Option<Waiting> {
    let status = pod.status.as_ref()?;
    if let Some(what) = unmade_claims(pod).filter(|_| !is_leaving(pod)) {
        let since = pod.metadata.creation_timestamp.clone()?;
        return Some(Waiting { what, since, probed: None, lacks_claim: true });
    }
    let condition = |type_: &str| status.conditions.iter().flatten().find(|it| it.type_ == type_);
    if let Some(what) = named_claims(pod).filter(|_| !is_leaving(pod) && condition("PodScheduled").is_none()) {
        let since = pod.metadata.creation_timestamp.clone()?;
        return Some(Waiting { what, since, probed: None, lacks_claim: false });
    }
    let is_true = |type_: &str| condition(type_).is_some_and(|it| it.status == "True");
    if is_leaving(pod) || is_true("Ready") || !is_true("PodScheduled") {
        return None;
    }
    let changed = |type_: &str| condition(type_).and_then(|it| it.last_transition_time.clone());
    let unready_since = changed("Ready").or_else(|| changed("PodScheduled"))?;
    let later = |begun: Option<&Time>| begun.map_or(&unready_since, |begun| begun.max(&unready_since)).clone();
    let Some(container) = first_that_waits(status) else {
        let is_known = status.container_statuses.is_some();
        let what = match condition("Ready").and_then(|ready| ready.message.clone()).filter(|_| is_known) {
            Some(message) => message,
            None if is_known => return None,
            None => "the kubelet of its node has not begun with it".to_owned(),
        };
        return Some(Waiting { what, since: unready_since, probed: None, lacks_claim: false });
    };
    let name = &container.name;
    let state = container.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        let word = waiting.reason.as_deref().unwrap_or("Waiting");
        let what =
            format!("container {name} does not exist yet ({word}): its image is pulled, or a volume is not there");
        return Some(Waiting { what, since: unready_since, probed: None, lacks_claim: false });
    }
    let running = state.running.as_ref()?;
    let has_started = container.started.unwrap_or(false);
    let spec = spec_of(pod, name);
    let (kind, probe) = match has_started {
        false => ("start-up", spec.and_then(|spec| spec.startup_probe.as_ref())),
        true => ("readiness", spec.and_then(|spec| spec.readiness_probe.as_ref())),
    };
    let mut what = match probe {
        Some(probe) if has_started => format!("the {kind} probe of container {name}{} fails", question(probe)),
        Some(probe) => format!("the {kind} probe of container {name}{} has not succeeded", question(probe)),
        None => format!("container {name} is not through"),
    };
    if let Some(last) = container.last_state.as_ref().and_then(|last| last.terminated.as_ref()) {
        what.push_str(&format!("; before, the container{}", end(last)));
    }
    let probed = probe.is_some().then(|| Probed { container: name.clone(), has_started });
    Some(Waiting { what, since: later(running.started_at.as_ref()), probed, lacks_claim: false })
}

/// The ResourceClaims that are to be made for a pod and are not: it has no node before they are, and no condition of it says so.
fn unmade_claims(pod: &Pod) -> Option<String> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
    let is_made = |name: &str| status.resource_claim_statuses.iter().flatten().any(|made| made.name == name);
    let unmade = spec.resource_claims.iter().flatten().filter(|claim| !is_made(&claim.name)).filter_map(|claim| {
        let template = claim.resource_claim_template_name.as_ref()?;
        Some(format!("no ResourceClaim '{}' has been made of ResourceClaimTemplate {template}", claim.name))
    });
    let all: Vec<_> = unmade.collect();
    let is_placed = spec.node_name.as_ref().is_some_and(|node| !node.is_empty());
    (!is_placed && !all.is_empty()).then(|| format!("{}, which has to be in its namespace", all.join(", and ")))
}

/// That a pod with ResourceClaims of other makers has not been looked at by the scheduler, which leaves it aside while one of them is missing.
fn named_claims(pod: &Pod) -> Option<String> {
    let claims = pod.spec.as_ref()?.resource_claims.iter().flatten();
    let names: Vec<_> = claims.filter_map(|claim| claim.resource_claim_name.as_deref()).collect();
    let names = names.join(", ");
    (!names.is_empty())
        .then(|| format!("the scheduler has not begun with it, as where ResourceClaim {names} does not exist"))
}

/// The container that all else waits for: they start in this order, and init containers are through before the next one starts.
fn first_that_waits(status: &PodStatus) -> Option<&ContainerStatus> {
    // a sidecar is through once it has started, be it ready or not
    let is_through = |container: &ContainerStatus| container.started == Some(true) || has_ended_well(container);
    let init = status.init_container_statuses.iter().flatten().find(|container| !is_through(container));
    init.or_else(|| {
        let init = status.init_container_statuses.iter().flatten().filter(|container| !has_ended_well(container));
        status.container_statuses.iter().flatten().chain(init).find(|container| !container.ready)
    })
}

fn spec_of<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    spec.init_containers.iter().flatten().chain(&spec.containers).find(|container| container.name == name)
}

/// What a probe asks, in brackets.
fn question(probe: &Probe) -> String {
    let at = |port: &IntOrString| match port {
        IntOrString::Int(port) => port.to_string(),
        IntOrString::String(port) => port.clone(),
    };
    if let Some(get) = &probe.http_get {
        let scheme = get.scheme.as_deref().filter(|scheme| *scheme != "HTTP");
        let over = scheme.map_or_else(String::new, |scheme| format!(" over {scheme}"));
        return format!(" (GET {} at port {}{over})", get.path.as_deref().unwrap_or("/"), at(&get.port));
    }
    if let Some(exec) = &probe.exec {
        return format!(" (command {})", exec.command.as_deref().unwrap_or_default().join(" "));
    }
    if let Some(tcp) = &probe.tcp_socket {
        return format!(" (connection to port {})", at(&tcp.port));
    }
    probe.grpc.as_ref().map_or_else(String::new, |grpc| format!(" (gRPC health at port {})", grpc.port))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_claim_that_is_not_made_is_named_with_its_template() {
        let pod = |node: Option<&str>, made: Value| -> Pod {
            serde_json::from_value(json!({
                "metadata": { "name": "vision-x", "creationTimestamp": MADE },
                "spec": { "nodeName": node, "containers": [], "resourceClaims": [
                    { "name": "gpu", "resourceClaimTemplateName": "whole-gpu" },
                    { "name": "shared", "resourceClaimName": "one-for-all" },
                ] },
                "status": { "phase": "Pending", "resourceClaimStatuses": made },
            }))
            .unwrap()
        };
        let found = waiting(&pod(None, json!(null))).unwrap();
        let what =
            "no ResourceClaim 'gpu' has been made of ResourceClaimTemplate whole-gpu, which has to be in its namespace";
        assert_eq!((found.what.as_str(), found.lacks_claim, found.probed), (what, true, None));
        assert_eq!(Some(found.since), pod(None, json!(null)).metadata.creation_timestamp);
        // made, or found to need none: then the one of somebody else is missing
        for made in [json!([{ "name": "gpu", "resourceClaimName": "vision-x-gpu-1" }]), json!([{ "name": "gpu" }])] {
            let mut pod = pod(None, made);
            let found = waiting(&pod).unwrap();
            let what = "the scheduler has not begun with it, as where ResourceClaim one-for-all does not exist";
            assert_eq!((found.what.as_str(), found.lacks_claim), (what, false));
            let begun = json!([{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable" }]);
            pod.status.as_mut().unwrap().conditions = serde_json::from_value(begun).unwrap();
            assert_eq!(waiting(&pod), None, "the scheduler says what is wrong");
        }
        assert!(waiting(&pod(Some("n"), json!(null))).is_none_or(|waiting| !waiting.lacks_claim));
    }

    const MADE: &str = "2026-01-01T00:00:00Z";
    const STARTED: &str = "2026-01-01T00:00:07Z";

    fn container(name: &str, state: Value) -> Value {
        let mut all = json!({ "name": name, "image": "x", "imageID": "", "ready": false, "restartCount": 0 });
        all.as_object_mut().unwrap().extend(state.as_object().unwrap().clone());
        all
    }

    fn running(name: &str, started: bool, ready: bool) -> Value {
        container(name, json!({ "started": started, "ready": ready, "state": { "running": { "startedAt": STARTED } } }))
    }

    fn pod(agent: Value, server: &[Value]) -> Pod {
        let exec = json!({ "exec": { "command": ["triton-agent", "health", "ready"] } });
        let get = json!({ "httpGet": { "path": "/v2/health/ready", "port": "http", "scheme": "HTTPS" } });
        let staged = json!({ "httpGet": { "path": "/staged", "port": 8003, "scheme": "HTTP" } });
        serde_json::from_value(json!({
            "metadata": { "name": "vision-x" },
            "spec": {
                "initContainers": [{ "name": "agent", "startupProbe": staged }],
                "containers": [{ "name": "server", "startupProbe": exec, "readinessProbe": get }, { "name": "proxy" }],
            },
            "status": {
                "conditions": [
                    { "type": "PodScheduled", "status": "True", "lastTransitionTime": MADE },
                    { "type": "Ready", "status": "False", "lastTransitionTime": MADE, "message": "gate \"x\" is not \"True\"" },
                ],
                "initContainerStatuses": [agent], "containerStatuses": server,
            },
        }))
        .unwrap()
    }

    #[track_caller]
    fn check(agent: Value, server: Value, since: &str, what: &str) -> Option<Probed> {
        let waiting = waiting(&pod(agent, &[server])).unwrap();
        assert_eq!((waiting.since.0.to_string().as_str(), waiting.what.as_str()), (since, what));
        waiting.probed
    }

    #[test]
    fn a_probe_that_does_not_succeed_is_named_with_what_it_asks() {
        let probed = |container: &str, has_started| Some(Probed { container: container.into(), has_started });
        let through = || running("agent", true, true);
        let initial = container("server", json!({ "state": { "waiting": { "reason": "PodInitializing" } } }));
        let words = "the start-up probe of container agent (GET /staged at port 8003) has not succeeded";
        assert_eq!(check(running("agent", false, false), initial, STARTED, words), probed("agent", false));
        let words = "the start-up probe of container server (command triton-agent health ready) has not succeeded";
        assert_eq!(check(through(), running("server", false, false), STARTED, words), probed("server", false));
        let words = "the readiness probe of container server (GET /v2/health/ready at port http over HTTPS) fails";
        assert_eq!(check(through(), running("server", true, false), STARTED, words), probed("server", true));
    }

    #[test]
    fn what_a_container_ended_with_before_is_part_of_it() {
        let ended = |code: i32, log: &str| {
            let last = json!({ "terminated": { "exitCode": code, "reason": "Error", "message": log } });
            let mut server = running("server", false, false);
            server["lastState"] = last;
            waiting(&pod(running("agent", true, true), &[server])).unwrap().what
        };
        let what = ended(1, "no such flag\n");
        assert!(
            what.ends_with("has not succeeded; before, the container ended with 1 (Error): no such flag"),
            "{what}"
        );
        let what = ended(137, "");
        assert!(what.ends_with("; before, the container was ended by SIGKILL"), "{what}");
    }

    #[test]
    fn what_does_not_exist_yet_and_what_others_decide_are_told_from_probes() {
        let through = || running("agent", true, true);
        let creating = container("server", json!({ "state": { "waiting": { "reason": "ContainerCreating" } } }));
        let words =
            "container server does not exist yet (ContainerCreating): its image is pulled, or a volume is not there";
        assert_eq!(check(through(), creating, MADE, words), None);
        assert_eq!(check(through(), running("server", true, true), MADE, "gate \"x\" is not \"True\""), None);
        assert_eq!(check(through(), running("proxy", false, false), STARTED, "container proxy is not through"), None);
        let once = json!({ "state": { "terminated": { "exitCode": 0 } }, "ready": true, "started": false });
        let words = "the readiness probe of container server (GET /v2/health/ready at port http over HTTPS) fails";
        check(container("once", once), running("server", true, false), STARTED, words);

        let mut fresh = pod(through(), &[]);
        fresh.status.as_mut().unwrap().container_statuses = None;
        fresh.status.as_mut().unwrap().init_container_statuses = None;
        assert_eq!(waiting(&fresh).unwrap().what, "the kubelet of its node has not begun with it");
    }

    #[test]
    fn a_pod_that_is_ready_or_ends_or_has_no_node_waits_for_nothing_here() {
        let unready = || pod(running("agent", true, true), &[running("server", false, false)]);
        assert!(waiting(&unready()).is_some());
        let with = |of: fn(&mut Pod)| {
            let mut pod = unready();
            of(&mut pod);
            waiting(&pod)
        };
        assert_eq!(
            with(|pod| pod.status.as_mut().unwrap().conditions.as_mut().unwrap()[1].status = "True".into()),
            None
        );
        assert_eq!(
            with(|pod| pod.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "False".into()),
            None
        );
        assert_eq!(with(|pod| pod.status.as_mut().unwrap().phase = Some("Failed".into())), None);
        assert_eq!(with(|pod| pod.status = None), None);
    }
}
