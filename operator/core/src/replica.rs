//! One pod of a server, as it was seen: what the kubelet says of it, and what its agent (or, without one, the server's own
//! index) says of the models. Facts only; what they mean for a status is decided in [`crate::status`].

mod ended;
mod unready;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{ContainerState, ContainerStatus, Pod, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::SignedDuration,
};

use self::ended::end;
pub(crate) use self::unready::NOTICED;
pub use self::{
    ended::{is_leaving, signal_name},
    unready::{Probed, Waiting},
};
use crate::{
    Reason,
    adopt_words::{self, DRAIN, HOLD},
    labels, pod,
};

/// One pod of a server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Replica {
    /// Name of the pod.
    pub name: String,
    /// Node it was given to.
    pub node: Option<String>,
    /// Digest of the image its server's container runs, as `sha256:…`.
    pub image_digest: Option<String>,
    /// When it was made, in whole seconds.
    pub created: Option<Time>,
    /// A container of it has run.
    pub has_started: bool,
    /// The contents in rollout that its annotation [`crate::labels::ADOPT`] names.
    pub may_adopt: BTreeSet<String>,
    /// How long it takes, from when its server says that it is not ready, until nobody sends it new callers.
    pub leaves_after: Duration,
    /// It gets requests.
    pub is_ready: bool,
    /// Since when, in whole seconds.
    pub ready_since: Option<Time>,
    /// Since when it has got none, in whole seconds.
    pub unready_since: Option<Time>,
    /// It is terminating.
    pub is_leaving: bool,
    /// Since when, in whole seconds.
    pub leaving_since: Option<Time>,
    /// What keeps it from running, if something does.
    pub trouble: Option<Trouble>,
    /// In one sentence, that its server's container ended last for want of memory, and what helps.
    pub memory_end: Option<String>,
    /// How often its server's container was restarted.
    pub restarts: i32,
    /// What it waits for, if it is not ready and nothing is known to be wrong.
    pub waiting: Option<Waiting>,
    /// What it says of its models; none if it could not be asked.
    pub report: Option<Report>,
    /// Why what it says was not read, if it said something that must not be.
    pub unread: Option<String>,
    /// Why it cannot be reached from where the operator is, if neither it nor its kernel answers.
    pub unreachable: Option<String>,
    /// Crashes of its server since the last reconcile after which its launcher restarted it: the kubelet does not report those.
    pub crashes: u32,
    /// What somebody other than its agent had its server load since the last reconcile, in one sentence; the agent has undone it.
    pub foreign_load: Option<String>,
}

/// What keeps a pod from running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// One word, such as `Unschedulable` or `ImagePullBackOff`.
    pub reason: String,
    /// In the words of the scheduler or the kubelet.
    pub message: String,
}

/// What a pod says of its models.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Hash of the manifest it follows; none without an agent.
    pub manifest_hash: Option<String>,
    /// Its server says at the agent's own socket that requests may come; none if the agent did not answer.
    pub server_is_ready: Option<bool>,
    /// Crashes of its server that its agent has seen; none if that did not answer.
    pub crashes: Option<u32>,
    /// By which signal it crashed last, and what it was executing, as far as it said.
    pub last_crash: Option<String>,
    /// Loads that others had its server do, as its agent has counted them, and what the last one was; none if that did not say.
    pub foreign_loads: Option<(u32, String)>,
    /// The contents in rollout that it has read it may serve ([`crate::ManifestModel::adopt_word`]); none: it serves whatever
    /// the manifest has, as agents of older versions do.
    pub adopts: Option<BTreeSet<String>>,
    /// By the name clients know.
    pub models: BTreeMap<String, ModelReport>,
}

/// What a pod says of one model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelReport {
    /// The entry of the manifest that it follows, be it the one in rollout or the former one: its
    /// [`crate::ManifestModel::content_hash`]. None: its agent does not say.
    pub entry: Option<String>,
    /// How far it is with that entry.
    pub phase: Phase,
    /// Versions that take requests, be they the wanted ones or not.
    pub versions: Vec<i64>,
    /// Hash of the content that serves.
    pub serving: Option<String>,
    /// Server processes whose ends are held against that entry, as far as this pod knows: they were loading it, or had just loaded it.
    pub crashes: u32,
    /// What is known of the last of them, in one sentence.
    pub crash: Option<String>,
    /// `false`: it is loaded, and its server has yet to show that it lives on with it. None: its agent does not say.
    pub settled: Option<bool>,
    /// Servers that have it loaded end again and again, and nothing else can be held responsible.
    pub ends_servers: bool,
    /// The most that what serves was seen to hold in memory there; none if its server cannot tell.
    pub memory: Option<Memory>,
}

