//! What the pods of every server say, without a reconcile having to ask: a task for each pod follows it over one connection
//! (`pod.rs`), what counts as said is decided in `memory.rs`, and a change queues the server. A reconcile only reads what is
//! here. Everything that comes from a pod is bounded: a pod may run whatever its owner wants.

pub(crate) mod connection;
mod memory;
mod pod;
mod report;
mod tls;

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use operator_core::{
    pod::{AGENT_CONTAINER, AGENT_PORT, HTTP_PORT, METRICS_PORT},
    replica,
    replica::Replica,
};
use tokio::{sync::Semaphore, task::AbortHandle, time::Instant};

pub(crate) use self::pod::LONGEST_PAGE;
use self::{
    connection::End,
    memory::Heard,
    pod::{Follower, Names, Permits},
};
use crate::{
    metrics::Metrics,
    queue::{Queue, ServerKey},
};

/// How long a server that was not followed before waits for a first answer of each of its pods: until then silence says nothing.
pub(crate) const FIRST_ANSWERS: Duration = Duration::from_secs(3);
/// Connections being opened at the same time, for all servers.
const CONNECTS: usize = 64;
/// Long reports being read at the same time, for all servers.
const LONG_REPORTS: usize = 32;
/// The same for one server: one tenant's pods must not keep out those of others.
const LONG_REPORTS_OF_ONE: usize = 2;

/// Follows the pods of all servers.
pub(crate) struct Observer {
    queue: Queue,
    metrics: Arc<Metrics>,
    permits: Arc<Permits>,
    servers: Mutex<HashMap<ServerKey, Followed>>,
}

/// A server whose pods are followed.
struct Followed {
    since: Instant,
    /// Each pod there was in the beginning has answered or had its time.
    is_informed: bool,
    names: Names,
    long_reports: Arc<Semaphore>,
    /// By uid.
    pods: HashMap<String, FollowedPod>,
}

struct FollowedPod {
    address: IpAddr,
    heard: Arc<Mutex<Heard>>,
    /// Crashes of its server that a reconcile knows of.
    known_crashes: u32,
    /// Loads by others that a reconcile knows of; those before the first report are nobody's news.
    known_foreign_loads: Option<u32>,
    _task: Task,
}

