//! What the pods of autoscaled servers say of their load. A task for each pod reads its metrics page every few seconds
//! (`scrape/pod.rs`); what follows from two pages is decided in `operator_core::load`. Every replica of the operator does so by itself,
//! since whoever asks for a load may ask any of them. Nothing is asked of pods whose load nobody wants to know.

mod pod;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use operator_core::{load::ServerLoad, pod::METRICS_PORT, replica, replica::Replica};
use tokio::{sync::Semaphore, time::Instant};

use self::pod::{Permits, Scraper, Seen};
use crate::{
    metrics::Metrics,
    observer::{Task, connection::End},
    queue::ServerKey,
    watches::Watches,
};

/// How often it is looked which pods there are.
const SWEEP: Duration = Duration::from_secs(1);
/// How long the pods of a server are asked after somebody wanted to know its load: a few rounds of a horizontal pod autoscaler.
const WANTED: Duration = Duration::from_secs(180);
/// Connections being opened at the same time, for all servers.
const CONNECTS: usize = 32;
/// Long pages being read at the same time, for all servers.
const LONG_PAGES: usize = 16;
/// The same for one server: one tenant's pods must not keep out those of others.
const LONG_PAGES_OF_ONE: usize = 2;

/// The loads of servers, for readers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Loads(Arc<Shared>);

struct Shared {
    /// What times are counted from, and what the clock said then.
    origin: (Instant, Timestamp),
    /// Where pods serve their metrics.
    port: u16,
    metrics: Arc<Metrics>,
    permits: Arc<Permits>,
    servers: Mutex<HashMap<ServerKey, Scraped>>,
    /// Servers whose load somebody wanted to know, and when last.
    wanted: Mutex<HashMap<ServerKey, Instant>>,
}

/// A server whose pods are asked.
struct Scraped {
    /// When one of its pods was last seen at work, in milliseconds; in the beginning, when it was first asked.
    busy_at: Arc<AtomicU64>,
    long_pages: Arc<Semaphore>,
    /// By uid.
    pods: HashMap<String, ScrapedPod>,
    /// Pods that are there or come, and are not ready.
    unready: usize,
}

struct ScrapedPod {
    name: String,
    address: IpAddr,
    is_ready: bool,
    seen: Arc<Mutex<Seen>>,
    _task: Task,
}

impl Loads {
    /// Asks nobody yet.
    pub(crate) fn new(metrics: &Arc<Metrics>) -> Self {
        Self::at_port(metrics, METRICS_PORT)
    }

    pub(crate) fn at_port(metrics: &Arc<Metrics>, port: u16) -> Self {
        let permits = Permits { connects: Semaphore::new(CONNECTS), long_pages: Semaphore::new(LONG_PAGES) };
        Self(Arc::new(Shared {
            origin: (Instant::now(), Timestamp::now()),
            port,
            metrics: Arc::clone(metrics),
            permits: Arc::new(permits),
            servers: Mutex::default(),
            wanted: Mutex::default(),
        }))
    }

    /// The load of a server, as far as it is known; none if its pods are not asked.
    pub(crate) fn of(&self, key: &ServerKey) -> Option<ServerLoad> {
        let servers = self.servers();
        let server = servers.get(key)?;
        let now = self.now();
        let mut load = ServerLoad { unready: server.unready, ..ServerLoad::default() };
        for pod in server.pods.values().filter(|pod| pod.is_ready) {
            let seen = pod.seen.lock().unwrap_or_else(PoisonError::into_inner);
            match (seen.window.load(now), &seen.failure) {
                (Some(known), _) => drop(load.pods.insert(pod.name.clone(), known)),
                (None, Some(failure)) => drop(load.silent.insert(pod.name.clone(), failure.clone())),
                (None, None) => {
                    drop(load.silent.insert(pod.name.clone(), "it has not been asked twice yet".to_owned()))
                }
            }
        }
        let waits = load.pods.values().any(|pod| pod.models.values().any(|model| model.pending > 0.0));
        let is_idle = load.silent.is_empty() && !waits;
        load.idle_since = is_idle.then(|| Duration::from_millis(server.busy_at.load(Ordering::Relaxed)));
        Some(load)
    }

    /// Somebody wants to know the load of a server: its pods are asked for the next while.
    pub(crate) fn want(&self, key: &ServerKey) {
        let mut wanted = self.wanted();
        match wanted.get_mut(key) {
            Some(at) => *at = Instant::now(),
            None => drop(wanted.insert(key.clone(), Instant::now())),
        }
    }

