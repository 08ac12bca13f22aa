//! What the pods say of their models. Each pod is asked at its own address, never through the Service: the agent first, and
//! the server's own index where no agent answers. A pod that does not answer is silent, never an error of the reconcile.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use operator_core::{
    Manifest, Reason, labels,
    manifest::ManifestSource,
    pod::{AGENT_CONTAINER, AGENT_PORT, HTTP_PORT, STATE_PATH},
    replica::{self, ModelReport, Phase, Replica, Report},
};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use triton_agent::{
    load::{CallError, Index, Server},
    state::{self, State},
};

use crate::{metrics::Metrics, queue::ServerKey, watches::Watches};

/// How long a pod may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pods asked at the same time for one server.
const AT_ONCE: usize = 16;
/// Longest answer of a pod that is read. The manifest a pod follows is no longer; whoever may run pods could exhaust the
/// operator of all with longer ones.
const LARGEST_ANSWER: usize = 1 << 20;
/// Pods asked at the same time for all servers, each of which may answer at that length.
const AT_ONCE_OVERALL: usize = 32;

/// How long a pod that gets requests may be silent before that is reported: one that is busy may miss a question.
const SILENCE: Duration = Duration::from_secs(20);
/// The same for its agent while the server answers: only the agent knows the manifest and the reasons, so what the server says
/// in its place must not count before the agent has missed more than one question.
const AGENT_SILENCE: Duration = Duration::from_secs(6);
/// How long what a pod said last is remembered.
const MEMORY: Duration = Duration::from_secs(600);

/// Asks pods.
#[derive(Debug)]
pub(crate) struct Poller {
    client: HttpClient<HttpConnector, Empty<Bytes>>,
    permits: Semaphore,
    last: Mutex<HashMap<String, Last>>,
}

/// What came of asking a pod.
#[derive(Debug, Default)]
struct Answer {
    report: Option<Report>,
    /// The agent did not answer, so what is reported comes from the server.
    is_agent_silent: bool,
    /// Why something it said was not read.
    unread: Option<String>,
}

/// An agent that gave no state.
enum NoState {
    /// It did not answer as agents do.
    Silent,
    /// It answered at greater length than is read.
    TooLarge,
}

/// What a pod said last.
#[derive(Debug)]
struct Last {
    report: Report,
    at: Instant,
    /// Neither agent nor server has answered since.
    silent_since: Option<Instant>,
    /// The server said it, in place of a silent agent.
    is_instead_of_agent: bool,
    /// The agent has not answered since.
    agent_silent_since: Option<Instant>,
}

