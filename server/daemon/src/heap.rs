//! How many arenas the C library's heap has, and how much free memory it keeps. Every thread allocates from one of them; of
//! memory that is freed, an arena keeps up to 64 MiB at its end, which `malloc_trim` gives back for the first arena only
//! (glibc 2.36, `mtrim`).

#![allow(unsafe_code)]

use std::{env, hint::black_box, thread};

/// Where a user sets them: that holds instead of ours.
const SETTINGS: [&str; 2] = ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"];

/// Sets both, to be called before there is a second thread.
pub(crate) fn configure() {
    if SETTINGS.iter().all(|name| env::var_os(name).is_none()) {
        keep_free_memory();
        limit_arenas();
    }
}

/// As many arenas as processors, where glibc would make eight times as many: what models leave behind when they go is
/// bounded by that. Measured with pictures and small requests over both protocols on two processors: the same processor
/// time per request with 2, 4 and 16 arenas, and 21, 24 and 29 MB of memory afterwards.
fn limit_arenas() {
    let arenas = thread::available_parallelism().map_or(2, |count| count.get().max(2));
    set_limit(i32::try_from(arenas).unwrap_or(i32::MAX));
}

/// Blocks up to this size are taken from the heap, and twice as much may be free at the end of an arena before the system
/// gets it back: more than a frame of HTTP/2 has. Units: bytes.
const KEPT: usize = 2 << 20;

/// Raises these two limits of the C library, 128 KiB both, above what the front ends allocate while a tensor streams in and
/// out: else each piece of it would lie in memory that the system has to clear first. They follow the largest block that was
/// mapped alone and freed (`mallopt`, "Note: Nowadays, glibc uses a dynamic mmap threshold by default"), so one such block
/// raises them, and they go on to follow larger ones, which limits that are set do not.
fn keep_free_memory() {
    drop(black_box(Vec::<u8>::with_capacity(KEPT)));
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn set_limit(arenas: i32) {
    // SAFETY: mallopt takes any number, and there is no other thread yet that allocates.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, arenas) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn set_limit(_arenas: i32) {}
