//! Which pings of a client are too many. Pure: time is an argument.
//!
//! Source: gRPC's guide to keepalive (grpc/grpc, doc/keepalive.md), and what its servers do: a ping that comes sooner after
//! the one before than it may is a strike; who has more strikes than allowed is sent away. What the server sends for a call
//! makes both forgotten.

use std::time::Duration;

use tokio::time::Instant;

/// How often a client without a call may ping, if it should not do that at all: as often as TCP would.
const IDLE_INTERVAL: Duration = Duration::from_secs(2 * 3600);

/// What clients may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PingPolicy {
    /// Least time between two pings while nothing is sent to the client: `--grpc-http2-min-recv-ping-interval-without-data`.
    pub min_interval: Duration,
    /// How many pings may come sooner; 0 is any number: `--grpc-http2-max-ping-strikes`.
    pub max_strikes: u32,
    /// Whether that interval holds for clients without a call too, for which it is two hours otherwise:
    /// `--grpc-keepalive-permit-without-calls`.
    pub permits_without_calls: bool,
}

impl Default for PingPolicy {
    fn default() -> Self {
        Self { min_interval: Duration::from_secs(300), max_strikes: 2, permits_without_calls: false }
    }
}

/// The pings of one connection.
#[derive(Debug)]
pub(crate) struct Pings {
    policy: PingPolicy,
    last: Option<Instant>,
    strikes: u32,
}

impl Pings {
    /// None yet.
    pub(crate) fn new(policy: PingPolicy) -> Self {
        Self { policy, last: None, strikes: 0 }
    }

    /// Counts one. `true` if it was one too many.
    pub(crate) fn is_too_many(&mut self, now: Instant, has_calls: bool) -> bool {
        let is_idle = !has_calls && !self.policy.permits_without_calls;
        let interval = if is_idle { IDLE_INTERVAL } else { self.policy.min_interval };
        let is_too_soon = self.last.is_some_and(|last| now.duration_since(last) < interval);
        self.last = Some(now);
        self.strikes += u32::from(is_too_soon);
        is_too_soon && self.policy.max_strikes > 0 && self.strikes > self.policy.max_strikes
    }

    /// Something was sent for a call.
    pub(crate) fn forget(&mut self) {
        self.last = None;
        self.strikes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pings at these seconds; the index of the one that was too many.
    #[track_caller]
    fn check(policy: PingPolicy, has_calls: bool, seconds: &[u64], expected: Option<usize>) {
        let mut pings = Pings::new(policy);
        let begun = Instant::now();
        let too_many =
            seconds.iter().position(|second| pings.is_too_many(begun + Duration::from_secs(*second), has_calls));
        assert_eq!(too_many, expected);
    }

    #[test]
    fn the_third_strike_is_one_too_many() {
        let policy = PingPolicy::default();
        check(policy, true, &[0, 1, 2, 3], Some(3)); // the first is no strike
        check(policy, true, &[0, 300, 600, 900, 1200], None);
        check(policy, true, &[0, 299, 598, 897], Some(3));
        check(policy, true, &[0, 1, 1000, 1001, 2000, 2001], Some(5)); // strikes add up
    }

    #[test]
    fn without_a_call_two_hours_are_asked_for() {
        let policy = PingPolicy::default();
        check(policy, false, &[0, 301, 602, 903], Some(3));
        check(policy, false, &[0, 7200, 14_400, 21_600], None);
        check(PingPolicy { permits_without_calls: true, ..policy }, false, &[0, 301, 602, 903], None);
    }

    #[test]
    fn limits_can_be_changed_or_lifted() {
        let policy = PingPolicy { max_strikes: 1, min_interval: Duration::from_secs(10), ..Default::default() };
        check(policy, true, &[0, 9, 18], Some(2));
        check(policy, true, &[0, 10, 20], None);
        check(PingPolicy { max_strikes: 0, ..policy }, true, &[0; 1000], None);
        check(PingPolicy { min_interval: Duration::ZERO, ..policy }, true, &[0; 1000], None);
    }

    #[test]
    fn what_is_sent_for_a_call_forgives() {
        let mut pings = Pings::new(PingPolicy::default());
        let now = Instant::now();
        for _ in 0..10 {
            for _ in 0..3 {
                assert!(!pings.is_too_many(now, true));
            }
            pings.forget();
        }
        let pinged = [(); 4].map(|()| pings.is_too_many(now, true));
        assert_eq!(pinged, [false, false, false, true]);
    }
}
