//! Limits of what a client may do that costs this side more than it, or helps nobody. Pure: time is an argument.
//!
//! Sources: RFC 9113, section 10.5; CVE-2019-9512 to 9518 (floods), CVE-2023-44487 (calls that are reset at once),
//! CVE-2025-8671 (calls that the server is made to reset).

use std::time::Duration;

use tokio::time::Instant;

use crate::error::ConnectionError;

/// Calls that may be reset before they were looked at, or for what their client does wrong. Many expired deadlines at once
/// are no attack, and behind a proxy other calls on the connection are of other clients.
const MAX_RESETS: u32 = 8192;
/// How soon one of them is forgotten.
const RESET_FORGOTTEN: Duration = Duration::from_millis(1);
/// Frames in a row that bring no call forward.
const MAX_IDLE_FRAMES: u32 = 10_000;

/// What a client has done lately.
#[derive(Debug, Default)]
pub(crate) struct Conduct {
    resets: u32,
    /// Until when resets are forgotten.
    forgotten_at: Option<Instant>,
    idle_frames: u32,
}

impl Conduct {
    /// A call was reset before it was looked at, or for what its client has done wrong.
    ///
    /// Errors: too many of them.
    pub(crate) fn reset(&mut self, now: Instant) -> Result<(), ConnectionError> {
        let before = *self.forgotten_at.get_or_insert(now);
        let gone = now.duration_since(before).as_nanos() / RESET_FORGOTTEN.as_nanos();
        let gone = u32::try_from(gone).unwrap_or(u32::MAX);
        if gone > 0 {
            self.resets = self.resets.saturating_sub(gone);
            self.forgotten_at = Some(now);
        }
        self.resets += 1;
        if self.resets > MAX_RESETS { Err(ConnectionError::calm("too_many_resets")) } else { Ok(()) }
    }

    /// A frame came that brings no call forward.
    ///
    /// Errors: too many of them in a row.
    pub(crate) fn idle_frame(&mut self) -> Result<(), ConnectionError> {
        self.idle_frames += 1;
        if self.idle_frames > MAX_IDLE_FRAMES {
            return Err(ConnectionError::calm("too_many_frames_without_a_call"));
        }
        Ok(())
    }

    /// Something came or went for a call.
    pub(crate) fn progress(&mut self) {
        self.idle_frames = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_resets_at_once_are_too_many_and_few_each_second_are_not() {
        let now = Instant::now();
        let mut conduct = Conduct::default();
        assert!((0..MAX_RESETS).all(|_| conduct.reset(now).is_ok()));
        assert!(conduct.reset(now).is_err());
        let mut conduct = Conduct::default();
        assert!((0..10 * MAX_RESETS).all(|number| conduct.reset(now + RESET_FORGOTTEN * number).is_ok()));
        let mut conduct = Conduct::default();
        assert!(!(0..10 * MAX_RESETS).all(|number| conduct.reset(now + RESET_FORGOTTEN / 2 * number).is_ok()));
    }

    #[test]
    fn frames_without_a_call_are_too_many_unless_calls_go_on() {
        let mut conduct = Conduct::default();
        for _ in 0..3 {
            assert!((0..MAX_IDLE_FRAMES).all(|_| conduct.idle_frame().is_ok()));
            conduct.progress();
        }
        assert!((0..MAX_IDLE_FRAMES).all(|_| conduct.idle_frame().is_ok()));
        assert!(conduct.idle_frame().is_err());
    }
}
