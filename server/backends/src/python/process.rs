//! Starts and ends child processes: own process group, given descriptors passed on and no others, output through pipes.
//! A child never outlives the server, however that ends, and never stays a zombie. Knows nothing of Python.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fmt,
    fs::File,
    io::{self, PipeReader},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, FdFlags, fcntl_setfd},
    process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid},
};

/// How long a child that was killed may take to be gone before its remains are left to a thread of their own: a process
/// that waits for a device or a network file system ends when that answers.
const KILLED_WITHIN: Duration = Duration::from_secs(1);

/// A child process to be started.
#[derive(Debug)]
pub(crate) struct Spawn {
    program: PathBuf,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, Option<OsString>)>,
    passed: Vec<OwnedFd>,
    directory: Option<PathBuf>,
}

/// What [`Spawn::run`] gives.
#[derive(Debug)]
pub(crate) struct Spawned {
    /// The process. Dropping it kills its group.
    pub process: Process,
    /// Read end of its standard output.
    pub stdout: OwnedFd,
    /// Read end of its standard error.
    pub stderr: OwnedFd,
}

/// A running child process, or one that ran. Leader of its own process group. All methods may be called from any thread.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    /// Readable once the process has ended; absent on kernels before 5.3.
    pidfd: Option<OwnedFd>,
    /// Held so that the process lives, see [`kill_when_closed`].
    _lifeline: OwnedFd,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Running(Child),
    Ended(Exit),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It exited with that code.
    Code(i32),
    /// A signal of that number ended it.
    Signal(i32),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(number) => match signal_name(*number) {
                Some(name) => write!(f, "killed by signal {number} ({name})"),
                None => write!(f, "killed by signal {number}"),
            },
        }
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        match status.signal() {
            Some(number) => Exit::Signal(number),
            None => Exit::Code(status.code().unwrap_or(-1)),
        }
    }
}

/// The names people search for. Others are shown by number alone.
fn signal_name(number: i32) -> Option<&'static str> {
    Some(match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        _ => return None,
    })
}

// === impl Spawn ===

impl Spawn {
    /// A process of that program, with the server's environment and working directory.
    pub(crate) fn new(program: impl Into<PathBuf>) -> Self {
        let program = program.into();
        Self { program, arguments: Vec::new(), variables: Vec::new(), passed: Vec::new(), directory: None }
    }

    /// Adds an argument.
    pub(crate) fn argument(&mut self, argument: impl Into<OsString>) -> &mut Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets an environment variable, or removes it.
    pub(crate) fn variable(&mut self, name: impl Into<OsString>, value: Option<OsString>) -> &mut Self {
        self.variables.push((name.into(), value));
        self
    }

    /// Starts it in that folder, not the server's.
    pub(crate) fn directory(&mut self, directory: impl Into<PathBuf>) -> &mut Self {
        self.directory = Some(directory.into());
        self
    }

    /// Passes a descriptor on. It has the same number in the child, which is returned to be told to it; renumbering
    /// would need to know which numbers are free there. The server's own is closed once the child runs.
    pub(crate) fn pass(&mut self, descriptor: OwnedFd) -> RawFd {
        self.passed.push(descriptor);
        self.passed[self.passed.len() - 1].as_raw_fd()
    }

    /// Starts it: leader of its own process group (Ctrl-C in a terminal is the server's business), standard input empty,
    /// killed when the server ends.
    ///
    /// Errors: the system's, if the program cannot be executed or there is no room for a process.
    pub(crate) fn run(self) -> io::Result<Spawned> {
        let ((stdout, stdout_of_child), (stderr, stderr_of_child)) = (io::pipe()?, io::pipe()?);
        let process = self.start(stdout_of_child.into(), stderr_of_child.into())?;
        Ok(Spawned { process, stdout: stdout.into(), stderr: stderr.into() })
    }

    /// Starts it as [`Self::run`] does, with its output and errors going to a file.
    ///
    /// Errors: the system's.
    pub(crate) fn run_into(self, log: &File) -> io::Result<Process> {
        self.start(log.try_clone()?.into(), log.try_clone()?.into())
    }