/// Memory that a model holds on a replica. Units: bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// On the host.
    pub cpu: u64,
    /// On GPUs, all of the pod's together.
    pub gpu: u64,
}

/// How far a pod is with what the manifest wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Waits for its turn.
    #[default]
    Pending,
    /// On its way into the pod.
    Downloading,
    /// Handed to the server.
    Loading,
    /// Serves what the manifest wants.
    Ready,
    /// Could not be brought into service; what served before goes on.
    Failed {
        /// One word.
        reason: String,
        /// The server's or the agent's own sentence.
        message: String,
        /// It will be tried again without anybody doing anything.
        will_retry: bool,
    },
    /// Being unloaded.
    Unloading,
}

impl Replica {
    /// The facts that the cluster has about `pod`.
    pub fn of(pod: &Pod) -> Self {
        let status = pod.status.clone().unwrap_or_default();
        let conditions = status.conditions.as_deref().unwrap_or_default();
        let readiness = conditions.iter().find(|condition| condition.type_ == "Ready");
        let (ready, unready) = match readiness {
            Some(condition) if condition.status == "True" => (readiness, None),
            _ => (None, readiness),
        };
        let containers =
            status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
        let adopt = pod.metadata.annotations.as_ref().and_then(|all| all.get(labels::ADOPT));
        Self {
            name: pod.metadata.name.clone().unwrap_or_default(),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            image_digest: image_digest(&status),
            created: pod.metadata.creation_timestamp.clone(),
            has_started: containers.into_iter().any(has_run),
            may_adopt: adopt.map(|text| adopt_words::from_text(text)).unwrap_or_default(),
            leaves_after: leaves_after(pod),
            is_ready: ready.is_some(),
            ready_since: ready.and_then(|condition| condition.last_transition_time.clone()),
            unready_since: unready.and_then(|condition| condition.last_transition_time.clone()),
            is_leaving: is_leaving(pod),
            leaving_since: leaving_since(pod),
            trouble: trouble(pod),
            memory_end: server_of(pod).and_then(|it| memory_end(pod, it)),
            restarts: server_of(pod).map_or(0, |it| it.restart_count),
            waiting: unready::waiting(pod),
            report: None,
            unread: None,
            unreachable: None,
            crashes: 0,
            foreign_load: None,
        }
    }
}

impl Replica {
    /// Where the end of its server is held against a model and that was for want of memory, the model's failure says so.
    pub fn explain_ends(&mut self) {
        let Some(memory_end) = &self.memory_end else { return };
        for model in self.report.iter_mut().flat_map(|report| report.models.values_mut()) {
            if let Phase::Failed { reason, message, .. } = &mut model.phase
                && *reason == Reason::ServerCrashed.to_string()
            {
                *reason = OOM_KILLED.to_owned();
                *message = format!("{memory_end}; {message}");
            }
        }
    }

    /// Whether it is out of the Service to load something, or may leave it, as far as the words say: it may have begun before it read
    /// that it is to wait.
    pub(crate) fn is_out(&self) -> bool {
        self.has_word(DRAIN) || (!self.is_ready && self.has_word(HOLD))
    }

    /// Whether its annotation has such a word, or what it has read of that.
    pub(crate) fn has_word(&self, prefix: &str) -> bool {
        let reported = self.report.iter().filter_map(|report| report.adopts.as_ref()).flatten();
        self.may_adopt.iter().chain(reported).any(|word| word.starts_with(prefix))
    }

    /// Whether it was so short a while ago that it began or ceased to get requests that not everybody who sends them knows.
    pub fn is_recent(&self, now: &Time) -> bool {
        let since = if self.is_leaving { &self.leaving_since } else { &self.ready_since };
        let is_young = |since: &Time| now.0.duration_since(since.0) < PROPAGATION;
        since.as_ref().is_some_and(is_young)
    }
}

/// The digest in the image id of the server's container. Runtimes write `sha256:…` or `NAME@sha256:…`, with or without a scheme.
fn image_digest(status: &PodStatus) -> Option<String> {
    let server = status.container_statuses.iter().flatten().find(|it| it.name == pod::SERVER_CONTAINER)?;
    let at = server.image_id.rfind("sha256:")?;
    let digest = &server.image_id[at..];
    let hex = digest.strip_prefix("sha256:")?;
    (hex.len() == 64 && hex.bytes().all(|it| it.is_ascii_hexdigit())).then(|| digest.to_owned())
}

