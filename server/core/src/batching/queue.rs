//! Requests waiting for an instance: priority levels, limits, deadlines. First in, first out within a level; a level is
//! served only when those before it are empty. Only levels in use take memory.
//!
//! Source: Triton model configuration, "Queue Policy" and "Priority Levels".

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use super::{
    item::Item,
    levels::{Levels, TimeoutAction},
};
use crate::footprint::Footprint;

/// Why a request left the queue without running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It waited too long.
    Expired,
    /// Its caller left.
    Abandoned,
    /// Its sequence waited too long for a slot.
    SequenceExpired,
    /// The request that starts its sequence was cancelled before it ran.
    NotStarted,
}

/// The queue is full; the thing that did not fit comes back.
#[derive(Debug)]
pub struct Full<T>(pub T);

struct Entry<T> {
    /// Its place in the order of arrival.
    number: u64,
    item: T,
    /// When it came; before `queued_at` if it had to wait for another before it might run.
    came_at: Instant,
    queued_at: Instant,
    deadline: Option<Instant>,
}

/// Levels that stay when they have become empty, so that a busy queue does not make them again and again.
const KEPT_LEVELS: usize = 16;

struct Level<T> {
    /// In the order of arrival.
    main: VecDeque<Entry<T>>,
    /// Those that waited too long and may be late; they have no deadline any more.
    delayed: VecDeque<Entry<T>>,
}

/// When a request expires, and where it waits: in the main queue of that level, under that number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Expiry {
    deadline: Instant,
    level: u64,
    number: u64,
}

/// Requests by priority level.
pub struct Queue<T> {
    rules: Levels,
    /// Those in use, the most urgent first.
    levels: BTreeMap<u64, Level<T>>,
    total_limit: usize,
    /// Requests that may expire, the next one first: neither an expiry nor a look at the next costs a scan.
    expiries: BTreeSet<Expiry>,
    next_number: u64,
    len: usize,
    rows: u64,
}

impl<T: Item> Queue<T> {
    /// An empty queue with these levels.
    pub fn new(rules: Levels) -> Self {
        let total_limit = rules.total_limit();
        Self { rules, levels: BTreeMap::new(), total_limit, expiries: BTreeSet::new(), next_number: 0, len: 0, rows: 0 }
    }

    /// Requests that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none wait.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Rows that wait.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Adds a request. `priority` counts from 1; 0 and what is out of range mean the default level. Returns when it
    /// expires, if it does.
    ///
    /// Errors: the level holds as many as it may, those that were delayed included; or all levels together do.
    pub fn push(
        &mut self,
        item: T,
        priority: u64,
        timeout: Option<Duration>,
        now: Instant,
    ) -> Result<Option<Instant>, Full<T>> {
        let level = self.rules.level(priority);
        let policy = self.rules.policy(level);
        let waiting = self.levels.get(&level).map_or(0, Level::len);
        if waiting >= policy.limit() || self.len >= self.total_limit {
            return Err(Full(item));
        }
        let deadline = policy.wait(timeout).and_then(|wait| now.checked_add(wait));
        self.add(item, level, deadline, now, now);
        Ok(deadline)
    }

    /// Adds a request of the default level that was let in before, at `came_at`: past its limit, without a deadline.
    pub fn put_back(&mut self, item: T, came_at: Instant, now: Instant) {
        self.add(item, self.rules.level(0), None, came_at, now);
    }

    /// When the request came that has waited longest. Looks at every level, and at all that were delayed.
    pub fn oldest(&self) -> Option<Instant> {
        let firsts = self.levels.values().filter_map(|level| level.main.front());
        let delayed = self.levels.values().flat_map(|level| &level.delayed);
        firsts.chain(delayed).map(|entry| entry.came_at).min()
    }

    fn add(&mut self, item: T, level: u64, deadline: Option<Instant>, came_at: Instant, now: Instant) {
        let number = self.next_number;
        self.next_number += 1;
        self.len += 1;
        self.rows += u64::from(item.rows());
        if let Some(deadline) = deadline {
            self.expiries.insert(Expiry { deadline, level, number });
        }
        let entry = Entry { number, item, came_at, queued_at: now, deadline };
        self.levels.entry(level).or_default().main.push_back(entry);
    }

