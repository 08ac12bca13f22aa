//! The requests that a worker has: those of the batch that runs, and those it answers over time through response senders. Each
//! has a slot until the worker has said its last word of it. Threads that make responses never wait here: what a reader has
//! no room for is kept, and the worker's status page says so until there is room again.

mod status;
mod table;
#[cfg(test)]
mod tests;

use std::{
    os::fd::OwnedFd,
    sync::Arc,
    task::Context,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use server_core::{
    batch::Pending,
    error::{Error, Result},
};
use server_shm::Segment;

pub(super) use self::status::{SLOTS, Woken};
use self::{
    status::Status,
    table::{Ending, Open, Table},
};
use super::decode::Word;

/// Requests that a worker has, by slot.
pub(super) struct OpenRequests {
    table: Mutex<Table>,
    /// There are more free slots, or the worker is lost.
    changed: Condvar,
    woken: Arc<Woken>,
}

/// Requests of one batch, by the slots they are in.
pub(super) struct Placed {
    pub(super) slots: Vec<u32>,
    batch: u64,
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
            slot.open = Some(Open::new(pending, placed.batch, is_decoupled, start, sent_at));
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