/// The kubelet's probes have to fail as often as the pod says, and every node has to learn of it.
fn leaves_after(pod: &Pod) -> Duration {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let server = containers.into_iter().find(|container| container.name == pod::SERVER_CONTAINER);
    let probe = server.and_then(|server| server.readiness_probe.as_ref());
    let seconds = |given: Option<i32>, usual: u64| given.and_then(|given| u64::try_from(given).ok()).unwrap_or(usual);
    // defaults of Kubernetes
    let period = seconds(probe.and_then(|probe| probe.period_seconds), 10);
    let failures = seconds(probe.and_then(|probe| probe.failure_threshold), 3);
    Duration::from_secs(period * failures) + LEARNED
}

fn has_run(container: &ContainerStatus) -> bool {
    let states = [&container.state, &container.last_state];
    states.into_iter().flatten().any(|state| state.running.is_some() || state.terminated.is_some())
}

impl ModelReport {
    /// It is loaded, and its server has lived on with it.
    pub fn has_settled(&self) -> bool {
        self.phase == Phase::Ready && self.settled != Some(false)
    }

    /// Whether it speaks of the content with that hash. An agent that does not name the entry it follows, follows the manifest
    /// as a whole: `published` is the hash of the manifest that has that content, if one was published. `report` is what the
    /// pod says besides.
    pub fn is_about(&self, hash: &str, report: &Report, published: Option<&str>) -> bool {
        match (&self.entry, &report.manifest_hash) {
            (Some(entry), _) => entry == hash,
            (None, _) if report.adopts.is_some() => false,
            (None, Some(followed)) => published == Some(followed),
            (None, None) => published.is_some(),
        }
    }
}

/// How long it takes from the last probe that fails until every node has learned of it, with time to spare.
const LEARNED: Duration = Duration::from_secs(3);

/// How long it takes until every node has learned where a Service leads; whole seconds, so up to one less.
const PROPAGATION: SignedDuration = SignedDuration::from_secs(2);

/// When `pod` was asked to end: its deletion is due once its grace is over.
fn leaving_since(pod: &Pod) -> Option<Time> {
    let due = pod.metadata.deletion_timestamp.as_ref()?;
    let grace = SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
    due.0.checked_sub(grace).ok().map(Time)
}

/// Whether the server of `pod` speaks TLS at its ports.
pub fn speaks_tls(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(labels::TLS))
}

/// The address of a pod whose agent or server has been started.
pub fn address(pod: &Pod) -> Option<&str> {
    let status = pod.status.as_ref()?;
    let has_begun = |containers: &Option<Vec<ContainerStatus>>| {
        containers
            .iter()
            .flatten()
            .any(|container| container.state.as_ref().is_some_and(|state| state.running.is_some()))
    };
    let may_answer =
        !is_leaving(pod) && (has_begun(&status.init_container_statuses) || has_begun(&status.container_statuses));
    status.pod_ip.as_deref().filter(|ip| may_answer && !ip.is_empty())
}

/// Waiting reasons that do not pass by themselves in the usual course of a start.
const TROUBLES: [&str; 9] = [
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImageInspectError",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
];

fn trouble(pod: &Pod) -> Option<Trouble> {
    let status = pod.status.as_ref()?;
    let unscheduled = status.conditions.iter().flatten().find(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    });
    if let Some(condition) = unscheduled {
        let message = condition.message.clone().unwrap_or_default();
        return Some(Trouble { reason: "Unschedulable".into(), message });
    }
    let trouble = |container| out_of_memory(pod, container).or_else(|| container_trouble(container));
    containers_of(pod).filter_map(trouble).next()
}

/// The kubelet's word for a container that was ended because it needed more than its memory limit.
pub(crate) const OOM_KILLED: &str = "OOMKilled";

fn server_of(pod: &Pod) -> Option<&ContainerStatus> {
    containers_of(pod).find(|it| it.name == pod::SERVER_CONTAINER)
}

fn containers_of(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    pod.status.iter().flat_map(|status| {
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten())
    })
}

/// A container that was ended for want of memory and is not ready again.
fn out_of_memory(pod: &Pod, container: &ContainerStatus) -> Option<Trouble> {
    let message = memory_end(pod, container).filter(|_| !container.ready)?;
    Some(Trouble { reason: OOM_KILLED.into(), message })
}

