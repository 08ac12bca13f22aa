//! The activators, as the operator sees them: which there are (their Service's EndpointSlices), for which servers each listens and
//! which of those are wanted (`demand.rs`), which port each server has at them (`ports.rs`), and what they are told of where requests
//! go (`routes.rs`). What follows for a server is decided in `core/src/scale_to_zero.rs`, from what is gathered here.

mod demand;
mod ports;
pub(crate) mod routes;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use operator_core::activator::{Demand, ServerDemand};
use tokio::{task::AbortHandle, time::Instant};

use self::ports::Ports;
use crate::{
    external_scaler,
    queue::{Queue, ServerKey},
    watches::Watches,
};

/// The Service of the activators.
#[derive(Clone, Debug)]
pub(crate) struct ActivatorService {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// What is known of the activators.
#[derive(Clone)]
pub(crate) struct Activators(Arc<Inner>);

struct Inner {
    is_configured: bool,
    queue: Queue,
    /// By address.
    followed: Mutex<BTreeMap<IpAddr, Followed>>,
    servers: Mutex<HashMap<ServerKey, Remembered>>,
    ports: Mutex<Ports>,
}

/// One activator.
struct Followed {
    /// Whether requests may be sent there.
    is_ready: bool,
    demand: Demand,
    _task: Task,
}

/// A task that ends with whoever holds it.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What is remembered of a server: since when, and nothing that matters after a start.
#[derive(Clone, Debug, Default)]
struct Remembered {
    uid: String,
    led_since: Option<Instant>,
    unattended_since: Option<Instant>,
}

/// What the activators say of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attendance {
    /// Those that listen for it and may be sent requests, sorted.
    pub(crate) addresses: Vec<IpAddr>,
    /// Whether one has requests for it.
    pub(crate) is_wanted: bool,
    /// How long none has listened for it.
    pub(crate) unattended_for: Option<Duration>,
    /// How long its Service has led to them.
    pub(crate) led_for: Option<Duration>,
}

impl Activators {
    fn new(is_configured: bool, queue: &Queue) -> Self {
        Self(Arc::new(Inner {
            is_configured,
            queue: queue.clone(),
            followed: Mutex::default(),
            servers: Mutex::default(),
            ports: Mutex::default(),
        }))
    }

    /// Whether there are to be activators.
    pub(crate) fn are_configured(&self) -> bool {
        self.0.is_configured
    }

    /// What the activators say of the server with that name and uid; `is_led`: its Service leads to them.
    pub(crate) fn attendance(&self, key: &ServerKey, uid: &str, is_led: bool) -> Attendance {
        let mut attendance = Attendance::default();
        for (address, activator) in self.followed().iter() {
            let Some(demand) = activator.demand.servers.get(uid) else { continue };
            attendance.is_wanted |= demand.is_wanted;
            if activator.is_ready {
                attendance.addresses.push(*address);
            }
        }
        let since = |is_so: bool, since: &mut Option<Instant>| {
            *since = if is_so { Some(since.unwrap_or_else(Instant::now)) } else { None };
            since.map(|since| since.elapsed())
        };
        self.remember(key, uid, |remembered| {
            attendance.led_for = since(is_led, &mut remembered.led_since);
            attendance.unattended_for = since(attendance.addresses.is_empty(), &mut remembered.unattended_since);
        });
        attendance
    }

    /// Whether an activator has requests for a server: for scalers other than this operator.
    pub(crate) fn is_wanted(&self, key: &ServerKey) -> bool {
        let wanted =
            |demand: &ServerDemand| demand.is_wanted && demand.name == key.name && demand.namespace == key.namespace;
        self.followed().values().any(|it| it.demand.servers.values().any(wanted))
    }

    /// The port of the server with that name and uid: the one it has, or a free one. `taken` are the ports that EndpointSlices have,
    /// by the uid of their server, older ones first; none if all are taken.
    pub(crate) fn port(&self, key: &ServerKey, uid: &str, taken: impl FnOnce() -> Vec<(String, u16)>) -> Option<u16> {
        self.remember(key, uid, |_| {});
        self.ports().of(uid, taken)
    }

    /// A server does not rest any more, or is gone.
    pub(crate) fn forget(&self, key: &ServerKey) {
        if let Some(remembered) = self.servers().remove(key) {
            self.ports().free(&remembered.uid);
        }
    }

    /// One of the same name that comes later is another one.
    fn remember(&self, key: &ServerKey, uid: &str, act: impl FnOnce(&mut Remembered)) {
        let mut servers = self.servers();
        let remembered = servers.entry(key.clone()).or_default();
        if remembered.uid != uid {
            self.ports().free(&remembered.uid);
            *remembered = Remembered { uid: uid.to_owned(), ..Remembered::default() };
        }
        act(remembered);
    }

