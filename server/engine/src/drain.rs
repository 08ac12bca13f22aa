//! A drain that ends in serving again: callers are asked to go elsewhere for a while, so that something can be done that they would
//! notice. The server is not ready meanwhile, and serves whatever comes all the same. It lasts as long as its lease is renewed: should
//! whoever asked for it be gone, the server is ready again by itself.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Longest lease.
pub const DRAIN_LEASE_MAX: Duration = Duration::from_secs(60);

/// How a drain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainState {
    /// How long it has lasted.
    pub lasts: Duration,
    /// Inference requests that have come since.
    pub requests: u64,
    /// How long none has come, as far as those saw who renewed the lease.
    pub silence: Duration,
}

/// The drain of a server.
#[derive(Debug)]
pub(crate) struct Drain {
    epoch: Instant,
    /// End of the lease in milliseconds after the epoch; 0 without one. Read with each request, so it is no lock.
    ends: AtomicU64,
    requests: AtomicU64,
    seen: Mutex<Option<Seen>>,
}

/// What was seen when the lease was renewed.
#[derive(Debug, Clone, Copy)]
struct Seen {
    began: Instant,
    requests: u64,
    last: Instant,
}

impl Drain {
    pub(crate) fn new(now: Instant) -> Self {
        Self { epoch: now, ends: AtomicU64::new(0), requests: AtomicU64::new(0), seen: Mutex::new(None) }
    }

    /// Begins it, or goes on with it, until `lease` after `now`.
    pub(crate) fn renew(&self, now: Instant, lease: Duration) -> DrainState {
        let mut seen = self.seen.lock();
        if !self.lasts_at(now) {
            *seen = None;
            self.requests.store(0, Ordering::Relaxed);
        }
        let end = now.saturating_duration_since(self.epoch) + lease.min(DRAIN_LEASE_MAX);
        self.ends.store(u64::try_from(end.as_millis()).unwrap_or(u64::MAX).max(1), Ordering::SeqCst);
        let requests = self.requests.load(Ordering::Relaxed);
        let seen = seen.get_or_insert(Seen { began: now, requests, last: now });
        if seen.requests != requests {
            (seen.requests, seen.last) = (requests, now);
        }
        DrainState { lasts: now - seen.began, requests, silence: now - seen.last }
    }

    /// Ends it.
    pub(crate) fn end(&self) {
        self.ends.store(0, Ordering::SeqCst);
    }

    /// Whether callers are asked to go elsewhere.
    pub(crate) fn lasts(&self) -> bool {
        self.ends.load(Ordering::Relaxed) != 0 && self.lasts_at(Instant::now())
    }

    fn lasts_at(&self, now: Instant) -> bool {
        let end = self.ends.load(Ordering::SeqCst);
        now.saturating_duration_since(self.epoch).as_millis() < u128::from(end)
    }

    /// Counts an inference request that comes, if it lasts.
    pub(crate) fn count(&self) {
        if self.ends.load(Ordering::Relaxed) != 0 {
            self.requests.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lasts_as_long_as_its_lease_and_counts_what_comes_meanwhile() {
        let epoch = Instant::now();
        let at = |seconds| epoch + Duration::from_secs(seconds);
        let (drain, lease) = (Drain::new(epoch), Duration::from_secs(10));
        drain.count();
        assert!(!drain.lasts_at(at(0)));
        let state = |lasts, requests, silence| DrainState {
            lasts: Duration::from_secs(lasts),
            requests,
            silence: Duration::from_secs(silence),
        };
        assert_eq!(drain.renew(at(1), lease), state(0, 0, 0));
        drain.count();
        assert_eq!(drain.renew(at(3), lease), state(2, 1, 0));
        assert_eq!(drain.renew(at(9), lease), state(8, 1, 6));
        assert!(drain.lasts_at(at(18)) && !drain.lasts_at(at(19)), "nobody has renewed it");
        // the next one begins anew
        assert_eq!(drain.renew(at(30), lease), state(0, 0, 0));
        drain.end();
        assert!(!drain.lasts_at(at(30)) && !drain.lasts());
        // however long a lease is asked for
        drain.renew(at(40), Duration::MAX);
        assert!(!drain.lasts_at(at(40) + DRAIN_LEASE_MAX));
    }
}
