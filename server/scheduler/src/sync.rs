//! Locks and atomics of the hand-over of requests to instances: the real ones, or under `cfg(model_check)` those of the model
//! checker, which tries every order in which threads can meet. There no wait ends by time: whoever is not woken sleeps for
//! ever, and the checker says so.

#[cfg(not(model_check))]
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};
#[cfg(not(model_check))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64};

#[cfg(model_check)]
pub(crate) use self::checked::{Condvar, Mutex, MutexGuard};
#[cfg(model_check)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64};

/// Stands between a write and a read of another atomic that both are `SeqCst`, where each of two threads must not miss
/// what the other wrote. The model checker takes `SeqCst` accesses for weaker ones and needs it said.
pub(crate) fn between_sequentially_consistent() {
    #[cfg(model_check)]
    loom::sync::atomic::fence(loom::sync::atomic::Ordering::SeqCst);
}

/// The model checker's locks, in the words of the real ones.
#[cfg(model_check)]
mod checked {
    use std::{
        ops::{Deref, DerefMut},
        time::{Duration, Instant},
    };

    use loom::sync;

    const NO_PANIC: &str = "no test panics with a lock held";
    const LOCKED: &str = "it is unlocked only while its owner waits";

    pub(crate) struct Mutex<T>(sync::Mutex<T>);

    pub(crate) struct MutexGuard<'a, T> {
        mutex: &'a Mutex<T>,
        guard: Option<sync::MutexGuard<'a, T>>,
    }

    pub(crate) struct Condvar(sync::Condvar);

    /// A wait that did not end by time.
    pub(crate) struct Woken;

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard { mutex: self, guard: Some(self.0.lock().expect(NO_PANIC)) }
        }
    }

    impl<T> MutexGuard<'_, T> {
        pub(crate) fn unlocked<R>(guard: &mut Self, run: impl FnOnce() -> R) -> R {
            drop(guard.guard.take());
            let result = run();
            guard.guard = Some(guard.mutex.0.lock().expect(NO_PANIC));
            result
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.guard.as_ref().expect(LOCKED)
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.guard.as_mut().expect(LOCKED)
        }
    }

    impl Condvar {
        pub(crate) fn new() -> Self {
            Self(sync::Condvar::new())
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }

        pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            let own = guard.guard.take().expect(LOCKED);
            guard.guard = Some(self.0.wait(own).expect(NO_PANIC));
        }

        pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, _moment: Instant) -> Woken {
            self.wait(guard);
            Woken
        }

        pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _time: Duration) -> Woken {
            self.wait(guard);
            Woken
        }
    }

    impl Woken {
        pub(crate) fn timed_out(&self) -> bool {
            false
        }
    }
}
