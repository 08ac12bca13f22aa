//! How long a server goes on serving after it was asked to end, and whether it is ready meanwhile. Time is an argument here.
//!
//! Whoever sends requests learns that it leaves with a delay, and goes elsewhere if there is an elsewhere. With a timeout the server
//! stays ready until no request has come for that delay: a load balancer falls back to servers that leave and are ready when it has no
//! others (Kubernetes: `ProxyTerminatingEndpoints`). If requests still come when only the delay is left of the timeout, the server is not
//! ready for the rest: that moves callers who were sent here because it was.

use std::{
    fmt,
    time::{Duration, Instant},
};

/// The limits of draining.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// How long no request may have come, so that nobody sends any more.
    pub(crate) delay: Duration,
    /// How long requests may come; without it the delay is all the time there is.
    pub(crate) timeout: Duration,
}

impl Limits {
    /// Whether the exit begins at once.
    pub(crate) fn are_zero(self) -> bool {
        self.delay.is_zero()
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { delay, timeout } = self;
        if timeout > delay {
            write!(formatter, "until none has come for {delay:?}, for {timeout:?} at most")
        } else {
            write!(formatter, "for {delay:?}")
        }
    }
}

/// What to do until the next look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Serve whatever comes.
    Serve { is_ready: bool },
    /// Begin the exit.
    Exit,
}

/// A server that drains.
#[derive(Debug)]
pub(crate) struct Drain {
    limits: Limits,
    began: Instant,
    /// Requests that have come, and when the last of them was seen.
    requests: u64,
    last: Instant,
}

impl Drain {
    pub(crate) fn new(limits: Limits, now: Instant) -> Self {
        Self { limits, began: now, requests: 0, last: now }
    }

    /// What to do at `now`, when `requests` have come in all.
    pub(crate) fn next(&mut self, now: Instant, requests: u64) -> Step {
        if requests != self.requests {
            (self.requests, self.last) = (requests, now);
        }
        let Limits { delay, timeout } = self.limits;
        let (elapsed, silence) = (now - self.began, now - self.last);
        if silence >= delay || elapsed >= timeout.max(delay) {
            return Step::Exit;
        }
        Step::Serve { is_ready: elapsed + delay < timeout }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The steps at each second, while requests come during `busy` seconds: `r`eady, `u`nready, `.` for the exit.
    #[track_caller]
    fn check(delay: u64, timeout: u64, busy: u64, expect: &str) {
        let seconds = Duration::from_secs;
        let began = Instant::now();
        let mut drain = Drain::new(Limits { delay: seconds(delay), timeout: seconds(timeout) }, began);
        let mut steps = String::new();
        for second in 0.. {
            match drain.next(began + seconds(second), second.min(busy)) {
                Step::Serve { is_ready } => steps.push(if is_ready { 'r' } else { 'u' }),
                Step::Exit => break,
            }
        }
        assert_eq!(steps, expect);
    }

    #[test]
    fn without_a_timeout_it_is_the_delay_whoever_comes() {
        check(3, 0, 0, "uuu");
        check(3, 0, 100, "uuu");
        check(3, 3, 100, "uuu");
        check(3, 2, 100, "uuu");
    }

    #[test]
    fn with_a_timeout_it_stays_ready_until_nobody_has_come_for_the_delay() {
        check(3, 10, 0, "rrr");
        check(3, 10, 2, "rrrrr");
        check(3, 10, 4, "rrrrrrr");
    }

    #[test]
    fn callers_who_never_go_are_served_until_the_timeout_and_see_that_it_is_not_ready() {
        check(3, 10, 100, "rrrrrrruuu");
        check(3, 10, 8, "rrrrrrruuu");
    }

    #[test]
    fn nothing_is_waited_for_without_a_delay() {
        check(0, 10, 0, "");
        assert!(Limits { delay: Duration::ZERO, timeout: Duration::from_secs(9) }.are_zero());
    }
}
