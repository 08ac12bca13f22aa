//! How many lines of one kind a log takes: what repeats without end should neither fill a disk nor hide what else is said.

use std::time::{Duration, Instant};

/// Bounds lines of one kind, whatever each says.
#[derive(Debug, Default)]
pub struct LogLimit {
    /// When the present second began.
    second: Option<Instant>,
    /// Lines that it has taken.
    taken: u32,
    /// Lines since the last one that was written.
    left_out: u64,
}

impl LogLimit {
    /// Lines a second.
    pub const MOST: u32 = 10;

    /// Whether a line may be written now: then how many before it were not, which the line should say.
    pub fn take(&mut self, now: Instant) -> Option<u64> {
        let is_over = self.second.is_none_or(|second| now.saturating_duration_since(second) >= Duration::from_secs(1));
        if is_over {
            (self.second, self.taken) = (Some(now), 0);
        }
        if self.taken == Self::MOST {
            self.left_out += 1;
            return None;
        }
        self.taken += 1;
        Some(std::mem::take(&mut self.left_out))
    }

    /// How many lines were not written since the last one that was.
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_takes_so_many_lines_and_the_next_one_counts_the_others() {
        let (mut limit, start) = (LogLimit::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        for line in 0..10 {
            assert_eq!(limit.take(at(line)), Some(0));
        }
        assert_eq!((limit.take(at(11)), limit.take(at(999)), limit.left_out()), (None, None, 2));
        assert_eq!(limit.take(at(1000)), Some(2));
        assert_eq!((limit.take(at(1001)), limit.left_out()), (Some(0), 0));
    }

    #[test]
    fn what_comes_seldom_is_always_written() {
        let (mut limit, start) = (LogLimit::default(), Instant::now());
        assert!((0..100).all(|line| limit.take(start + Duration::from_millis(101 * line)) == Some(0)));
    }
}
