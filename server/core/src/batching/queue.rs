//! Requests waiting for an instance: priority levels, limits, deadlines. First in, first out within a level; a level is
//! served only when those before it are empty.
//!
//! Source: Triton model configuration, "Queue Policy" and "Priority Levels".

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// What a queue must know of the things in it.
pub trait Item {
    /// Rows it adds to a batch, at least 1.
    fn rows(&self) -> u32;
    /// Whether nobody waits for it any more.
    fn is_abandoned(&self) -> bool;
    /// Whether it may run in one batch with `other`: equal where the model's shapes are variable.
    fn may_share(&self, other: &Self) -> bool;
}

/// What happens to a request that waited too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeoutAction {
    /// It is answered with an error.
    #[default]
    Reject,
    /// It is served after those of its level that are in time.
    Delay,
}

/// Rules of one priority level.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LevelPolicy {
    /// What happens after the timeout.
    pub timeout_action: TimeoutAction,
    /// Longest wait; `None` for any.
    pub default_timeout: Option<Duration>,
    /// Whether a request may shorten its wait.
    pub allow_timeout_override: bool,
    /// Most requests that wait; `None` leaves the queue's own bound.
    pub max_queue_size: Option<usize>,
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

/// Most requests a level holds when its policy names no limit: bounds memory, far above any useful backlog.
pub const DEFAULT_LIMIT: usize = 65_536;

struct Entry<T> {
    item: T,
    queued_at: Instant,
    deadline: Option<Instant>,
}

struct Level<T> {
    policy: LevelPolicy,
    main: VecDeque<Entry<T>>,
    delayed: VecDeque<Entry<T>>,
    /// How many of `main` may expire: with none, no scan is needed.
    with_deadline: usize,
}

/// Requests by priority level.
pub struct Queue<T> {
    levels: Vec<Level<T>>,
    default_level: usize,
    len: usize,
    rows: u64,
}

impl<T: Item> Queue<T> {
    /// A queue with these levels, most urgent first; `default_level` counts from 1 as configurations do.
    pub fn new(levels: Vec<LevelPolicy>, default_level: u32) -> Self {
        let levels = if levels.is_empty() { vec![LevelPolicy::default()] } else { levels };
        let default_level = (default_level.max(1) as usize - 1).min(levels.len() - 1);
        let level = |policy| Level { policy, main: VecDeque::new(), delayed: VecDeque::new(), with_deadline: 0 };
        Self { levels: levels.into_iter().map(level).collect(), default_level, len: 0, rows: 0 }
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
        let index = match usize::try_from(priority) {
            Ok(level) if (1..=self.levels.len()).contains(&level) => level - 1,
            _ => self.default_level,
        };
        let level = &mut self.levels[index];
        if level.main.len() + level.delayed.len() >= level.policy.max_queue_size.unwrap_or(DEFAULT_LIMIT) {
            return Err(Full(item));
        }
        let wait = match (level.policy.default_timeout, timeout) {
            (Some(default), Some(own)) if level.policy.allow_timeout_override => Some(own.min(default)),
            (None, Some(own)) if level.policy.allow_timeout_override => Some(own),
            (default, _) => default,
        };
        let deadline = wait.and_then(|wait| now.checked_add(wait));
        self.len += 1;
        self.rows += u64::from(item.rows());
        level.with_deadline += usize::from(deadline.is_some());
        level.main.push_back(Entry { item, queued_at: now, deadline });
        Ok(deadline)
    }

    /// Takes out what expired or was abandoned, and moves what may be late behind its level. Cheap when nothing can
    /// have: abandoned requests are looked for only among the first `depth` of the order of service.
    pub fn sweep(&mut self, now: Instant, depth: usize, removed: &mut Vec<(T, Removal)>) {
        for level in &mut self.levels {
            if level.with_deadline > 0 {
                let mut index = 0;
                while index < level.main.len() {
                    if level.main[index].deadline.is_none_or(|deadline| deadline > now) {
                        index += 1;
                        continue;
                    }
                    let entry = level.main.remove(index).expect("the index is below the length");
                    level.with_deadline -= 1;
                    match level.policy.timeout_action {
                        TimeoutAction::Delay => level.delayed.push_back(Entry { deadline: None, ..entry }),
                        TimeoutAction::Reject => {
                            self.len -= 1;
                            self.rows -= u64::from(entry.item.rows());
                            removed.push((entry.item, Removal::Expired));
                        }
                    }
                }
            }
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

    /// The request at `position` of the order of service, and when it came.
    pub fn get(&self, mut position: usize) -> Option<(&T, Instant)> {
        for level in &self.levels {
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
        let waiting = self.levels.iter().filter(|level| level.with_deadline > 0);
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
        for level in &mut self.levels {
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
            self.len -= 1;
            self.rows -= u64::from(entry.item.rows());
            return Some(entry.item);
        }
        None
    }
}