/// That a container was ended for want of memory, and what helps.
fn memory_end(pod: &Pod, container: &ContainerStatus) -> Option<String> {
    let ended = |state: &Option<ContainerState>| {
        let terminated = state.as_ref().and_then(|state| state.terminated.as_ref());
        terminated.is_some_and(|terminated| terminated.reason.as_deref() == Some(OOM_KILLED))
    };
    if !(ended(&container.state) || ended(&container.last_state)) {
        return None;
    }
    let name = &container.name;
    let limit = memory_limit(pod, name).map_or_else(String::new, |limit| format!(" of {limit}"));
    let cure = if name == crate::pod::AGENT_CONTAINER {
        "raise spec.agent.resources.limits.memory"
    } else {
        "raise spec.resources.limits.memory, or give it less to hold: fewer models or instances, smaller batches or caches"
    };
    Some(format!("container {name} needed more memory than its limit{limit} and was ended; {cure}"))
}

fn memory_limit<'a>(pod: &'a Pod, container: &str) -> Option<&'a str> {
    let spec = pod.spec.as_ref()?;
    let mut containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let limits = containers.find(|it| it.name == container)?.resources.as_ref()?.limits.as_ref()?;
    limits.get("memory").map(|limit| limit.0.as_str())
}

fn container_trouble(container: &ContainerStatus) -> Option<Trouble> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().filter(|reason| TROUBLES.contains(reason))?;
    let mut message = format!("container {}", container.name);
    let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    match (reason, last) {
        // the kubelet's own sentence names the pause, which changes each time, and not the cause
        ("CrashLoopBackOff", Some(last)) => message.push_str(&end(last)),
        ("CrashLoopBackOff", None) => message.push_str(" ends again and again"),
        _ => message.push_str(&format!(": {}", waiting.message.as_deref().unwrap_or(reason))),
    }
    Some(Trouble { reason: stable(reason).into(), message })
}

