//! Holds the requests of a server until one of its pods is ready: so many of one server, so many in all, so long each. What is held
//! is a request's head; its body stays where it comes from, since nobody reads it before there is a pod to send it to.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use operator_core::activator::Route;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::Instant,
};

use super::{answers::Refusal, counts::Counts};

/// How long a server is wanted after its last request: until the operator has surely heard of it.
const WANTED: Duration = Duration::from_secs(15);
/// How long connections may go on once a Service leads elsewhere: until every node knows it, so that a client that connects again
/// does not come back.
const LINGER: Duration = Duration::from_secs(5);

/// How much an activator takes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// How long a request is held.
    pub(super) timeout: Duration,
    /// How many are held in all.
    pub(super) held: usize,
    /// How many of one server.
    pub(super) held_per_server: usize,
    /// How many connections there are in all.
    pub(super) connections: usize,
    /// How many of one server.
    pub(super) connections_per_server: usize,
}

/// What all servers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) limits: Limits,
    pub(super) counts: Counts,
    pub(super) connections: Arc<Semaphore>,
    held: Arc<Semaphore>,
    /// Counts what may have changed the demand.
    pub(super) changes: watch::Sender<u64>,
}

impl Shared {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            counts: Counts::new(),
            connections: Arc::new(Semaphore::new(limits.connections)),
            held: Arc::new(Semaphore::new(limits.held)),
            changes: watch::channel(0).0,
        }
    }

    pub(super) fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// Where the requests of one server wait.
pub(super) struct Gate {
    /// Namespace and name.
    pub(super) server: String,
    pub(super) shared: Arc<Shared>,
    pub(super) connections: Arc<Semaphore>,
    held: Arc<Semaphore>,
    /// None once the server is not served here any more.
    route: watch::Receiver<Option<Route>>,
    in_use: Mutex<InUse>,
    turn: AtomicUsize,
}

#[derive(Debug, Default)]
struct InUse {
    requests: usize,
    last: Option<Instant>,
}

/// When a request is given up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    at: Instant,
    limit: Duration,
    is_clients: bool,
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Held {
    since: Instant,
    shared: Arc<Shared>,
    _permits: [OwnedSemaphorePermit; 2],
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.counts.held.dec();
        self.shared.counts.hold_seconds.observe(self.since.elapsed().as_secs_f64());
    }
}

/// A request from its arrival until the end of its answer.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Gate>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut in_use = self.0.in_use();
        in_use.requests -= 1;
        in_use.last = Some(Instant::now());
    }
}

impl Gate {
    pub(super) fn new(server: String, shared: Arc<Shared>, route: watch::Receiver<Option<Route>>) -> Self {
        let limits = shared.limits;
        Self {
            server,
            connections: Arc::new(Semaphore::new(limits.connections_per_server)),
            held: Arc::new(Semaphore::new(limits.held_per_server)),
            shared,
            route,
            in_use: Mutex::default(),
            turn: AtomicUsize::new(0),
        }
    }

    /// A request has come.
    pub(super) fn begin(self: &Arc<Self>) -> UnderWay {
        let was_wanted = self.is_wanted();
        let mut in_use = self.in_use();
        in_use.requests += 1;
        in_use.last = Some(Instant::now());
        drop(in_use);
        if !was_wanted {
            self.shared.changed();
        }
        UnderWay(Arc::clone(self))
    }

    /// Whether requests are under way, or the last one came a moment ago: one that was given up will come again.
    pub(super) fn is_wanted(&self) -> bool {
        let in_use = self.in_use();
        in_use.requests > 0 || in_use.last.is_some_and(|last| last.elapsed() < WANTED)
    }

    /// When a request is given up whose client waits so long, if it says so.
    pub(super) fn deadline(&self, of_client: Option<Duration>) -> Deadline {
        let own = self.shared.limits.timeout;
        let is_clients = of_client.is_some_and(|time| time < own);
        let limit = of_client.unwrap_or(own).min(own);
        Deadline { at: Instant::now() + limit, limit, is_clients }
    }

