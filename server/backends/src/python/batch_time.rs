//! How long a worker takes for a batch, lately; and with it, whether it is given the next batches before it has answered.

use std::time::Duration;

/// What was learned from the batches so far.
#[derive(Debug)]
pub(super) struct BatchTime {
    /// Moving average.
    each: Duration,
}

impl BatchTime {
    /// A worker that takes less than this per batch waits longer for the next batch than it works.
    pub(super) const QUICK: Duration = Duration::from_micros(150);

    /// Nothing is known yet: taken for slow.
    pub(super) fn new() -> Self {
        Self { each: 2 * Self::QUICK }
    }

    /// So many batches took so long together.
    pub(super) fn record(&mut self, count: u32, took: Duration) {
        let each = (took / count.max(1)).min(100 * Self::QUICK);
        self.each = (self.each * 3 + each) / 4;
    }

    /// Whether it pays to keep several batches under way.
    pub(super) fn is_quick(&self) -> bool {
        self.each < Self::QUICK
    }

    /// How long the worker will take for so many batches.
    pub(super) fn time_for(&self, count: u32) -> Duration {
        self.each * count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_model_shows_that_it_is_quick_and_one_slow_batch_takes_that_back() {
        let mut batch_time = BatchTime::new();
        assert!(!batch_time.is_quick());
        (0..4).for_each(|_| batch_time.record(1, Duration::from_micros(20)));
        assert!(batch_time.is_quick());
        batch_time.record(8, Duration::from_micros(160));
        assert!(batch_time.is_quick());
        batch_time.record(1, Duration::from_secs(10));
        assert!(!batch_time.is_quick());
        let batches = (1..).find(|_| {
            batch_time.record(1, Duration::from_micros(20));
            batch_time.is_quick()
        });
        assert!(batches.unwrap() < 20);
    }
}