    /// Takes out what expired or was abandoned, and moves what may be late behind its level. Cheap when nothing can
    /// have: abandoned requests are looked for only among the first `depth` of the order of service.
    pub fn sweep(&mut self, now: Instant, depth: usize, removed: &mut Vec<(T, Removal)>) {
        let before = removed.len();
        self.expire(now, removed);
        self.drop_abandoned(depth, removed);
        if removed.len() > before && self.levels.len() > KEPT_LEVELS {
            self.levels.retain(|_, level| level.len() > 0);
        }
    }

    fn expire(&mut self, now: Instant, removed: &mut Vec<(T, Removal)>) {
        while let Some(&expiry) = self.expiries.first() {
            if expiry.deadline > now {
                return;
            }
            self.expiries.pop_first();
            let Some(level) = self.levels.get_mut(&expiry.level) else { continue };
            let Ok(index) = level.main.binary_search_by_key(&expiry.number, |entry| entry.number) else { continue };
            let Some(entry) = level.main.remove(index) else { continue };
            match self.rules.policy(expiry.level).timeout_action {
                TimeoutAction::Delay => level.delayed.push_back(Entry { deadline: None, ..entry }),
                TimeoutAction::Reject => {
                    let item = self.forget(entry, expiry.level);
                    removed.push((item, Removal::Expired));
                }
            }
        }
    }

    fn drop_abandoned(&mut self, depth: usize, removed: &mut Vec<(T, Removal)>) {
        let (mut left, mut found) = (depth, Vec::new());
        for (&number, level) in &mut self.levels {
            for queue in [&mut level.main, &mut level.delayed] {
                let is_abandoned = |entry: &Entry<T>| entry.item.is_abandoned();
                let mut last = None;
                for (index, entry) in queue.iter().enumerate() {
                    if left == 0 {
                        break;
                    }
                    match is_abandoned(entry) {
                        true => last = Some(index), // who takes its place is looked at too
                        false => left -= 1,
                    }
                }
                let Some(last) = last else { continue };
                let mut kept = Vec::with_capacity(last);
                for entry in queue.drain(..=last) {
                    if is_abandoned(&entry) { found.push((number, entry)) } else { kept.push(entry) }
                }
                for entry in kept.into_iter().rev() {
                    queue.push_front(entry);
                }
            }
            if left == 0 {
                break;
            }
        }
        for (level, entry) in found {
            let item = self.forget(entry, level);
            removed.push((item, Removal::Abandoned));
        }
    }

    /// The request at `position` of the order of service, and when it came.
    pub fn get(&self, mut position: usize) -> Option<(&T, Instant)> {
        for level in self.levels.values() {
            for queue in [&level.main, &level.delayed] {
                if position < queue.len() {
                    let entry = &queue[position];
                    return Some((&entry.item, entry.queued_at));
                }
                position -= queue.len();
            }
        }
        None
    }

    /// The earliest moment at which a waiting request expires.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.expiries.first().map(|expiry| expiry.deadline)
    }

    /// Takes the first `count` of the order of service.
    pub fn take(&mut self, count: usize, into: &mut Vec<T>) {
        for _ in 0..count {
            let Some(item) = self.take_first() else { return };
            into.push(item);
        }
    }

    fn take_first(&mut self) -> Option<T> {
        let (&number, level) = self.levels.iter_mut().find(|(_, level)| level.len() > 0)?;
        let entry = level.main.pop_front().or_else(|| level.delayed.pop_front())?;
        if level.main.is_empty() {
            level.main.clear(); // it begins at its front again: requests that are alone all use the same memory
        }
        if level.len() == 0 && self.levels.len() > KEPT_LEVELS {
            self.levels.remove(&number);
        }
        Some(self.forget(entry, number))
    }

    /// What a request touches that is alone.
    pub fn footprint(&self, footprint: &mut Footprint) {
        if let Some(level) = self.levels.values().next() {
            footprint.add(level);
            footprint.add_room(level.main.as_slices().0);
        }
    }

    /// What is left of a request that was taken out.
    fn forget(&mut self, entry: Entry<T>, level: u64) -> T {
        if let Some(deadline) = entry.deadline {
            self.expiries.remove(&Expiry { deadline, level, number: entry.number });
        }
        self.len -= 1;
        self.rows -= u64::from(entry.item.rows());
        entry.item
    }
}

// === impl Level ===

impl<T> Level<T> {
    fn len(&self) -> usize {
        self.main.len() + self.delayed.len()
    }
}

impl<T> Default for Level<T> {
    fn default() -> Self {
        Self { main: VecDeque::new(), delayed: VecDeque::new() }
    }
}
