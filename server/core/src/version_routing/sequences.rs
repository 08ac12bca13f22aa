//! Which version each sequence began on: its later requests go there, whatever the weights have become.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::request::{CorrelationId, Sequence};

/// Sequences of one generation: twice as many are remembered at most.
const GENERATION: usize = 32_768;

/// Versions of running sequences. One is remembered until its end, or until it was idle for a while; the longest idle are
/// forgotten first where too many are open.
#[derive(Debug)]
pub struct SequenceVersions {
    idle: Duration,
    /// Used since the last turn.
    recent: HashMap<CorrelationId, u64>,
    /// Used in the generation before, and not since.
    older: HashMap<CorrelationId, u64>,
    turned_at: Option<Instant>,
}

impl SequenceVersions {
    /// Remembers nothing yet, and later each sequence for at least `idle` after its last request.
    pub fn new(idle: Duration) -> Self {
        Self { idle, recent: HashMap::new(), older: HashMap::new(), turned_at: None }
    }

    /// The version for one request of a sequence: the one it began on if that `is_ready`, else what `choose` says.
    pub fn version_for(
        &mut self,
        sequence: &Sequence,
        now: Instant,
        is_ready: impl FnOnce(u64) -> bool,
        choose: impl FnOnce() -> Option<u64>,
    ) -> Option<u64> {
        self.turn(now);
        let known = self.recent.remove(&sequence.id).or_else(|| self.older.remove(&sequence.id));
        let kept = known.filter(|version| !sequence.is_start && is_ready(*version));
        let version = kept.or_else(choose)?;
        if !sequence.is_end {
            self.recent.insert(sequence.id.clone(), version);
        }
        Some(version)
    }

    fn turn(&mut self, now: Instant) {
        let turned_at = *self.turned_at.get_or_insert(now);
        if self.recent.len() >= GENERATION || now.saturating_duration_since(turned_at) > self.idle {
            self.older = std::mem::take(&mut self.recent);
            self.turned_at = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(id: u64, flags: &str) -> Sequence {
        Sequence { id: CorrelationId::Number(id), is_start: flags.contains('s'), is_end: flags.contains('e') }
    }

    #[test]
    fn a_sequence_stays_where_it_began() {
        let now = Instant::now();
        let mut sequences = SequenceVersions::new(Duration::from_secs(1));
        let mut ask = |id, flags, chosen| sequences.version_for(&sequence(id, flags), now, |v| v != 9, || Some(chosen));
        assert_eq!(ask(1, "s", 1), Some(1));
        assert_eq!(ask(2, "s", 2), Some(2));
        assert_eq!([ask(1, "", 2), ask(2, "", 1)], [Some(1), Some(2)]);
        assert_eq!(ask(1, "e", 2), Some(1), "the last one too");
        assert_eq!(ask(1, "", 2), Some(2), "after its end it is another");
        assert_eq!(ask(2, "s", 3), Some(3), "a start begins anew");
        assert_eq!([ask(3, "s", 9), ask(3, "", 1), ask(3, "", 2)], [Some(9), Some(1), Some(1)], "its version is gone");
        assert_eq!(ask(4, "se", 1), Some(1));
    }

    #[test]
    fn an_idle_sequence_is_remembered_for_its_time_and_not_for_ever() {
        let begun = Instant::now();
        let mut sequences = SequenceVersions::new(Duration::from_secs(10));
        let mut ask = |id, second, chosen| {
            let now = begun + Duration::from_secs(second);
            sequences.version_for(&sequence(id, ""), now, |_| true, || Some(chosen))
        };
        assert_eq!([ask(1, 0, 1), ask(2, 9, 1)], [Some(1); 2]);
        assert_eq!(ask(2, 12, 2), Some(1));
        assert_eq!(ask(2, 19, 2), Some(1));
        assert_eq!(ask(3, 23, 1), Some(1), "time goes on");
        assert_eq!(ask(1, 24, 2), Some(2), "idle for too long");
        assert_eq!(ask(2, 29, 2), Some(1));
    }

    #[test]
    fn open_sequences_are_bounded_and_the_recent_ones_kept() {
        let now = Instant::now();
        let mut sequences = SequenceVersions::new(Duration::from_secs(3600));
        let count = 5 * GENERATION as u64;
        for id in 1..=count {
            sequences.version_for(&sequence(id, "s"), now, |_| true, || Some(id));
        }
        assert!(sequences.recent.len() + sequences.older.len() <= 2 * GENERATION);
        for id in count - GENERATION as u64 + 1..=count {
            assert_eq!(sequences.version_for(&sequence(id, "e"), now, |_| true, || None), Some(id));
        }
    }
}
