//! The slots of a worker's requests, and what each thing that the worker says, or that happens to a caller, makes of a request.
//! Nothing here waits, and what ends a request is told by whoever holds the lock, after letting go of it.

use std::{
    collections::VecDeque,
    task::{Context, Waker},
    time::{Duration, Instant},
};

use server_core::{
    batch::Pending,
    completion::{Marks, ResponseMarks},
    error::Error,
    responder::Reply,
};

use super::{
    super::decode::Word,
    status::{SLOTS, Status},
};
use crate::timed::{Next, Sent, Unsent};

/// How long a model may hold on to a request whose caller has left, after `execute`: then it is over for the server, so that
/// a forgotten response sender keeps no model from being unloaded.
pub(super) const AFTER_CALLER: Duration = Duration::from_secs(5);

pub(super) struct Table {
    pub(super) slots: Vec<Slot>,
    pub(super) free: Vec<u32>,
    /// Slots with something that is due at a certain time: responses that their readers have no room for, or callers that
    /// have left.
    pub(super) timed: Vec<u32>,
    pub(super) status: Status,
    pub(super) batches: u64,
    /// Why the worker takes no more requests.
    pub(super) lost: Option<Error>,
}

#[derive(Default)]
pub(super) struct Slot {
    pub(super) open: Option<Open>,
    /// Says that something happened to the request in this slot; made once.
    pub(super) waker: Option<Waker>,
}

/// A request that the worker has not said its last word of.
pub(super) struct Open {
    /// `None` once it has ended for its caller.
    pub(super) pending: Option<Pending>,
    pub(super) batch: u64,
    is_decoupled: bool,
    start: Instant,
    input_end: Instant,
    /// When the response before was made.
    sent_at: Instant,
    responses: u32,
    /// Its batch runs.
    pub(super) is_running: bool,
    /// When its caller was found to have left.
    pub(super) left_at: Option<Instant>,
    /// The one response of a model that is not decoupled, until the worker says that it was the last.
    held: Option<Reply>,
    /// A response that its reader has no room for, until when it waits, and what the worker said after it.
    behind: Option<Behind>,
}

struct Behind {
    unsent: Box<Unsent>,
    until: Instant,
    words: VecDeque<Word>,
}

/// A request that has had its last word, to be told to its caller without the lock.
pub(super) struct Ending {
    pending: Pending,
    end: End,
    marks: Marks,
}

#[expect(clippy::large_enum_variant, reason = "it is told at once, and lies nowhere")]
enum End {
    /// The last response that the model sent, or none.
    Sent(Option<Reply>),
    /// It was not executed to its end, or the model has let go of it.
    Failed(Error),
    Cancelled,
    Rescheduled,
}

impl Table {
    pub(super) fn has_too_few(&self, count: usize) -> bool {
        self.free.len() + SLOTS.saturating_sub(self.slots.len()) < count.min(SLOTS)
    }

