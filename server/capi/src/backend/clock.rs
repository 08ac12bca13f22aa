//! Moments as libraries report them: nanoseconds of the clock that only goes forward, which is `std::chrono::steady_clock`.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

/// A moment on both clocks.
static EPOCH: LazyLock<(Instant, u64)> = LazyLock::new(|| (Instant::now(), now_ns()));

/// The time, as libraries read it.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let (seconds, nanoseconds) = (u64::try_from(now.tv_sec).unwrap_or(0), u64::try_from(now.tv_nsec).unwrap_or(0));
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

/// Finds the moments that a library reports in one call: the clock is read once for all of them.
#[derive(Clone, Copy)]
pub(crate) struct Moments {
    now: Instant,
}

impl Moments {
    /// Those that are reported now.
    pub(crate) fn until_now() -> Self {
        Self { now: Instant::now() }
    }

    /// The moment that a library reports, which is neither before `earliest` nor in the future, whatever it says.
    pub(crate) fn at(self, ns: u64, earliest: Instant) -> Instant {
        let (instant, base) = *EPOCH;
        let moment = match ns.checked_sub(base) {
            Some(after) => instant.checked_add(Duration::from_nanos(after)),
            None => instant.checked_sub(Duration::from_nanos(base - ns)),
        };
        moment.unwrap_or(self.now).clamp(earliest.min(self.now), self.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_where_it_was_read_and_junk_is_bounded() {
        let before = Instant::now();
        let read = now_ns();
        let moments = Moments::until_now();
        let after = Instant::now();
        let found = moments.at(read, before);
        assert!(before <= found && found <= after + Duration::from_millis(1));
        assert_eq!(moments.at(0, before), before);
        assert!(moments.at(u64::MAX, before) <= after);
        let later = after + Duration::from_secs(1);
        assert!(moments.at(read, later) <= after, "what is to come first is not there yet");
    }
}