impl Poller {
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(PATIENCE));
        connector.set_nodelay(true);
        // pods come and go: no connection is kept
        let client = HttpClient::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Self { client, permits: Semaphore::new(AT_ONCE_OVERALL), last: Mutex::default() }
    }

    /// Every pod with what it says of the models of `manifest`, in the order given.
    pub(crate) async fn ask(&self, pods: &[Arc<Pod>], manifest: &Manifest, metrics: &Metrics) -> Vec<Replica> {
        let asked: Vec<_> = pods.iter().map(|pod| self.replica(pod, manifest, metrics)).collect();
        stream::iter(asked).buffered(AT_ONCE).collect().await
    }

    async fn replica(&self, pod: &Pod, manifest: &Manifest, metrics: &Metrics) -> Replica {
        let mut replica = Replica::of(pod);
        if let Some(address) = replica::address(pod).and_then(|ip| ip.parse().ok()) {
            let answer = {
                let _permit = self.permits.acquire().await; // never closed
                self.answer(address, has_agent(pod), manifest, metrics).await
            };
            (replica.report, replica.unread) = (answer.report, answer.unread);
            let is_agent_silent = answer.is_agent_silent;
            if let Some(uid) = &pod.metadata.uid {
                let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
                let seen = last.get(uid).and_then(|last| last.report.crashes);
                let now = replica.report.as_ref().and_then(|report| report.crashes);
                replica.crashes = now.zip(seen).map_or(0, |(now, seen)| now.saturating_sub(seen));
                replica.report = effective_report(
                    &mut last,
                    uid,
                    (replica.report, is_agent_silent),
                    replica.is_ready,
                    Instant::now(),
                );
            }
        }
        replica
    }

    async fn answer(&self, address: IpAddr, has_agent: bool, manifest: &Manifest, metrics: &Metrics) -> Answer {
        let mut answer = Answer::default();
        if has_agent {
            match tokio::time::timeout(PATIENCE, self.state(SocketAddr::new(address, AGENT_PORT))).await {
                Ok(Ok(state)) => {
                    metrics.polled("state");
                    answer.report = Some(of_state(state));
                    return answer;
                }
                Ok(Err(NoState::TooLarge)) => {
                    metrics.polled("too_large");
                    let why = format!("its agent's report has more than {LARGEST_ANSWER} bytes and is not read");
                    answer.unread = Some(why);
                }
                Ok(Err(NoState::Silent)) | Err(_) => {
                    metrics.polled("agent_silent");
                    answer.is_agent_silent = true;
                }
            }
        }
        let server = Server::new((address, HTTP_PORT).into()).with_largest_answer(LARGEST_ANSWER);
        match tokio::time::timeout(PATIENCE, server.index()).await {
            Ok(Ok(index)) => {
                metrics.polled("index");
                // An agent that is silent may have a newer manifest in work than what its server serves.
                let manifest_hash = has_agent.then(String::new);
                answer.report = Some(Report { manifest_hash, models: of_index(&index, manifest), ..Report::default() });
            }
            Ok(Err(CallError::TooLarge(limit))) => {
                metrics.polled("too_large");
                let why = || format!("its server's index has more than {limit} bytes and is not read");
                answer.unread = answer.unread.or_else(|| Some(why()));
            }
            _ => metrics.polled("silent"),
        }
        answer
    }

    async fn state(&self, address: SocketAddr) -> Result<State, NoState> {
        let uri = format!("http://{address}{STATE_PATH}").parse().map_err(|_| NoState::Silent)?;
        let response = self.client.get(uri).await.map_err(|_| NoState::Silent)?;
        if !response.status().is_success() {
            return Err(NoState::Silent);
        }
        let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await;
        let body =
            body.map_err(|error| if error.is::<LengthLimitError>() { NoState::TooLarge } else { NoState::Silent })?;
        serde_json::from_slice(&body.to_bytes()).map_err(|_| NoState::Silent)
    }
}

/// What counts as said by a pod: what it says, or what it said last if it was silent for a short while and still gets requests.
/// The same holds for its agent alone: what the server says in its place counts once the agent has been silent for a while.
fn effective_report(
    last: &mut HashMap<String, Last>,
    uid: &str,
    (report, is_agent_silent): (Option<Report>, bool),
    is_ready: bool,
    now: Instant,
) -> Option<Report> {
    last.retain(|_, last| now.saturating_duration_since(last.at) < MEMORY);
    let before = last.get_mut(uid);
    let Some(mut report) = report else {
        let before = before.filter(|_| is_ready)?;
        before.agent_silent_since.get_or_insert(now); // for when the server answers first
        let since = *before.silent_since.get_or_insert(now);
        return (now.saturating_duration_since(since) < SILENCE).then(|| before.report.clone());
    };
    if let Some(before) = before {
        before.silent_since = None;
        if is_agent_silent && is_ready && !before.is_instead_of_agent {
            let since = *before.agent_silent_since.get_or_insert(now);
            if now.saturating_duration_since(since) < AGENT_SILENCE {
                return Some(before.report.clone());
            }
        }
        // what only the agent counts is not forgotten while the server answers in its place
        report.crashes = report.crashes.or(before.report.crashes);
    }
    let said = Last {
        report: report.clone(),
        at: now,
        silent_since: None,
        is_instead_of_agent: is_agent_silent,
        agent_silent_since: None,
    };
    last.insert(uid.to_owned(), said);
    Some(report)
}

