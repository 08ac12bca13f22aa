//! One call channel, as others than its thread see it.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Wake,
    thread::{self, Thread},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{Shutdown, shutdown},
};
use server_core::custom_metrics::Sender;

/// One call channel, as others than its thread see it.
pub(super) struct Line {
    socket: OwnedFd,
    thread: OnceLock<Thread>,
    /// Requests made through it so far.
    requests: AtomicU64,
    /// Which of them is given up; the greatest number for all.
    cancelled: AtomicU64,
    /// Whether its thread may have taken a change of a metric off the channel, and not made it yet.
    is_changing: AtomicBool,
}

impl Line {
    /// That of a channel with this socket, whose thread is not there yet.
    pub(super) fn new(socket: OwnedFd) -> Self {
        let (requests, cancelled) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { socket, thread: OnceLock::new(), requests, cancelled, is_changing: AtomicBool::new(false) }
    }

    /// The present thread is the one of the channel.
    pub(super) fn is_served_here(&self) {
        let _ = self.thread.set(thread::current()); // the only one that sets it
    }

    /// Its thread is about to take what may be a change of a metric off the channel, or has done what it took.
    pub(super) fn set_changing(&self, is_changing: bool) {
        self.is_changing.store(is_changing, Ordering::SeqCst);
    }

    /// No more comes through it, and what it waits for is given up.
    pub(super) fn close(&self) {
        let _ = shutdown(&self.socket, Shutdown::Both); // its thread may have closed it
        self.cancel(u64::MAX);
    }

    /// Gives up that request, which may be over, or yet to come. What was given up stays so.
    pub(super) fn cancel(&self, request: u64) {
        self.cancelled.fetch_max(request, Ordering::AcqRel);
        self.wake();
    }

    pub(super) fn is_cancelled(&self) -> bool {
        let cancelled = self.cancelled.load(Ordering::Acquire);
        cancelled == u64::MAX || cancelled == self.current()
    }

    /// Number of the latest request, from 1.
    pub(super) fn current(&self) -> u64 {
        self.requests.load(Ordering::Acquire)
    }

    /// Another request begins.
    pub(super) fn begin(&self) {
        self.requests.fetch_add(1, Ordering::AcqRel);
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

impl Sender for Line {
    /// A change that is not made yet is on the channel or with the thread, which says so before it takes one.
    fn has_changes_under_way(&self) -> bool {
        let mut descriptors = [PollFd::new(&self.socket, PollFlags::IN)];
        let is_readable = poll(&mut descriptors, Some(&Timespec::default())).is_ok()
            && descriptors[0].revents().contains(PollFlags::IN);
        is_readable || self.is_changing.load(Ordering::SeqCst)
    }
}

impl Wake for Line {
    fn wake(self: Arc<Self>) {
        Line::wake(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        Line::wake(self);
    }
}
