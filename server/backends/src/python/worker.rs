//! One running worker: a process with its channels, from start to end.

use std::{
    os::fd::AsFd,
    path::PathBuf,
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use server_core::{
    backend::{Host, ModelSource},
    error::{Error, Result},
};
use server_shm::{Segment, SegmentPool};

use super::{
    channel::{self, Channel},
    exchange::{Failure, ask, failure, read_answer},
    interpreter::{self, Interpreter},
    marshal::{Value, Writer},
    monitor::{Monitor, Pipes},
    open_requests::OpenRequests,
    probe::{Probe, Probes},
    process::Process,
    rings::{self, Rings},
    settings::Memory,
    shared::Shared,
    stub_files,
    time_limits::{Stage, TimeLimits},
    wire::kind,
};

/// How long a worker may take to end by itself after it was told to, before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// How often it is looked whether a worker that still has requests is there.
const LOOK: Duration = Duration::from_secs(1);

/// What is needed to start a worker.
pub(super) struct Start<'a> {
    pub(super) interpreter: &'a Interpreter,
    /// Folder with the worker's program.
    pub(super) stub: &'a std::path::Path,
    pub(super) source: &'a ModelSource,
    pub(super) host: &'a Weak<dyn Host>,
    pub(super) memory: &'a Memory,
    pub(super) pool: &'a Arc<SegmentPool>,
    pub(super) time_limits: TimeLimits,
    /// Bytes that it may use.
    pub(super) memory_limit: Option<u64>,
    /// Whether it is given the extension module.
    pub(super) has_extension: bool,
}

/// A running worker. Dropping it kills the process.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    execute: Channel,
    /// Until the worker has said whether it uses them.
    rings: Option<Rings>,
    process: Arc<Process>,
    time_limits: TimeLimits,
    stage: Stage,
    /// Until the process is found to have ended.
    monitor: Option<Monitor>,
    program: PathBuf,
    has_answered: bool,
    /// Through which the model is asked whether it is ready, if it has a word of its own.
    probe: Option<Arc<Probe>>,
}

impl Worker {
    /// Starts the process. It has not looked at the model yet.
    ///
    /// Errors: the system's.
    pub(super) fn start(start: &Start<'_>) -> Result<Self> {
        let (execute, execute_theirs) = channel::pair(start.pool)?;
        let (events, events_theirs) = channel::pair(start.pool)?;
        set_socket_timeout(&execute_theirs, Timeout::Recv, Some(start.memory.idle_for))
            .map_err(|errno| Error::internal(format!("cannot set up a channel to a Python worker: {errno}")))?;
        let requests = OpenRequests::new()?;
        let status = requests.status_page();
        let mut spawn = start.interpreter.spawn();
        let failed = |error: std::io::Error| {
            let program = start.interpreter.program.display();
            Error::internal(format!("cannot start the Python interpreter '{program}': {error}"))
        };
        spawn.argument(start.stub.join(stub_files::MAIN));
        let status_theirs = status.fd().try_clone_to_owned().map_err(failed)?;
        let rings = start.has_extension.then(Rings::new).transpose()?;
        let rings_theirs = rings.as_ref().map(|rings| rings.fd().try_clone_to_owned()).transpose().map_err(failed)?;
        let extension = rings.as_ref().map(|_| rings::extension()).transpose().map_err(failed)?;
        for descriptor in [Some(execute_theirs), Some(events_theirs), Some(status_theirs), rings_theirs, extension] {
            let number = descriptor.map_or(-1, |descriptor| spawn.pass(descriptor));
            spawn.argument(number.to_string());
        }
        let memory = start.memory;
        spawn.argument(&memory.prefix).argument(memory.smallest.to_string()).argument(memory.step.to_string());
        spawn.argument(&start.source.name);
        let spawned = spawn.run().map_err(failed)?;
        let shared = Shared::new(start.source, start.host.clone(), start.pool.clone(), start.memory, requests);
        let shared = Arc::new(shared);
        let pipes = Pipes { stdout: spawned.stdout, stderr: spawned.stderr };
        let process = Arc::new(spawned.process);
        let monitor = Monitor::start(shared.clone(), process.clone(), events, pipes, start.memory_limit)?;
        let program = start.interpreter.program.clone();
        Ok(Self {
            shared,
            execute,
            rings,
            process,
            monitor: Some(monitor),
            program,
            time_limits: start.time_limits,
            stage: Stage::Start,
            has_answered: false,
            probe: None,
        })
    }

