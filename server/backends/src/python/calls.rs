//! Calls from a worker that want an answer: requests to other models, loads, metrics. Each call that is under way has a call
//! channel of its own, which the worker makes and passes on, and a thread here that serves it. The thread ends with the
//! worker, and keeps neither it nor its end waiting.

mod answer;
mod call;
mod exec;
mod executions;
mod line;
mod metrics;
mod models;
pub(super) mod thread;

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use server_core::{
    backend::{Host, ModelSource},
    batch::Batch,
    error::{Error, Result},
    tensor::Name,
    trace::Trace,
};

pub(super) use self::executions::MAIN;
use self::{executions::Executions, line::Line};

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

    /// Notes a call channel that the worker has made; `None` if it is gone already.
    ///
    /// Errors: there are too many.
    fn add(&self, number: u64, socket: OwnedFd) -> Result<Option<Arc<Line>>> {
        let mut lines = self.lines.lock();
        if lines.is_closed {
            return Ok(None);
        }
        if lines.open.len() >= MOST_CHANNELS {
            return Err(Error::unavailable(format!("a Python worker may have {MOST_CHANNELS} calls under way")));
        }
        let line = Arc::new(Line::new(socket));
        lines.open.insert(number, line.clone());
        Ok(Some(line))
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
        lines.iter().for_each(|line| line.close());
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
