//! What is said when a signal ends the process by a fault of its own: which signal, and which instance the thread was executing, since in a
//! server with many models nobody else could say whose it was. It goes to standard error, and into the file that [`NOTE`] names, for
//! whoever starts the next process.
//!
//! The handlers may run at any moment on any thread: they read atomics and a value of their thread, and call nothing but what `signal-safety(7)`
//! lists. A server that is ended by `SIGKILL`, as for want of memory, says nothing.

#![allow(unsafe_code)]

use std::{
    ffi::{c_int, c_void},
    fs::File,
    io, mem,
    os::fd::IntoRawFd,
    path::Path,
    ptr,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicI32, Ordering::SeqCst},
    },
};

/// Environment variable with the path of the file. It is emptied at the start, and has one line after a crash.
pub(crate) const NOTE: &str = "TRITONSERVER_CRASH_NOTE";

/// Signals that a fault of the process sends to itself.
const SIGNALS: [(c_int, &str); 5] = [
    (libc::SIGSEGV, "SIGSEGV"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGFPE, "SIGFPE"),
    (libc::SIGABRT, "SIGABRT"),
];

/// The open file; -1 without one.
static FILE: AtomicI32 = AtomicI32::new(-1);
/// One crash is told, and not those that its end brings with it.
static IS_TOLD: AtomicBool = AtomicBool::new(false);
/// Who handled each signal before: Rust's own handler tells of stacks that are too small.
static PREVIOUS: OnceLock<[libc::sigaction; SIGNALS.len()]> = OnceLock::new();

/// From now on crashes are told; `note`: the file of [`NOTE`].
///
/// Errors: the file cannot be written. Crashes are told on standard error all the same.
pub(crate) fn install(note: Option<&Path>) -> io::Result<()> {
    let file = note.map(File::create).transpose();
    // SAFETY: all zeros is a valid `sigaction`.
    let mut previous = unsafe { mem::zeroed::<[libc::sigaction; SIGNALS.len()]>() };
    for ((signal, _), previous) in SIGNALS.iter().zip(&mut previous) {
        // SAFETY: `sigaction(2)` with no new action writes the present one to `previous`.
        unsafe { libc::sigaction(*signal, ptr::null(), previous) };
    }
    PREVIOUS.get_or_init(|| previous);
    for (signal, _) in SIGNALS {
        // SAFETY: all zeros is a valid `sigaction`.
        let mut ours = unsafe { mem::zeroed::<libc::sigaction>() };
        ours.sa_sigaction = on_crash as *const () as usize;
        // on the thread's stack for signals, where it has one: its usual one may be what is used up
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: `ours` is a whole action, with a function of the type that `SA_SIGINFO` asks for.
        unsafe { libc::sigaction(signal, &raw const ours, ptr::null_mut()) };
    }
    if let Some(file) = file? {
        FILE.store(file.into_raw_fd(), SeqCst); // open for as long as the process lives
    }
    Ok(())
}

extern "C" fn on_crash(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    if !IS_TOLD.swap(true, SeqCst) {
        let mut line = Line::default();
        line.push("Signal (");
        line.push_number(signal);
        line.push(") received: ");
        line.push(SIGNALS.iter().find(|it| it.0 == signal).map_or("", |it| it.1));
        if let Some(executing) = server_engine::executing() {
            line.push(", executing ");
            line.push(executing);
        }
        line.end();
        // the note first: nobody may be reading the other
        for file in [FILE.load(SeqCst), libc::STDERR_FILENO] {
            // SAFETY: `line` has that many bytes; a file that is not open is an error and nothing else.
            unsafe { libc::write(file, line.bytes.as_ptr().cast(), line.len) };
        }
    }
    let at = SIGNALS.iter().position(|it| it.0 == signal);
    if let Some(previous) = at.and_then(|at| PREVIOUS.get()?.get(at))
        && !matches!(previous.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN)
        && previous.sa_flags & libc::SA_SIGINFO != 0
    {
        // SAFETY: whoever installed the handler with `SA_SIGINFO` gave a function of this type.
        let previous: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
            unsafe { mem::transmute(previous.sa_sigaction) };
        previous(signal, info, context);
    }
    // SAFETY: `signal(2)` and `raise(3)` may be called in a handler. The process ends when this one has returned.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// Text in memory that is there already. What does not fit is left out.
struct Line {
    bytes: [u8; 512],
    len: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { bytes: [0; 512], len: 0 }
    }
}

