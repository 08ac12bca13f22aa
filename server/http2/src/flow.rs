//! Flow control: what the peer may still send, and when it is told that it may send more. Pure.
//!
//! Source: RFC 9113, section 5.2 and 6.9. Units: bytes.

use crate::frames::MAX_WINDOW;

/// What the peer may send, on a stream or on the connection.
#[derive(Debug)]
pub(crate) struct ReceiveWindow {
    /// What it has at most.
    size: u32,
    /// What it may still send.
    left: u32,
    /// What was received and is gone from memory, and the peer was not told yet.
    freed: u32,
}

impl ReceiveWindow {
    pub(crate) fn new(size: u32) -> Self {
        Self { size, left: size, freed: 0 }
    }

    /// So many bytes come. `false` if they are more than it may send.
    #[must_use]
    pub(crate) fn take(&mut self, bytes: u32) -> bool {
        let left = self.left.checked_sub(bytes);
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }

    /// Whether bytes that are not gone from memory hold so much of it that the peer may soon have to wait.
    pub(crate) fn is_scarce(&self) -> bool {
        self.left.saturating_add(self.freed) < self.size / 2
    }

    /// So many bytes are gone from memory.
    pub(crate) fn free(&mut self, bytes: u32) {
        self.freed = self.freed.saturating_add(bytes);
    }

    /// By how much the peer is to be told that its window is larger now: rarely, when half of it was used, so that it need
    /// not wait and hears little.
    pub(crate) fn update(&mut self) -> Option<u32> {
        if self.freed == 0 || self.freed < self.size / 2 {
            return None;
        }
        let freed = std::mem::take(&mut self.freed);
        self.left += freed;
        Some(freed)
    }
}

/// What may be sent to the peer, on a stream or on the connection. Less than nothing when it has made its windows smaller.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SendWindow(i64);

impl SendWindow {
    pub(crate) fn new(size: u32) -> Self {
        Self(i64::from(size))
    }

    /// What may be sent now.
    pub(crate) fn left(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    pub(crate) fn take(&mut self, bytes: usize) {
        self.0 -= i64::try_from(bytes).unwrap_or(i64::MAX);
    }

    /// The peer allows more, or less where it changes what streams begin with. `false` if the window becomes too large.
    #[must_use]
    pub(crate) fn change(&mut self, by: i64) -> bool {
        self.0 += by;
        self.0 <= i64::from(MAX_WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_hears_of_freed_bytes_when_half_of_its_window_was_used() {
        let mut window = ReceiveWindow::new(1000);
        assert!(window.take(600));
        window.free(499);
        assert_eq!(window.update(), None);
        window.free(101);
        assert_eq!(window.update(), Some(600));
        assert_eq!(window.update(), None);
        assert!(window.take(1000));
        assert!(!window.take(1));
        window.free(1000);
        assert_eq!(window.update(), Some(1000));
        assert!(!window.take(1001));
        assert!(window.take(1000)); // what was refused has taken nothing
    }

    #[test]
    fn a_window_that_was_made_smaller_has_less_than_nothing() {
        let mut window = SendWindow::new(100);
        window.take(80);
        assert!(window.change(-50));
        assert_eq!(window.left(), 0);
        assert!(window.change(31));
        assert_eq!(window.left(), 1);
        assert!(window.change(i64::from(MAX_WINDOW) - 1));
        assert!(!window.change(1));
    }
}
