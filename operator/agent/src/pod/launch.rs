//! In front of the server, for as long as its container lives: opens its sockets, starts it with the models noted for it, and
//! starts it again at once when it crashes. The sockets stay open meanwhile, so that connections wait in the listen queue for
//! the next process and none is refused. A server that ends by itself ends the container, as does one that crashes again and
//! again: then the kubelet pauses, restarts it and reports it.
//!
//! The pod's template names no model, so that no pod is replaced when models change; here is where their names come in.

mod restarts;
mod sockets;

use std::{
    collections::BTreeSet,
    ffi::{CStr, OsString},
    path::Path,
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::Context;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use self::{restarts::Restarts, sockets::Sockets};
use super::{args::LaunchArgs, fd_store, startup};

/// How the process is called among others, so that nobody takes it for the agent beside the server.
const NAME: &CStr = c"triton-launch";

/// How long connections in the listen queue are kept waiting for its models. Less than the patience of a
/// liveness probe, and more than most models take.
const HOLD_SECONDS: u32 = 5;

/// Why the launcher ends, and its exit code: the server's, or 128 and the signal that ended it.
enum End {
    /// The server was asked to end, or did so well: nobody is to wait for the next one.
    OnPurpose(i32),
    /// Nobody wanted that, and the kubelet shall start the next one.
    Crashed(i32),
}

/// Runs the server until it has ended for good.
///
/// Errors: a port is taken, the agent has noted no models yet, or there is no such program.
pub(crate) fn launch(args: &LaunchArgs) -> anyhow::Result<ExitCode> {
    tracing_subscriber::fmt().json().flatten_event(true).init();
    rustix::thread::set_name(NAME).context("cannot take a name")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(async {
        let (store, kept) =
            fd_store::ask(&args.fd_store).await.map_or_else(Default::default, |(it, kept)| (Some(it), kept));
        let is_replacement = !kept.is_empty();
        let sockets = Sockets::new(kept, &args.addresses())?;
        let (crashes, acknowledged) = (watch::Sender::new(0), watch::Sender::new(fd_store::NOBODY));
        let end = tokio::select! {
            end = run(args, &sockets, is_replacement, &crashes, &acknowledged) => end?,
            never = fd_store::hand_over(&args.fd_store, store, sockets.all(), crashes.subscribe(), &acknowledged) => match never {},
        };
        match end {
            End::OnPurpose(code) => {
                fd_store::leave(&args.fd_store).await;
                anyhow::Ok(code)
            }
            End::Crashed(code) => Ok(code),
        }
    })?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

/// Runs one server process after the other, and counts those that crashed.
async fn run(
    args: &LaunchArgs,
    sockets: &Sockets,
    is_replacement: bool,
    crashes: &watch::Sender<u32>,
    acknowledged: &watch::Sender<u32>,
) -> anyhow::Result<End> {
    let mut children = signal(SignalKind::child())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut restarts = Restarts::default();
    let (mut is_ending, mut are_callers_in_line) = (false, is_replacement);
    loop {
        let server = start(args, sockets, are_callers_in_line)?;
        let end = loop {
            let number = tokio::select! {
                _ = children.recv() => match reap(server)? {
                    Some(end) => break end,
                    None => continue,
                },
                _ = terminate.recv() => Signal::TERM,
                _ = interrupt.recv() => Signal::INT,
            };
            is_ending = true;
            let _ = kill_process(server, number); // it may have ended just now
        };
        let signal = end.terminating_signal();
        let code = end.exit_status().unwrap_or(128 + signal.unwrap_or(0));
        if is_ending || code == 0 {
            return Ok(End::OnPurpose(code));
        }
        if signal.is_none() || !restarts.allows_another(Instant::now()) {
            tracing::error!(code, signal, "the server did not end well; its container ends with it");
            return Ok(End::Crashed(code));
        }
        tracing::error!(signal, "the server was ended by a signal and is started again");
        crashes.send_modify(|count| *count += 1);
        let count = *crashes.borrow();
        tokio::select! {
            () = fd_store::acknowledged(count, acknowledged) => {}
            _ = terminate.recv() => return Ok(End::OnPurpose(code)),
            _ = interrupt.recv() => return Ok(End::OnPurpose(code)),
        }
        are_callers_in_line = true;
    }
}

/// Starts the server with the models that are noted now.
fn start(args: &LaunchArgs, sockets: &Sockets, are_callers_in_line: bool) -> anyhow::Result<Pid> {
    let models = noted(&args.root)?;
    let (program, flags) = args.command.split_first().context("no server given")?;
    let mut command = Command::new(program);
    command.args(with_models(flags, &models)).envs(sockets.environment()).env_remove("LISTEN_PID");
    if are_callers_in_line {
        command.arg(format!("--startup-hold-secs={HOLD_SECONDS}"));
    }
    let server = command.spawn().with_context(|| format!("cannot run {}", program.display()))?;
    Ok(Pid::from_child(&server))
}

fn noted(root: &Path) -> anyhow::Result<BTreeSet<String>> {
    startup::noted(root)
        .with_context(|| format!("the agent has noted no models to start with below {}", root.display()))
}

fn with_models(flags: &[OsString], models: &BTreeSet<String>) -> Vec<OsString> {
    let models = models.iter().map(|name| format!("--load-model={name}").into());
    flags.iter().cloned().chain(models).collect()
}

/// Takes in every child that has ended: this is the first process of its container, so orphans come here too. Returns how the
/// server ended, if it is among them.
fn reap(server: Pid) -> anyhow::Result<Option<WaitStatus>> {
    let mut end = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((child, status))) if child == server => end = Some(status),
            Ok(Some(_)) => {}
            Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(end),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for the server"),
        }
    }
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