/// A task that ends with whoever holds it.
#[derive(Debug)]
pub(crate) struct Task(pub(crate) AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Observer {
    /// Follows nobody yet. Servers with news are put into `queue`.
    pub(crate) fn new(queue: &Queue, metrics: &Arc<Metrics>) -> Self {
        let permits = Permits { connects: Semaphore::new(CONNECTS), long_reports: Semaphore::new(LONG_REPORTS) };
        Self {
            queue: queue.clone(),
            metrics: Arc::clone(metrics),
            permits: Arc::new(permits),
            servers: Mutex::default(),
        }
    }

    /// The pods of a server with what they say, in the order given; from now on exactly these are followed. `names`: its models.
    /// Nothing for a short while after a server was not followed before: its pods have not been asked. It is queued again once
    /// they have answered.
    pub(crate) fn replicas<'a>(
        &self,
        key: &ServerKey,
        pods: &[Arc<Pod>],
        names: impl Iterator<Item = &'a str>,
    ) -> Option<Vec<Replica>> {
        let mut servers = self.servers();
        let followed = servers.entry(key.clone()).or_insert_with(Followed::new);
        let names: BTreeSet<String> = names.map(str::to_owned).collect();
        *followed.names.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(names);
        self.follow(key, followed, pods);
        followed.is_informed |=
            followed.since.elapsed() >= FIRST_ANSWERS || followed.pods.values().all(|pod| pod.heard().was_asked);
        let is_informed = followed.is_informed;
        let replicas = is_informed.then(|| pods.iter().map(|pod| followed.replica(pod)).collect());
        let count: usize = servers.values().map(|followed| followed.pods.len()).sum();
        self.metrics.follows_pods(count);
        replicas
    }

    /// A server is gone: none of its pods is followed any more.
    pub(crate) fn forget(&self, key: &ServerKey) {
        self.servers().remove(key);
    }

    /// Follows those of `pods` that can be asked, and no others.
    fn follow(&self, key: &ServerKey, followed: &mut Followed, pods: &[Arc<Pod>]) {
        let mut before = std::mem::take(&mut followed.pods);
        for pod in pods {
            let address = replica::address(pod).and_then(|address| address.parse::<IpAddr>().ok());
            let (Some(uid), Some(address)) = (pod.metadata.uid.clone(), address) else { continue };
            // a pod that was given another address is another one to ask
            let same = before.remove(&uid).filter(|it| it.address == address);
            let now = same.unwrap_or_else(|| self.begin(key, followed, pod, address));
            followed.pods.insert(uid, now);
        }
    }

    fn begin(&self, key: &ServerKey, followed: &Followed, pod: &Pod, address: IpAddr) -> FollowedPod {
        let heard = Arc::<Mutex<Heard>>::default();
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let end = |port| End { address: SocketAddr::new(address, port), speaks_tls: replica::speaks_tls(pod) };
        let follower = Follower {
            agent: has_agent(pod).then_some(SocketAddr::new(address, AGENT_PORT)),
            server: end(HTTP_PORT),
            page: end(METRICS_PORT),
            place: node.map_or_else(|| address.to_string(), |node| format!("{address} on node {node}")),
            names: Arc::clone(&followed.names),
            permits: Arc::clone(&self.permits),
            long_reports: Arc::clone(&followed.long_reports),
            metrics: Arc::clone(&self.metrics),
        };
        let (queue, key, shared) = (self.queue.clone(), key.clone(), Arc::clone(&heard));
        let publish = move |now: Heard| {
            let mut heard = shared.lock().unwrap_or_else(PoisonError::into_inner);
            if *heard != now {
                *heard = now;
                queue.push(key.clone());
            }
        };
        let task = tokio::spawn(follower.run(publish)).abort_handle();
        FollowedPod { address, heard, known_crashes: 0, known_foreign_loads: None, _task: Task(task) }
    }

    fn servers(&self) -> MutexGuard<'_, HashMap<ServerKey, Followed>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Followed {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            is_informed: false,
            names: Names::default(),
            long_reports: Arc::new(Semaphore::new(LONG_REPORTS_OF_ONE)),
            pods: HashMap::new(),
        }
    }

    fn replica(&mut self, pod: &Pod) -> Replica {
        let mut replica = Replica::of(pod);
        if let Some(followed) = pod.metadata.uid.as_ref().and_then(|uid| self.pods.get_mut(uid)) {
            let heard = followed.heard();
            replica.crashes = heard.crashes.saturating_sub(followed.known_crashes);
            followed.known_crashes = heard.crashes;
            replica.report = heard.counts(replica.is_ready).map(|report| (**report).clone());
            if let Some((count, last)) = replica.report.as_ref().and_then(|report| report.foreign_loads.as_ref()) {
                let known = followed.known_foreign_loads.replace(*count);
                replica.foreign_load = known.is_some_and(|known| *count > known).then(|| last.clone());
            }
            replica.explain_ends();
            replica.unread = heard.unread;
            replica.unreachable = heard.unreachable;
        }
        replica
    }
}