/// Tells pods that have not seen the manifest, or the ConfigMaps that its models come from, of what is new: a changed
/// annotation makes the kubelet hand all of it over at once, not at its next round. It only makes things quicker, so nothing is
/// made of a failure.
pub(crate) async fn nudge_pods(
    (client, watches, metrics): (&Client, &Watches, &Metrics),
    key: &ServerKey,
    pods: &[Arc<Pod>],
    replicas: &[Replica],
    manifest: &Manifest,
) {
    let api: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
    let sources = sources_hash(manifest, |name| watches.config_map_version(&key.namespace, name));
    for (pod, replica) in pods.iter().zip(replicas) {
        let Some(follows) = replica.report.as_ref().and_then(|report| report.manifest_hash.as_deref()) else {
            continue;
        };
        if replica.is_leaving || follows.is_empty() {
            continue;
        }
        let has_annotation =
            |annotation, hash: &str| pod.annotations().get(annotation).is_some_and(|current| current == hash);
        let mut annotations = serde_json::Map::new();
        if follows != manifest.hash && !has_annotation(labels::MANIFEST_HASH, &manifest.hash) {
            annotations.insert(labels::MANIFEST_HASH.into(), manifest.hash.clone().into());
        }
        if let Some(sources) = sources.as_ref().filter(|hash| !has_annotation(labels::SOURCES_HASH, hash)) {
            annotations.insert(labels::SOURCES_HASH.into(), sources.clone().into());
        }
        if annotations.is_empty() {
            continue;
        }
        let patch = json!({ "metadata": { "annotations": annotations } });
        match api.patch_metadata(&replica.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => metrics.wrote("Pod", "patch"),
            Err(error) => {
                tracing::debug!(server = %key, pod = replica.name, %error, "the pod was not annotated")
            }
        }
    }
}

/// Which ConfigMaps the pods mount for their models, and in which version each is; nothing if they mount none.
fn sources_hash(manifest: &Manifest, version: impl Fn(&str) -> Option<String>) -> Option<String> {
    let names: BTreeSet<&str> = manifest
        .models
        .iter()
        .filter_map(|model| match &model.source {
            ManifestSource::ConfigMap { name, keys: None, .. } => Some(name.as_str()),
            _ => None,
        })
        .collect();
    let all: Vec<_> = names.into_iter().map(|name| format!("{name}={}", version(name).unwrap_or_default())).collect();
    (!all.is_empty()).then(|| hex::encode(Sha256::digest(all.join(","))))
}

fn has_agent(pod: &Pod) -> bool {
    let containers = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    containers.into_iter().any(|container| container.name == AGENT_CONTAINER)
}

/// What an agent says, in the words of decisions.
fn of_state(state: State) -> Report {
    let models = state.models.into_iter().map(|(name, model)| {
        let phase = match model.phase {
            state::Phase::Pending => Phase::Pending,
            state::Phase::Downloading { .. } | state::Phase::Verifying => Phase::Downloading,
            state::Phase::Loading => Phase::Loading,
            state::Phase::Ready => Phase::Ready,
            state::Phase::Unloading => Phase::Unloading,
            state::Phase::Failed(failure) => Phase::Failed {
                reason: failure.reason.to_string(),
                message: failure.message,
                will_retry: failure.will_retry,
            },
        };
        let report = ModelReport {
            entry: model.entry,
            crashes: model.crashes,
            phase,
            versions: model.versions.into_iter().filter_map(|version| i64::try_from(version).ok()).collect(),
            serving: model.serving.map(|content| content.as_str().replacen('-', ":", 1)),
        };
        (name, report)
    });
    Report {
        manifest_hash: Some(state.manifest_hash),
        crashes: Some(state.server_crashes),
        adopts: state.adopts,
        models: models.collect(),
    }
}

