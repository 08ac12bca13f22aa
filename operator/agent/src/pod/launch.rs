//! In front of the server, for as long as its container lives: opens its sockets, starts it with the models noted for it, and
//! starts it again at once when it crashes. The sockets stay open meanwhile: until its readiness probe has failed a few times, a pod gets
//! requests, and nobody takes those elsewhere that it refuses; so they wait in the listen queue for the next process. A server that ends
//! by itself ends the container, as does one that crashes again and again, or that ran out of memory: then the kubelet
//! pauses, restarts it and reports it, and callers are refused until it is ready.
//!
//! The pod's template names no model, so that no pod is replaced when models change; here is where their names come in.

mod crash;
mod memory;
mod sockets;

use std::{
    collections::BTreeSet,
    ffi::{CStr, OsString},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, ExitCode, ExitStatus},
    time::Duration,
};

use anyhow::Context;
use operator_core::{
    pod::CRASH_NOTE,
    termination_message::{CONTAINER_ENDS, SERVER_RESTARTS},
};
use rustix::process::Signal;
use tokio::{
    signal::unix::{self, SignalKind, signal},
    sync::watch,
};
use triton_agent::supervise::{
    End, Limit, Next, Order, Outcome, Policy, Process, Program, Reaping, Restart, Stopped, Then, supervise,
};

pub(super) use self::crash::last as last_crash;
use self::sockets::Sockets;
use super::{
    args::LaunchArgs,
    notices::{self, Word},
    startup,
};

/// The name of the process among others, so that nobody takes it for the agent beside the server.
const NAME: &CStr = c"triton-launch";

/// How long connections in the listen queue are kept waiting for the server's models. Less than the failure threshold of a
/// liveness probe, and more than most models take.
const HOLD_SECONDS: u32 = 5;

/// A server that crashes is started again at once, so often. Beyond that its container ends: the kubelet pauses longer each
/// time, counts, and shows it on the pod. The window is the kubelet's: after so long it counts a container's restarts anew.
const POLICY: Policy = Policy {
    restart: Restart::OnSignal,
    backoff: None,
    limit: Some(Limit { restarts: 3, window: Duration::from_secs(600) }),
};

/// Why the launcher ends, and its exit code: the server's, or 128 and the signal that ended it.
enum Ending {
    /// The server was asked to end, or did so well: no other one follows.
    Intended(i32),
    /// The server failed, and the kubelet starts the next one.
    Failed(i32),
}

/// Runs the server until it has ended for good.
///
/// Errors: a port is taken, the agent has noted no models yet, or there is no such program.
pub(crate) fn launch(args: &LaunchArgs) -> anyhow::Result<ExitCode> {
    tracing_subscriber::fmt().json().flatten_event(true).init();
    rustix::thread::set_name(NAME).context("cannot take a name")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(async {
        let crashes = watch::Sender::new(0);
        let server = Server {
            args,
            sockets: &Sockets::open(&args.addresses())?,
            crashes: &crashes,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            crash: None,
            oom_kills: None,
        };
        let ending = tokio::select! {
            ending = run(server) => ending?,
            never = notices::tell_crashes(&args.launcher_socket, crashes.subscribe()) => match never {},
        };
        match ending {
            Ending::Intended(code) => {
                let _ = notices::tell(&args.launcher_socket, Word::Left).await; // or nobody is there to hear it
                anyhow::Ok(code)
            }
            Ending::Failed(code) => Ok(code),
        }
    })?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

/// Runs one server process after the other.
async fn run(mut server: Server<'_>) -> anyhow::Result<Ending> {
    match supervise(&mut server, POLICY).await {
        Outcome::Stopped(Stopped { exit, .. }) => Ok(Ending::Intended(code(exit.context(CANNOT_WAIT)?))),
        Outcome::NotWanted => Ok(match server.crash {
            Some(Crash { code, is_out_of_memory: true }) => Ending::Failed(code),
            crash => Ending::Intended(crash.map_or(0, |crash| crash.code)),
        }),
        Outcome::GaveUp(End::NotStarted(error)) => Err(error),
        Outcome::GaveUp(End::Exited(exit)) => Ok(match exit.context(CANNOT_WAIT)? {
            exit if exit.success() => Ending::Intended(0),
            exit => Ending::Failed(code(exit)),
        }),
    }
}

const CANNOT_WAIT: &str = "cannot wait for the server";

fn code(exit: ExitStatus) -> i32 {
    exit.code().unwrap_or_else(|| 128 + exit.signal().unwrap_or(0))
}

/// The server as the supervisor sees it.
struct Server<'a> {
    args: &'a LaunchArgs,
    sockets: &'a Sockets,
    /// Crashes so far, for the agent.
    crashes: &'a watch::Sender<u32>,
    terminate: unix::Signal,
    interrupt: unix::Signal,
    /// How the last process crashed.
    crash: Option<Crash>,
    /// Processes of the container ended for want of memory, before the one that runs.
    oom_kills: Option<u64>,
}