impl FollowedPod {
    fn heard(&self) -> Heard {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn has_agent(pod: &Pod) -> bool {
    let containers = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    containers.into_iter().any(|container| container.name == AGENT_CONTAINER)
}

#[cfg(test)]
mod tests {
    use operator_core::replica::Report;
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, address: &str) -> Arc<Pod> {
        let running = json!([{ "name": "agent", "image": "x", "imageID": "", "ready": true, "restartCount": 0,
                               "state": { "running": {} } }]);
        let pod = json!({
            "metadata": { "name": uid, "uid": uid, "namespace": "ml" },
            "spec": { "nodeName": "n1", "containers": [{ "name": "server", "image": "x" }],
                      "initContainers": [{ "name": "agent", "image": "x" }] },
            "status": { "podIP": address, "initContainerStatuses": running },
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn observer() -> Observer {
        Observer::new(&Queue::new().0, &Arc::new(Metrics::new()))
    }

    fn key() -> ServerKey {
        ServerKey { namespace: "ml".into(), name: "vision".into() }
    }

    #[tokio::test]
    async fn nothing_is_said_of_a_server_before_its_pods_were_asked() {
        let observer = observer();
        let pods = [pod("a", "127.0.0.1"), pod("b", "no address")];
        let replicas = || observer.replicas(&key(), &pods, std::iter::empty());
        assert!(replicas().is_none(), "silence says nothing yet");
        let informed = async {
            while replicas().is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), informed).await.unwrap();
        assert_eq!(replicas().unwrap().iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        // a pod that comes later holds nothing up
        let more = [pod("a", "127.0.0.1"), pod("c", "127.0.0.1")];
        assert!(observer.replicas(&key(), &more, std::iter::empty()).is_some());
        assert!(observer.replicas(&key(), &[], std::iter::empty()).is_some());
    }

    #[tokio::test]
    async fn exactly_the_pods_of_a_server_are_followed_and_at_rest_none() {
        let observer = observer();
        let followed = |pods: &[Arc<Pod>]| {
            observer.replicas(&key(), pods, std::iter::empty());
            let servers = observer.servers();
            let pods = servers[&key()].pods.iter().map(|(uid, pod)| (uid.clone(), pod.address.to_string()));
            pods.collect::<std::collections::BTreeMap<_, _>>()
        };
        let two = [pod("a", "127.0.0.1"), pod("b", "127.0.0.2")];
        let tasks = |uid: &str| observer.servers()[&key()].pods[uid]._task.0.clone();
        assert_eq!(followed(&two).len(), 2);
        let (a, b) = (tasks("a"), tasks("b"));
        let moved = [pod("a", "127.0.0.1"), pod("b", "127.0.0.3")];
        assert_eq!(followed(&moved)["b"], "127.0.0.3");
        tokio::task::yield_now().await;
        assert!(!a.is_finished() && b.is_finished(), "only the one with another address is followed anew");
        assert!(followed(&[]).is_empty());
        tokio::task::yield_now().await;
        assert!(a.is_finished());
        observer.forget(&key());
        assert!(observer.servers().is_empty());
    }

    #[test]
    fn each_crash_is_handed_out_once() {
        let heard = |crashes| {
            let mut heard = Heard::default();
            heard.crashes = crashes;
            Arc::new(Mutex::new(heard))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let task = runtime.spawn(std::future::ready(())).abort_handle();
        let mut followed = Followed::new();
        let it = FollowedPod {
            address: [127, 0, 0, 1].into(),
            heard: heard(2),
            known_crashes: 0,
            known_foreign_loads: None,
            _task: Task(task),
        };
        followed.pods.insert("a".into(), it);
        let pod = pod("a", "127.0.0.1");
        assert_eq!([followed.replica(&pod).crashes, followed.replica(&pod).crashes], [2, 0]);
        followed.pods.get_mut("a").unwrap().heard = heard(3);
        assert_eq!([followed.replica(&pod).crashes, followed.replica(&pod).crashes], [1, 0]);
    }

    #[test]
    fn each_load_by_others_is_handed_out_once_and_none_of_before() {
        let mut memory = memory::Memory::default();
        let mut heard = |count| {
            let report = Report { foreign_loads: Some((count, format!("load {count}"))), ..Report::default() };
            let answer = memory::Answer { said: memory::Said::ByAgent(Arc::new(report)), ..memory::Answer::default() };
            Arc::new(Mutex::new(memory.note(answer, Instant::now())))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let task = runtime.spawn(std::future::ready(())).abort_handle();
        let it = FollowedPod {
            address: [127, 0, 0, 1].into(),
            heard: heard(2),
            known_crashes: 0,
            known_foreign_loads: None,
            _task: Task(task),
        };
        let mut followed = Followed::new();
        followed.pods.insert("a".into(), it);
        let pod = pod("a", "127.0.0.1");
        let mut seen = |heard| {
            if let Some(heard) = heard {
                followed.pods.get_mut("a").unwrap().heard = heard;
            }
            followed.replica(&pod).foreign_load
        };
        assert_eq!([seen(None), seen(Some(heard(3))), seen(None)], [None, Some("load 3".to_owned()), None]);
        // an agent that starts anew counts anew
        assert_eq!([seen(Some(heard(0))), seen(Some(heard(1)))], [None, Some("load 1".to_owned())]);
    }
}
