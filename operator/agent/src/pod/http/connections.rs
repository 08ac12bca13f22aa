//! How many connections are open, in all and by caller: one that opens many must not keep out the others, least of all the
//! kubelet, whose probes come this way.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Most connections of one address.
const PER_PEER: usize = 16;
/// Most connections in all.
const ALL: usize = 256;

/// Connections that are open, by address.
#[derive(Debug, Default)]
pub(super) struct Connections(Mutex<HashMap<IpAddr, usize>>);

/// One of them; it counts until it is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    all: Arc<Connections>,
    peer: IpAddr,
}

impl Connections {
    /// Counts one more of `peer`; nothing if that is one too many.
    pub(super) fn open(all: &Arc<Self>, peer: IpAddr) -> Option<Connection> {
        let mut open = all.counts();
        let (sum, own) = (open.values().sum::<usize>(), open.get(&peer).copied().unwrap_or(0));
        if sum >= ALL || own >= PER_PEER {
            return None;
        }
        open.insert(peer, own + 1);
        Some(Connection { all: Arc::clone(all), peer })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut open = self.all.counts();
        match open.get_mut(&self.peer) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(open.remove(&self.peer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_cannot_take_the_place_of_another() {
        let all = Arc::new(Connections::default());
        let (greedy, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let held: Vec<_> = std::iter::from_fn(|| Connections::open(&all, greedy)).take(1000).collect();
        assert_eq!(held.len(), PER_PEER);
        drop(Connections::open(&all, other).unwrap());
        drop(held);
        assert!(all.counts().is_empty(), "what is closed is forgotten");
    }

    #[test]
    fn many_callers_together_have_a_limit() {
        let all = Arc::new(Connections::default());
        let peers = (0..=255).flat_map(|host| std::iter::repeat_n(IpAddr::from([10, 0, 0, host]), PER_PEER));
        let held: Vec<_> = peers.filter_map(|peer| Connections::open(&all, peer)).collect();
        assert_eq!(held.len(), ALL);
    }
}