/// One word for what the kubelet alternates between while it tries again.
fn stable(reason: &str) -> &str {
    match reason {
        "ErrImagePull" => "ImagePullBackOff",
        reason => reason,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "vision-x" }, "status": status })).unwrap()
    }

    #[track_caller]
    fn check(status: Value, reason: &str, message: &str) {
        let trouble = Replica::of(&pod(status)).trouble.unwrap();
        assert_eq!((trouble.reason.as_str(), trouble.message.as_str()), (reason, message));
    }

    #[test]
    fn a_pod_that_cannot_run_says_why() {
        let words = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.";
        check(
            json!({ "phase": "Pending", "conditions": [
                { "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words },
            ] }),
            "Unschedulable",
            words,
        );
        check(
            json!({ "phase": "Pending", "containerStatuses": [
                { "name": "server", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
                  "state": { "waiting": { "reason": "ErrImagePull", "message": "not found" } } },
            ] }),
            "ImagePullBackOff",
            "container server: not found",
        );
        check(
            json!({ "phase": "Running", "containerStatuses": [
                { "name": "server", "image": "x", "imageID": "", "ready": false, "restartCount": 3,
                  "state": { "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 40s" } },
                  "lastState": { "terminated": { "exitCode": 1, "reason": "Error", "message": "no such flag\n" } } },
            ] }),
            "CrashLoopBackOff",
            "container server ended with 1 (Error): no such flag",
        );
        let ended = |exit_code: i32, log: &str| {
            json!({ "phase": "Running", "containerStatuses": [
                { "name": "server", "image": "x", "imageID": "", "ready": false, "restartCount": 3,
                  "state": { "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 40s" } },
                  "lastState": { "terminated": { "exitCode": exit_code, "reason": "Error", "message": log } } },
            ] })
        };
        let table = "| model | version | status |\n+-------+---------+--------+\n";
        check(ended(137, table), "CrashLoopBackOff", "container server was ended by SIGKILL");
        check(
            ended(139, "I1129 05:20:51.490084 522 lifecycle.rs:91] \"loading\"\n"),
            "CrashLoopBackOff",
            "container server was ended by SIGSEGV",
        );
        let abort = format!("free(): invalid pointer\n{table}");
        check(ended(134, &abort), "CrashLoopBackOff", "container server was ended by SIGABRT: free(): invalid pointer");
        check(ended(162, ""), "CrashLoopBackOff", "container server was ended by signal 34");
        check(ended(255, table), "CrashLoopBackOff", "container server ended with 255 (Error)");
    }

    #[test]
    fn the_digest_that_runs_is_read_from_whatever_a_runtime_writes() {
        let hex = "ab".repeat(32);
        let digest = |image_id: &str| {
            let server =
                json!({ "name": "server", "image": "x:1", "imageID": image_id, "ready": true, "restartCount": 0 });
            let agent = json!({ "name": "agent", "image": "y", "imageID": format!("sha256:{}", "0".repeat(64)), "ready": true,
                                "restartCount": 0 });
            Replica::of(&pod(json!({ "containerStatuses": [agent, server] }))).image_digest
        };
        let expected = Some(format!("sha256:{hex}"));
        for image_id in [
            format!("sha256:{hex}"),
            format!("registry.example/ml/triton@sha256:{hex}"),
            format!("docker-pullable://registry.example:5000/triton@sha256:{hex}"),
        ] {
            assert_eq!(digest(&image_id), expected, "{image_id}");
        }
        for junk in ["", "x", "sha256:", "sha256:ab", &format!("sha512:{hex}"), &format!("sha256:{hex}é")] {
            assert_eq!(digest(junk), None, "{junk}");
        }
        assert_eq!(Replica::of(&pod(json!({}))).image_digest, None);
    }

    #[test]
    fn a_container_that_ran_out_of_memory_says_so_until_it_is_ready_again() {
        let status = |ready: bool, state: Value, last: Value| {
            let server = json!({ "name": "server", "image": "x", "imageID": "", "ready": ready, "restartCount": 1,
                                 "state": state, "lastState": last });
            let limits = json!({ "limits": { "memory": "64Mi" } });
            let spec = json!({ "containers": [{ "name": "server", "resources": limits }] });
            let pod = json!({ "metadata": { "name": "x" }, "spec": spec, "status": { "containerStatuses": [server] } });
            Replica::of(&serde_json::from_value(pod).unwrap()).trouble
        };
        let killed = json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } });
        let waiting = json!({ "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 40s" } });
        for (state, last) in
            [(killed.clone(), json!({})), (json!({ "running": {} }), killed.clone()), (waiting, killed.clone())]
        {
            let trouble = status(false, state, last).unwrap();
            assert_eq!(trouble.reason, "OOMKilled");
            assert!(
                trouble.message.starts_with("container server needed more memory than its limit of 64Mi"),
                "{trouble:?}"
            );
            assert!(trouble.message.contains("spec.resources.limits.memory"), "{trouble:?}");
        }
        assert_eq!(status(true, json!({ "running": {} }), killed), None);
    }

    #[test]
    fn a_model_that_ends_its_server_for_want_of_memory_says_so_also_once_that_runs_again() {
        let containers = json!([{
            "name": "server", "image": "x", "imageID": "", "ready": true, "restartCount": 1, "state": { "running": {} },
            "lastState": { "terminated": { "exitCode": 137, "reason": "OOMKilled" } },
        }]);
        let mut replica = Replica::of(&pod(json!({ "phase": "Running", "containerStatuses": containers })));
        assert_eq!(replica.trouble, None);
        let failed = |reason: &str| ModelReport {
            phase: Phase::Failed { reason: reason.into(), message: "it ended".into(), will_retry: false },
            ..ModelReport::default()
        };
        let models =
            [("a", "ServerCrashed"), ("b", "LoadFailed")].map(|(name, reason)| (name.to_owned(), failed(reason)));
        replica.report = Some(Report { models: models.into(), ..Report::default() });
        replica.explain_ends();
        let models = &replica.report.as_ref().unwrap().models;
        let Phase::Failed { reason, message, .. } = &models["a"].phase else { panic!("{models:?}") };
        assert_eq!(reason, "OOMKilled");
        let words =
            "container server needed more memory than its limit and was ended; raise spec.resources.limits.memory";
        assert!(message.starts_with(words) && message.ends_with("; it ended"), "{message}");
        assert_eq!(models["b"], failed("LoadFailed"));
    }

    #[test]
    fn a_pod_is_asked_once_something_runs_in_it_and_until_it_leaves() {
        let running = json!([{ "name": "agent", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
                               "state": { "running": {} } }]);
        let mut live = pod(json!({ "phase": "Pending", "podIP": "10.0.0.1", "initContainerStatuses": running }));
        assert_eq!(address(&live), Some("10.0.0.1"));
        live.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert_eq!(address(&live), None);
        assert_eq!(address(&pod(json!({ "phase": "Pending", "podIP": "10.0.0.1" }))), None);
    }
}
