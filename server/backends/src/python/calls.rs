//! Calls from a worker that want an answer: requests to other models, loads, metrics. Each call that is under way has a call
//! channel of its own, which the worker makes and passes on, and a thread here that serves it. The thread ends with the
//! worker, and keeps neither it nor its end waiting.

mod answer;
mod call;
mod exec;
mod executions;
mod metrics;
mod models;
mod thread;

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Wake,
    thread::Thread,
};

use parking_lot::Mutex;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{Shutdown, shutdown},
};
use server_core::{
    backend::{Host, ModelSource},
    batch::Batch,
    custom_metrics::Sender,
    error::{Error, Result},
    tensor::Name,
    trace::Trace,
};

pub(super) use self::executions::MAIN;
use self::{executions::Executions, thread::CallThread};
use super::worker::Shared;

/// Most call channels of one worker. It opens as many as `thread-pool-size` by itself, and more for calls in the middle of
/// calls and for iterators over responses, half of this at most.
const MOST_CHANNELS: usize = 1024;

/// Traces that are noted before those that are over are looked for.
const FORGOTTEN_FROM: usize = 256;

/// The calls of one worker.
pub(super) struct Calls {
    host: Weak<dyn Host>,
    model: Name,
    version: u64,
    lines: Mutex<Lines>,
    executions: Mutex<Executions>,
    /// Traces of requests that the worker has, by number: a request that it makes may be a part of one.
    traces: Mutex<HashMap<u64, Weak<Trace>>>,
}

#[derive(Default)]
struct Lines {
    open: HashMap<u64, Arc<Line>>,
    is_closed: bool,
}

/// One call channel, as others than its thread see it.
struct Line {
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
    /// Gives up that request, which may be over, or yet to come. What was given up stays so.
    fn cancel(&self, request: u64) {
        self.cancelled.fetch_max(request, Ordering::AcqRel);
        self.wake();
    }

    fn is_cancelled(&self) -> bool {
        let cancelled = self.cancelled.load(Ordering::Acquire);
        cancelled == u64::MAX || cancelled == self.current()
    }

    /// Number of the latest request, from 1.
    fn current(&self) -> u64 {
        self.requests.load(Ordering::Acquire)
    }

    /// Another request begins.
    fn begin(&self) {
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
    fn is_settled(&self) -> bool {
        !self.is_readable() && !self.is_changing.load(Ordering::SeqCst)
    }
}

impl Line {
    fn is_readable(&self) -> bool {
        let mut descriptors = [PollFd::new(&self.socket, PollFlags::IN)];
        poll(&mut descriptors, Some(&Timespec::default())).is_ok() && descriptors[0].revents().contains(PollFlags::IN)
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

impl Calls {
    /// The calls of a worker of that model.
    pub(super) fn new(host: Weak<dyn Host>, source: &ModelSource) -> Self {
        Self {
            host,
            model: source.name.as_str().into(),
            version: source.version,
            lines: Mutex::default(),
            executions: Mutex::default(),
            traces: Mutex::default(),
        }
    }

    /// The server, to be asked.
    ///
    /// Errors: it is on its way out.
    fn host(&self) -> Result<Arc<dyn Host>> {
        self.host.upgrade().ok_or_else(|| Error::unavailable("Server is stopping"))
    }

    /// Serves a call channel that the worker has made.
    ///
    /// Errors: there are too many, or the system has no thread.
    pub(super) fn open(&self, number: u64, socket: OwnedFd, shared: &Arc<Shared>) -> Result<()> {
        let failed = |error: std::io::Error| {
            Error::unavailable(format!("cannot serve calls of the Python worker of '{}': {error}", shared.name()))
        };
        let second = socket.try_clone().map_err(failed)?;
        let (requests, cancelled) = (AtomicU64::new(0), AtomicU64::new(0));
        let is_changing = AtomicBool::new(false);
        let line = Arc::new(Line { socket: second, thread: OnceLock::new(), requests, cancelled, is_changing });
        {
            let mut lines = self.lines.lock();
            if lines.is_closed {
                return Ok(());
            }
            if lines.open.len() >= MOST_CHANNELS {
                return Err(Error::unavailable(format!("a Python worker may have {MOST_CHANNELS} calls under way")));
            }
            lines.open.insert(number, line.clone());
        }
        let started = CallThread::start(number, line, socket, shared.clone()).map_err(failed);
        if started.is_err() {
            self.lines.lock().open.remove(&number);
        }
        started
    }

    /// A request on that channel is given up: its number among those of the channel, from 1.
    pub(super) fn cancel(&self, number: u64, request: u64) {
        let line = self.lines.lock().open.get(&number).cloned();
        if let Some(line) = line {
            line.cancel(request);
        }
    }

    /// The worker is gone or about to go: calls under way are given up, and there will be no others.
    pub(super) fn close(&self) {
        let lines: Vec<Arc<Line>> = {
            let mut lines = self.lines.lock();
            lines.is_closed = true;
            lines.open.values().cloned().collect()
        };
        for line in lines {
            let _ = shutdown(&line.socket, Shutdown::Both); // its thread may have closed it
            line.cancel(u64::MAX);
        }
    }

    /// The worker is about to hear of a request that is traced.
    pub(super) fn note_trace(&self, trace: &Arc<Trace>) {
        let mut traces = self.traces.lock();
        if traces.len() >= FORGOTTEN_FROM {
            traces.retain(|_, trace| trace.strong_count() > 0);
        }
        traces.insert(trace.id(), Arc::downgrade(trace));
    }

    /// The part of that trace that a request of the model is, if the trace goes on.
    fn child_of(&self, trace: Option<u64>) -> Option<Arc<Trace>> {
        self.traces.lock().get(&trace?)?.upgrade().map(|trace| trace.child())
    }

    fn forget(&self, number: u64) {
        self.lines.lock().open.remove(&number);
    }

    /// The worker is about to run that batch on the instance's own thread.
    pub(super) fn begin_main(&self, batch: &Batch) {
        self.executions.lock().begin_main(batch);
    }

    /// It has run it. What was to run in the middle of its calls, and did not, is left to be run now.
    pub(super) fn end_main(&self) -> Vec<Batch> {
        self.end(MAIN)
    }

    fn end(&self, execution: u64) -> Vec<Batch> {
        let over = self.executions.lock().end(execution);
        over.into_iter().flat_map(executions::Wait::end).collect()
    }
}
