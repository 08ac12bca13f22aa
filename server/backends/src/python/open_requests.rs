//! The requests that a worker has: those of the batch that runs, and those it answers over time through response senders. Each
//! has a slot until the worker has said its last word of it. Threads that make responses never wait here: what a reader has
//! no room for is kept, and the worker's status page says so until there is room again.

mod status;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    sync::Arc,
    task::{Context, Waker},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use server_core::{
    batch::Pending,
    completion::{Marks, ResponseMarks},
    error::{Error, Result},
    responder::Reply,
};
use server_shm::Segment;

use self::status::Status;
pub(super) use self::status::{SLOTS, Woken};
use super::decode::Word;
use crate::timed::{Next, Sent, Unsent};

/// How long a model may hold on to a request whose caller has left, after `execute`: then it is over for the server, so that
/// a forgotten response sender keeps no model from being unloaded.
const AFTER_CALLER: Duration = Duration::from_secs(5);

/// Requests that a worker has, by slot.
pub(super) struct OpenRequests {
    table: Mutex<Table>,
    /// There are more free slots, or the worker is lost.
    changed: Condvar,
    woken: Arc<Woken>,
}

struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Slots with something that is due at a certain time: responses that their readers have no room for, or callers that
    /// have left.
    timed: Vec<u32>,
    status: Status,
    batches: u64,
    /// Why the worker takes no more requests.
    lost: Option<Error>,
}

#[derive(Default)]
struct Slot {
    open: Option<Open>,
    /// Says that something happened to the request in this slot; made once.
    waker: Option<Waker>,
}

/// A request that the worker has not said its last word of.
struct Open {
    /// `None` once it has ended for its caller.
    pending: Option<Pending>,
    batch: u64,
    is_decoupled: bool,
    start: Instant,
    input_end: Instant,
    /// When the response before was made.
    sent_at: Instant,
    responses: u32,
    /// Its batch runs.
    is_running: bool,
    /// When its caller was found to have left.
    left_at: Option<Instant>,
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

/// Requests of one batch, by the slots they are in.
pub(super) struct Placed {
    pub(super) slots: Vec<u32>,
    batch: u64,
}

/// A request that has had its last word, to be told to its caller without the lock.
struct Ending {
    pending: Pending,
    end: End,
    marks: Marks,
}

#[expect(clippy::large_enum_variant, reason = "it is told at once, and lies nowhere")]
enum End {
    Reply(Option<Reply>),
    Cancelled,
    Rescheduled,
}

impl OpenRequests {
    /// Errors: there is no memory for the status page, or the system has no descriptors.
    pub(super) fn new() -> Result<Self> {
        let status = Status::new()?;
        let woken = Woken::new()?;
        let table = Table { slots: Vec::new(), free: Vec::new(), timed: Vec::new(), status, batches: 0, lost: None };
        Ok(Self { table: Mutex::new(table), changed: Condvar::new(), woken: Arc::new(woken) })
    }

    /// The page on which the worker reads what became of its requests: a byte for each slot.
    pub(super) fn status_page(&self) -> Arc<Segment> {
        self.table.lock().status.page().clone()
    }

    /// Readable when [`OpenRequests::attend`] has something to do.
    pub(super) fn woken(&self) -> &OwnedFd {
        self.woken.event()
    }

    // === batches ===

    /// Slots for a batch of so many requests, at most [`SLOTS`]. Blocks while there are too few.
    ///
    /// Errors: the worker is lost.
    pub(super) fn reserve(&self, count: usize) -> Result<Placed> {
        let mut table = self.table.lock();
        self.changed.wait_while(&mut table, |table| table.lost.is_none() && table.has_too_few(count));
        if let Some(error) = &table.lost {
            return Err(error.clone());
        }
        table.batches += 1;
        let slots = (0..count).map(|_| table.free_slot()).collect();
        Ok(Placed { slots, batch: table.batches })
    }

    /// Waits until there is no request, so long at most. Returns whether there is none.
    pub(super) fn wait_until_empty(&self, timeout: Duration) -> bool {
        let mut table = self.table.lock();
        let has_some = |table: &mut Table| table.free.len() < table.slots.len();
        !self.changed.wait_while_for(&mut table, has_some, timeout).timed_out() || !has_some(&mut table)
    }

    /// Gives back slots that no request was put into.
    pub(super) fn give_back(&self, placed: &Placed) {
        self.table.lock().free.extend(&placed.slots);
        self.changed.notify_all();
    }

    /// Puts the requests of a batch into their slots.
    pub(super) fn put(
        &self,
        placed: &Placed,
        pending: Vec<Pending>,
        is_decoupled: bool,
        start: Instant,
        sent_at: Instant,
    ) {
        let mut table = self.table.lock();
        let table = &mut *table;
        for (&number, mut pending) in placed.slots.iter().zip(pending) {
            table.status.clear(number);
            let slot = &mut table.slots[number as usize];
            let waker = slot.waker.get_or_insert_with(|| self.woken.waker(number));
            if pending.completion.poll_cancelled(&mut Context::from_waker(waker)).is_ready() {
                table.status.set_cancelled(number);
            }
            slot.open = Some(Open {
                pending: Some(pending),
                batch: placed.batch,
                is_decoupled,
                start,
                input_end: sent_at,
                sent_at,
                responses: 0,
                is_running: true,
                left_at: None,
                held: None,
                behind: None,
            });
        }
    }

