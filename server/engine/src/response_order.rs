//! `preserve_ordering`: responses leave in the order in which their batches were formed, whatever instance is faster.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use server_core::{
    backend::{Marks, Observer, Pending, deliver},
    responder::Reply,
};

type Held = Option<(Vec<Pending>, Vec<Reply>)>;

#[derive(Default)]
struct State {
    next: u64,
    /// Batches that were faster than one before them. As many as there are instances, at most.
    held: BTreeMap<u64, Held>,
}

/// The order of one model version.
#[derive(Default)]
pub(crate) struct ResponseOrder {
    state: Mutex<State>,
}

impl ResponseOrder {
    fn arrive(&self, ticket: u64, replies: Held) {
        let mut state = self.state.lock();
        state.held.insert(ticket, replies);
        loop {
            let next = state.next;
            let Some(held) = state.held.remove(&next) else { return };
            state.next += 1;
            if let Some((pending, replies)) = held {
                deliver(pending, replies); // under the lock: two batches must not overtake each other here
            }
        }
    }
}

/// An observer that delivers one batch in its turn, and gives its turn away if the batch is lost.
pub(crate) struct OrderedObserver {
    order: Arc<ResponseOrder>,
    ticket: u64,
    inner: Arc<dyn Observer>,
    is_taken: Mutex<bool>,
}

impl OrderedObserver {
    pub(crate) fn new(order: Arc<ResponseOrder>, ticket: u64, inner: Arc<dyn Observer>) -> Self {
        Self { order, ticket, inner, is_taken: Mutex::new(false) }
    }
}

impl Observer for OrderedObserver {
    fn executed(&self, pending: &[Pending], replies: &[Reply], marks: &Marks) {
        self.inner.executed(pending, replies, marks);
    }

    fn deliver(&self, pending: Vec<Pending>, replies: Vec<Reply>) {
        *self.is_taken.lock() = true;
        self.order.arrive(self.ticket, Some((pending, replies)));
    }
}

impl Drop for OrderedObserver {
    fn drop(&mut self) {
        if !*self.is_taken.lock() {
            self.order.arrive(self.ticket, None);
        }
    }
}
