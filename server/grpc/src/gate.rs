//! Admission of inference calls, and the count of those inside: what a shutdown closes first and waits for next.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use server_core::error::{Error, Result};
use tokio::sync::Notify;

/// Open until the server stops; then nobody new gets in.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    is_closed: AtomicBool,
    inside: AtomicUsize,
    /// Rung when the gate closes, and when the last one leaves a closed gate.
    changed: Notify,
}

impl Gate {
    /// Lets one call in; it is inside until the pass is dropped.
    ///
    /// Errors: `Unavailable` once the gate is closed.
    pub(crate) fn enter(self: &Arc<Self>) -> Result<Pass> {
        // Counted before looking: whoever closes either is seen here or sees this call inside.
        self.inside.fetch_add(1, Ordering::SeqCst);
        let pass = Pass(self.clone());
        if self.is_closed.load(Ordering::SeqCst) { Err(closed()) } else { Ok(pass) }
    }

    /// From here on nobody gets in.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    /// Whether nobody gets in any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    /// Ends when the gate is closed.
    pub(crate) fn closing(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        let gate = self.clone();
        async move { gate.wait_until(Gate::is_closed).await }
    }

    /// Ends when the gate is closed and the last call inside has ended.
    pub(crate) async fn empty(&self) {
        self.wait_until(|gate| gate.is_closed() && gate.inside.load(Ordering::SeqCst) == 0).await;
    }

    async fn wait_until(&self, is_reached: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified(); // registered before looking, so no ring is missed
            if is_reached(self) {
                return;
            }
            changed.await;
        }
    }
}

/// The error of whoever comes too late.
pub(crate) fn closed() -> Error {
    Error::unavailable("GRPC server is shutting down and has stopped accepting new requests.")
}

/// One call inside the gate.
#[derive(Debug)]
pub(crate) struct Pass(Arc<Gate>);

impl Drop for Pass {
    fn drop(&mut self) {
        if self.0.inside.fetch_sub(1, Ordering::SeqCst) == 1 && self.0.is_closed() {
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
    async fn a_closed_gate_empties_and_lets_nobody_in() {
        let gate = Arc::new(Gate::default());
        let first = gate.enter().unwrap();
        let second = gate.enter().unwrap();
        let mut closing = pin!(gate.closing());
        let mut empty = pin!(gate.empty());
        assert!(!is_ready(closing.as_mut()));
        assert!(!is_ready(empty.as_mut()));
        drop(first);
        gate.close();
        closing.await;
        let error = gate.enter().unwrap_err();
        assert_eq!(error.message, "GRPC server is shutting down and has stopped accepting new requests.");
        assert!(!is_ready(empty.as_mut()));
        drop(second);
        empty.await;
    }

    #[tokio::test]
    async fn an_open_gate_is_never_empty_for_good() {
        let gate = Arc::new(Gate::default());
        drop(gate.enter().unwrap());
        let mut empty = pin!(gate.empty());
        assert!(!is_ready(empty.as_mut()));
        gate.close();
        empty.await;
    }
}
