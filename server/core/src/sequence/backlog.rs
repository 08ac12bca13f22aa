//! Sequences that wait for a slot, each with all its requests: first come, first served, up to a deadline. One whose first
//! request was cancelled is none any more.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Instant,
};

use super::item::SequenceItem;
use crate::{batching::queue::Removal, request::CorrelationId};

/// A request that waits.
pub(super) struct Entry<T> {
    pub(super) item: T,
    pub(super) queued_at: Instant,
    pub(super) is_start: bool,
    pub(super) is_end: bool,
}

/// A sequence that waits for a slot.
pub(super) struct Backlogged<T> {
    pub(super) id: CorrelationId,
    pub(super) queue: VecDeque<Entry<T>>,
    /// The earliest one of its requests.
    deadline: Option<Instant>,
}

/// Sequences that wait for a slot, by a key that counts up.
pub(super) struct Backlog<T> {
    sequences: BTreeMap<u64, Backlogged<T>>,
    next_key: u64,
    deadlines: BTreeSet<(Instant, u64)>,
    requests: usize,
}

impl<T: SequenceItem> Backlog<T> {
    pub(super) fn new() -> Self {
        Self { sequences: BTreeMap::new(), next_key: 0, deadlines: BTreeSet::new(), requests: 0 }
    }

    /// Whether no sequence waits.
    pub(super) fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Requests of all sequences.
    pub(super) fn requests(&self) -> usize {
        self.requests
    }

    /// When the request came that has waited longest.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let firsts = self.sequences.values().filter_map(|sequence| sequence.queue.front());
        firsts.map(|entry| entry.queued_at).min()
    }

    /// The earliest moment at which a sequence has waited too long.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// One more sequence, without a request yet.
    pub(super) fn begin(&mut self, id: CorrelationId) -> u64 {
        let key = self.next_key;
        self.next_key += 1;
        self.sequences.insert(key, Backlogged { id, queue: VecDeque::new(), deadline: None });
        key
    }

    /// Adds a request to its sequence. Returns when that has waited too long.
    pub(super) fn add(&mut self, key: u64, entry: Entry<T>, deadline: Option<Instant>) -> Option<Instant> {
        let sequence = self.sequences.get_mut(&key)?;
        sequence.queue.push_back(entry);
        self.requests += 1;
        if let Some(deadline) = deadline
            && sequence.deadline.is_none_or(|before| deadline < before)
        {
            if let Some(before) = sequence.deadline.replace(deadline) {
                self.deadlines.remove(&(before, key));
            }
            self.deadlines.insert((deadline, key));
        }
        sequence.deadline
    }

    /// Takes the sequence that came first.
    pub(super) fn pop(&mut self) -> Option<(u64, Backlogged<T>)> {
        let key = *self.sequences.first_key_value()?.0;
        Some((key, self.remove(key)?))
    }

    /// Takes a sequence that has waited too long.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<(u64, Backlogged<T>)> {
        let &(_, key) = self.deadlines.first().filter(|(deadline, _)| *deadline <= now)?;
        Some((key, self.remove(key)?))
    }

    /// Takes requests whose callers left out of every sequence. Returns the sequences that are over, gone from here.
    pub(super) fn sweep_abandoned(&mut self, removed: &mut Vec<(T, Removal)>) -> Vec<(u64, CorrelationId)> {
        let mut over = Vec::new();
        for (&key, sequence) in &mut self.sequences {
            let before = removed.len();
            if skip_abandoned(&mut sequence.queue, removed) {
                over.push(key);
            }
            take_abandoned_behind(&mut sequence.queue, 1, removed);
            self.requests -= removed.len() - before;
        }
        over.into_iter().filter_map(|key| Some((key, self.remove(key)?.id))).collect()
    }

    fn remove(&mut self, key: u64) -> Option<Backlogged<T>> {
        let sequence = self.sequences.remove(&key)?;
        if let Some(deadline) = sequence.deadline {
            self.deadlines.remove(&(deadline, key));
        }
        self.requests -= sequence.queue.len();
        Some(sequence)
    }
}

/// Takes requests whose callers left out of the front of a sequence of which nothing runs: they count as done. If the one
/// that starts it is among them, it never began: what came for it is taken out too, up to the next start. Returns whether
/// the sequence is over.
pub(super) fn skip_abandoned<T: SequenceItem>(queue: &mut VecDeque<Entry<T>>, removed: &mut Vec<(T, Removal)>) -> bool {
    let mut is_over = false;
    while let Some(entry) = queue.pop_front_if(|entry| entry.item.is_abandoned()) {
        let Entry { item, is_start, is_end, .. } = entry;
        removed.push((item, Removal::Abandoned));
        is_over = is_end || is_start && skip_to_start(queue, removed);
    }
    is_over
}

/// Takes requests whose callers left out of a sequence behind its first `front` ones, so that their tensors are kept no longer.
/// Those that start or end a sequence stay until they are in front: what is said of the others depends on them.
pub(super) fn take_abandoned_behind<T: SequenceItem>(
    queue: &mut VecDeque<Entry<T>>,
    front: usize,
    removed: &mut Vec<(T, Removal)>,
) {
    let is_gone = |entry: &Entry<T>| !entry.is_start && !entry.is_end && entry.item.is_abandoned();
    let Some(first) = (front..queue.len()).find(|&index| is_gone(&queue[index])) else { return };
    for entry in queue.split_off(first) {
        if is_gone(&entry) {
            removed.push((entry.item, Removal::Abandoned));
        } else {
            queue.push_back(entry);
        }
    }
}

/// Takes out what came for a sequence that did not begin. Returns whether nothing is left.
pub(super) fn skip_to_start<T>(queue: &mut VecDeque<Entry<T>>, removed: &mut Vec<(T, Removal)>) -> bool {
    while let Some(entry) = queue.pop_front_if(|entry| !entry.is_start) {
        removed.push((entry.item, Removal::NotStarted));
    }
    queue.is_empty()
}