    /// Takes those requests of a batch out of their slots that `is_over` says of, by their places in the batch. `None` stands
    /// for one that has ended by itself.
    pub(super) fn take(&self, placed: &Placed, is_over: impl Fn(usize) -> bool) -> Vec<Option<Pending>> {
        let mut table = self.table.lock();
        for (index, &number) in placed.slots.iter().enumerate() {
            let open = table.slots[number as usize].open.as_mut().filter(|open| open.batch == placed.batch);
            if let Some(open) = open.filter(|_| !is_over(index)) {
                open.is_running = false;
                if open.left_at.is_some() {
                    self.woken.add(number); // from now on it is a matter of time
                }
            }
        }
        let taken = placed.slots.iter().enumerate().filter(|(index, _)| is_over(*index)).map(|(_, &number)| {
            let is_of_batch = |open: &Open| open.batch == placed.batch;
            let is_there = table.slots[number as usize].open.as_ref().is_some_and(is_of_batch);
            if is_there { table.remove(number).and_then(|open| open.pending) } else { None }
        });
        let taken = taken.collect();
        drop(table);
        self.changed.notify_all();
        taken
    }

    // === what the worker says of one request ===

    /// The worker said this of the request in that slot.
    pub(super) fn said(&self, number: u32, word: Word, now: Instant) {
        let mut table = self.table.lock();
        let ending = table.said(number, word, now);
        drop(table);
        if let Some(ending) = ending {
            self.changed.notify_all();
            ending.tell();
        }
    }

    /// Does what is due: callers have left, readers have room again, or have been behind for too long.
    pub(super) fn attend(&self, now: Instant) {
        let mut numbers = self.woken.take();
        let mut table = self.table.lock();
        numbers.extend(table.timed.iter().filter(|number| table.until(**number).is_some_and(|until| until <= now)));
        let mut endings = Vec::new();
        for number in numbers {
            endings.extend(table.woken(number, now));
        }
        drop(table);
        if !endings.is_empty() {
            self.changed.notify_all();
        }
        endings.into_iter().for_each(Ending::tell);
    }

    /// How long [`OpenRequests::attend`] may wait to be called, if nothing else happens.
    pub(super) fn patience(&self, now: Instant) -> Option<Duration> {
        let table = self.table.lock();
        let until = table.timed.iter().filter_map(|number| table.until(*number)).min();
        until.map(|until| until.saturating_duration_since(now))
    }

    /// The worker is gone: all its requests end with that error, and it takes no more.
    pub(super) fn lost(&self, error: &Error) {
        let mut table = self.table.lock();
        table.lost.get_or_insert_with(|| error.clone());
        table.timed.clear();
        let open: Vec<Open> = table.slots.iter_mut().filter_map(|slot| slot.open.take()).collect();
        drop(table);
        self.changed.notify_all();
        let now = Instant::now();
        for open in open {
            let marks = open.marks(now);
            if let Some(pending) = open.pending {
                pending.finish(Some(Err(error.clone())), &marks);
            }
        }
    }
}

impl Table {
    fn has_too_few(&self, count: usize) -> bool {
        self.free.len() + SLOTS.saturating_sub(self.slots.len()) < count.min(SLOTS)
    }

    fn free_slot(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX) // there are far fewer
        })
    }

    fn until(&self, number: u32) -> Option<Instant> {
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
    fn remove(&mut self, number: u32) -> Option<Open> {
        let open = self.slots.get_mut(number as usize)?.open.take()?;
        if open.behind.is_some() || open.left_at.is_some() {
            self.timed.retain(|other| *other != number);
        }
        self.free.push(number);
        Some(open)
    }

    fn said(&mut self, number: u32, word: Word, now: Instant) -> Option<Ending> {
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
    fn woken(&mut self, number: u32, now: Instant) -> Option<Ending> {
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
    fn marks(&self, now: Instant) -> Marks {
        Marks { start: self.start, input_end: self.input_end, output_start: now, end: now }
    }

    /// How it ends, if it has not yet.
    fn end(mut self, last: Word, now: Instant) -> Option<Ending> {
        let marks = self.marks(now);
        let held = self.held.take();
        let pending = self.pending?;
        let is_cancelled = || self.is_decoupled && pending.completion.is_cancelled();
        let end = match last {
            Word::Rescheduled => End::Rescheduled,
            _ if is_cancelled() => End::Cancelled,
            Word::Response(reply, _) => End::Reply(Some(reply)),
            Word::Ended => End::Reply(held),
            Word::Dropped => End::Reply(Some(held.unwrap_or_else(|| Err(dropped(self.responses))))),
        };
        Some(Ending { pending, end, marks })
    }
}

impl Ending {
    fn tell(mut self) {
        let end = self.marks.end;
        match self.end {
            End::Reply(reply) => self.pending.finish(reply, &self.marks),
            End::Cancelled => {
                self.pending.completion.cancel(&ResponseMarks { start: end, output_start: end, end });
            }
            End::Rescheduled => self.pending.reschedule(),
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
