//! The server's process as `up` keeps it running: what it is started with, when it is replaced or stopped, and what the user
//! hears of it. The supervisor itself is the agent's (`triton_agent::supervise`).

use std::{
    collections::BTreeSet,
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::Signal;
use tokio::{
    process::{ChildStderr, ChildStdout},
    sync::{mpsc, watch},
    task::JoinSet,
};
use triton_agent::{
    Agent,
    plan::startup_models,
    supervise::{
        Backoff, End, Next, Order, Outcome, Policy, Process, Program, Reaping, Restart, Stopped, Then, supervise,
    },
};

use super::{log::Log, ports::Ports};

/// A server is started again whatever its end: only the user gives it up.
const POLICY: Policy = Policy {
    restart: Restart::Always,
    backoff: Some(Backoff {
        first: Duration::from_secs(1),
        longest: Duration::from_secs(30),
        healthy_after: Duration::from_secs(60),
    }),
    limit: None,
};
/// What a server gets beyond its exit timeout before it is killed.
const GRACE: Duration = Duration::from_secs(5);
/// How long a starting server waits for models to be fetched; those that come later are loaded then.
const FETCH_WAIT: Duration = Duration::from_secs(1);
/// How long the output of a process that has ended is read: processes it started may hold it open.
const OUTPUT_WAIT: Duration = Duration::from_secs(1);

/// What a server process is started with. A change starts another process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) flags: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) ports: Ports,
    pub(crate) exit_timeout: Duration,
}

/// What the models are, as far as a start needs to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Startup {
    /// Models without which the server is not ready.
    pub(crate) required: BTreeSet<String>,
    /// The manifest they are of.
    pub(crate) manifest_hash: String,
}

/// Where the process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Status {
    /// Not started yet.
    #[default]
    Waiting,
    /// It runs; whether it is ready, it says itself.
    Running,
    /// It was asked to end.
    Stopping,
    /// It ended by itself and will be started again.
    Restarting,
}

/// Whether and how to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Stop {
    /// Not at all.
    #[default]
    No,
    /// Let what runs finish.
    Drain,
    /// At once.
    Now,
}

/// Something to report to the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The process ended by itself.
    Exited { how: String, last_lines: Vec<String>, pause: Duration },
    /// The process could not be started.
    NotStarted { why: String, pause: Duration },
    /// Its settings changed: a new process takes over.
    SettingsChanged,
    /// It did not end in time and was killed.
    Killed,
}

/// Keeps one server process running.
pub(crate) struct Supervisor {
    pub(crate) agent: Arc<Agent>,
    pub(crate) launch: watch::Receiver<Launch>,
    pub(crate) startup: watch::Receiver<Startup>,
    pub(crate) stop: watch::Receiver<Stop>,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) events: mpsc::UnboundedSender<Event>,
    pub(crate) log: Log,
}

impl Supervisor {
    /// Runs until asked to end. `true` if the process ended as asked.
    pub(crate) async fn run(self) -> bool {
        let launch = self.launch.borrow().clone();
        let mut server = Server { with: self, launch, last_models: None, output: JoinSet::new(), is_stopping: false };
        match supervise(&mut server, POLICY).await {
            Outcome::Stopped(stopped) => !stopped.was_killed,
            Outcome::NotWanted => true,
            Outcome::GaveUp(_) => false, // the policy never does
        }
    }
}

/// The server as the supervisor sees it.
struct Server {
    with: Supervisor,
    /// What the present process was started with.
    launch: Launch,
    /// The models that the last process was started with.
    last_models: Option<BTreeSet<String>>,
    /// Tasks that take in what the present process writes; they end with its output, or when the next one starts.
    output: JoinSet<()>,
    is_stopping: bool,
}

impl Program for Server {
    type Error = String;

    async fn start(&mut self) -> Result<Option<Process>, String> {
        let with = &mut self.with;
        self.launch = with.launch.borrow_and_update().clone();
        let startup = with.startup.borrow_and_update().clone();
        with.agent.fetched(&startup.manifest_hash, FETCH_WAIT).await;
        if *with.stop.borrow() != Stop::No {
            return Ok(None);
        }
        let models = startup_models(&startup.required, &with.agent.confirmed(), self.last_models.as_ref());
        with.agent.server_starting();
        let mut command = self.launch.command(&models, &with.agent)?;
        let (process, output) = start(&mut command, &with.log)
            .map_err(|error| format!("cannot run {}: {error}", self.launch.program.display()))?;
        (self.output, self.is_stopping, self.last_models) = (output, false, Some(models));
        with.status.send_replace(Status::Running);
        Ok(Some(process))
    }