/// What a server says of the models of `manifest`, in the words of decisions.
fn of_index(index: &Index, manifest: &Manifest) -> BTreeMap<String, ModelReport> {
    let model = |name: &str| {
        let versions: Vec<i64> =
            index.ready_versions(name).into_iter().filter_map(|version| i64::try_from(version).ok()).collect();
        let phase = match index.reason(name) {
            _ if index.is_changing(name) => Phase::Loading,
            Some(reason) => {
                Phase::Failed { reason: Reason::LoadFailed.to_string(), message: reason.to_owned(), will_retry: false }
            }
            None if versions.is_empty() => Phase::Pending,
            None => Phase::Ready,
        };
        ModelReport { phase, versions, ..ModelReport::default() }
    };
    manifest.models.iter().map(|entry| (entry.name.clone(), model(&entry.name))).collect()
}

#[cfg(test)]
mod tests {
    use operator_core::{Observed, compile};

    use super::*;

    fn manifest() -> Manifest {
        let server = serde_json::from_value(json!({
            "apiVersion": "x", "kind": "TritonServer", "metadata": { "name": "s", "namespace": "ml" }, "spec": {},
        }));
        let models: Vec<_> = ["a", "b", "c", "d"]
            .map(|name| {
                serde_json::from_value(json!({
                    "apiVersion": "x", "kind": "TritonModel", "metadata": { "name": name, "namespace": "ml" },
                    "spec": { "serverRef": { "name": "s" }, "source": { "http": { "uri": "http://x/m.zip" } } },
                }))
                .unwrap()
            })
            .into();
        compile(&server.unwrap(), &models, &Observed::default()).manifest
    }

    #[test]
    fn a_pod_that_misses_a_question_is_believed_for_a_while() {
        let mut last = HashMap::new();
        let begun = Instant::now();
        let said = |hash: &str| Report { manifest_hash: Some(hash.into()), ..Report::default() };
        let mut report_at = |report, is_ready, second| {
            let now = begun + Duration::from_secs(second);
            effective_report(&mut last, "uid", (report, false), is_ready, now)
        };
        assert_eq!(report_at(None, true, 0), None, "it never said anything");
        assert_eq!(report_at(Some(said("a")), true, 10), Some(said("a")));
        assert_eq!(report_at(None, true, 70), Some(said("a")), "the silence begins when it is first noticed");
        assert_eq!(report_at(None, false, 75), None, "it gets no requests any more");
        assert_eq!(report_at(None, true, 85), Some(said("a")));
        assert_eq!(report_at(None, true, 90), None);
        assert_eq!(report_at(Some(said("b")), true, 95), Some(said("b")));
        assert_eq!(report_at(None, true, 100), Some(said("b")), "a new silence");
        assert_eq!(report_at(None, true, 1000), None, "long forgotten");
    }

    #[test]
    fn an_agent_that_misses_a_question_is_believed_for_a_while() {
        let mut last = HashMap::new();
        let begun = Instant::now();
        let agent = || Report { manifest_hash: Some("a".into()), crashes: Some(2), ..Report::default() };
        let server = || Report { manifest_hash: Some(String::new()), ..Report::default() };
        let instead = || Some(Report { crashes: Some(2), ..server() });
        let mut report_at = |report: Option<Report>, is_ready, second| {
            let is_agent_silent = report.as_ref().is_none_or(|report| report.crashes.is_none());
            let now = begun + Duration::from_secs(second);
            effective_report(&mut last, "uid", (report, is_agent_silent), is_ready, now)
        };
        assert_eq!(report_at(Some(server()), true, 0), Some(server()), "the agent never said anything");
        assert_eq!(report_at(Some(agent()), true, 1), Some(agent()));
        assert_eq!(report_at(Some(server()), true, 60), Some(agent()), "the silence begins when it is first noticed");
        assert_eq!(report_at(Some(server()), true, 65), Some(agent()));
        assert_eq!(report_at(Some(server()), true, 66), instead(), "more than one question was missed");
        assert_eq!(report_at(Some(server()), true, 67), instead(), "and it stays so until the agent is back");
        assert_eq!(report_at(Some(agent()), true, 70), Some(agent()));
        assert_eq!(report_at(Some(server()), false, 72), instead(), "a pod that gets no requests is asked for what is");
        assert_eq!(report_at(Some(agent()), true, 80), Some(agent()));
        assert_eq!(report_at(None, true, 82), Some(agent()), "a silence of both is one of the agent too");
        assert_eq!(report_at(Some(server()), true, 86), Some(agent()));
        assert_eq!(report_at(Some(server()), true, 88), instead());
    }

