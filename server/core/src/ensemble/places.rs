//! `max_inflight_requests`: the places of one step, shared by all requests of the ensemble. A place counts one request of the
//! step that runs, from its start until its last response is there, read or not. Places are given in the order in which they
//! were asked for.
//!
//! Nobody waits for what may never come. Whoever has a place may itself wait for one, where an ensemble asks an ensemble, or
//! for a reader that does not read, or it is a decoupled model's long request. So
//! - an ensemble's request that has no request of its own in flight at the step waits for [`PATIENCE`], and then goes on
//!   without a place. Each request of the ensemble so has one at least: in flight at a step are at most the limit and one more
//!   for each of them, which bounds memory as well;
//! - one that has some in flight there waits for those: it reads them itself;
//! - one that is not polled keeps its turn, but no place: what falls to it goes to the next.

use std::{
    collections::{BTreeMap, VecDeque},
    task::Waker,
    time::{Duration, Instant},
};

use smallvec::SmallVec;

/// How long a request waits for a place that may never come, and how long a place waits for the request whose turn it is.
///
/// Triton waits 300 s for a place, and then goes on without one as well.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// Whom to wake, without any lock held.
pub type Wakers = SmallVec<[Waker; 1]>;

/// The places of one step.
#[derive(Debug)]
pub struct Places {
    limit: usize,
    taken: usize,
    /// Requests whose turn it is, by ticket, and since when: a place is kept for each.
    called: VecDeque<(u64, Instant)>,
    /// Those that wait for their turn, by ticket.
    waiting: BTreeMap<u64, Waker>,
    next_ticket: u64,
    /// Places given back so far.
    given_back: u64,
}

/// What one request of the ensemble waits for at one step. One that goes has to [leave](Places::leave) first.
#[derive(Debug, Default)]
pub struct Asker {
    /// Its turn, once it has asked.
    ticket: Option<u64>,
    /// It is among those that wait or were called.
    is_listed: bool,
    /// Since when it waits without a request of its own in flight.
    since: Option<Instant>,
    /// Places given back when it had last waited in vain.
    in_vain: Option<u64>,
}

/// Whether a request of the step may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// With a place, to be given back.
    Granted,
    /// Without one: it has waited long enough.
    Beyond,
    /// Not yet: it is woken when its turn comes. It has to ask again at that moment at the latest.
    Wait(Option<Instant>),
}

impl Places {
    /// So many places, all free.
    pub fn new(limit: usize) -> Self {
        Self { limit, taken: 0, called: VecDeque::new(), waiting: BTreeMap::new(), next_ticket: 0, given_back: 0 }
    }

    /// Asks for one request of the step; asked again, the same request keeps its turn. `in_flight` is how many of the
    /// asker's own have started and not ended there.
    pub fn ask(&mut self, asker: &mut Asker, in_flight: usize, now: Instant, waker: &Waker) -> (Turn, Wakers) {
        if asker.ticket.is_none() && self.waiting.is_empty() && self.free() > 0 {
            return (self.take(asker), Wakers::new());
        }
        let ticket = asker.ticket.unwrap_or_else(|| {
            self.next_ticket += 1;
            self.next_ticket
        });
        (asker.ticket, asker.is_listed) = (Some(ticket), true);
        if !self.is_called(ticket) {
            match self.waiting.get_mut(&ticket) {
                Some(known) => known.clone_from(waker),
                None => drop(self.waiting.insert(ticket, waker.clone())),
            }
        }
        let wakers = self.settle(now);
        if self.is_called(ticket) {
            self.called.retain(|&(called, _)| called != ticket);
            return (self.take(asker), wakers);
        }
        if in_flight > 0 {
            asker.since = None;
            return (Turn::Wait(None), wakers);
        }
        let until = *asker.since.get_or_insert(now) + PATIENCE;
        // One that has waited in vain does not wait again where no place has come free since.
        if now < until && asker.in_vain != Some(self.given_back) {
            return (Turn::Wait(Some(until)), wakers);
        }
        self.waiting.remove(&ticket);
        *asker = Asker { in_vain: Some(self.given_back), ..Asker::default() };
        (Turn::Beyond, wakers)
    }

    /// A request that had a place has its last response, or is gone.
    pub fn give_back(&mut self, now: Instant) -> Wakers {
        self.taken -= 1;
        self.given_back += 1;
        self.settle(now)
    }

    /// The asker will not be polled until somebody has read a response of it. It keeps its turn for when it asks again.
    pub fn rest(&mut self, asker: &mut Asker, now: Instant) -> Wakers {
        asker.since = None;
        let Some(ticket) = asker.ticket.filter(|_| asker.is_listed) else { return Wakers::new() };
        asker.is_listed = false;
        self.waiting.remove(&ticket);
        self.called.retain(|&(called, _)| called != ticket);
        self.settle(now)
    }

    /// The asker wants nothing any more.
    pub fn leave(&mut self, asker: &mut Asker, now: Instant) -> Wakers {
        let wakers = self.rest(asker, now);
        *asker = Asker::default();
        wakers
    }

    fn free(&self) -> usize {
        self.limit - self.taken - self.called.len()
    }

    fn is_called(&self, ticket: u64) -> bool {
        self.called.iter().any(|&(called, _)| called == ticket)
    }

    fn take(&mut self, asker: &mut Asker) -> Turn {
        self.taken += 1;
        *asker = Asker::default();
        Turn::Granted
    }

    /// Takes back what was kept for somebody who did not come for it, and calls those whose turn it is.
    fn settle(&mut self, now: Instant) -> Wakers {
        while self.called.front().is_some_and(|&(_, since)| now.saturating_duration_since(since) >= PATIENCE) {
            self.called.pop_front();
        }
        let mut wakers = Wakers::new();
        while self.free() > 0
            && let Some((ticket, waker)) = self.waiting.pop_first()
        {
            self.called.push_back((ticket, now));
            wakers.push(waker);
        }
        wakers
    }
}

impl Asker {
    /// Whether it is among those that wait or were called.
    pub fn is_listed(&self) -> bool {
        self.is_listed
    }
}
