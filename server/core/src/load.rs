//! The load of one model version: how long its requests wait and how much of the time its instances execute, as totals that
//! include what waits or executes now. A queue that stands still shows in them at once, although no request ends.
//!
//! It is told of every change with the time of it, and reads no clock. A change costs a few additions and allocates nothing.

use std::time::{Duration, Instant};

/// A number that changes in steps, summed up over time: of requests that wait, the time all of them have waited.
#[derive(Debug, Clone, Copy)]
struct TimeSum {
    count: u64,
    since: Instant,
    /// Up to `since`, in nanoseconds.
    total_ns: u128,
}

impl TimeSum {
    fn new(now: Instant) -> Self {
        Self { count: 0, since: now, total_ns: 0 }
    }

    /// The number is another from `now` on.
    fn set(&mut self, count: u64, now: Instant) {
        if count != self.count {
            self.total_at(now);
            self.count = count;
        }
    }

    /// The total up to `now`. Those who tell of a change look at the clock before they come here, each by himself, so that `now` may be
    /// a little before what was told last: then it counts from there, and no total is ever lower than one that was read.
    fn total_at(&mut self, now: Instant) -> u128 {
        if self.count > 0 {
            let elapsed = now.saturating_duration_since(self.since);
            let elapsed_ns = elapsed.as_secs() * 1_000_000_000 + u64::from(elapsed.subsec_nanos()); // enough for 584 years
            self.total_ns += u128::from(elapsed_ns) * u128::from(self.count);
        }
        self.since = self.since.max(now);
        self.total_ns
    }
}

/// What is added up of one model version.
#[derive(Debug, Clone)]
pub struct LoadAccount {
    waiting: TimeSum,
    executing: TimeSum,
    entered: u64,
}

impl LoadAccount {
    /// Nothing waits or executes.
    pub fn new(now: Instant) -> Self {
        Self { waiting: TimeSum::new(now), executing: TimeSum::new(now), entered: 0 }
    }

    /// A request has entered the queue, so that so many wait.
    pub fn entered(&mut self, waiting: usize, now: Instant) {
        self.entered += 1;
        self.waiting(waiting, now);
    }

    /// So many requests wait.
    pub fn waiting(&mut self, waiting: usize, now: Instant) {
        self.waiting.set(waiting as u64, now);
    }

    /// One more instance executes.
    pub fn began(&mut self, now: Instant) {
        self.executing.set(self.executing.count + 1, now);
    }

    /// One instance fewer executes.
    pub fn ended(&mut self, now: Instant) {
        self.executing.set(self.executing.count.saturating_sub(1), now);
    }

    /// The totals at `now`: the request that has waited longest came at `oldest`, and `instances` may execute.
    pub fn at(&mut self, now: Instant, oldest: Option<Instant>, instances: usize) -> LoadSnapshot {
        LoadSnapshot {
            queue_time_us: micros(self.waiting.total_at(now)),
            queue_exits: self.entered.saturating_sub(self.waiting.count),
            queue_oldest_age_us: oldest.map_or(0, |oldest| micros(age(oldest, now).as_nanos())),
            busy_us: micros(self.executing.total_at(now)),
            instances: instances as u64,
        }
    }
}

fn age(since: Instant, now: Instant) -> Duration {
    now.saturating_duration_since(since)
}

fn micros(ns: u128) -> u64 {
    u64::try_from(ns / 1000).unwrap_or(u64::MAX)
}

/// The load of one model version at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadSnapshot {
    /// How long requests have waited for execution so far, all together, those that wait now included; microseconds.
    pub queue_time_us: u64,
    /// Requests that have left the queue: to be executed, because they expired or because their callers left.
    pub queue_exits: u64,
    /// How long the request that came first of those that wait has waited, microseconds; 0 if none waits.
    pub queue_oldest_age_us: u64,
    /// How long instances have executed so far, all together, those that execute now included; microseconds.
    pub busy_us: u64,
    /// Instances that take requests.
    pub instances: u64,
}

