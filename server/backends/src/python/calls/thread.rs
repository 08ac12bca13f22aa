//! The thread of one call channel: it reads a call, has the server do it, answers, and reads the next.

use std::{io, os::fd::OwnedFd, sync::Arc, thread, time::Duration};

use server_core::{
    backend::Responses,
    batch::Batch,
    custom_metrics::Sender,
    error::{Error, Result},
};

use super::super::{
    channel::{Broken, Channel},
    encode::Message,
    exchange, run,
    shared::Shared,
};
use super::{
    answer,
    call::Call,
    executions::Wait,
    line::Line,
    metrics::{MetricCall, Metrics},
};

/// The responses of a request, one after the other.
pub(super) struct Stream(pub(super) Box<dyn Responses>);

/// The thread, with what belongs to its channel.
pub(in crate::python) struct CallThread {
    pub(super) number: u64,
    pub(super) line: Arc<Line>,
    pub(super) shared: Arc<Shared>,
    channel: Channel,
    /// The responses of the last request, while there are more.
    pub(super) stream: Option<Stream>,
    metrics: Metrics,
    /// Whether changes of metrics come here.
    brings_changes: bool,
}

impl CallThread {
    /// Serves a call channel that the worker has made.
    ///
    /// Errors: there are too many, or the system has no thread.
    pub(in crate::python) fn start(number: u64, socket: OwnedFd, shared: &Arc<Shared>) -> Result<()> {
        let failed = |error: io::Error| {
            Error::unavailable(format!("cannot serve calls of the Python worker of '{}': {error}", shared.name()))
        };
        let second = socket.try_clone().map_err(failed)?;
        let Some(line) = shared.calls.add(number, second)? else { return Ok(()) };
        let channel = Channel::new(socket, shared.leases.pool().clone());
        let (shared, metrics) = (shared.clone(), Metrics::default());
        let name = format!("{} call", shared.name());
        // dropped with its number if there is no thread for it
        let of_thread = Self { number, line, shared, channel, stream: None, metrics, brings_changes: false };
        thread::Builder::new().name(name).spawn(move || of_thread.run()).map(drop).map_err(failed)
    }

    fn run(mut self) {
        self.line.is_served_here();
        loop {
            let call = match self.receive() {
                Ok(Some(call)) => call,
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(%error, "a call of the Python worker of '{}' is lost", self.shared.name());
                    break;
                }
            };
            let Some(message) = self.answer(call) else { continue };
            if self.channel.send(&message.writer.into_bytes(), &message.segments).is_err() {
                self.shared.leases.release(message.handles); // the worker has not heard of them
                break;
            }
        }
    }

    /// The next call; `None` if there will be none.
    fn receive(&mut self) -> Result<Option<Call>> {
        if self.brings_changes {
            self.line.set_changing(false);
            self.channel.is_readable_within(Duration::MAX);
            self.line.set_changing(true); // before it is off the channel
        }
        let shared = &self.shared;
        let message = match self.channel.receive(&shared.outputs) {
            Ok(message) => message,
            Err(Broken::Closed) => return Ok(None),
            Err(Broken::Failed(error)) => return Err(error),
        };
        let (value, appended) = message.read()?;
        let call = Call::read(&value, &mut shared.decoder())?;
        shared.release_appended(appended)?;
        Ok(Some(call))
    }

    /// Does what a call asks for. Returns the answer, if the worker waits for one.
    fn answer(&mut self, call: Call) -> Option<Message> {
        let shared = self.shared.clone();
        let calls = &shared.calls;
        let failed = |error: Error| {
            let instance = shared.name();
            answer::failed(&error, &format!("Failed to process the request for model '{instance}', message: "))
        };
        if !matches!(call, Call::Metric(_)) {
            self.line.set_changing(false);
        }
        let done = match call {
            Call::Exec { execution, trace, wants_all, mut request } => {
                request.trace = self.shared.calls.child_of(trace);
                return Some(self.exec(execution, wants_all, *request));
            }
            Call::Next => return Some(self.next()),
            Call::Cancel => {
                self.cancel();
                Ok(())
            }
            Call::Metric(call) => match self.metric(call) {
                Ok(answer) => return answer,
                Err(error) => Err(error),
            },
            Call::Load { name, config, files } => calls.load(&name, config, files),
            Call::Unload { name, unload_dependents } => calls.unload(&name, unload_dependents),
            Call::IsReady { name, version } => {
                return Some(calls.is_ready(&name, &version).map_or_else(failed, answer::yes));
            }
        };
        Some(done.map_or_else(failed, |()| answer::done()))
    }

    /// Does what the worker wants of metrics; from the first time on a metrics page waits for changes that are on this channel.
    fn metric(&mut self, call: MetricCall) -> Result<Option<Message>> {
        if !self.brings_changes {
            let sender: Arc<dyn Sender> = self.line.clone();
            self.shared.calls.host()?.custom_metrics().await_changes_of(Arc::downgrade(&sender));
            self.brings_changes = true;
        }
        self.metrics.answer(call, &self.shared.calls)
    }

    /// Runs a batch in the middle of the call that the worker waits for.
    pub(super) fn run_in_call(&mut self, batch: Batch) {
        let mut batches = vec![batch];
        while let Some(batch) = batches.pop() {
            let execution = self.shared.calls.executions.lock().begin(&batch);
            self.run_batch(batch, execution);
            batches.extend(self.shared.calls.end(execution));
        }
    }

    fn run_batch(&mut self, batch: Batch, execution: u64) {
        let shared = &self.shared;
        let mut memory = Vec::new();
        let Some(running) = run::begin(batch, Some(execution), &mut memory, shared) else { return };
        let answer = exchange::ask(&mut self.channel, shared, &memory, &running.segments, run::outcomes);
        run::end(running, answer, shared);
    }

    /// The call does not wait any more.
    pub(super) fn end_wait(&mut self) {
        let wait = self.shared.calls.executions.lock().answered(self.number);
        for batch in wait.into_iter().flat_map(Wait::end) {
            self.run_in_call(batch);
        }
    }
}

impl Drop for CallThread {
    fn drop(&mut self) {
        self.stream = None; // its request is cancelled
        let wait = self.shared.calls.executions.lock().answered(self.number);
        for batch in wait.into_iter().flat_map(Wait::end) {
            run::gone(batch, &self.shared);
        }
        self.shared.calls.forget(self.number);
    }
}
