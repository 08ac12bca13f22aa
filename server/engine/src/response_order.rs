//! `preserve_ordering`: responses leave in the order in which their requests left the queue, whatever instance is faster. Those of a
//! request that sends several follow each other, with no other request's between them.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use server_core::{
    completion::{Ticket, hand_over},
    responder::{Reply, Responder, Turn},
};

/// The last word of a request that is not next, or nothing if it has none.
type Held = Option<(Responder, Option<Reply>)>;

#[derive(Default)]
struct State {
    next: Ticket,
    /// Requests that ended before one ahead of them. Bounded: the scheduler forms no batch while there are too many.
    held: BTreeMap<Ticket, Held>,
    /// Requests that have sent responses and are not next. No more than are under way or held.
    ahead: BTreeMap<Ticket, Turn>,
}

/// The order of one model version.
#[derive(Default)]
pub(crate) struct ResponseOrder {
    state: Mutex<State>,
    /// `State::held`, counted for the scheduler.
    held: Arc<AtomicUsize>,
}

impl ResponseOrder {
    /// How many requests have ended and wait for one ahead of them.
    pub(crate) fn held(&self) -> Arc<AtomicUsize> {
        self.held.clone()
    }

    /// The request with that ticket sends a response and goes on: its caller reads when it is next.
    pub(crate) fn sends(&self, ticket: Ticket, responder: &mut Responder) {
        let mut state = self.state.lock();
        if ticket > state.next
            && let Entry::Vacant(entry) = state.ahead.entry(ticket)
            && let Some(turn) = responder.await_turn()
        {
            entry.insert(turn);
        }
    }

    /// The request with that ticket has ended. Hands over what has become next; `true` if anything had been held.
    pub(crate) fn ended(&self, ticket: Ticket, last: Held) -> bool {
        let mut state = self.state.lock();
        state.held.insert(ticket, last);
        let before = state.held.len();
        loop {
            let next = state.next;
            if let Some(turn) = state.ahead.remove(&next) {
                turn.has_come();
            }
            let Some(held) = state.held.remove(&next) else { break };
            state.next += 1;
            if let Some((responder, reply)) = held {
                hand_over(responder, reply); // under the lock: two requests must not overtake each other here
            }
        }
        self.held.store(state.held.len(), Ordering::SeqCst);
        before - state.held.len() > 1
    }
}