    pub(super) fn free_slot(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX) // there are far fewer
        })
    }

    pub(super) fn until(&self, number: u32) -> Option<Instant> {
        let open = self.slots.get(number as usize)?.open.as_ref()?;
        let left_at = open.left_at.filter(|_| !open.is_running);
        open.behind.as_ref().map(|behind| behind.until).or(left_at.map(|left_at| left_at + AFTER_CALLER))
    }

    /// The request has ended for its caller: the worker need not go on with it, and its slot waits for its last word.
    fn ended(&mut self, number: u32) {
        self.status.set_cancelled(number);
        self.timed.retain(|other| *other != number);
        if let Some(open) = self.slots.get_mut(number as usize).and_then(|slot| slot.open.as_mut()) {
            open.left_at = None;
        }
    }

    fn add_timed(&mut self, number: u32) {
        if !self.timed.contains(&number) {
            self.timed.push(number);
        }
    }

    /// The slot is free again.
    pub(super) fn remove(&mut self, number: u32) -> Option<Open> {
        let open = self.slots.get_mut(number as usize)?.open.take()?;
        if open.behind.is_some() || open.left_at.is_some() {
            self.timed.retain(|other| *other != number);
        }
        self.free.push(number);
        Some(open)
    }

    pub(super) fn said(&mut self, number: u32, word: Word, now: Instant) -> Option<Ending> {
        let slot = self.slots.get_mut(number as usize)?;
        let open = slot.open.as_mut()?;
        if let Some(behind) = &mut open.behind {
            behind.words.push_back(word);
            return None;
        }
        let Some(pending) = &mut open.pending else {
            if word.is_last() {
                self.remove(number);
            }
            return None;
        };
        match word {
            Word::Response(reply, false) if open.is_decoupled => {
                let marks = ResponseMarks { start: open.sent_at, output_start: now, end: now };
                (open.sent_at, open.responses) = (now, open.responses.saturating_add(1));
                let waker = slot.waker.as_ref().unwrap_or(Waker::noop());
                let sent =
                    Unsent::new(reply, marks, now).send(&mut pending.completion, now, &mut Context::from_waker(waker));
                self.after_send(number, sent, VecDeque::new(), now)
            }
            Word::Response(reply, false) => {
                open.responses += 1;
                open.held = Some(reply);
                None
            }
            last => self.remove(number).and_then(|open| open.end(last, now)),
        }
    }

    /// What follows from an attempt to send a response, before `words` that the worker said later.
    fn after_send(&mut self, number: u32, sent: Sent, mut words: VecDeque<Word>, now: Instant) -> Option<Ending> {
        let open = self.slots.get_mut(number as usize)?.open.as_mut()?;
        match sent {
            Sent::Yes => {}
            Sent::Later(unsent, next) => {
                let until = match next {
                    Next::At(until) => until,
                    Next::Over => now,
                };
                open.behind = Some(Behind { unsent, until, words });
                self.status.set_full(number, true);
                self.add_timed(number);
                return None;
            }
            Sent::Abandoned => {
                if let Some(mut pending) = open.pending.take() {
                    pending.completion.cancel(&ResponseMarks { start: now, output_start: now, end: now });
                }
                self.ended(number);
            }
            Sent::GivenUp => {
                open.pending = None;
                self.ended(number);
            }
        }
        while let Some(word) = words.pop_front() {
            if let Some(ending) = self.said(number, word, now) {
                return Some(ending);
            }
            let open = self.slots.get_mut(number as usize)?.open.as_mut()?;
            if let Some(behind) = &mut open.behind {
                behind.words.append(&mut words);
            }
        }
        None
    }

    /// Looks at a request of which something may have become.
    pub(super) fn woken(&mut self, number: u32, now: Instant) -> Option<Ending> {
        let slot = self.slots.get_mut(number as usize)?;
        let open = slot.open.as_mut()?;
        let pending = open.pending.as_mut()?;
        if pending.completion.is_cancelled() {
            self.status.set_cancelled(number);
            let left_at = *open.left_at.get_or_insert(now);
            if !open.is_running && left_at + AFTER_CALLER <= now {
                pending.completion.cancel(&ResponseMarks { start: left_at, output_start: now, end: now });
                open.pending = None;
                self.ended(number);
                return None;
            }
            if !self.timed.contains(&number) {
                self.timed.push(number);
            }
        }
        let mut context = Context::from_waker(slot.waker.as_ref().unwrap_or(Waker::noop()));
        let Some(behind) = open.behind.take() else {
            let _ = pending.completion.poll_cancelled(&mut context); // what it says was just looked at
            return None;
        };
        let sent = behind.unsent.send(&mut pending.completion, now, &mut context);
        let ending = self.after_send(number, sent, behind.words, now);
        self.caught_up(number);
        ending
    }

    /// If nothing waits for the reader of that request any more: the worker may go on, and hears when its caller leaves.
    fn caught_up(&mut self, number: u32) {
        let Some(slot) = self.slots.get_mut(number as usize) else { return };
        let open = slot.open.as_mut();
        if open.as_ref().is_some_and(|open| open.behind.is_some()) {
            return;
        }
        if open.as_ref().is_none_or(|open| open.left_at.is_none()) {
            self.timed.retain(|other| *other != number);
        }
        self.status.set_full(number, false);
        let Some(pending) = open.and_then(|open| open.pending.as_mut()) else { return };
        let waker = slot.waker.as_ref().unwrap_or(Waker::noop());
        if pending.completion.poll_cancelled(&mut Context::from_waker(waker)).is_ready() {
            self.status.set_cancelled(number);
        }
    }
}

impl Open {
    /// A request of a batch that is handed to the worker at `sent_at`.
    pub(super) fn new(pending: Pending, batch: u64, is_decoupled: bool, start: Instant, sent_at: Instant) -> Self {
        Self {
            pending: Some(pending),
            batch,
            is_decoupled,
            start,
            input_end: sent_at,
            sent_at,
            responses: 0,
            is_running: true,
            left_at: None,
            held: None,
            behind: None,
        }
    }

    pub(super) fn marks(&self, now: Instant) -> Marks {
        Marks { start: self.start, input_end: self.input_end, output_start: now, end: now }
    }

    /// How it ends, if it has not yet.
    fn end(mut self, last: Word, now: Instant) -> Option<Ending> {
        let marks = self.marks(now);
        let held = self.held.take();
        let pending = self.pending?;
        let gives_up = matches!(last, Word::Response(Err(_), _)) || matches!(held, Some(Err(_)));
        let end = match last {
            Word::Rescheduled => End::Rescheduled,
            _ if (self.is_decoupled || gives_up) && pending.completion.is_cancelled() => End::Cancelled,
            Word::Response(reply, _) => End::Sent(Some(reply)),
            Word::Failed(error) => End::Failed(error),
            Word::Ended => End::Sent(held),
            Word::Dropped => held.map_or_else(|| End::Failed(dropped(self.responses)), |held| End::Sent(Some(held))),
        };
        Some(Ending { pending, end, marks })
    }
}

impl Ending {
    pub(super) fn tell(mut self) {
        let end = self.marks.end;
        match self.end {
            End::Sent(reply) => self.pending.completion.finish_sent(reply, &self.marks),
            End::Failed(error) => self.pending.finish(Some(Err(error)), &self.marks),
            End::Cancelled => {
                self.pending.completion.cancel(&ResponseMarks { start: end, output_start: end, end });
            }
            End::Rescheduled => self.pending.reschedule(Some(&self.marks)),
        }
    }
}

/// The error of a request that the model has forgotten.
fn dropped(responses: u32) -> Error {
    let before = if responses > 0 { format!(" after {responses} responses") } else { String::new() };
    Error::internal(format!(
        "the model let go of the request{before} without a final response: return one, or keep its response sender and end \
         with send(flags=TRITONSERVER_RESPONSE_COMPLETE_FINAL)"
    ))
}