    /// Waits until its interpreter is there. From here on they use the rings, if it could load the extension module.
    pub(super) fn begin(&mut self) -> Result<(), Failure> {
        let mut message = Writer::default();
        message.tuple(1);
        message.int(kind::START);
        let uses_rings = self.tell(Stage::Start, message, |value| Ok(*value == Value::Bool(true)))?;
        if let Some(rings) = self.rings.take().filter(|_| uses_rings) {
            self.execute.use_rings(rings);
        }
        Ok(())
    }

    /// Has it do what belongs to that stage, in that stage's time.
    pub(super) fn tell<R>(
        &mut self,
        stage: Stage,
        message: Writer,
        read: impl FnOnce(&Value<'_>) -> Result<R>,
    ) -> Result<R, Failure> {
        self.enter(stage).map_err(Failure::Lost)?;
        self.ask(&message.into_bytes(), &[], |value, _, _| read(value))
    }

    /// What it is told from here on belongs to that stage, with its limit.
    ///
    /// Errors: the system's.
    pub(super) fn enter(&mut self, stage: Stage) -> Result<()> {
        self.stage = stage;
        let limit = self.time_limits.of(stage);
        let limit = limit.map(|limit| (limit, self.time_limits.exceeded(self.shared.name(), stage, limit)));
        self.execute.set_limit(limit)
    }

    /// Has it do something, and reads what it answers. Blocks until it has.
    pub(super) fn ask<R>(
        &mut self,
        message: &[u8],
        segments: &[Arc<Segment>],
        read: impl FnOnce(&Value<'_>, &[u8], &Shared) -> Result<R>,
    ) -> Result<R, Failure> {
        let answer = ask(&mut self.execute, &self.shared, message, segments, read);
        let answer = self.explain(answer)?;
        self.has_answered |= self.stage != Stage::Start;
        Ok(answer)
    }

    /// Says whether it and who waits for it may look for the next message for a moment before they sleep.
    pub(super) fn set_may_spin(&mut self, may_spin: bool) -> Result<(), Failure> {
        self.execute.set_may_spin(may_spin).map_err(Failure::Lost)
    }

    /// Gives it something to do, whose answer is fetched later: answers come in the order of what was sent.
    pub(super) fn send(&mut self, message: &[u8], segments: &[Arc<Segment>]) -> Result<(), Failure> {
        let sent = self.execute.send(message, segments).map_err(failure);
        self.explain(sent)
    }

    /// Sleeps until so many answers are there, for that time at most.
    pub(super) fn wait_for_answers(&mut self, answers: u32, time: Duration) -> Result<(), Failure> {
        let waited = self.execute.wait_for(answers, time).map_err(failure);
        self.explain(waited)
    }

    /// Whether the next answer is there within that time, and the worker too.
    pub(super) fn answers_within(&mut self, time: Duration) -> bool {
        self.execute.is_readable_within(time)
    }

    /// The next answer, if it is there already or `waits`.
    pub(super) fn next_answer<R>(
        &mut self,
        waits: bool,
        read: impl FnOnce(&Value<'_>, &[u8], &Shared) -> Result<R>,
    ) -> Result<Option<R>, Failure> {
        let outputs = &self.shared.outputs;
        let answer = if waits { self.execute.receive(outputs).map(Some) } else { self.execute.try_receive(outputs) };
        let answer = answer.map_err(failure).and_then(|answer| {
            let read = |answer| read_answer(&answer, &self.shared, read);
            answer.map(read).transpose()
        });
        self.explain(answer)
    }

    /// A worker that is gone has ended in some way.
    fn explain<R>(&mut self, result: Result<R, Failure>) -> Result<R, Failure> {
        match result {
            Err(Failure::Gone) => Err(Failure::Lost(self.lost())),
            other => other,
        }
    }

    /// Why nothing comes any more.
    pub(super) fn lost(&mut self) -> Error {
        let exit = self.process.wait_timeout(Duration::from_secs(1));
        let how = exit.map_or_else(|| "it closed its channel".to_owned(), |exit| exit.to_string());
        let how = self.shared.killed_because.get().cloned().unwrap_or(how);
        let not_healthy = || format!("Stub process '{}' is not healthy. ({how})", self.shared.name());
        if matches!(self.stage, Stage::Execute | Stage::Finalize) {
            return Error::internal(not_healthy()); // what it said is in the log, and none of the caller's business
        }
        let not_healthy = self.has_answered.then(not_healthy);
        self.monitor = None; // it reads all that is left to read before it ends
        let said = self.shared.recent_output.text();
        Error::internal(match not_healthy {
            None => interpreter::start_failure(&self.program, &how, &said),
            Some(problem) if said.is_empty() => problem,
            Some(problem) => format!("{problem} It said last:\n{said}"),
        })
    }

    /// Gives it a channel through which its model is asked whether it is ready, which it answers at any time from here on.
    ///
    /// Errors: the system's, or the worker is gone.
    pub(super) fn open_probe(&mut self, probes: &Probes) -> Result<(), Failure> {
        let (ours, theirs) = self.execute.pair().map_err(Failure::Lost)?;
        let mut message = Writer::default();
        message.tuple(1);
        message.int(kind::READY);
        let sent = self.execute.send_with_descriptor(&message.into_bytes(), theirs.as_fd()).map_err(failure);
        self.explain(sent)?;
        let answer = self.execute.receive(&self.shared.outputs).map_err(failure);
        let answer = answer.and_then(|answer| read_answer(&answer, &self.shared, |_, _, _| Ok(())));
        self.explain(answer)?;
        let probe = Arc::new(Probe::new(ours, &self.shared).map_err(Failure::Lost)?);
        probes.add(&probe);
        self.probe = Some(probe);
        Ok(())
    }

    /// Its process.
    pub(super) fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// Has it end once all of its requests are over; another takes what comes.
    pub(super) fn end_after_its_requests(mut self) {
        let model = self.shared.model_name.clone();
        let end = move || {
            while !self.shared.requests.wait_until_empty(LOOK) {
                if self.shared.is_gone() {
                    let reason = self.lost();
                    return self.shared.requests.lost(&reason);
                }
            }
            self.end();
        };
        if let Err(error) = thread::Builder::new().name(format!("{model} replaced")).spawn(end) {
            tracing::error!(%error, "no thread to end a worker of '{model}'; it was killed");
        }
    }

    /// Has it finalize the model and end; kills it if it takes too long.
    pub(super) fn end(mut self) {
        let mut message = Writer::default();
        message.tuple(1);
        message.int(kind::FINALIZE);
        match self.tell(Stage::Finalize, message, |_| Ok(())) {
            Ok(()) => {}
            Err(Failure::Refused(text)) => {
                tracing::error!(model = self.shared.model_name, "failed to finalize '{}': {text}", self.shared.name());
            }
            Err(Failure::Gone) => tracing::error!(model = self.shared.model_name, "{}", self.lost()),
            Err(Failure::Lost(error)) => {
                tracing::error!(model = self.shared.model_name, "{error}");
                return; // it is killed
            }
        }
        self.process.wait_timeout(GRACE);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.process.end(Duration::ZERO); // before the monitor ends, which reads all that is left to read
    }
}
