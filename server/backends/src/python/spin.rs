//! Whether a reader of a ring that finds no message looks on for a moment before it sleeps: one that comes within microseconds is there sooner
//! than a thread has slept and woken up, and for less. So a reader looks for a moment where that lately was enough, and else only now and
//! then. Compiled into the server and into the extension module, like `ring.rs`.

use core::hint;

/// What was learned from the moments so far.
#[derive(Debug, Default)]
pub(crate) struct Spin {
    /// Grows with each moment in which a message came, and falls with each in which none did.
    trust: u8,
    /// How often the reader sleeps at once before it looks again.
    skips: u8,
}

impl Spin {
    /// How long a moment is, in nanoseconds.
    const MOMENT: u64 = 50_000;

    const MOST_TRUST: u8 = 8;

    /// Where it does not pay, one wait in so many begins with it.
    const SKIPS: u8 = 63;

    /// How often it looks between two looks at the clock.
    const LOOKS: u32 = 16;

    /// Looks for a moment, if that is expected to be enough, whether the message is there. `now` is a clock of nanoseconds.
    pub(crate) fn finds(&mut self, now: impl Fn() -> u64, mut is_there: impl FnMut() -> bool) -> bool {
        if self.skips > 0 {
            self.skips -= 1;
            return false;
        }
        let since = now();
        while now().wrapping_sub(since) < Self::MOMENT {
            for _ in 0..Self::LOOKS {
                if is_there() {
                    self.trust = Self::MOST_TRUST.min(self.trust + 1);
                    return true;
                }
                hint::spin_loop();
            }
        }
        self.skips = if self.trust == 0 { Self::SKIPS } else { 0 };
        self.trust = self.trust.saturating_sub(2);
        false
    }
}

#[cfg(all(test, not(model_check)))]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// How many of so many waits, for a message that comes after so long, found it without sleep.
    fn found(spin: &mut Spin, waits: u32, after: u64) -> (u32, u32) {
        let (mut found, mut looked) = (0, 0);
        for _ in 0..waits {
            let time = Cell::new(0);
            let now = || time.replace(time.get() + 1000);
            found += u32::from(spin.finds(now, || time.get() > after));
            looked += u32::from(time.get() > 0);
        }
        (found, looked)
    }

    #[test]
    fn a_reader_looks_where_messages_come_soon_and_hardly_where_they_do_not() {
        let mut spin = Spin::default();
        assert_eq!(found(&mut spin, 100, 20_000), (100, 100));
        assert_eq!(found(&mut spin, 640, 200_000), (0, 4 + 10));
        assert!(found(&mut spin, 64 + 100, 20_000).0 >= 100, "a moment now and then shows that it pays again");
    }
}
