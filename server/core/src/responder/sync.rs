//! The lock and the reference count of a slot: the real ones, or under `cfg(model_check)` those of the model checker, which
//! tries every order in which the two ends can meet.

#[cfg(not(model_check))]
pub(super) use std::sync::Arc;

#[cfg(not(model_check))]
pub(super) use parking_lot::Mutex;

#[cfg(model_check)]
pub(super) use loom::sync::Arc;

/// The model checker's lock, in the words of the real one.
#[cfg(model_check)]
pub(super) struct Mutex<T>(loom::sync::Mutex<T>);

#[cfg(model_check)]
impl<T> Mutex<T> {
    pub(super) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(super) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
        self.0.lock().expect("no test panics with the lock held")
    }
}
