//! The server as a process that never outlives us: a short-lived form of this program asks the kernel for SIGTERM when its
//! parent dies, then becomes the server. So even a `kill -9` of `up` leaves nothing running.

use std::{ffi::OsString, os::unix::process::CommandExt, process::ExitCode};

use anyhow::{Context, bail};
use clap::Args;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// Arguments of a server's process before it becomes the server.
#[derive(Debug, Args)]
pub(crate) struct ChildArgs {
    /// Process id of the parent to end with
    #[arg(long)]
    pub(crate) parent: u32,
    /// Program and its arguments
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

/// Never returns if all goes well: the process is the server from then on.
pub(crate) fn become_server(args: &ChildArgs) -> anyhow::Result<ExitCode> {
    set_parent_process_death_signal(Some(Signal::TERM)).context("cannot tie the server to its parent")?;
    // the parent may have died before the kernel was asked
    if getppid().map(Pid::as_raw_pid) != i32::try_from(args.parent).ok() {
        bail!("the parent has ended already");
    }
    let Some((program, flags)) = args.command.split_first() else { bail!("no program given") };
    let error = std::process::Command::new(program).args(flags).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}
