//! Which event is written next, and when. Events are news for people and the first thing to go without where there is too much of it: a
//! thousand servers that start at once would have a write in four be an event. Pure; the time comes from the caller.

use std::{collections::VecDeque, time::Duration};

use k8s_openapi::{
    api::core::v1::ObjectReference,
    jiff::{SignedDuration, Timestamp},
};
use operator_core::events::Event;
use tokio::time::Instant;

/// Events that may wait.
pub(super) const ROOM: usize = 1000;
/// Events that are written at once after a time without any.
pub(super) const BURST: u32 = 300;
/// Between two events beyond that.
const PERIOD: Duration = Duration::from_millis(100);
/// How old news may be that nothing is wrong. Warnings are never too old.
const STALE: SignedDuration = SignedDuration::from_secs(60);

/// An event that is not written yet.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Waiting {
    pub(super) object: ObjectReference,
    /// What was being done.
    pub(super) action: &'static str,
    pub(super) event: Event,
    /// When it happened.
    pub(super) time: Timestamp,
}

/// What to do now.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// Write this one.
    Write(Box<Waiting>),
    /// Nothing before then.
    WaitUntil(Instant),
    /// Nothing waits.
    Idle,
}

/// The events that wait, oldest first.
#[derive(Debug)]
pub(super) struct Pending {
    warnings: VecDeque<Waiting>,
    others: VecDeque<Waiting>,
    /// When the burst will be whole again.
    whole_at: Instant,
    dropped: u64,
}

impl Pending {
    pub(super) fn new(now: Instant) -> Self {
        Self { warnings: VecDeque::new(), others: VecDeque::new(), whole_at: now, dropped: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.warnings.len() + self.others.len()
    }

    /// Takes one in. Without room the oldest of least weight goes.
    pub(super) fn push(&mut self, waiting: Waiting) {
        if self.len() >= ROOM {
            match waiting.event.is_warning {
                false if self.others.is_empty() => {
                    self.dropped += 1;
                    return;
                }
                _ => drop(self.others.pop_front().or_else(|| self.warnings.pop_front())),
            }
            self.dropped += 1;
        }
        match waiting.event.is_warning {
            true => self.warnings.push_back(waiting),
            false => self.others.push_back(waiting),
        }
    }

    /// The next step; `time` is the same moment as `now`, as clocks on the wall have it.
    pub(super) fn next(&mut self, now: Instant, time: Timestamp) -> Next {
        while self.others.front().is_some_and(|oldest| time.duration_since(oldest.time) > STALE) {
            self.others.pop_front();
            self.dropped += 1;
        }
        if self.len() == 0 {
            return Next::Idle;
        }
        let may_begin = self.whole_at.checked_sub(PERIOD * (BURST - 1)).filter(|may_begin| *may_begin > now);
        if let Some(may_begin) = may_begin {
            return Next::WaitUntil(may_begin);
        }
        let Some(next) = self.warnings.pop_front().or_else(|| self.others.pop_front()) else { return Next::Idle };
        self.whole_at = self.whole_at.max(now) + PERIOD;
        Next::Write(Box::new(next))
    }

    /// How many were dropped since the last question.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(reason: &str, is_warning: bool) -> Waiting {
        let event = Event { is_warning, reason: reason.into(), note: String::new() };
        Waiting { object: ObjectReference::default(), action: "Observe", event, time: Timestamp::UNIX_EPOCH }
    }

    /// Reasons of what is written from `now` on for `millis`, a clock on the wall having begun with `now`.
    fn written(pending: &mut Pending, begun: Instant, from: u64, until: u64) -> Vec<String> {
        let mut reasons = vec![];
        for millis in from..until {
            let now = begun + Duration::from_millis(millis);
            let time = Timestamp::from_millisecond(i64::try_from(millis).unwrap()).unwrap();
            while let Next::Write(one) = pending.next(now, time) {
                reasons.push(one.event.reason);
            }
        }
        reasons
    }

    #[test]
    fn a_few_are_written_at_once_and_warnings_first() {
        let begun = Instant::now();
        let mut pending = Pending::new(begun);
        for (reason, is_warning) in [("a", false), ("b", false), ("w", true)] {
            pending.push(waiting(reason, is_warning));
        }
        assert_eq!(written(&mut pending, begun, 0, 1), ["w", "a", "b"]);
        assert_eq!(pending.next(begun, Timestamp::UNIX_EPOCH), Next::Idle);
    }

    #[test]
    fn a_flood_is_written_as_a_burst_and_then_in_measure() {
        let begun = Instant::now();
        let mut pending = Pending::new(begun);
        for _ in 0..ROOM {
            pending.push(waiting("a", false));
        }
        assert_eq!(written(&mut pending, begun, 0, 1).len(), BURST as usize);
        assert!(matches!(pending.next(begun, Timestamp::UNIX_EPOCH), Next::WaitUntil(_)));
        assert_eq!(written(&mut pending, begun, 1, 10_001).len(), 100);
        // a pause gives back what it is long enough for, and no more than one burst
        let mut pending = Pending::new(begun);
        for _ in 0..ROOM {
            pending.push(waiting("w", true));
        }
        assert_eq!(written(&mut pending, begun, 0, 1).len(), BURST as usize);
        assert_eq!(written(&mut pending, begun, 3_600_000, 3_600_001).len(), BURST as usize);
    }

    #[test]
    fn without_room_what_is_no_warning_goes_first_and_all_that_go_are_counted() {
        let mut pending = Pending::new(Instant::now());
        for _ in 0..ROOM {
            pending.push(waiting("a", false));
        }
        for _ in 0..ROOM {
            pending.push(waiting("w", true));
        }
        assert_eq!((pending.len(), pending.others.len(), pending.take_dropped()), (ROOM, 0, ROOM as u64));
        pending.push(waiting("late", false));
        assert_eq!((pending.others.len(), pending.take_dropped()), (0, 1));
        pending.push(waiting("newest", true));
        assert_eq!((pending.len(), pending.take_dropped()), (ROOM, 1));
        assert_eq!(pending.warnings.back().map(|last| last.event.reason.as_str()), Some("newest"));
        assert_eq!(pending.take_dropped(), 0);
    }

    #[test]
    fn old_news_are_dropped_and_old_warnings_are_not() {
        let begun = Instant::now();
        let mut pending = Pending::new(begun);
        pending.push(waiting("a", false));
        pending.push(waiting("w", true));
        assert_eq!(written(&mut pending, begun, 61_000, 61_001), ["w"]);
        assert_eq!((pending.len(), pending.take_dropped()), (0, 1));
    }
}
