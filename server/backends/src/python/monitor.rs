//! The thread that watches over one worker: it reads what the worker says of itself at any time, on the events channel and on
//! its outputs, and never waits for anything else.

use std::{
    io,
    os::fd::OwnedFd,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Instant,
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    fs::{OFlags, Timespec, fcntl_getfl, fcntl_setfl},
    io::{Errno, read, write},
};
use server_core::{
    error::{Error, Result},
    log_settings::PRINTED,
};

use super::{
    calls::thread::CallThread,
    channel::{Broken, Channel},
    lines::{Lines, Record},
    memory_limit::MemoryLimit,
    process::Process,
    shared::Shared,
};

/// Most events taken before outputs and readers have their turn.
const BURST: usize = 256;

/// The monitor, as its worker holds it. Dropping it ends the thread.
pub(super) struct Monitor {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// What a worker writes.
pub(super) struct Pipes {
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

impl Monitor {
    /// Starts the thread.
    ///
    /// Errors: the system has none.
    pub(super) fn start(
        shared: Arc<Shared>,
        process: Arc<Process>,
        events: Channel,
        pipes: Pipes,
        memory_limit: Option<u64>,
    ) -> Result<Self> {
        let prepare = || {
            let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
            let pipes = [Pipe::new(pipes.stdout, false)?, Pipe::new(pipes.stderr, true)?];
            let name = format!("{} monitor", shared.name());
            let of_thread = Of {
                shared: shared.clone(),
                process,
                has_ended: false,
                memory_limit: memory_limit.map(MemoryLimit::new),
                events: Some(events),
                stop: stop.clone(),
                pipes,
            };
            let thread = thread::Builder::new().name(name).spawn(move || of_thread.run())?;
            Ok(Self { stop, thread: Some(thread) })
        };
        prepare().map_err(|error: io::Error| {
            Error::internal(format!("cannot attend to the Python worker of '{}': {error}", shared.name()))
        })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = write(&*self.stop, &1u64.to_ne_bytes()); // it can only be full, which says the same
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that attends to a Python worker ended by panic");
        }
    }
}

struct Of {
    shared: Arc<Shared>,
    process: Arc<Process>,
    has_ended: bool,
    /// Until it was exceeded.
    memory_limit: Option<MemoryLimit>,
    /// Until the worker has closed it.
    events: Option<Channel>,
    stop: Arc<OwnedFd>,
    pipes: [Pipe; 2],
}

/// How often an output is read before events and the other output have their turn: a model may print without end.
const READS_AT_ONCE: usize = 16;

/// One of the worker's outputs.
struct Pipe {
    /// Until all ends of it are closed.
    fd: Option<OwnedFd>,
    is_stderr: bool,
    lines: Lines,
}

impl Of {
    fn run(mut self) {
        loop {
            let due = self.wait();
            if due.may_have_ended {
                // The processes that it had started hold its ends of the channels open: they are killed with this.
                self.has_ended = self.process.exit().is_some();
            }
            if due.has_output || due.is_over {
                for pipe in &mut self.pipes {
                    pipe.read(&self.shared, due.is_over);
                }
            }
            if due.has_event {
                self.events(if due.is_over { usize::MAX } else { BURST }); // at the end all that is left
            }
            self.shared.requests.attend(Instant::now());
            self.check_memory(Instant::now());
            if due.is_over {
                self.shared.calls.close();
                return;
            }
        }
    }

    /// Kills a worker that uses too much memory.
    fn check_memory(&mut self, now: Instant) {
        let Some(limit) = &mut self.memory_limit else { return };
        if let Some(problem) = limit.exceeded(self.process.pid(), now) {
            let _ = self.shared.killed_because.set(problem); // said once
            self.memory_limit = None;
            self.process.kill_group();
        }
    }

