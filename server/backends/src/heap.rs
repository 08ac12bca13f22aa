//! Memory back to the system. Native runtimes free into the C library's heap, which keeps what it has: after a large
//! model is gone its pages would stay with the process.

#![allow(unsafe_code)]

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

/// Models mostly go in numbers: their memory is given back together, so long after the first of them.
const COLLECTED_FOR: Duration = Duration::from_millis(200);

static IS_SCHEDULED: AtomicBool = AtomicBool::new(false);

/// Has the heap's free pages given back soon after it is dropped, by a thread of its own: nobody waits for it. Stands last
/// in what holds a model, behind all that frees.
#[derive(Debug, Default)]
pub(crate) struct TrimAfter;

impl Drop for TrimAfter {
    fn drop(&mut self) {
        if IS_SCHEDULED.swap(true, Ordering::AcqRel) {
            return;
        }
        let soon = || {
            thread::sleep(COLLECTED_FOR);
            IS_SCHEDULED.store(false, Ordering::Release);
            trim();
        };
        if thread::Builder::new().name("heap trim".into()).spawn(soon).is_err() {
            IS_SCHEDULED.store(false, Ordering::Release);
            trim();
        }
    }
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