impl Line {
    fn push(&mut self, text: &str) {
        // a place is kept for the end of the line
        for byte in text.bytes().take(self.bytes.len() - 1 - self.len) {
            self.bytes[self.len] = byte;
            self.len += 1;
        }
    }

    fn push_number(&mut self, number: c_int) {
        let digit = |digit: c_int| char::from(b'0' + u8::try_from(digit % 10).unwrap_or(0));
        let mut text = [0; 4];
        if number >= 10 {
            self.push(digit(number / 10).encode_utf8(&mut text));
        }
        self.push(digit(number).encode_utf8(&mut text));
    }

    fn end(&mut self) {
        self.bytes[self.len] = b'\n';
        self.len += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        ffi::OsStr,
        os::unix::process::ExitStatusExt,
        process::{Command, Stdio},
    };

    use super::*;

    /// Set for the process that is to crash: by which signal.
    const CRASH: &str = "CRASH_OF_A_TEST";

    /// The part of the test below that crashes, in a process of its own.
    #[test]
    fn crashes_where_it_is_asked_to() {
        let Ok(signal) = std::env::var(CRASH) else { return };
        install(Some(Path::new(&std::env::var_os(NOTE).unwrap()))).unwrap();
        if signal == "overflow" {
            #[allow(unconditional_recursion, reason = "that is what is tried")]
            fn deeper(depth: u64) -> u64 {
                std::hint::black_box(deeper(std::hint::black_box(depth + 1)) + 1)
            }
            deeper(0);
        }
        // SAFETY: no memory is touched.
        unsafe { libc::raise(signal.parse().unwrap()) };
    }

    #[test]
    fn a_process_that_crashes_says_by_which_signal_and_ends_by_it() {
        let folder = tempfile::tempdir().unwrap();
        let note = folder.path().join("note");
        for (asked, signal, name) in [
            ("11", libc::SIGSEGV, "SIGSEGV"),
            ("7", libc::SIGBUS, "SIGBUS"),
            ("6", libc::SIGABRT, "SIGABRT"),
            ("8", libc::SIGFPE, "SIGFPE"),
            ("overflow", libc::SIGABRT, "SIGSEGV"),
        ] {
            let done = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "crash::tests::crashes_where_it_is_asked_to", "--nocapture"])
                .envs([(CRASH, OsStr::new(asked)), (NOTE, note.as_os_str())])
                .stdin(Stdio::null())
                .output()
                .unwrap();
            // after an overflow it is the C library's choice by which of two it ends
            let is_so = |ended| ended == signal || (asked == "overflow" && ended == libc::SIGSEGV);
            assert!(done.status.signal().is_some_and(is_so), "{asked}: {done:?}");
            let told = std::fs::read_to_string(&note).unwrap();
            let number = if asked == "overflow" { "11" } else { asked };
            assert_eq!(told, format!("Signal ({number}) received: {name}\n"));
            let said = String::from_utf8_lossy(&done.stderr);
            assert!(said.contains(&told), "{said}");
            assert_eq!(said.contains("overflowed its stack"), asked == "overflow", "{said}");
        }
    }

    #[test]
    fn a_line_is_cut_where_its_memory_ends() {
        let mut line = Line::default();
        line.push_number(11);
        line.push(&"x".repeat(600));
        line.push("more");
        line.end();
        assert_eq!(line.len, 512);
        assert!(line.bytes.starts_with(b"11xx") && line.bytes.ends_with(b"x\n"));
    }
}