    async fn order(&mut self) -> Order {
        let (with, launch) = (&mut self.with, &self.launch);
        if self.is_stopping {
            changed_to(&mut with.stop, |stop| *stop == Stop::Now).await;
            return Order { signal: Signal::KILL, limit: None, then: Then::Finish };
        }
        let then = tokio::select! {
            () = changed_to(&mut with.launch, |new| *new != *launch) => Then::Replace,
            () = changed_to(&mut with.stop, |stop| *stop != Stop::No) => Then::Finish,
        };
        if then == Then::Replace {
            with.report(Event::SettingsChanged);
        }
        with.status.send_replace(Status::Stopping);
        self.is_stopping = true;
        Order { signal: Signal::TERM, limit: Some(launch.exit_timeout + GRACE), then }
    }

    async fn ended(&mut self, end: &End<String>, next: Next) {
        let Next::Restart(pause) = next else { return };
        let event = match end {
            End::NotStarted(why) => Event::NotStarted { why: why.clone(), pause },
            End::Exited(exit) => {
                let last_lines = self.last_lines().await;
                let how = exit.as_ref().map_or_else(ToString::to_string, |exit| describe(*exit));
                Event::Exited { how, last_lines, pause }
            }
        };
        self.with.report(event);
        self.with.status.send_replace(Status::Restarting);
    }

    async fn stopped(&mut self, stopped: &Stopped) {
        if stopped.was_killed {
            self.with.report(Event::Killed);
        }
        self.with.agent.server_left();
        self.last_lines().await;
    }

    async fn cut_pause_short(&mut self) {
        tokio::select! {
            _ = self.with.launch.changed() => {}
            () = changed_to(&mut self.with.stop, |stop| *stop != Stop::No) => {}
        }
    }
}

impl Server {
    /// What the process wrote last, once it has ended.
    async fn last_lines(&mut self) -> Vec<String> {
        let all = async { while self.output.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(OUTPUT_WAIT, all).await;
        self.with.log.last_lines()
    }
}

impl Supervisor {
    fn report(&self, event: Event) {
        let _ = self.events.send(event); // when nobody listens, we are about to end
    }
}

impl Launch {
    fn command(&self, models: &BTreeSet<String>, agent: &Agent) -> Result<Command, String> {
        self.ports.check().map_err(|error| error.to_string())?;
        let own = std::env::current_exe().map_err(|error| format!("this program cannot be found: {error}"))?;
        let mut command = Command::new(own);
        command.arg("child").arg("--parent").arg(std::process::id().to_string()).arg("--").arg(&self.program);
        command.arg(format!("--model-repository={}", agent.repository().display()));
        // one bad model must not keep the others from being served; it does keep the server from being ready
        command.args(["--model-control-mode=explicit", "--exit-on-error=false", "--strict-readiness=true"]);
        // what was made for a GPU can be tried on a machine without one; the server says so once for each model
        command.arg("--gpu-fallback=cpu");
        command.args(models.iter().map(|name| format!("--load-model={name}")));
        command.args(self.ports.flags()).args(&self.flags);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        // a process group of its own: Ctrl-C is ours to pass on
        command.process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command)
    }
}

/// Starts a process, and tasks that take in what it writes.
fn start(command: &mut Command, log: &Log) -> io::Result<(Process, JoinSet<()>)> {
    let mut process = Process::start(command, Reaping::Own)?;
    let (out, err) = process.take_output();
    let mut output = JoinSet::new();
    if let Some(out) = out {
        output.spawn(log.clone().take(ChildStdout::from_std(out)?));
    }
    if let Some(err) = err {
        output.spawn(log.clone().take(ChildStderr::from_std(err)?));
    }
    Ok((process, output))
}

/// Waits until the value is as asked; for ever once nobody can change it any more.
async fn changed_to<T>(receiver: &mut watch::Receiver<T>, is_so: impl FnMut(&T) -> bool) {
    if receiver.wait_for(is_so).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// How a process ended, in words.
fn describe(status: ExitStatus) -> String {
    const NAMES: [(i32, &str); 7] = [
        (4, "SIGILL"),
        (6, "SIGABRT"),
        (7, "SIGBUS"),
        (8, "SIGFPE"),
        (9, "SIGKILL: perhaps the machine ran out of memory"),
        (11, "SIGSEGV"),
        (15, "SIGTERM"),
    ];
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => match NAMES.iter().find(|(number, _)| *number == signal) {
            Some((_, name)) => format!("was ended by signal {signal} ({name})"),
            None => format!("was ended by signal {signal}"),
        },
        (None, None) => format!("ended: {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_described_in_words() {
        assert_eq!(describe(ExitStatus::from_raw(1 << 8)), "exited with status 1");
        assert_eq!(describe(ExitStatus::from_raw(11)), "was ended by signal 11 (SIGSEGV)");
        assert_eq!(describe(ExitStatus::from_raw(10)), "was ended by signal 10");
    }
}