    /// A ready pod other than `avoid`, if there is one.
    pub(super) fn pod(&self, avoid: Option<IpAddr>) -> Option<IpAddr> {
        let route = self.route.borrow();
        let pods = &route.as_ref()?.pods;
        let others: Vec<&IpAddr> = pods.iter().filter(|pod| Some(**pod) != avoid).collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        others.get(turn.checked_rem(others.len())?).map(|pod| **pod)
    }

    /// A ready pod, as soon as there is one; `held` keeps the place of a request that has to wait for it. `lost` is a pod that could
    /// not be reached: it is tried again after a moment, or another one is.
    pub(super) async fn wait_for_pod(
        &self,
        deadline: Deadline,
        held: &mut Option<Held>,
        lost: Option<IpAddr>,
    ) -> Result<IpAddr, Refusal> {
        let mut route = self.route.clone();
        loop {
            let is_gone = route.borrow_and_update().is_none();
            if is_gone {
                return Err(Refusal::Gone { server: self.server.clone() });
            }
            if let Some(pod) = self.pod(lost) {
                return Ok(pod);
            }
            if held.is_none() {
                *held = Some(self.hold()?);
            }
            // a pod that was lost may have been slow only
            let moment = lost.map(|_| Instant::now() + AFTER_LOSS);
            let next = moment.unwrap_or(deadline.at).min(deadline.at);
            match tokio::time::timeout_at(next, route.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Refusal::Gone { server: self.server.clone() }),
                Err(_) if Instant::now() >= deadline.at => return Err(self.time_over(deadline)),
                Err(_) => {
                    if let Some(pod) = self.pod(None) {
                        return Ok(pod);
                    }
                }
            }
        }
    }

    fn hold(&self) -> Result<Held, Refusal> {
        let limits = self.shared.limits;
        let of_server = Arc::clone(&self.held)
            .try_acquire_owned()
            .map_err(|_| Refusal::FullForServer { server: self.server.clone(), limit: limits.held_per_server })?;
        let of_all = Arc::clone(&self.shared.held)
            .try_acquire_owned()
            .map_err(|_| Refusal::Full { server: self.server.clone(), limit: limits.held })?;
        self.shared.counts.held.inc();
        Ok(Held { since: Instant::now(), shared: Arc::clone(&self.shared), _permits: [of_server, of_all] })
    }

    /// Why a request was given up that waited until `deadline`.
    pub(super) fn time_over(&self, deadline: Deadline) -> Refusal {
        let (server, limit) = (self.server.clone(), deadline.limit);
        let why = self.route.borrow().as_ref().map(|route| route.why.clone()).unwrap_or_default();
        match deadline.is_clients {
            true => Refusal::ClientTimeOver { server, limit, why },
            false => Refusal::TimeOver { server, limit, why },
        }
    }

    /// Waits until connections are to end: the server is not served here any more, or its Service has led elsewhere for a while.
    pub(super) async fn led_elsewhere(&self) {
        let mut route = self.route.clone();
        loop {
            if route.wait_for(|route| route.as_ref().is_none_or(|route| !route.is_led_here)).await.is_err() {
                return;
            }
            if route.borrow_and_update().is_none() {
                return;
            }
            let back = route.wait_for(|route| route.as_ref().is_none_or(|route| route.is_led_here));
            if tokio::time::timeout(LINGER, back).await.is_err() {
                return;
            }
        }
    }

    fn in_use(&self) -> MutexGuard<'_, InUse> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Before a pod that could not be reached is tried again.
const AFTER_LOSS: Duration = Duration::from_millis(100);

impl Deadline {
    /// How much of it is left.
    pub(super) fn left(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// Whether the client said it.
    pub(super) fn is_clients(&self) -> bool {
        self.is_clients
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("server", &self.server).finish_non_exhaustive()
    }
}
