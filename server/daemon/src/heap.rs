//! How many arenas the C library's heap has. Every thread allocates from one of them; of memory that is freed, an arena
//! keeps up to 64 MiB at its end, which `malloc_trim` gives back for the first arena only (glibc 2.36, `mtrim`).

#![allow(unsafe_code)]

use std::{env, thread};

/// Where a user sets the number: that holds instead of ours.
const SETTINGS: [&str; 2] = ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"];

/// As many arenas as processors, where glibc would make eight times as many: what models leave behind when they go is
/// bounded by that. Measured with pictures and small requests over both protocols on two processors: the same processor
/// time per request with 2, 4 and 16 arenas, and 21, 24 and 29 MB of memory afterwards.
///
/// To be called before there is a second thread.
pub(crate) fn limit_arenas() {
    if SETTINGS.iter().any(|name| env::var_os(name).is_some()) {
        return;
    }
    let arenas = thread::available_parallelism().map_or(2, |count| count.get().max(2));
    set_limit(i32::try_from(arenas).unwrap_or(i32::MAX));
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn set_limit(arenas: i32) {
    // SAFETY: mallopt takes any number, and there is no other thread yet that allocates.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, arenas) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn set_limit(_arenas: i32) {}