    /// Exactly these activators are there, each with whether it may be sent requests; `follow` begins to ask one.
    fn set(&self, now: &BTreeMap<IpAddr, bool>, follow: impl Fn(IpAddr) -> AbortHandle) {
        let mut keys = vec![];
        let mut followed = self.followed();
        followed.retain(|address, it| {
            let stays = now.contains_key(address);
            if !stays {
                keys.extend(it.demand.servers.values().map(key));
            }
            stays
        });
        for (address, is_ready) in now {
            let it = followed.entry(*address).or_insert_with(|| Followed {
                is_ready: *is_ready,
                demand: Demand::default(),
                _task: Task(follow(*address)),
            });
            if it.is_ready != *is_ready {
                it.is_ready = *is_ready;
                keys.extend(it.demand.servers.values().map(key));
            }
        }
        drop(followed);
        self.tell(keys);
    }

    /// An activator says this now.
    fn note(&self, address: IpAddr, now: Demand) {
        let mut followed = self.followed();
        let Some(it) = followed.get_mut(&address) else { return };
        let before = std::mem::replace(&mut it.demand, now);
        let changed = |one: &Demand, other: &Demand| -> Vec<ServerKey> {
            let differs = one.servers.iter().filter(|(uid, demand)| other.servers.get(*uid) != Some(demand));
            differs.map(|(_, demand)| key(demand)).collect()
        };
        let keys = [changed(&before, &it.demand), changed(&it.demand, &before)].concat();
        drop(followed);
        self.tell(keys);
    }

    fn tell(&self, keys: Vec<ServerKey>) {
        keys.into_iter().for_each(|key| self.0.queue.push(key));
    }

    fn followed(&self) -> MutexGuard<'_, BTreeMap<IpAddr, Followed>> {
        self.0.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn servers(&self) -> MutexGuard<'_, HashMap<ServerKey, Remembered>> {
        self.0.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ports(&self) -> MutexGuard<'_, Ports> {
        self.0.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the external scaler of KEDA asks of servers.
pub(crate) struct Servers {
    pub(crate) watches: Arc<Watches>,
    pub(crate) activators: Activators,
}

impl external_scaler::Servers for Servers {
    fn exists(&self, key: &ServerKey) -> bool {
        self.watches.server(key).is_some()
    }

    fn is_wanted(&self, key: &ServerKey) -> bool {
        self.activators.is_wanted(key)
    }
}

fn key(demand: &ServerDemand) -> ServerKey {
    ServerKey { namespace: demand.namespace.clone(), name: demand.name.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(is_wanted: bool) -> Demand {
        let server = ServerDemand { namespace: "ml".into(), name: "vision".into(), is_wanted };
        Demand { servers: [("u1".to_owned(), server)].into() }
    }

    fn vision() -> ServerKey {
        ServerKey { namespace: "ml".into(), name: "vision".into() }
    }

    #[test]
    fn a_server_that_comes_again_under_its_name_is_another_one() {
        let activators = Activators::new(true, &Queue::new().0);
        let port = |uid: &str| activators.port(&vision(), uid, Vec::new).unwrap();
        let first = port("u1");
        activators.attendance(&vision(), "u1", true);
        assert_eq!(port("u1"), first);
        let second = port("u2");
        assert_ne!(second, first, "nodes may lead there still");
        assert_eq!(activators.attendance(&vision(), "u2", false).led_for, None);
        activators.forget(&vision());
        activators.forget(&vision());
        assert_ne!(port("u2"), second);
    }

    #[tokio::test(start_paused = true)]
    async fn what_activators_say_of_a_server_is_put_together() {
        let (queue, mut requests) = Queue::new();
        let activators = Activators::new(true, &queue);
        let [a, b]: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        let follow = |_| tokio::spawn(std::future::pending::<()>()).abort_handle();
        activators.set(&[(b, true), (a, true)].into(), follow);
        let queued = |requests: &mut crate::queue::Requests| requests.count_waiting();
        assert_eq!(activators.attendance(&vision(), "u1", false).unattended_for, Some(Duration::ZERO));
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(activators.attendance(&vision(), "u1", true).unattended_for, Some(Duration::from_secs(7)));
        assert_eq!(queued(&mut requests), 0);

        activators.note(b, demand(false));
        activators.note(a, demand(true));
        assert_eq!(queued(&mut requests), 2);
        activators.note(a, demand(true));
        assert_eq!(queued(&mut requests), 0, "nothing new");
        tokio::time::advance(Duration::from_secs(3)).await;
        let led_for = Some(Duration::from_secs(3));
        let both = Attendance { addresses: vec![a, b], is_wanted: true, unattended_for: None, led_for };
        assert_eq!(activators.attendance(&vision(), "u1", true), both);
        assert!(activators.is_wanted(&vision()));

        // one that ends has requests still, and gets no more
        activators.set(&[(a, false), (b, true)].into(), follow);
        assert_eq!(queued(&mut requests), 1);
        let one = Attendance { addresses: vec![b], led_for: None, ..both };
        assert_eq!(activators.attendance(&vision(), "u1", false), one);
        activators.set(&[(b, true)].into(), follow);
        assert_eq!(queued(&mut requests), 1);
        assert!(!activators.attendance(&vision(), "u1", false).is_wanted);
        activators.note(a, demand(true)); // it is gone
        assert!(!activators.is_wanted(&vision()));
    }
}
