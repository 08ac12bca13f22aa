//! The status page of a worker, on which it reads without asking what became of its requests; and the list of slots to look at,
//! which wakers write: they may be called from any thread, in the middle of anything.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, atomic::Ordering},
    task::{Wake, Waker},
};

use parking_lot::Mutex;
use rustix::{
    event::{EventfdFlags, eventfd},
    io::{read, write},
};
use server_core::error::{Error, Result};
use server_shm::Segment;

/// Slots of the status page: requests that a worker has at the same time.
pub(in super::super) const SLOTS: usize = 4096;

/// Bit of a slot's byte: the caller has left, nobody reads further responses.
const CANCELLED: u8 = 1;

/// Bit of a slot's byte: its reader is behind, the next response has to wait.
const FULL: u8 = 2;

/// The page. Written under the lock of the table.
pub(super) struct Status(Arc<Segment>);

impl Status {
    pub(super) fn new() -> Result<Self> {
        Segment::create("triton_python_backend_status", SLOTS).map(Self)
    }

    pub(super) fn page(&self) -> &Arc<Segment> {
        &self.0
    }

    pub(super) fn clear(&self, slot: u32) {
        self.change(slot, |_| 0);
    }

    pub(super) fn set_cancelled(&self, slot: u32) {
        self.change(slot, |bits| bits | CANCELLED);
    }

    pub(super) fn set_full(&self, slot: u32, is_full: bool) {
        self.change(slot, |bits| if is_full { bits | FULL } else { bits & !FULL });
    }

    fn change(&self, slot: u32, change: impl FnOnce(u8) -> u8) {
        if let Some(byte) = self.0.atomic_u8(slot as usize) {
            byte.store(change(byte.load(Ordering::Relaxed)), Ordering::Release);
        }
    }
}

/// Slots whose requests may have been left by their callers, or may have room again.
pub(in super::super) struct Woken {
    slots: Mutex<Vec<u32>>,
    event: OwnedFd,
}

impl Woken {
    pub(super) fn new() -> Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| Error::internal(format!("cannot attend to a Python worker: {error}")))?;
        Ok(Self { slots: Mutex::default(), event })
    }

    /// Readable once there are such slots.
    pub(super) fn event(&self) -> &OwnedFd {
        &self.event
    }

    /// The slots since the last time.
    pub(super) fn take(&self) -> Vec<u32> {
        let mut slots = self.slots.lock();
        if !slots.is_empty() {
            let _ = read(&self.event, &mut [0; 8]); // it can only be empty, which is what is wanted
        }
        std::mem::take(&mut slots)
    }

    /// Adds that slot to the list.
    pub(super) fn add(&self, slot: u32) {
        let mut slots = self.slots.lock();
        slots.push(slot);
        if slots.len() == 1 {
            let _ = write(&self.event, &1u64.to_ne_bytes()); // it can only be full, which says the same
        }
    }

    /// Adds that slot to the list when it is woken.
    pub(super) fn waker(self: &Arc<Self>, slot: u32) -> Waker {
        Waker::from(Arc::new(SlotWaker { slot, woken: self.clone() }))
    }
}

struct SlotWaker {
    slot: u32,
    woken: Arc<Woken>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.woken.add(self.slot);
    }
}
