//! What is used of libc: the declarations of Linux.

use core::ffi::{c_int, c_void};

pub(crate) const PROT_READ: c_int = 1;
pub(crate) const PROT_WRITE: c_int = 2;
pub(crate) const MAP_SHARED: c_int = 1;
pub(crate) const MAP_FAILED: *mut c_void = usize::MAX as *mut c_void;
pub(crate) const MADV_DONTFORK: c_int = 10;
pub(crate) const MSG_DONTWAIT: c_int = 0x40;
pub(crate) const MSG_NOSIGNAL: c_int = 0x4000;
const CLOCK_MONOTONIC: c_int = 1;
pub(crate) const EINTR: c_int = 4;

unsafe extern "C" {
    pub(crate) fn mmap(
        at: *mut c_void,
        length: usize,
        protection: c_int,
        flags: c_int,
        fd: c_int,
        offset: i64,
    ) -> *mut c_void;
    pub(crate) fn madvise(at: *mut c_void, length: usize, advice: c_int) -> c_int;
    pub(crate) fn recv(socket: c_int, into: *mut c_void, length: usize, flags: c_int) -> isize;
    pub(crate) fn send(socket: c_int, from: *const c_void, length: usize, flags: c_int) -> isize;
    pub(crate) fn abort() -> !;
    fn clock_gettime(clock: c_int, time: *mut [i64; 2]) -> c_int;
    fn __errno_location() -> *mut c_int;
}

/// The clock that only goes forward, in nanoseconds.
pub(crate) fn now() -> u64 {
    let mut time = [0; 2];
    // SAFETY: `struct timespec` of 64-bit Linux is two numbers.
    unsafe { clock_gettime(CLOCK_MONOTONIC, &raw mut time) };
    (time[0] as u64).wrapping_mul(1_000_000_000).wrapping_add(time[1] as u64)
}

/// Why the last call failed.
pub(crate) fn errno() -> c_int {
    // SAFETY: the number of the thread, as errno(3) has it.
    unsafe { *__errno_location() }
}

/// Sets it, for what reads it.
pub(crate) fn set_errno(errno: c_int) {
    // SAFETY: as above.
    unsafe { *__errno_location() = errno }
}
