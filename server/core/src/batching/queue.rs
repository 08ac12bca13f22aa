//! Requests waiting for an instance: priority levels, limits, deadlines. First in, first out within a level; a level is
//! served only when those before it are empty. Only levels in use take memory.
//!
//! Source: Triton model configuration, "Queue Policy" and "Priority Levels".

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::levels::{Levels, TimeoutAction};
use crate::tensor::Name;

/// What a queue must know of the things in it.
pub trait Item {
    /// Rows it adds to a batch, at least 1.
    fn rows(&self) -> u32;
    /// Whether nobody waits for it any more.
    fn is_abandoned(&self) -> bool;
    /// Whether it may run in one batch with `other`: equal where the model's shapes are variable, `ragged` inputs aside.
    fn may_share(&self, other: &Self, ragged: &[Name]) -> bool;
}

/// Why a request left the queue without running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It waited too long.
    Expired,
    /// Its caller left.
    Abandoned,
}

/// The queue is full; the thing that did not fit comes back.
#[derive(Debug)]
pub struct Full<T>(pub T);

struct Entry<T> {
    item: T,
    queued_at: Instant,
    deadline: Option<Instant>,
}

/// Levels that stay when they have become empty, so that a busy queue does not make them again and again.
const KEPT_LEVELS: usize = 16;

struct Level<T> {
    main: VecDeque<Entry<T>>,
    delayed: VecDeque<Entry<T>>,
    /// How many of `main` may expire: with none, no scan is needed.
    with_deadline: usize,
}

/// Requests by priority level.
pub struct Queue<T> {
    rules: Levels,
    /// Those in use, the most urgent first.
    levels: BTreeMap<u64, Level<T>>,
    total_limit: usize,
    /// How many may expire, in all levels.
    with_deadline: usize,
    len: usize,
    rows: u64,
}

impl<T: Item> Queue<T> {
    /// An empty queue with these levels.
    pub fn new(rules: Levels) -> Self {
        let total_limit = rules.total_limit();
        Self { rules, levels: BTreeMap::new(), total_limit, with_deadline: 0, len: 0, rows: 0 }
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
    /// A request's own timeout counts only where the policy allows it and only if it is the shorter one.
    pub fn push(
        &mut self,
        item: T,
        priority: u64,
        timeout: Option<Duration>,
        now: Instant,
    ) -> Result<Option<Instant>, Full<T>> {
        let number = self.rules.level(priority);
        let policy = self.rules.policy(number);
        let waiting = self.levels.get(&number).map_or(0, Level::len);
        if waiting >= policy.limit() || self.len >= self.total_limit {
            return Err(Full(item));
        }
        let wait = match (policy.default_timeout, timeout) {
            (Some(default), Some(own)) if policy.allow_timeout_override => Some(own.min(default)),
            (None, Some(own)) if policy.allow_timeout_override => Some(own),
            (default, _) => default,
        };
        let deadline = wait.and_then(|wait| now.checked_add(wait));
        self.len += 1;
        self.rows += u64::from(item.rows());
        let level = self.levels.entry(number).or_default();
        level.with_deadline += usize::from(deadline.is_some());
        self.with_deadline += usize::from(deadline.is_some());
        level.main.push_back(Entry { item, queued_at: now, deadline });
        Ok(deadline)
    }

    /// Adds a request of the default level that was let in before: past its limit, without a deadline.
    pub fn put_back(&mut self, item: T, now: Instant) {
        self.len += 1;
        self.rows += u64::from(item.rows());
        let level = self.levels.entry(self.rules.level(0)).or_default();
        level.main.push_back(Entry { item, queued_at: now, deadline: None });
    }

    /// Takes out what expired or was abandoned, and moves what may be late behind its level. Cheap when nothing can
    /// have: abandoned requests are looked for only among the first `depth` of the order of service.
    pub fn sweep(&mut self, now: Instant, depth: usize, removed: &mut Vec<(T, Removal)>) {
        if self.with_deadline > 0 {
            self.expire(now, removed);
        }
        let mut position = 0;
        while position < depth.min(self.len) {
            if self.get(position).is_some_and(|(item, _)| item.is_abandoned()) {
                if let Some(item) = self.remove(position) {
                    removed.push((item, Removal::Abandoned));
                }
            } else {
                position += 1;
            }
        }
    }

    fn expire(&mut self, now: Instant, removed: &mut Vec<(T, Removal)>) {
        for (&number, level) in self.levels.iter_mut().filter(|(_, level)| level.with_deadline > 0) {
            let action = self.rules.policy(number).timeout_action;
            let mut index = 0;
            while index < level.main.len() {
                if level.main[index].deadline.is_none_or(|deadline| deadline > now) {
                    index += 1;
                    continue;
                }
                let entry = level.main.remove(index).expect("the index is below the length");
                level.with_deadline -= 1;
                self.with_deadline -= 1;
                match action {
                    TimeoutAction::Delay => level.delayed.push_back(Entry { deadline: None, ..entry }),
                    TimeoutAction::Reject => {
                        self.len -= 1;
                        self.rows -= u64::from(entry.item.rows());
                        removed.push((entry.item, Removal::Expired));
                    }
                }
            }
        }
        if self.levels.len() > KEPT_LEVELS {
            self.levels.retain(|_, level| level.len() > 0);
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
        if self.with_deadline == 0 {
            return None;
        }
        let waiting = self.levels.values().filter(|level| level.with_deadline > 0);
        waiting.flat_map(|level| level.main.iter().filter_map(|entry| entry.deadline)).min()
    }

    /// Takes the first `count` of the order of service.
    pub fn take(&mut self, count: usize, into: &mut Vec<T>) {
        for _ in 0..count {
            let Some(item) = self.remove(0) else { return };
            into.push(item);
        }
    }

    fn remove(&mut self, mut position: usize) -> Option<T> {
        for (&number, level) in &mut self.levels {
            let main = level.main.len();
            let entry = if position < main {
                level.main.remove(position)
            } else if position < main + level.delayed.len() {
                level.delayed.remove(position - main)
            } else {
                position -= main + level.delayed.len();
                continue;
            };
            let entry = entry.expect("the position was compared with the length");
            level.with_deadline -= usize::from(entry.deadline.is_some());
            self.with_deadline -= usize::from(entry.deadline.is_some());
            self.len -= 1;
            self.rows -= u64::from(entry.item.rows());
            if level.len() == 0 && self.levels.len() > KEPT_LEVELS {
                self.levels.remove(&number);
            }
            return Some(entry.item);
        }
        None
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
        Self { main: VecDeque::new(), delayed: VecDeque::new(), with_deadline: 0 }
    }
}