    fn start(self, stdout: Stdio, stderr: Stdio) -> io::Result<Process> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).process_group(0);
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        for (name, value) in &self.variables {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let (lifeline_of_child, lifeline) = io::pipe()?;
        let child = spawn(&mut command, self.passed, &lifeline_of_child)?;
        let process = Process::new(child, lifeline.into()); // dropping it kills the child
        if let Err(error) = kill_when_closed(&lifeline_of_child, process.pid) {
            // In a sandbox that does not know this; an idle child still sees that its channels are closed.
            tracing::warn!(%error, pid = process.pid(), "a child that is busy will outlive a server that is killed");
        }
        Ok(process)
    }
}

/// Starts the command, with these descriptors open in it and no others but standard input, output and errors.
///
/// Nothing is done between fork and exec, or the kernel would have to copy the page tables of the server: with some
/// gigabytes of models that takes 30 ms for each, in which no thread of the server gets a page.
fn spawn(command: &mut Command, passed: Vec<OwnedFd>, lifeline: &PipeReader) -> io::Result<Child> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock(); // or one child would get what is passed to another
    keep_descriptors();
    let passed = passed; // closed before the turn ends, also after an error
    passed.iter().map(AsFd::as_fd).chain([lifeline.as_fd()]).try_for_each(|fd| fcntl_setfd(fd, FdFlags::empty()))?;
    command.spawn()
}

