//! How often a server that crashes is started again at once. Beyond that its container ends: the kubelet pauses longer each
//! time, counts, and shows it on the pod.

use std::time::{Duration, Instant};

/// The time over which restarts are counted. As the kubelet's: a container that ran so long starts afresh there, too.
const WINDOW: Duration = Duration::from_secs(600);
/// Restarts within it.
const LIMIT: usize = 3;

/// Restarts so far.
#[derive(Debug, Default)]
pub(super) struct Restarts(Vec<Instant>);

impl Restarts {
    /// Whether a server that crashed at `now` is started again here; if so, it counts.
    pub(super) fn allows_another(&mut self, now: Instant) -> bool {
        self.0.retain(|at| now.saturating_duration_since(*at) < WINDOW);
        let allows = self.0.len() < LIMIT;
        if allows {
            self.0.push(now);
        }
        allows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_crashes_again_and_again_is_left_to_the_kubelet() {
        let mut restarts = Restarts::default();
        let begun = Instant::now();
        let mut after = |seconds| restarts.allows_another(begun + Duration::from_secs(seconds));
        assert_eq!([0, 10, 20, 30, 40].map(&mut after), [true, true, true, false, false]);
        // the first has gone out of sight, and comes into it anew
        assert_eq!([600, 601].map(&mut after), [true, false]);
        assert_eq!([2000, 2001].map(&mut after), [true, true]);
    }
}
