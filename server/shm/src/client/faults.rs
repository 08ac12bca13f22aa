//! What happens when memory is not there that a client has promised. It made its region shorter, or the file system of shared
//! memory is full: the system then sends `SIGBUS` to the thread that reads or writes, and the process ends if nobody handles
//! it. Here the missing pages of the region are replaced by zeros of our own, the region is marked, and the thread goes on.
//!
//! The handler may run at any moment on any thread, so it only reads atomics of a fixed table and calls mmap. What is not about a
//! region goes on to whoever handled the signal before.

#![allow(unsafe_code)]

use std::{
    ffi::{c_int, c_void},
    mem, ptr,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use parking_lot::Mutex;
use server_core::error::{Error, Result};

/// Regions that may be mapped at the same time.
pub const MAX_REGIONS: usize = 4096;

/// The addresses of one mapped region; `start` is 0 while it is free.
struct Watched {
    start: AtomicUsize,
    len: AtomicUsize,
    is_broken: AtomicBool,
}

static WATCHED: [Watched; MAX_REGIONS] =
    [const { Watched { start: AtomicUsize::new(0), len: AtomicUsize::new(0), is_broken: AtomicBool::new(false) } };
        MAX_REGIONS];
/// Places of the table that are free.
static FREE: Mutex<Free> = Mutex::new(Free { returned: Vec::new(), unused: 0 });
/// Who handled the signal before.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

struct Free {
    returned: Vec<usize>,
    /// The first place that was never taken.
    unused: usize,
}

/// A place in the table, kept as long as the mapping is there.
#[derive(Debug)]
pub(super) struct Watch(usize);

impl Watch {
    /// Watches a mapping from its first page to its last.
    ///
    /// Errors: `Unavailable`, as many are watched as may be.
    pub(super) fn new(start: usize, len: usize) -> Result<Self> {
        install()?;
        let mut free = FREE.lock();
        let place = match free.returned.pop() {
            Some(place) => place,
            None if free.unused < MAX_REGIONS => {
                free.unused += 1;
                free.unused - 1
            }
            None => {
                return Err(Error::unavailable(format!(
                    "no more than {MAX_REGIONS} shared memory regions can be registered: unregister some"
                )));
            }
        };
        let watched = &WATCHED[place];
        watched.is_broken.store(false, SeqCst);
        watched.len.store(len, SeqCst);
        watched.start.store(start, SeqCst); // last: from here on the handler finds it
        Ok(Self(place))
    }

    /// Whether pages of it were missing.
    pub(super) fn is_broken(&self) -> bool {
        WATCHED[self.0].is_broken.load(SeqCst)
    }
}

/// To be dropped before the mapping goes: its addresses may be somebody else's right after.
impl Drop for Watch {
    fn drop(&mut self) {
        WATCHED[self.0].start.store(0, SeqCst);
        FREE.lock().returned.push(self.0);
    }
}

/// Puts the handler in place, once.
fn install() -> Result<()> {
    static INSTALLED: Mutex<bool> = Mutex::new(false);
    let mut is_installed = INSTALLED.lock();
    if *is_installed {
        return Ok(());
    }
    let failed = |errno| {
        Error::unavailable(format!("no shared memory can be used: the signal SIGBUS cannot be handled: {errno}"))
    };
    // SAFETY: all zeros is a valid `sigaction`.
    let (mut previous, mut ours) = unsafe { (mem::zeroed::<libc::sigaction>(), mem::zeroed::<libc::sigaction>()) };
    // SAFETY: `sigaction(2)` with no new action writes the present one to `previous`.
    if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut previous) } != 0 {
        return Err(failed(std::io::Error::last_os_error()));
    }
    PREVIOUS.get_or_init(|| previous);
    ours.sa_sigaction = on_bus_error as *const () as usize;
    // on the thread's stack for signals, where it has one; and other signals are handled meanwhile as ever
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `ours` is a whole action, with a function of the type that `SA_SIGINFO` asks for.
    if unsafe { libc::sigaction(libc::SIGBUS, &raw const ours, ptr::null_mut()) } != 0 {
        return Err(failed(std::io::Error::last_os_error()));
    }
    *is_installed = true;
    Ok(())
}

extern "C" fn on_bus_error(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the system hands a valid `siginfo_t` to a handler with `SA_SIGINFO`, with an address where the code says that
    // an access failed.
    let address = unsafe { if (*info).si_code > 0 { (*info).si_addr() as usize } else { 0 } };
    if address != 0 && mend(address) {
        return;
    }
    let Some(previous) = PREVIOUS.get() else { return end(signal) };
    match previous.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => end(signal),
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: whoever installed the handler with `SA_SIGINFO` gave a function of this type.
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = unsafe { mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: whoever installed the handler without `SA_SIGINFO` gave a function of this type.
            let handler: extern "C" fn(c_int) = unsafe { mem::transmute(handler) };
            handler(signal);
        }
    }
}

/// What would have happened without a handler: the process ends when this one has returned.
fn end(signal: c_int) {
    // SAFETY: `signal(2)` and `raise(3)` may be called in a handler.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// Replaces what is missing of the region that the address lies in; `false` if it lies in none.
fn mend(address: usize) -> bool {
    for watched in &WATCHED {
        let start = watched.start.load(SeqCst);
        if start == 0 || address < start {
            continue;
        }
        let end = start + watched.len.load(SeqCst);
        if address >= end {
            continue;
        }
        watched.is_broken.store(true, SeqCst);
        let page = address & !(page_size() - 1);
        // What is behind the page is missing as well, where the region was made shorter; and it would be one signal a page.
        // SAFETY: the pages belong to a mapping that is in use, for this thread has just accessed it; whoever has it reads and
        // writes it as opaque bytes. mmap is a plain system call, and `errno` is put back.
        unsafe {
            let errno = libc::__errno_location();
            let before = *errno;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let mapped = libc::mmap(page as *mut c_void, end - page, protection, flags, -1, 0);
            *errno = before;
            return mapped != libc::MAP_FAILED;
        }
    }
    false
}

/// Bytes of a page. Asked once before the handler is installed.
pub(super) fn page_size() -> usize {
    rustix::param::page_size()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_outside_every_region_are_not_ours() {
        let watch = Watch::new(0x10_0000, 0x1000).unwrap();
        assert!(!mend(0x0f_ffff) && !mend(0x10_1000) && !watch.is_broken());
    }
}
