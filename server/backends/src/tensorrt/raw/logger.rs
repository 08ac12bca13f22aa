//! TensorRT's messages: an object that looks to it like an `ILogger`.

use std::{
    cell::RefCell,
    ffi::{CStr, c_char, c_int, c_void},
};

use super::object::Method;

const TARGET: &str = "tensorrt";

thread_local! {
    /// What went wrong last in a call of this thread.
    static LAST_ERROR: RefCell<Option<String>> = const { RefCell::new(None) };
}

#[repr(C)]
struct Logger {
    _table: &'static [Method; 3],
}

// SAFETY: it has a table of functions and nothing else.
unsafe impl Sync for Logger {}

struct Table([Method; 3]);
// SAFETY: functions.
unsafe impl Sync for Table {}

/// `log(Severity, char const*)`, and the destructor twice, which nobody calls.
static TABLE: Table = Table([log as Method, destroy as Method, destroy as Method]);
static LOGGER: Logger = Logger { _table: &TABLE.0 };

/// The one logger: what functions of TensorRT take.
pub(super) fn logger() -> *mut c_void {
    (&raw const LOGGER).cast_mut().cast()
}

/// What TensorRT has complained about last in this thread, and forgets it.
pub(crate) fn take_last_error() -> Option<String> {
    LAST_ERROR.take()
}

extern "C" fn log(_: *mut c_void, severity: c_int, message: *const c_char) {
    if message.is_null() {
        return;
    }
    // SAFETY: a text that ends with zero, for as long as the call lasts.
    let message = unsafe { CStr::from_ptr(message) }.to_string_lossy();
    match severity {
        0 | 1 => {
            // It comes back to whoever called as well, so it is a warning here.
            tracing::warn!(target: TARGET, "{message}");
            LAST_ERROR.with_borrow_mut(|last| {
                // A second message of one failure says less than the first.
                last.get_or_insert_with(|| message.into_owned());
            });
        }
        2 => tracing::warn!(target: TARGET, "{message}"),
        3 => tracing::debug!(target: TARGET, "{message}"),
        _ => tracing::trace!(target: TARGET, "{message}"),
    }
}

extern "C" fn destroy(_: *mut c_void) {}