impl LoadSnapshot {
    /// Adds the totals of a version that this one has replaced, for series that go on. What waits there still may be the oldest;
    /// its instances take nothing that comes.
    pub fn add(&mut self, replaced: &Self) {
        self.queue_time_us = self.queue_time_us.saturating_add(replaced.queue_time_us);
        self.queue_exits = self.queue_exits.saturating_add(replaced.queue_exits);
        self.queue_oldest_age_us = self.queue_oldest_age_us.max(replaced.queue_oldest_age_us);
        self.busy_us = self.busy_us.saturating_add(replaced.busy_us);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_waits_now_counts_before_it_has_ended() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut load = LoadAccount::new(start);
        load.entered(1, at(10));
        load.entered(2, at(20));
        let stalled = load.at(at(1020), Some(at(10)), 1);
        assert_eq!((stalled.queue_time_us, stalled.queue_exits), (10_000 + 2 * 1_000_000, 0));
        assert_eq!(stalled.queue_oldest_age_us, 1_010_000);
        load.waiting(0, at(1030));
        let idle = load.at(at(9000), None, 1);
        assert_eq!((idle.queue_time_us, idle.queue_exits, idle.queue_oldest_age_us), (10_000 + 2 * 1_010_000, 2, 0));
    }

    #[test]
    fn an_execution_under_way_is_busy_time() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut load = LoadAccount::new(start);
        load.began(at(0));
        load.began(at(5));
        assert_eq!(load.at(at(10), None, 2).busy_us, 15_000);
        load.ended(at(10));
        load.ended(at(20));
        assert_eq!(load.at(at(50), None, 2).busy_us, 25_000);
    }

    #[test]
    fn series_of_a_version_loaded_anew_go_on() {
        let old = LoadSnapshot { queue_time_us: 5, queue_exits: 2, queue_oldest_age_us: 9, busy_us: 7, instances: 4 };
        let mut new =
            LoadSnapshot { queue_time_us: 1, queue_exits: 1, queue_oldest_age_us: 3, busy_us: 1, instances: 1 };
        new.add(&old);
        let expect =
            LoadSnapshot { queue_time_us: 6, queue_exits: 3, queue_oldest_age_us: 9, busy_us: 8, instances: 1 };
        assert_eq!(new, expect);
    }

    proptest! {
        /// Each request's wait by itself, summed up, is what the account says without knowing any of them; at every moment in
        /// between, too.
        #[test]
        fn the_total_is_the_sum_of_all_waits(
            waits in prop::collection::vec((0_u64..5_000_000, 0_u64..5_000_000), 0..40),
            moment in 0_u64..12_000_000,
        ) {
            let start = Instant::now();
            let at = |us| start + Duration::from_micros(us);
            let mut steps: Vec<(u64, bool)> =
                waits.iter().flat_map(|&(came, waited)| [(came, true), (came + waited, false)]).collect();
            steps.sort_by_key(|&(us, enters)| (us, !enters));
            let mut load = LoadAccount::new(start);
            let mut waiting = 0;
            for (us, enters) in steps.into_iter().filter(|(us, _)| *us <= moment) {
                if enters {
                    waiting += 1;
                    load.entered(waiting, at(us));
                } else {
                    waiting -= 1;
                    load.waiting(waiting, at(us));
                }
            }
            let expect: u64 =
                waits.iter().map(|&(came, waited)| moment.saturating_sub(came).min(waited)).sum();
            let exits = waits.iter().filter(|&&(came, waited)| came + waited <= moment).count() as u64;
            let snapshot = load.at(at(moment), None, 1);
            prop_assert_eq!((snapshot.queue_time_us, snapshot.queue_exits), (expect, exits));
        }

        /// Clocks read by several threads come a little out of order: totals never go back for it.
        #[test]
        fn totals_never_fall(steps in prop::collection::vec((0_usize..5, 0_u64..1000), 1..60)) {
            let start = Instant::now();
            let mut load = LoadAccount::new(start);
            let (mut before, mut seen) = (0, 0);
            for (at, (waiting, jitter)) in steps.into_iter().enumerate() {
                let now = start + Duration::from_micros(at as u64 * 500 + jitter);
                load.waiting(waiting, now);
                seen = seen.max(at as u64 * 500 + jitter);
                let total = load.at(start + Duration::from_micros(seen), None, 1).queue_time_us;
                prop_assert!(total >= before);
                before = total;
            }
        }
    }
}
