//! Memory back to the system. Native runtimes free into the C library's heap, which keeps what it has: after a large
//! model is gone its pages would stay with the process.

#![allow(unsafe_code)]

use std::{
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

/// Models mostly go in numbers: their memory is given back together, when none has gone for so long.
const QUIET: Duration = Duration::from_millis(200);

/// While more and more go, memory is given back after so many such pauses at the latest.
const MOST_PAUSES: u32 = 10;

/// Models that have gone since memory was given back last. Whoever makes it more than none sees to the next time.
static GONE: AtomicU32 = AtomicU32::new(0);

/// Has the heap's free pages given back soon after it is dropped, by a thread of its own: nobody waits for it. Stands last
/// in what holds a model, behind all that frees.
#[derive(Debug, Default)]
pub(crate) struct TrimAfter;

impl Drop for TrimAfter {
    fn drop(&mut self) {
        if GONE.fetch_add(1, Ordering::AcqRel) > 0 {
            return;
        }
        let soon = || {
            wait_until_quiet(&GONE, || thread::sleep(QUIET));
            trim();
        };
        if thread::Builder::new().name("heap trim".into()).spawn(soon).is_err() {
            GONE.store(0, Ordering::Release);
            trim();
        }
    }
}

/// Returns when the count has stood still during a pause, or has gone on for too long, and sets it to none. To give memory back takes
/// the heap's locks, which would hold up the models that still go.
fn wait_until_quiet(gone: &AtomicU32, mut pause: impl FnMut()) {
    for _ in 0..MOST_PAUSES {
        let before = gone.load(Ordering::Acquire);
        pause();
        if gone.compare_exchange(before, 0, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            return;
        }
    }
    gone.store(0, Ordering::Release);
}

fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> i32;
        }
        // SAFETY: glibc's malloc_trim takes any number, may be called from any thread, and touches free memory only.
        unsafe { malloc_trim(0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_when_no_model_goes_any_more() {
        let (gone, mut pauses) = (AtomicU32::new(1), 0);
        wait_until_quiet(&gone, || {
            pauses += 1;
            if pauses < 4 {
                gone.fetch_add(1, Ordering::AcqRel);
            }
        });
        assert_eq!(pauses, 4);
        assert_eq!(gone.load(Ordering::Acquire), 0, "the next model that goes begins anew");
    }

    #[test]
    fn models_that_go_on_and_on_do_not_keep_it_for_ever() {
        let (gone, mut pauses) = (AtomicU32::new(1), 0);
        wait_until_quiet(&gone, || {
            pauses += 1;
            gone.fetch_add(1, Ordering::AcqRel);
        });
        assert_eq!((pauses, gone.load(Ordering::Acquire)), (MOST_PAUSES, 0));
    }
}
