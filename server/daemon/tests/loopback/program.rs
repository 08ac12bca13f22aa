//! Runs the program and watches what it prints. Nothing here sleeps: waiting ends with a line, an end, or a deadline.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// Longest time anything here may take; generous, for slow machines.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// What one stream of the program has said so far.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<(Mutex<Said>, Condvar)>);

#[derive(Default)]
struct Said {
    lines: Vec<String>,
    has_ended: bool,
}

impl Lines {
    fn follow(stream: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let ours = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                ours.change(|said| said.lines.push(line));
            }
            ours.change(|said| said.has_ended = true);
        });
        lines
    }

    fn change(&self, change: impl FnOnce(&mut Said)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }

    /// Waits until `look` finds something, or the stream ends, or the deadline passes.
    fn wait<R>(&self, look: impl Fn(&Said) -> Option<R>) -> Option<R> {
        let begun = Instant::now();
        let mut said = self.0.0.lock().unwrap();
        loop {
            let found = look(&said);
            let left = DEADLINE.saturating_sub(begun.elapsed());
            if found.is_some() || said.has_ended || left.is_zero() {
                return found;
            }
            said = self.0.1.wait_timeout(said, left).unwrap().0;
        }
    }

    /// Everything so far.
    pub(crate) fn text(&self) -> String {
        self.0.0.lock().unwrap().lines.join("\n")
    }

    /// The first line that contains the words.
    #[track_caller]
    pub(crate) fn expect(&self, words: &str) -> String {
        let found = self.wait(|said| said.lines.iter().find(|line| line.contains(words)).cloned());
        found.unwrap_or_else(|| panic!("no line with '{words}' in:\n{}", self.text()))
    }

    fn end(&self) {
        let ended = self.wait(|said| said.has_ended.then_some(()));
        assert!(ended.is_some(), "still running after {DEADLINE:?}:\n{}", self.text());
    }
}

/// A program that runs; killed when dropped.
pub(crate) struct Program {
    child: Child,
    pub(crate) stdout: Lines,
    pub(crate) stderr: Lines,
}

fn command(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tritonserver"));
    command.args(flags);
    command.env_remove("TRITON_SERVER_ESCAPE_LOG_MESSAGES");
    command
}

/// Runs a command line that is expected to end by itself.
pub(crate) fn run(flags: &[&str]) -> Output {
    command(flags).stdin(Stdio::null()).output().unwrap()
}

impl Program {
    /// Starts serving a repository on free ports of loopback.
    pub(crate) fn serve(repository: &Path, flags: &[&str]) -> Self {
        Self::spawn(Self::serving(repository, flags))
    }

    /// The command of such a server.
    pub(crate) fn serving(repository: &Path, flags: &[&str]) -> Command {
        let repository = format!("--model-repository={}", repository.display());
        let ours = [
            repository.as_str(),
            "--http-address=127.0.0.1",
            "--grpc-address=127.0.0.1",
            "--http-port=0",
            "--grpc-port=0",
            "--metrics-port=0",
        ];
        command(&[&ours, flags].concat())
    }

    /// Starts a prepared command; its output is watched.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = Lines::follow(child.stdout.take().unwrap());
        let stderr = Lines::follow(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }

    /// Where a front end listens, from the moment it does.
    #[track_caller]
    pub(crate) fn address(&self, service: &str) -> SocketAddr {
        let line = self.stdout.expect(&format!("{service} listens at "));
        let address = line.rsplit(' ').next().unwrap().trim_end_matches('"');
        address.parse().unwrap()
    }

    /// Where HTTP listens.
    #[track_caller]
    pub(crate) fn http(&self) -> SocketAddr {
        self.address("HTTPService")
    }

    /// A file of its folder in /proc.
    pub(crate) fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end and gives its exit code.
    #[track_caller]
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        self.stdout.end();
        self.stderr.end();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
