//! Admission of inference calls and the number in flight: what a shutdown closes first and waits for next.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use server_core::error::{Error, Result};
use tokio::sync::Notify;

/// Open until the server stops; then every new inference call is refused.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    is_closed: AtomicBool,
    in_flight: AtomicUsize,
    /// Notified when admission closes, and when the last call ends after that.
    changed: Notify,
}

impl Admission {
    /// Admits one call; it is in flight until the permit is dropped.
    ///
    /// Errors: `Unavailable` once admission is closed.
    pub(crate) fn admit(self: &Arc<Self>) -> Result<Permit> {
        // Counted first: either this call sees that admission is closed, or the shutdown sees this call in flight.
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        let permit = Permit(self.clone());
        if self.is_closed.load(Ordering::SeqCst) { Err(shutting_down()) } else { Ok(permit) }
    }

    /// Refuses every call from here on.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    /// Whether new calls are refused.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    /// Completes when admission is closed.
    pub(crate) fn closed(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        let admission = self.clone();
        async move { admission.wait_until(Admission::is_closed).await }
    }

    /// Completes when admission is closed and no call is in flight.
    pub(crate) async fn drained(&self) {
        self.wait_until(|admission| admission.is_closed() && admission.in_flight.load(Ordering::SeqCst) == 0).await;
    }

    async fn wait_until(&self, is_reached: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified(); // registered before the check, so no notification is missed
            if is_reached(self) {
                return;
            }
            changed.await;
        }
    }
}

/// The error of a call that comes during shutdown.
pub(crate) fn shutting_down() -> Error {
    Error::unavailable("GRPC server is shutting down and has stopped accepting new requests.")
}

/// One admitted call.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Admission>);

impl Drop for Permit {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 && self.0.is_closed() {
            self.0.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::{Pin, pin},
        task::{Context, Waker},
    };

    use super::*;

    fn is_ready(future: Pin<&mut impl Future<Output = ()>>) -> bool {
        future.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[tokio::test]
    async fn closed_admission_refuses_calls_and_waits_for_those_in_flight() {
        let admission = Arc::new(Admission::default());
        let first = admission.admit().unwrap();
        let second = admission.admit().unwrap();
        let mut closed = pin!(admission.closed());
        let mut drained = pin!(admission.drained());
        assert!(!is_ready(closed.as_mut()));
        assert!(!is_ready(drained.as_mut()));
        drop(first);
        admission.close();
        closed.await;
        let error = admission.admit().unwrap_err();
        assert_eq!(error.message, "GRPC server is shutting down and has stopped accepting new requests.");
        assert!(!is_ready(drained.as_mut()));
        drop(second);
        drained.await;
    }

    #[tokio::test]
    async fn open_admission_is_never_drained() {
        let admission = Arc::new(Admission::default());
        drop(admission.admit().unwrap());
        let mut drained = pin!(admission.drained());
        assert!(!is_ready(drained.as_mut()));
        admission.close();
        drained.await;
    }
}