    #[tokio::test]
    async fn a_report_of_any_length_is_read_up_to_its_limit_only() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sent = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await.unwrap();
            let head = "HTTP/1.1 200 OK\r\ncontent-length: 67108864\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            let (piece, mut sent) = (vec![b' '; 64 << 10], 0);
            while sent < 64 << 20 && stream.write_all(&piece).await.is_ok() {
                sent += piece.len();
            }
            sent
        });
        assert!(matches!(Poller::new().state(address).await, Err(NoState::TooLarge)));
        // what the sockets hold is sent beyond what is read
        let sent = tokio::time::timeout(Duration::from_secs(60), sent).await.unwrap().unwrap();
        assert!(sent < 32 << 20, "{sent} bytes were taken");
    }

    #[test]
    fn the_hash_of_sources_follows_their_versions_and_nothing_else() {
        let mut manifest = manifest();
        assert_eq!(sources_hash(&manifest, |_| Some("1".into())), None);
        for (model, name) in manifest.models.iter_mut().zip(["x", "y"]) {
            model.source = ManifestSource::ConfigMap { name: name.into(), items: vec![], keys: None };
        }
        let hash = |y: Option<&str>| {
            sources_hash(&manifest, |name| if name == "y" { y.map(str::to_owned) } else { Some("1".into()) }).unwrap()
        };
        assert_eq!(hash(Some("1")), hash(Some("1")));
        assert_ne!(hash(Some("1")), hash(Some("2")));
        assert_ne!(hash(Some("1")), hash(None));
    }

    #[test]
    fn a_server_without_an_agent_tells_by_its_index() {
        let index = Index::parse(
            br#"[{"name":"a","version":"2","state":"READY"},{"name":"b","version":"1","state":"LOADING"},
                 {"name":"c","version":"1","state":"UNAVAILABLE","reason":"no such op"}]"#,
        );
        let models = of_index(&index.unwrap(), &manifest());
        let failed = Phase::Failed { reason: "LoadFailed".into(), message: "no such op".into(), will_retry: false };
        let phases: Vec<_> = models.into_values().map(|model| model.phase).collect();
        assert_eq!(phases, [Phase::Ready, Phase::Loading, failed, Phase::Pending]);
    }

    #[test]
    fn what_an_agent_says_keeps_its_reason_and_its_content() {
        let state: State = serde_json::from_value(json!({
            "manifestHash": "h", "serverIsLive": true, "serverIsReady": true, "isSettled": false,
            "models": { "a": {
                "phase": "Failed", "reason": "ChecksumMismatch", "message": "other files", "attempts": 1,
                "willRetry": false, "versions": [1], "serving": format!("sha256-{}", "0".repeat(64)),
            } },
        }))
        .unwrap();
        let report = of_state(state);
        let model = &report.models["a"];
        assert_eq!((report.manifest_hash.as_deref(), model.versions.as_slice()), (Some("h"), [1].as_slice()));
        assert!(model.serving.as_ref().unwrap().starts_with("sha256:0"), "{model:?}");
        assert!(matches!(&model.phase, Phase::Failed { reason, .. } if reason == "ChecksumMismatch"), "{model:?}");
    }
}
