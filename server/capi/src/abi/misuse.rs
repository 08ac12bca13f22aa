//! What a library does against the headers is an error for it, which it may ignore: so the log has it too.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering},
};

use server_core::error::Error;

thread_local! {
    static IS_NOTED: Cell<bool> = const { Cell::new(false) };
}

/// So many are logged one by one, and then those whose number doubles.
const ALL_UP_TO: u64 = 100;

static COUNT: AtomicU64 = AtomicU64::new(0);

/// Notes that the call which this thread runs is against the headers.
pub(crate) fn note() {
    IS_NOTED.set(true);
}

/// Forgets what was noted: another call begins.
pub(crate) fn clear() {
    IS_NOTED.set(false);
}

/// Logs the error of a call that is against the headers.
pub(crate) fn log(function: &str, error: &Error) {
    if !IS_NOTED.replace(false) {
        return;
    }
    let count = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    if count <= ALL_UP_TO || count.is_power_of_two() {
        tracing::error!("a library called {function} wrongly (call {count} of that kind): {error}");
    }
}
