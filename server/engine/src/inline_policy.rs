//! Whether executions of a model are short enough to be run by the thread that brings the request.

use std::{
    sync::atomic::{AtomicU32, AtomicUsize, Ordering},
    time::Duration,
};

/// How large a request is, as far as that tells how long it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    /// Rows of the batch.
    pub(crate) rows: u32,
    /// Bytes of all inputs.
    pub(crate) bytes: usize,
}

/// What was learned from the executions so far. Hints only: a lost update is a lost hint.
pub(crate) struct InlinePolicy {
    /// Longer than this, a front end's thread has better things to do.
    short: Duration,
    /// Grows with every short execution, falls far with a long one: one in sixteen may be long, because a thread that
    /// is interrupted looks slow.
    trust: AtomicU32,
    /// Largest of the executions that were short.
    rows: AtomicU32,
    bytes: AtomicUsize,
}

impl InlinePolicy {
    /// After a long execution so many short ones must follow; a new model has shown what it is after two.
    const ENOUGH_TRUST: u32 = 16;
    const FIRST_TRUST: u32 = Self::ENOUGH_TRUST - 2;
    const MOST_TRUST: u32 = 64;

    /// Executions of that length at most are short.
    pub(crate) fn new(short: Duration) -> Self {
        Self { short, trust: AtomicU32::new(Self::FIRST_TRUST), rows: AtomicU32::new(0), bytes: AtomicUsize::new(0) }
    }

    /// Whether a request of that size is expected to be done quickly: none that was larger was seen to be slow.
    pub(crate) fn is_quick(&self, size: Size) -> bool {
        self.trust.load(Ordering::Relaxed) >= Self::ENOUGH_TRUST
            && size.rows <= self.rows.load(Ordering::Relaxed)
            && size.bytes <= self.bytes.load(Ordering::Relaxed)
    }

    /// An execution of that size took so long.
    pub(crate) fn record(&self, size: Size, took: Duration) {
        let trust = self.trust.load(Ordering::Relaxed);
        if took > self.short {
            self.trust.store(trust.saturating_sub(Self::ENOUGH_TRUST), Ordering::Relaxed);
            // Either may be why: the next sizes that prove short bring them up again.
            self.rows.fetch_min(size.rows.saturating_sub(1).max(1), Ordering::Relaxed);
            self.bytes.fetch_min(size.bytes / 2, Ordering::Relaxed);
            return;
        }
        if trust < Self::MOST_TRUST {
            self.trust.store(trust + 1, Ordering::Relaxed);
        }
        if self.rows.load(Ordering::Relaxed) < size.rows {
            self.rows.fetch_max(size.rows, Ordering::Relaxed);
        }
        if self.bytes.load(Ordering::Relaxed) < size.bytes {
            self.bytes.fetch_max(size.bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(5);
    const LONG: Duration = Duration::from_millis(5);

    fn size(rows: u32, bytes: usize) -> Size {
        Size { rows, bytes }
    }

    #[test]
    fn two_short_executions_show_a_quick_model_and_only_up_to_their_size() {
        let policy = InlinePolicy::new(10 * SHORT);
        assert!(!policy.is_quick(size(1, 4)), "nothing is known of a new model");
        policy.record(size(1, 64), SHORT);
        assert!(!policy.is_quick(size(1, 64)));
        policy.record(size(1, 64), SHORT);
        assert!(policy.is_quick(size(1, 64)) && policy.is_quick(size(1, 4)));
        assert!(!policy.is_quick(size(2, 64)) && !policy.is_quick(size(1, 65)));
    }

    #[test]
    fn a_long_execution_costs_a_new_models_trust_and_keeps_its_size_out() {
        let policy = InlinePolicy::new(10 * SHORT);
        policy.record(size(1, 1000), LONG);
        for _ in 0..InlinePolicy::ENOUGH_TRUST {
            assert!(!policy.is_quick(size(1, 4)));
            policy.record(size(1, 4), SHORT);
        }
        assert!(policy.is_quick(size(1, 4)));
        assert!(!policy.is_quick(size(1, 1000)));
    }

    #[test]
    fn one_interruption_does_not_undo_a_long_record() {
        let policy = InlinePolicy::new(10 * SHORT);
        for _ in 0..InlinePolicy::MOST_TRUST {
            policy.record(size(2, 128), SHORT);
        }
        policy.record(size(2, 128), LONG);
        assert!(policy.is_quick(size(1, 64)), "smaller ones are still expected to be quick");
        assert!(!policy.is_quick(size(2, 128)));
        policy.record(size(2, 128), SHORT);
        assert!(policy.is_quick(size(2, 128)));
    }
}