    /// The time now, in the count that loads use.
    pub(crate) fn now(&self) -> Duration {
        self.0.origin.0.elapsed()
    }

    /// What the clock said at a time of that count.
    pub(crate) fn clock(&self, at: Duration) -> Timestamp {
        self.0.origin.1.checked_add(at).unwrap_or(self.0.origin.1)
    }

    /// Asks the pods of servers that are wanted, for as long as it is polled.
    pub(crate) async fn follow(self, watches: Arc<Watches>) {
        loop {
            let always = watches.load_wanted();
            self.sweep_all(always, |key| watches.server(key).is_some().then(|| watches.pods(key)));
            tokio::time::sleep(SWEEP).await;
        }
    }

    #[cfg(test)]
    pub(crate) fn sweep(&self, pods: impl Fn(&ServerKey) -> Option<Vec<Arc<Pod>>>) {
        self.sweep_all(vec![], pods);
    }

    /// From now on, exactly the pods of these servers are asked and of those that somebody wants to know of. `pods`: those of a server,
    /// nothing if there is no such server.
    fn sweep_all(&self, always: Vec<ServerKey>, pods: impl Fn(&ServerKey) -> Option<Vec<Arc<Pod>>>) {
        let keys: BTreeSet<ServerKey> = {
            let mut wanted = self.wanted();
            wanted.retain(|_, at| at.elapsed() < WANTED);
            wanted.keys().cloned().chain(always).collect()
        };
        let found: BTreeMap<_, _> =
            keys.into_iter().filter_map(|key| Some((pods(&key)?, key))).map(|(pods, key)| (key, pods)).collect();
        let mut servers = self.servers();
        servers.retain(|key, _| found.contains_key(key));
        for (key, pods) in found {
            let now = u64::try_from(self.now().as_millis()).unwrap_or(u64::MAX);
            let server = servers.entry(key).or_insert_with(|| Scraped::new(now));
            self.0.follow(server, &pods);
        }
        self.0.metrics.scrapes_pods(servers.values().map(|server| server.pods.len()).sum());
    }

    fn servers(&self) -> MutexGuard<'_, HashMap<ServerKey, Scraped>> {
        self.0.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wanted(&self) -> MutexGuard<'_, HashMap<ServerKey, Instant>> {
        self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Asks those of `pods` that can be asked, and no others.
    fn follow(&self, server: &mut Scraped, pods: &[Arc<Pod>]) {
        let mut before = std::mem::take(&mut server.pods);
        server.unready = 0;
        for pod in pods {
            let replica = Replica::of(pod);
            server.unready += usize::from(!replica.is_ready && !replica.is_leaving);
            let address = replica::address(pod).and_then(|address| address.parse::<IpAddr>().ok());
            let (Some(uid), Some(address)) = (pod.metadata.uid.clone(), address) else { continue };
            // a pod that was given another address is another one to ask
            let same = before.remove(&uid).filter(|it| it.address == address);
            let mut now = same.unwrap_or_else(|| self.begin(server, pod, &uid, address));
            now.is_ready = replica.is_ready;
            server.pods.insert(uid, now);
        }
    }

    fn begin(&self, server: &Scraped, pod: &Pod, uid: &str, address: IpAddr) -> ScrapedPod {
        let seen = Arc::<Mutex<Seen>>::default();
        let scraper = Scraper {
            end: End { address: SocketAddr::new(address, self.port), speaks_tls: replica::speaks_tls(pod) },
            origin: self.origin.0,
            seen: Arc::clone(&seen),
            busy_at: Arc::clone(&server.busy_at),
            permits: Arc::clone(&self.permits),
            long_pages: Arc::clone(&server.long_pages),
            metrics: Arc::clone(&self.metrics),
        };
        let task = tokio::spawn(scraper.run(pod::share_of_interval(uid))).abort_handle();
        let name = pod.metadata.name.clone().unwrap_or_default();
        ScrapedPod { name, address, is_ready: false, seen, _task: Task(task) }
    }
}

impl Scraped {
    fn new(now_ms: u64) -> Self {
        Self {
            busy_at: Arc::new(AtomicU64::new(now_ms)),
            long_pages: Arc::new(Semaphore::new(LONG_PAGES_OF_ONE)),
            pods: HashMap::new(),
            unready: 0,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