/// The end of a process by a signal.
#[derive(Debug, Clone, Copy)]
struct Crash {
    /// What the container ends with, if it ends with it.
    code: i32,
    /// The container ends with it: the kubelet then reports why.
    is_out_of_memory: bool,
}

impl Program for Server<'_> {
    type Error = anyhow::Error;

    async fn start(&mut self) -> anyhow::Result<Option<Process>> {
        if self.crash.is_some_and(|crash| crash.is_out_of_memory) {
            return Ok(None);
        }
        tokio::select! {
            told = notices::tell(&self.args.launcher_socket, Word::Starting) => {
                if let Err(error) = told {
                    tracing::warn!(%error, "the server starts without its agent");
                }
            }
            _ = self.terminate.recv() => return Ok(None),
            _ = self.interrupt.recv() => return Ok(None),
        }
        self.oom_kills = memory::oom_kills();
        let is_first = is_first_of_pod(&self.args.launcher_socket.with_extension("started"));
        start(self.args, self.sockets, !is_first).map(Some)
    }

    /// A signal is passed on. The time the server has then is the pod's, and the kubelet sees to it.
    async fn order(&mut self) -> Order {
        let signal = tokio::select! {
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.interrupt.recv() => Signal::INT,
        };
        Order { signal, limit: None, then: Then::Finish }
    }

    async fn ended(&mut self, end: &End<anyhow::Error>, next: Next) {
        let End::Exited(Ok(exit)) = end else { return }; // reported as an error at the end
        let (code, signal) = (code(*exit), exit.signal());
        match next {
            Next::GiveUp if code == 0 => {}
            Next::GiveUp => tracing::error!(code, signal, "{CONTAINER_ENDS}"),
            Next::Restart(_) if self.is_out_of_memory(signal) => {
                tracing::error!("the server needed more memory than the limit of its container, which ends with it");
                self.crash = Some(Crash { code, is_out_of_memory: true });
            }
            Next::Restart(_) => {
                let told = crash::tell(&self.args.launcher_socket, signal);
                tracing::error!(signal, told, "{SERVER_RESTARTS}");
                self.crashes.send_modify(|count| *count += 1);
                self.crash = Some(Crash { code, is_out_of_memory: false });
            }
        }
    }
}

impl Server<'_> {
    /// Whether the process that was ended by `signal` was so for want of memory.
    fn is_out_of_memory(&self, signal: Option<i32>) -> bool {
        let rose = |(before, now)| now > before;
        signal == Some(Signal::KILL.as_raw()) && self.oom_kills.zip(memory::oom_kills()).is_some_and(rose)
    }
}

/// Whether the server has never been started in this pod, which `mark` shows from now on. If it has, the pod was ready, and still gets
/// requests: also in a new container, for as long as not every node has learned of the end of the last one.
fn is_first_of_pod(mark: &Path) -> bool {
    std::fs::File::create_new(mark).is_ok()
}

/// Starts the server with the models that are noted now.
fn start(args: &LaunchArgs, sockets: &Sockets, may_have_callers: bool) -> anyhow::Result<Process> {
    let models = noted(&args.root)?;
    let (program, flags) = args.command.split_first().context("no server given")?;
    let mut command = Command::new(program);
    command.args(with_models(flags, &models)).envs(sockets.environment()).env_remove("LISTEN_PID");
    let crash_note = crash::note(&args.launcher_socket);
    _ = std::fs::remove_file(&crash_note); // of the process before
    command.env(CRASH_NOTE, crash_note);
    if may_have_callers {
        command.arg(format!("--startup-hold-secs={HOLD_SECONDS}"));
    }
    // this is the first process of its container: orphans come to it
    Process::start(&mut command, Reaping::All).with_context(|| format!("cannot run {}", program.display()))
}

fn noted(root: &Path) -> anyhow::Result<BTreeSet<String>> {
    startup::noted(root)
        .with_context(|| format!("the agent has noted no models to start with below {}", root.display()))
}

fn with_models(flags: &[OsString], models: &BTreeSet<String>) -> Vec<OsString> {
    let models = models.iter().map(|name| format!("--load-model={name}").into());
    flags.iter().cloned().chain(models).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_model_of_the_set_is_asked_for_by_name() {
        let models = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        let flags = with_models(&["--model-control-mode=explicit".into()], &models);
        assert_eq!(flags, ["--model-control-mode=explicit", "--load-model=a", "--load-model=b"]);
    }

    #[test]
    fn without_an_agent_nothing_is_started() {
        let error = noted(tempfile::tempdir().unwrap().path()).unwrap_err();
        assert!(format!("{error:#}").contains("the agent has noted no models"), "{error:#}");
    }
}
