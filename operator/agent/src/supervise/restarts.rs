//! Whether a program that has ended is started again, and after which pause. Time is an argument here.

use std::{
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    time::{Duration, Instant},
};

/// When a program is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Which ends are followed by another start.
    pub restart: Restart,
    /// Pauses before it; `None`: it is started again at once.
    pub backoff: Option<Backoff>,
    /// How many restarts there may be; `None`: any number, which only a backoff makes sensible.
    pub limit: Option<Limit>,
}

/// Which ends are followed by another start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Every one, a failed start included.
    Always,
    /// Only those by a signal.
    OnSignal,
}

/// Pauses that double with each failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The pause after the first failure.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// A process that ran this long was healthy: its end counts as the first failure.
    pub healthy_after: Duration,
}

/// A bound on restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Restarts within `window`.
    pub restarts: usize,
    /// The time over which they are counted.
    pub window: Duration,
}

/// What follows an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Another start, after this pause.
    Restart(Duration),
    /// No other start.
    GiveUp,
}

/// A policy and the restarts it has allowed so far.
#[derive(Debug)]
pub(super) struct Restarts {
    policy: Policy,
    /// Failures since the last healthy process.
    failures: u32,
    /// Restarts within the window of the limit.
    recent: Vec<Instant>,
}

impl Restarts {
    pub(super) fn new(policy: Policy) -> Self {
        Self { policy, failures: 0, recent: Vec::new() }
    }

    /// What follows an end at `now` of a process that ran for `ran`. `exit` is `None` if it did not start or nobody knows how it
    /// ended. A restart counts.
    pub(super) fn next(&mut self, exit: Option<ExitStatus>, ran: Duration, now: Instant) -> Next {
        let is_restarted = match self.policy.restart {
            Restart::Always => true,
            Restart::OnSignal => exit.is_some_and(|exit| exit.signal().is_some()),
        };
        if !is_restarted {
            return Next::GiveUp;
        }
        if let Some(limit) = self.policy.limit {
            self.recent.retain(|at| now.saturating_duration_since(*at) < limit.window);
            if self.recent.len() >= limit.restarts {
                return Next::GiveUp;
            }
            self.recent.push(now);
        }
        let Some(backoff) = self.policy.backoff else { return Next::Restart(Duration::ZERO) };
        self.failures = if ran >= backoff.healthy_after { 1 } else { self.failures.saturating_add(1) };
        Next::Restart(backoff.after(self.failures))
    }

    /// The process was replaced on purpose: failures of the one before it count no more.
    pub(super) fn replaced(&mut self) {
        self.failures = 0;
    }
}

impl Backoff {
    fn after(self, failures: u32) -> Duration {
        self.first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const WITH_PAUSES: Policy = Policy {
        restart: Restart::Always,
        backoff: Some(Backoff {
            first: SECOND,
            longest: Duration::from_secs(30),
            healthy_after: Duration::from_secs(60),
        }),
        limit: None,
    };
    const AT_ONCE: Policy = Policy {
        restart: Restart::OnSignal,
        backoff: None,
        limit: Some(Limit { restarts: 3, window: Duration::from_secs(600) }),
    };

    fn signal() -> Option<ExitStatus> {
        Some(ExitStatus::from_raw(11))
    }

    fn code(code: i32) -> Option<ExitStatus> {
        Some(ExitStatus::from_raw(code << 8))
    }

    fn seconds(next: Next) -> Option<u64> {
        match next {
            Next::Restart(pause) => Some(pause.as_secs()),
            Next::GiveUp => None,
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_restarts_go_on() {
        let mut restarts = Restarts::new(WITH_PAUSES);
        let now = Instant::now();
        let pauses = [1, 2, 3, 4, 5, 6, 7, 100].map(|_| seconds(restarts.next(signal(), SECOND, now)));
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30].map(Some));
        restarts.failures = u32::MAX;
        assert_eq!(seconds(restarts.next(signal(), SECOND, now)), Some(30));
    }

    #[test]
    fn a_healthy_process_or_a_replaced_one_begins_with_the_first_pause() {
        let mut restarts = Restarts::new(WITH_PAUSES);
        let now = Instant::now();
        let mut after = |ran| seconds(restarts.next(code(1), Duration::from_secs(ran), now));
        assert_eq!([0, 59, 60, 0, 61].map(&mut after), [1, 2, 1, 2, 1].map(Some));
        restarts.replaced();
        assert_eq!(seconds(restarts.next(code(1), SECOND, now)), Some(1));
    }

    #[test]
    fn the_policy_says_which_ends_are_followed_by_a_start() {
        let ends = [signal(), code(1), code(0), None];
        let after = |policy| ends.map(|exit| seconds(Restarts::new(policy).next(exit, SECOND, Instant::now())));
        assert_eq!(after(WITH_PAUSES), [Some(1); 4]);
        assert_eq!(after(AT_ONCE), [Some(0), None, None, None]);
    }

    #[test]
    fn a_program_that_crashes_again_and_again_is_given_up() {
        let mut restarts = Restarts::new(AT_ONCE);
        let begun = Instant::now();
        let mut after =
            |at| restarts.next(signal(), SECOND, begun + Duration::from_secs(at)) == Next::Restart(Duration::ZERO);
        assert_eq!([0, 10, 20, 30, 40].map(&mut after), [true, true, true, false, false]);
        // the first one has left the window, then another one has come in
        assert_eq!([600, 601].map(&mut after), [true, false]);
        assert_eq!([2000, 2001].map(&mut after), [true, true]);
    }
}
