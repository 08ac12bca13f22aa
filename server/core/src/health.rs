//! What the server and one instance know of each other while both go on: whether the instance can serve, why it cannot, and
//! whether it waits for the answer of a request of its own. An instance that waits so may be asked to run another request
//! meanwhile, see [`Reentry`].

use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use parking_lot::Mutex;

use crate::caller::Reentry;

/// Whether one instance can serve, in its own word: said from any thread, at any time, also to take it back. Clones speak of
/// the same instance.
#[derive(Clone)]
pub struct Health(Arc<State>);

struct State {
    is_healthy: AtomicBool,
    reason: Mutex<Option<Arc<str>>>,
    /// Calls that the instance waits for: as many as there are in `calls`.
    waits: AtomicUsize,
    /// Through whom it runs other requests meanwhile, the oldest call first.
    calls: Mutex<Calls>,
}

#[derive(Default)]
struct Calls {
    next_number: u64,
    running: Vec<(u64, Weak<dyn Reentry>)>,
}

impl Default for Health {
    fn default() -> Self {
        Self(Arc::new(State {
            is_healthy: AtomicBool::new(true),
            reason: Mutex::default(),
            waits: AtomicUsize::new(0),
            calls: Mutex::default(),
        }))
    }
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Health")
            .field("is_healthy", &self.is_healthy())
            .field("reason", &self.reason())
            .field("is_in_call", &self.is_in_call())
            .finish()
    }
}

impl Health {
    /// Says whether the instance can serve. A model none of whose instances can is not ready.
    pub fn set(&self, is_healthy: bool) {
        self.0.is_healthy.store(is_healthy, Ordering::Release);
    }

    /// Whether the instance can serve.
    pub fn is_healthy(&self) -> bool {
        self.0.is_healthy.load(Ordering::Acquire)
    }

    /// Says what is wrong with the instance, for the index of the repository; `None` takes it back. It says nothing of
    /// whether the instance can serve: one that is restarted again and again may, at times.
    pub fn set_reason(&self, reason: Option<String>) {
        *self.0.reason.lock() = reason.map(Arc::from);
    }

    /// What is wrong with the instance, if it said so.
    pub fn reason(&self) -> Option<Arc<str>> {
        self.0.reason.lock().clone()
    }

    /// Whether both speak of the same instance.
    pub fn is_of_same_instance(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Marks the instance as waiting for the answer of a request of its own, until the mark is dropped. Of two instances
    /// that call each other's models at the same time, at least one sees the other's mark in [`Health::is_in_call`].
    pub fn begin_call(&self, reentry: Weak<dyn Reentry>) -> InCall {
        let number = {
            let mut calls = self.0.calls.lock();
            let number = calls.next_number;
            calls.next_number += 1;
            calls.running.push((number, reentry));
            number
        };
        self.0.waits.fetch_add(1, Ordering::SeqCst);
        InCall { health: self.clone(), number }
    }

    /// Whether the instance waits for the answer of a request of its own.
    pub fn is_in_call(&self) -> bool {
        self.0.waits.load(Ordering::SeqCst) > 0
    }

    /// Who runs other requests on the instance while it waits: the latest of its calls that is still there.
    pub fn reentry(&self) -> Option<Arc<dyn Reentry>> {
        self.0.calls.lock().running.iter().rev().find_map(|(_, reentry)| reentry.upgrade())
    }
}

/// The mark of an instance that waits for the answer of a request of its own.
#[derive(Debug)]
pub struct InCall {
    health: Health,
    number: u64,
}

impl Drop for InCall {
    fn drop(&mut self) {
        self.health.0.waits.fetch_sub(1, Ordering::SeqCst);
        self.health.0.calls.lock().running.retain(|(number, _)| *number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Batch;

    struct Nothing;

    impl Reentry for Nothing {
        fn execute(&self, _batch: Batch) {}
    }

    #[test]
    fn an_instance_is_in_a_call_until_the_last_mark_is_dropped() {
        let health = Health::default();
        let outer: Arc<dyn Reentry> = Arc::new(Nothing);
        let inner: Arc<dyn Reentry> = Arc::new(Nothing);
        assert!(!health.is_in_call() && health.reentry().is_none());
        let first = health.begin_call(Arc::downgrade(&outer));
        let second = health.begin_call(Arc::downgrade(&inner));
        assert!(Arc::ptr_eq(&health.reentry().unwrap(), &inner), "the latest call is the one to go through");
        drop(inner);
        assert!(Arc::ptr_eq(&health.reentry().unwrap(), &outer), "one that is gone is passed over");
        drop(second);
        assert!(health.is_in_call());
        drop(first);
        assert!(!health.is_in_call() && health.reentry().is_none());
    }

    #[test]
    fn a_reason_is_kept_until_it_is_taken_back() {
        let health = Health::default();
        health.set_reason(Some("the worker died".into()));
        assert!(health.is_healthy(), "a reason alone says nothing of that");
        assert_eq!(health.clone().reason().as_deref(), Some("the worker died"));
        health.set_reason(None);
        assert_eq!(health.reason(), None);
    }
}
