//! Starts and ends child processes: own process group, given descriptors passed on and no others, output through pipes.
//! A child never outlives the server, however that ends, and never stays a zombie. Knows nothing of Python.

use std::{
    ffi::OsString,
    fmt,
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, FdFlags, fcntl_setfd},
    process::{
        Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, getppid, kill_process_group, pidfd_open,
        set_parent_process_death_signal, waitid,
    },
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

    /// Starts it: leader of its own process group, standard input empty, SIGINT ignored (so do Triton's workers: Ctrl-C
    /// is the server's business), killed when the server ends.
    ///
    /// Errors: the system's, if the program cannot be executed or there is no room for a process.
    pub(crate) fn run(self) -> io::Result<Spawned> {
        let mut child = self.start(Stdio::piped(), Stdio::piped())?;
        let stdout = child.stdout.take().expect("asked for above").into();
        let stderr = child.stderr.take().expect("asked for above").into();
        Ok(Spawned { process: Process::new(child), stdout, stderr })
    }

    /// Starts it as [`Self::run`] does, with its output and errors going to a file.
    ///
    /// Errors: the system's.
    pub(crate) fn run_into(self, log: &File) -> io::Result<Process> {
        self.start(log.try_clone()?.into(), log.try_clone()?.into()).map(Process::new)
    }

    #[allow(unsafe_code)]
    fn start(self, stdout: Stdio, stderr: Stdio) -> io::Result<Child> {
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
        let (server, passed) = (getpid(), self.passed);
        let prepare = move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            if getppid() != Some(server) {
                return Err(Errno::SRCH.into()); // the server ended before the line above
            }
            // SAFETY: `signal` is async-signal-safe, and SIG_IGN needs no handler.
            unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
            // What the server itself inherited, or a library of a backend opened, is not the child's. Fails on kernels
            // before 5.11, where such descriptors stay.
            // SAFETY: close_range(2) with this flag only marks descriptors; it takes plain numbers.
            unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
            for descriptor in &passed {
                fcntl_setfd(descriptor, FdFlags::empty())?; // it stays open in the new program
            }
            Ok(())
        };
        // SAFETY: runs in the forked child, and makes nothing but async-signal-safe system calls; no memory is allocated
        // or freed, and no lock is taken.
        unsafe { command.pre_exec(prepare) };
        spawn_on_lasting_thread(command)
    }
}

/// A command to run, and where the child goes.
type Job = (Command, mpsc::SyncSender<io::Result<Child>>);

/// Forks on a thread that lives as long as the server does: "killed when the parent ends" means the thread that forked,
/// and the threads of instances end with their models (prctl(2), `PR_SET_PDEATHSIG`).
fn spawn_on_lasting_thread(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let start = || {
        let (sender, jobs) = mpsc::channel::<Job>();
        let run = move || {
            for (mut command, reply) in jobs {
                // Who asked waits for the answer; should it be gone, the child is not wanted either.
                if let Err(mpsc::SendError(Ok(mut child))) = reply.send(command.spawn()) {
                    let _ = child.kill().and_then(|()| child.wait());
                }
            }
        };
        thread::Builder::new().name("spawner".into()).spawn(run).map(|_| Mutex::new(sender))
    };
    let spawner = match SPAWNER.get() {
        Some(spawner) => spawner,
        None => {
            let started = start()?; // should two do so at a time, the channel of the second ends, and its thread
            SPAWNER.get_or_init(|| started)
        }
    };
    let (reply, child) = mpsc::sync_channel(1);
    let gone = |_| io::Error::other("the thread that starts processes has ended");
    spawner
        .lock()
        .send((command, reply))
        .map_err(|_| io::Error::other("the thread that starts processes has ended"))?;
    child.recv().map_err(gone)?
}

// === impl Process ===

impl Process {
    fn new(child: Child) -> Self {
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok();
        Self { pid, pidfd, state: Mutex::new(State::Running(child)) }
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
        spawn.argument("-c").argument("(echo hello >&$0); exec ls -l /proc/self/fd").argument(number.to_string());
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
        assert_eq!(open, [0, 1, 2, number]);
    }

    #[test]
    fn it_ignores_ctrl_c_and_leads_its_own_group() {
        let spawned =
            shell("kill -INT $$; echo alive; ps -o pgid= -p $$ 2>/dev/null || cut -d' ' -f5 /proc/$$/stat").run();
        let spawned = spawned.unwrap();
        let text = all_of(spawned.stdout);
        let words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(words, ["alive", &spawned.process.pid().to_string()]);
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
