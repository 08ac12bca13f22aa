//! The thread of one call channel: it reads a call, has the server do it, answers, and reads the next.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use server_core::{
    batch::Batch,
    custom_metrics::Sender,
    error::{Error, Result},
};

use super::super::{
    channel::{Broken, Channel},
    encode::Message,
    run,
    worker::{self, Shared},
};
use super::{
    Line, answer,
    call::Call,
    exec::Stream,
    metrics::{MetricCall, Metrics},
};

/// The thread, with what belongs to its channel.
pub(super) struct CallThread {
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
    /// Starts it.
    ///
    /// Errors: the system has none.
    pub(super) fn start(number: u64, line: Arc<Line>, socket: OwnedFd, shared: Arc<Shared>) -> io::Result<()> {
        let name = format!("{} call", shared.name());
        let channel = Channel::new(socket, shared.leases.pool().clone());
        let metrics = Metrics::default();
        let of_thread = Self { number, line, shared, channel, stream: None, metrics, brings_changes: false };
        thread::Builder::new().name(name).spawn(move || of_thread.run()).map(drop)
    }

    fn run(mut self) {
        let _ = self.line.thread.set(thread::current()); // the only one that sets it
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
            self.line.is_changing.store(false, Ordering::SeqCst);
            self.channel.is_readable_within(Duration::MAX);
            self.line.is_changing.store(true, Ordering::SeqCst); // before it is off the channel: see `Line::is_settled`
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
        let answer = worker::ask(&mut self.channel, shared, &memory, &running.segments, run::outcomes);
        run::end(running, answer, shared);
    }

    /// The call does not wait any more.
    pub(super) fn end_wait(&mut self) {
        let wait = self.shared.calls.executions.lock().answered(self.number);
        for batch in wait.into_iter().flat_map(super::executions::Wait::end) {
            self.run_in_call(batch);
        }
    }
}

impl Drop for CallThread {
    fn drop(&mut self) {
        self.stream = None; // its request is cancelled
        let wait = self.shared.calls.executions.lock().answered(self.number);
        for batch in wait.into_iter().flat_map(super::executions::Wait::end) {
            run::gone(batch, &self.shared);
        }
        self.shared.calls.forget(self.number);
    }
}