/// Marks every descriptor of the server as its own: what it inherited, or a library of a backend opened, is not a child's.
/// Fails on kernels before 5.11, where such descriptors are passed on.
#[allow(unsafe_code)]
fn keep_descriptors() {
    // SAFETY: close_range(2) with this flag marks descriptors and closes none; it takes plain numbers.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Has the kernel kill the process once no write end of the pipe is open any more: when the server has ended, however that
/// came about. Unlike the signal at the death of a parent (prctl(2), `PR_SET_PDEATHSIG`), it does not depend on the thread that
/// started the process, and is set from outside.
///
/// Source: fcntl(2), "Managing signals": `F_SETSIG` says which signal comes in place of `SIGIO`.
#[allow(unsafe_code)]
fn kill_when_closed(lifeline: &PipeReader, pid: Pid) -> io::Result<()> {
    const F_SETSIG: i32 = 10; // of the kernel's fcntl.h; the crate `libc` lacks it for glibc
    let fd = lifeline.as_raw_fd();
    for (operation, argument) in
        [(libc::F_SETOWN, pid.as_raw_nonzero().get()), (F_SETSIG, libc::SIGKILL), (libc::F_SETFL, libc::O_ASYNC)]
    {
        // SAFETY: these operations of fcntl(2) take a number, on a descriptor that is open here.
        if unsafe { libc::fcntl(fd, operation, argument) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

// === impl Process ===

/// Processes that have not been reaped: their groups may be killed by their ids.
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Kills all processes of this server, each with its group: for a server that ends without waiting for anything.
pub(crate) fn kill_all() {
    let running = RUNNING.lock();
    for pid in running.iter().filter_map(|pid| Pid::from_raw(i32::try_from(*pid).ok()?)) {
        let _ = kill_process_group(pid, Signal::KILL); // fails only if it is gone
    }
}

impl Process {
    fn new(child: Child, lifeline: OwnedFd) -> Self {
        let pid = Pid::from_child(&child);
        RUNNING.lock().insert(child.id());
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok();
        Self { pid, pidfd, _lifeline: lifeline, state: Mutex::new(State::Running(child)) }
    }

    /// Its process id, which is its group's too.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// A descriptor that polls readable once the process has ended; `None` on kernels before 5.3.
    pub(crate) fn ended_fd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// How it ended, if it has. What is left of its group is killed then.
    pub(crate) fn exit(&self) -> Option<Exit> {
        let mut state = self.state.lock();
        let child = match &mut *state {
            State::Ended(exit) => return Some(*exit),
            State::Running(child) => child,
        };
        // Looked at before it is reaped: only until then its id is nobody else's, and the group may be killed by it.
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(self.pid), look) {
            Ok(None) | Err(Errno::INTR) => return None,
            Ok(Some(_)) | Err(_) => {}
        }
        let _ = kill_process_group(self.pid, Signal::KILL);
        RUNNING.lock().remove(&child.id());
        let exit = child.wait().map_or(Exit::Code(-1), Exit::from); // at once, and an error only if it is gone already
        *state = State::Ended(exit);
        Some(exit)
    }

    /// Waits for its end, so long at most. `None`: it still runs.
    pub(crate) fn wait_timeout(&self, timeout: Duration) -> Option<Exit> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(exit) = self.exit() {
                return Some(exit);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            match &self.pidfd {
                Some(pidfd) => {
                    let left = Timespec::try_from(left).ok();
                    let _ = poll(&mut [PollFd::new(pidfd, PollFlags::IN)], left.as_ref());
                }
                None => thread::sleep(left.min(Duration::from_millis(5))),
            }
        }
    }

    /// Sends a signal to the process and all of its group; to nobody if the process has ended.
    pub(crate) fn signal_group(&self, signal: Signal) {
        let state = self.state.lock();
        if matches!(&*state, State::Running(_)) {
            let _ = kill_process_group(self.pid, signal); // fails only if it is gone
        }
    }

    /// Kills the process and all of its group. They are gone a moment later; [`Self::wait_timeout`] sees it.
    pub(crate) fn kill_group(&self) {
        self.signal_group(Signal::KILL);
    }

    /// Ends it: SIGTERM to the group, SIGKILL to what is left after `grace`. Without grace it is killed at once.
    ///
    /// `None` only if the kernel does not let go of it within a second after SIGKILL.
    pub(crate) fn end(&self, grace: Duration) -> Option<Exit> {
        if !grace.is_zero() {
            self.signal_group(Signal::TERM);
            if let Some(exit) = self.wait_timeout(grace) {
                return Some(exit);
            }
        }
        self.kill_group();
        self.wait_timeout(KILLED_WITHIN)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.end(Duration::ZERO).is_some() {
            return;
        }
        let state = std::mem::replace(self.state.get_mut(), State::Ended(Exit::Signal(Signal::KILL.as_raw())));
        if let State::Running(mut child) = state {
            RUNNING.lock().remove(&child.id());
            // Without a thread it stays a zombie until the server ends; there is nothing better to do then.
            let _ = thread::Builder::new().name("reaper".into()).spawn(move || child.wait());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Read},
        path::Path,
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Spawn {
        let mut spawn = Spawn::new("/bin/sh");
        spawn.argument("-c").argument(script);
        spawn
    }

    fn all_of(pipe: OwnedFd) -> String {
        let mut text = String::new();
        File::from(pipe).read_to_string(&mut text).unwrap();
        text
    }

    #[track_caller]
    fn check_exit(script: &str, expect: &str) {
        let spawned = shell(script).run().unwrap();
        assert_eq!(spawned.process.wait_timeout(LONG).unwrap().to_string(), expect);
        assert!(!exists(spawned.process.pid()), "a zombie is left");
    }

    fn exists(pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    /// Gone, or dead and not yet reaped by the process that took it over.
    fn is_dead(pid: u32) -> bool {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X']))
    }

    #[track_caller]
    fn dies(pid: u32) {
        let deadline = Instant::now() + LONG;
        while !is_dead(pid) {
            assert!(Instant::now() < deadline, "process {pid} is still there");
            thread::yield_now();
        }
    }

    #[test]
    fn says_how_it_ended() {
        check_exit("exit 0", "exit code 0");
        check_exit("exit 3", "exit code 3");
        check_exit("kill -9 $$", "killed by signal 9 (SIGKILL)");
        check_exit("kill -SEGV $$", "killed by signal 11 (SIGSEGV)");
        check_exit("kill -USR1 $$", "killed by signal 10");
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        assert_eq!(Spawn::new("/nowhere/python3").run().unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn output_comes_through_pipes_and_input_is_empty() {
        let spawned = shell("cat; echo out; echo err >&2").run().unwrap();
        assert_eq!((all_of(spawned.stdout).as_str(), all_of(spawned.stderr).as_str()), ("out\n", "err\n"));
    }

    #[test]
    fn variables_are_set_and_removed() {
        let mut spawn = shell("echo \"$GIVEN,${PATH-none}\"");
        spawn.variable("GIVEN", Some("yes".into())).variable("PATH", None);
        // A shell without PATH in its environment has one of its own, which it does not export.
        let text = all_of(spawn.run().unwrap().stdout);
        assert!(text.starts_with("yes,") && !text.contains(&std::env::var("PATH").unwrap()), "{text}");
    }

    #[test]
    fn the_child_has_the_passed_descriptors_and_no_others() {
        let (reader, writer) = io::pipe().unwrap();
        let mut spawn = Spawn::new("/bin/sh");
        let number = spawn.pass(writer.into());
        spawn
            .argument("-c")
            .argument("(echo hello >/proc/self/fd/$0); exec ls -l /proc/self/fd")
            .argument(number.to_string());
        let stray = rustix::io::dup(io::stderr()).unwrap(); // open in the server, and not marked
        let spawned = spawn.run().unwrap();
        drop(stray);
        assert_eq!(all_of(reader.into()), "hello\n"); // comes to its end: the server's copy is closed
        let listing = all_of(spawned.stdout);
        let links = listing.lines().filter_map(|line| line.split_once(" -> "));
        let open = links.filter(|(_, target)| !target.starts_with("/proc/")); // the listed folder itself
        let mut open: Vec<i32> =
            open.map(|(line, _)| line.rsplit(' ').next().and_then(|fd| fd.parse().ok()).expect("a number")).collect();
        open.sort_unstable();
        let lifeline = open.iter().position(|fd| ![0, 1, 2, number].contains(fd)).map(|at| open.remove(at));
        assert!(open == [0, 1, 2, number] && lifeline.is_some(), "{open:?}\n{listing}");
    }

    #[test]
    fn it_leads_its_own_group() {
        let spawned = shell("cut -d' ' -f5 /proc/$$/stat").run().unwrap();
        assert_eq!(all_of(spawned.stdout).trim(), spawned.process.pid().to_string());
    }

    /// A shell with a child of its own; gives the child's pid once both are there.
    fn family(script: &str) -> (Process, u32) {
        let spawned = shell(script).run().unwrap();
        let mut line = String::new();
        BufReader::new(File::from(spawned.stdout)).read_line(&mut line).unwrap();
        (spawned.process, line.trim().parse().unwrap())
    }

    #[test]
    fn its_group_ends_with_it() {
        let (process, grandchild) = family("sleep 1000 & echo $!; wait");
        assert_eq!(process.end(LONG), Some(Exit::Signal(15)));
        dies(grandchild);

        let (process, grandchild) = family("sleep 1000 & echo $!; wait");
        drop(process);
        dies(grandchild);

        let (process, grandchild) = family("sleep 1000 & echo $!; exit 7");
        assert_eq!(process.wait_timeout(LONG), Some(Exit::Code(7)));
        dies(grandchild);
    }

    #[test]
    fn who_ignores_sigterm_is_killed_after_the_grace() {
        let (process, grandchild) = family("trap '' TERM; sleep 1000 & echo $!; wait");
        assert_eq!(process.end(Duration::from_millis(50)), Some(Exit::Signal(9)));
        dies(grandchild);
        assert_eq!(process.end(LONG), Some(Exit::Signal(9)));
    }

    #[test]
    fn waiting_has_an_end() {
        let spawned = shell("sleep 1000").run().unwrap();
        assert_eq!((spawned.process.exit(), spawned.process.wait_timeout(Duration::from_millis(1))), (None, None));
    }

    #[test]
    fn it_lives_on_when_the_thread_that_asked_for_it_ends() {
        let spawned = thread::spawn(|| shell("sleep 1000").run().unwrap()).join().unwrap();
        assert_eq!(spawned.process.wait_timeout(Duration::from_millis(50)), None);
    }

    #[test]
    fn it_dies_when_the_server_is_killed() {
        let mut server = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture", "python::process::tests::a_server_with_one_worker"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(server.stdout.take().unwrap()).lines();
        let worker = lines.map_while(Result::ok).find_map(|line| Some(line.split_once("worker ")?.1.parse().unwrap()));
        server.kill().unwrap();
        server.wait().unwrap();
        dies(worker.expect("the server says the pid of its worker"));
    }

    #[test]
    #[ignore = "the server of the test above; waits to be killed"]
    fn a_server_with_one_worker() {
        let spawned = shell("sleep 1000").run().unwrap();
        println!("worker {}", spawned.process.pid());
        spawned.process.wait_timeout(LONG);
    }
}