    /// Waits until there is something to do.
    fn wait(&self) -> Due {
        let requests = &self.shared.requests;
        let mut descriptors =
            vec![PollFd::new(&*self.stop, PollFlags::IN), PollFd::new(requests.woken(), PollFlags::IN)];
        descriptors.extend(self.events.iter().map(|events| PollFd::from_borrowed_fd(events.as_fd(), PollFlags::IN)));
        descriptors.extend(self.pipes.iter().filter_map(|pipe| Some(PollFd::new(pipe.fd.as_ref()?, PollFlags::IN))));
        let end = if self.has_ended { None } else { self.process.ended_fd() };
        descriptors.extend(end.map(|end| PollFd::from_borrowed_fd(end, PollFlags::IN)));
        let now = Instant::now();
        let memory = self.memory_limit.as_ref().map(|limit| limit.patience(now));
        let patience = [requests.patience(now), memory].into_iter().flatten().min();
        let patience = patience.and_then(|patience| Timespec::try_from(patience).ok());
        match poll(&mut descriptors, patience.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "cannot attend to the Python worker of '{}'", self.shared.name());
                return Due { is_over: true, has_event: false, has_output: false, may_have_ended: false };
            }
        }
        let is_ready = |descriptor: &PollFd<'_>| !descriptor.revents().is_empty();
        let outputs = if self.events.is_some() { 3 } else { 2 };
        Due {
            is_over: is_ready(&descriptors[0]),
            has_event: self.events.is_some() && is_ready(&descriptors[2]),
            has_output: descriptors[outputs..].iter().any(is_ready),
            may_have_ended: end.is_some() && descriptors.last().is_some_and(is_ready),
        }
    }

    /// Takes the events that are there, so many at most.
    fn events(&mut self, most: usize) {
        let Some(events) = &mut self.events else { return };
        let shared = &self.shared;
        for _ in 0..most {
            let done = match events.try_receive(&shared.outputs) {
                Ok(Some(message)) => message.read().and_then(|(message, _)| shared.event(&message)),
                Ok(None) => return,
                Err(Broken::Closed) => {
                    self.events = None;
                    shared.calls.close();
                    shared.gone();
                    return;
                }
                Err(Broken::Failed(error)) => Err(error),
            };
            let done = done.and_then(|call_channel| {
                let Some(number) = call_channel else { return Ok(()) };
                let socket = events.receive_descriptor().map_err(|broken| match broken {
                    Broken::Closed => Error::internal("a Python worker announced a call and ended"),
                    Broken::Failed(error) => error,
                })?;
                CallThread::start(number, socket, shared)
            });
            if let Err(error) = done {
                tracing::error!(%error, "an event of the Python worker of '{}' is lost", shared.name());
            }
        }
    }
}

/// What the monitor has to do.
struct Due {
    is_over: bool,
    may_have_ended: bool,
    has_event: bool,
    has_output: bool,
}

impl Pipe {
    fn new(fd: OwnedFd, is_stderr: bool) -> Result<Self, Errno> {
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        Ok(Self { fd: Some(fd), is_stderr, lines: Lines::default() })
    }

    /// Reads what is there, and hands on what is complete, or all at the end.
    fn read(&mut self, shared: &Shared, is_over: bool) {
        let mut records = Vec::new();
        let mut bytes = [0; 16 << 10];
        for _ in 0..READS_AT_ONCE {
            let Some(fd) = &self.fd else { break };
            match read(fd, &mut bytes) {
                Ok(0) => self.fd = None,
                Ok(length) => self.lines.push(&bytes[..length], &mut records),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => self.fd = None,
            }
        }
        if is_over || self.fd.is_none() {
            self.lines.flush(&mut records);
        }
        let model = &shared.model_name;
        for record in records {
            if self.is_stderr {
                let (Record::Line(text) | Record::Traceback(text)) = &record;
                shared.recent_output.add(text);
            }
            let (Record::Line(text) | Record::Traceback(text)) = record;
            if self.is_stderr {
                tracing::warn!(target: PRINTED, model, "{text}");
            } else {
                tracing::info!(target: PRINTED, model, "{text}");
            }
        }
    }
}
