//! A child process: started, signalled, waited for.

use std::{
    io,
    os::unix::process::ExitStatusExt,
    process::{Child, ChildStderr, ChildStdout, Command, ExitStatus},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait, waitpid};
use tokio::signal::unix::{self, SignalKind, signal};

/// Which children are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaping {
    /// The process itself.
    Own,
    /// Every child: for the first process of a container, to which orphans come. One process at a time is supervised then, and
    /// nothing else in this program waits for children.
    All,
}

/// A child process. It is killed when it is dropped before it has ended.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pid: Pid,
    reaping: Reaping,
    children: unix::Signal,
    started: Instant,
    exit: Option<ExitStatus>,
}

impl Process {
    /// Starts it, within a tokio runtime.
    ///
    /// Errors: there is no such program, or it cannot be run.
    pub fn start(command: &mut Command, reaping: Reaping) -> io::Result<Self> {
        // before the start, so that no end is missed
        let children = signal(SignalKind::child())?;
        let started = Instant::now();
        let child = command.spawn()?;
        let pid = Pid::from_child(&child);
        Ok(Self { child, pid, reaping, children, started, exit: None })
    }

    /// Its standard output and standard error, if they are pipes and not taken yet.
    pub fn take_output(&mut self) -> (Option<ChildStdout>, Option<ChildStderr>) {
        (self.child.stdout.take(), self.child.stderr.take())
    }

    /// Sends it a signal, unless it has ended.
    pub(super) fn signal(&self, signal: Signal) {
        if self.exit.is_none() {
            let _ = kill_process(self.pid, signal); // it may have ended just now
        }
    }

    /// Waits until it has ended. May be dropped and called again.
    pub(super) async fn exit(&mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some(exit) = self.try_exit()? {
                return Ok(exit);
            }
            if self.children.recv().await.is_none() {
                return Err(io::Error::other("the ends of children are not reported any more"));
            }
        }
    }

    /// How long ago it was started.
    pub(super) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    fn try_exit(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.exit.is_none() {
            let status = match self.reaping {
                Reaping::Own => reap(self.pid)?,
                Reaping::All => reap_all(self.pid)?,
            };
            self.exit = status.map(|status| ExitStatus::from_raw(status.as_raw()));
        }
        Ok(self.exit)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.exit.is_none() {
            self.signal(Signal::KILL);
            let _ = self.try_exit(); // if it has not ended yet, it is waited for by whoever gets our children
        }
    }
}

fn reap(pid: Pid) -> io::Result<Option<WaitStatus>> {
    loop {
        match waitpid(Some(pid), WaitOptions::NOHANG) {
            Ok(ended) => return Ok(ended.map(|(_, status)| status)),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes in every child that has ended. Returns how `pid` ended, if it is among them.
fn reap_all(pid: Pid) -> io::Result<Option<WaitStatus>> {
    let mut end = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((child, status))) if child == pid => end = Some(status),
            Ok(Some(_)) => {}
            Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(end),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
