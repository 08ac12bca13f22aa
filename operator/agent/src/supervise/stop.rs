//! How a process is stopped: politely, then firmly. Time is an argument here.

use std::time::{Duration, Instant};

use rustix::process::Signal;

/// An order to stop the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// The signal it gets.
    pub signal: Signal,
    /// How long it may take to end before it is killed; `None`: whoever gave the order sees to that.
    pub limit: Option<Duration>,
    /// What comes when it has ended.
    pub then: Then,
}

/// What comes when a process has ended as ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Nothing: it was the last one.
    Finish,
    /// Another process, at once.
    Replace,
}

/// A process that was ordered to stop and has not ended yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stopping {
    /// What comes then: as the first order said.
    pub(super) then: Then,
    /// When it is killed.
    pub(super) deadline: Option<Instant>,
    /// It was killed: no more orders are needed.
    pub(super) was_killed: bool,
}

impl Stopping {
    /// After an order at `now`, the first one or another. Later orders never give more time.
    pub(super) fn after(stopping: Option<Self>, order: Order, now: Instant) -> Self {
        let deadline = order.limit.and_then(|limit| now.checked_add(limit));
        let first = stopping.unwrap_or(Self { then: order.then, deadline, was_killed: false });
        Self {
            deadline: first.deadline.into_iter().chain(deadline).min(),
            was_killed: first.was_killed || order.signal == Signal::KILL,
            ..first
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(signal: Signal, limit: Option<u64>, then: Then) -> Order {
        Order { signal, limit: limit.map(Duration::from_secs), then }
    }

    #[test]
    fn a_later_order_gives_no_more_time_and_changes_nothing_of_what_comes_then() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let first = Stopping::after(None, order(Signal::TERM, Some(30), Then::Replace), now);
        assert_eq!(first, Stopping { then: Then::Replace, deadline: Some(at(30)), was_killed: false });
        let longer = Stopping::after(Some(first), order(Signal::INT, Some(30), Then::Finish), at(10));
        assert_eq!(longer, first);
        let shorter = Stopping::after(Some(first), order(Signal::INT, Some(5), Then::Finish), at(10));
        assert_eq!(shorter, Stopping { deadline: Some(at(15)), ..first });
        let unlimited = Stopping::after(Some(first), order(Signal::INT, None, Then::Finish), at(10));
        assert_eq!(unlimited, first);
        let killed = Stopping::after(Some(first), order(Signal::KILL, None, Then::Finish), at(10));
        assert_eq!(killed, Stopping { was_killed: true, ..first });
    }

    #[test]
    fn without_a_limit_there_is_no_deadline() {
        let stopping = Stopping::after(None, order(Signal::TERM, None, Then::Finish), Instant::now());
        assert_eq!(stopping, Stopping { then: Then::Finish, deadline: None, was_killed: false });
    }
}
