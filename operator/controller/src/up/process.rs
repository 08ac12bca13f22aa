//! The server's process: started, watched, started again with growing pauses when it dies, asked to end and given its time.

use std::{
    collections::BTreeSet,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    sync::{mpsc, watch},
    task::JoinSet,
};
use triton_agent::{Agent, plan::startup_models};

use super::{log::Log, ports::Ports};

/// Pauses before a server that died is started again: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A server that ran this long is well: its next death begins with the first pause again.
const WELL: Duration = Duration::from_secs(60);
/// What a server gets beyond its exit timeout before it is killed.
const GRACE: Duration = Duration::from_secs(5);
/// How long a starting server waits for models to be fetched; those that come later are loaded then.
const FETCHED: Duration = Duration::from_secs(1);

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
    /// It died and will be started again.
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
    Died { how: String, last_lines: Vec<String>, pause: Duration },
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
    pub(crate) async fn run(mut self) -> bool {
        let mut last_startup = None;
        let mut deaths = 0;
        loop {
            let launch = self.launch.borrow_and_update().clone();
            let startup = self.startup.borrow_and_update().clone();
            self.agent.fetched(&startup.manifest_hash, FETCHED).await;
            if *self.stop.borrow() != Stop::No {
                return true;
            }
            let models = startup_models(&startup.required, &self.agent.confirmed(), last_startup.as_ref());
            self.agent.server_starting();
            let begun = Instant::now();
            let mut process = match Process::start(&launch, &models, &self.agent, &self.log) {
                Ok(process) => process,
                Err(why) => {
                    deaths += 1;
                    let pause = pause_after(deaths);
                    self.tell(Event::NotStarted { why, pause });
                    self.rest(pause).await;
                    continue;
                }
            };
            last_startup = Some(models);
            self.status.send_replace(Status::Running);
            tokio::select! {
                status = process.child.wait() => {
                    let last_lines = process.last_lines(&self.log).await;
                    deaths = if begun.elapsed() >= WELL { 1 } else { deaths + 1 };
                    let pause = pause_after(deaths);
                    let how = status.map_or_else(|error| error.to_string(), describe);
                    self.tell(Event::Died { how, last_lines, pause });
                    self.rest(pause).await;
                }
                () = changed_to(&mut self.launch, |new| *new != launch) => {
                    self.tell(Event::SettingsChanged);
                    deaths = 0;
                    self.end(process, launch.exit_timeout).await;
                }
                () = changed_to(&mut self.stop, |stop| *stop != Stop::No) => {
                    return self.end(process, launch.exit_timeout).await;
                }
            }
        }
    }

    /// Tells the process to end and waits for it. `true` if it did in time.
    async fn end(&mut self, mut process: Process, exit_timeout: Duration) -> bool {
        self.status.send_replace(Status::Stopping);
        process.signal(Signal::TERM);
        let is_ended = tokio::select! {
            _ = process.child.wait() => true,
            () = tokio::time::sleep(exit_timeout + GRACE) => false,
            () = changed_to(&mut self.stop, |stop| *stop == Stop::Now) => false,
        };
        if !is_ended {
            process.signal(Signal::KILL);
            let _ = process.child.wait().await; // nothing resists that signal
            self.tell(Event::Killed);
        }
        self.agent.server_left();
        process.last_lines(&self.log).await;
        is_ended
    }

    /// Waits before the next start, unless something makes that pointless.
    async fn rest(&mut self, pause: Duration) {
        self.status.send_replace(Status::Restarting);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = self.launch.changed() => {}
            () = changed_to(&mut self.stop, |stop| *stop != Stop::No) => {}
        }
    }

    fn tell(&self, event: Event) {
        let _ = self.events.send(event); // when nobody listens, we are about to end
    }
}

/// A running process and the tasks that take in what it writes.
struct Process {
    child: Child,
    pid: Option<Pid>,
    writers: JoinSet<()>,
}

impl Process {
    fn start(launch: &Launch, models: &BTreeSet<String>, agent: &Agent, log: &Log) -> Result<Self, String> {
        launch.ports.check().map_err(|error| error.to_string())?;
        let own = std::env::current_exe().map_err(|error| format!("this program cannot be found: {error}"))?;
        let mut command = Command::new(own);
        command.arg("child").arg("--parent").arg(std::process::id().to_string()).arg("--").arg(&launch.program);
        command.arg(format!("--model-repository={}", agent.repository().display()));
        // one bad model must not keep the others from being served; it does keep the server from being ready
        command.args(["--model-control-mode=explicit", "--exit-on-error=false", "--strict-readiness=true"]);
        // what was made for a GPU can be tried on a machine without one; the server says so once for each model
        command.arg("--gpu-fallback=cpu");
        command.args(models.iter().map(|name| format!("--load-model={name}")));
        command.args(launch.ports.flags()).args(&launch.flags);
        command.envs(launch.env.iter().map(|(name, value)| (name, value)));
        // a process group of its own: Ctrl-C is ours to pass on
        command.process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("cannot run {}: {error}", launch.program.display()))?;
        let mut writers = JoinSet::new();
        if let Some(out) = child.stdout.take() {
            writers.spawn(log.clone().take(out));
        }
        if let Some(err) = child.stderr.take() {
            writers.spawn(log.clone().take(err));
        }
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(Self { child, pid, writers })
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid {
            let _ = kill_process(pid, signal); // it may have ended just now
        }
    }

    /// What it wrote last, once it has ended.
    async fn last_lines(&mut self, log: &Log) -> Vec<String> {
        // processes it started may hold its output open
        let all = async { while self.writers.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(1), all).await;
        log.last_lines()
    }
}

/// Waits until the value is as asked; for ever once nobody can change it any more.
async fn changed_to<T>(receiver: &mut watch::Receiver<T>, is_so: impl FnMut(&T) -> bool) {
    if receiver.wait_for(is_so).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn pause_after(deaths: u32) -> Duration {
    let (first, longest) = PAUSES;
    first.saturating_mul(1 << deaths.saturating_sub(1).min(16)).min(longest)
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
    fn pauses_double_up_to_half_a_minute() {
        let pauses: Vec<u64> = (1..=7).map(|deaths| pause_after(deaths).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn an_end_is_told_in_words() {
        assert_eq!(describe(ExitStatus::from_raw(1 << 8)), "exited with status 1");
        assert_eq!(describe(ExitStatus::from_raw(11)), "was ended by signal 11 (SIGSEGV)");
        assert_eq!(describe(ExitStatus::from_raw(10)), "was ended by signal 10");
    }
}
