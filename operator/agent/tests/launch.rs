//! The launcher, in front of a server made of a few lines of shell: what it hands over, when it starts it again, and how it
//! ends.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs,
    io::Read,
    net::{SocketAddr, TcpStream},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// Longest time anything here may take.
const DEADLINE: Duration = Duration::from_secs(30);

struct Launched {
    folder: tempfile::TempDir,
    http: SocketAddr,
    process: Child,
}

/// Launches `script`; in it, `$starts` says how often it was started.
fn launch(script: &str) -> Launched {
    launch_in(tempfile::tempdir().unwrap(), script)
}

/// The same in a pod that may have had containers before.
fn launch_in(folder: tempfile::TempDir, script: &str) -> Launched {
    fs::write(folder.path().join("startup.json"), r#"{"host":"here","models":["a","b"]}"#).unwrap();
    let script = format!(
        "cd {}; echo \"$0 $* $LISTEN_FDS $LISTEN_FDNAMES\" >>starts; starts=$(wc -l <starts); {script}",
        folder.path().display()
    );
    let addresses = addresses();
    let mut command = Command::new(env!("CARGO_BIN_EXE_triton-agent"));
    command.arg("launch").arg(format!("--root={}", folder.path().display()));
    command.arg(format!("--launcher-socket={}", folder.path().join("launcher.sock").display()));
    for (name, address) in ["http", "grpc", "metrics"].into_iter().zip(&addresses) {
        command.arg(format!("--{name}={address}"));
    }
    command.args(["--", "/bin/sh", "-c", &script, "server"]);
    let process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    Launched { folder, http: addresses[0], process }
}

/// Addresses on loopback that nobody else takes: the machine's part of them is made of our process id.
fn addresses() -> [SocketAddr; 3] {
    static PORT: AtomicU16 = AtomicU16::new(20_000);
    let [_, a, b, c] = std::process::id().to_be_bytes();
    [(); 3].map(|()| SocketAddr::from(([127, 128 | a, b, c], PORT.fetch_add(1, Ordering::Relaxed))))
}

impl Launched {
    fn starts(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join("starts")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn wait_for(&self, file: &str) {
        until(file, || self.folder.path().join(file).exists());
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// How it ended, and what it said.
    fn end(self) -> (ExitStatus, String) {
        let (_, status, said) = self.end_of_container();
        (status, said)
    }

    /// The same, and the folder of the pod, which outlives the container.
    fn end_of_container(mut self) -> (tempfile::TempDir, ExitStatus, String) {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < DEADLINE, "still running; starts: {:?}", self.starts());
            std::thread::yield_now();
        };
        let mut said = String::new();
        self.process.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        (self.folder, status, said)
    }
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < DEADLINE, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_server_that_crashes_is_started_again_with_the_same_sockets() {
    let launched = launch("[ $starts -gt 2 ] && exit 7; kill -SEGV $$");
    until("three starts", || launched.starts().len() == 3);
    let first = "server --load-model=a --load-model=b 3 http:grpc:metrics";
    let again = "server --load-model=a --load-model=b --startup-hold-secs=5 3 http:grpc:metrics";
    assert_eq!(launched.starts(), [first, again, again]);
    let (status, said) = launched.end();
    assert_eq!(status.code(), Some(7), "{said}");
    assert_eq!(said.matches("started again").count(), 2, "{said}");
}

#[test]
fn the_server_of_another_container_of_the_pod_has_callers_from_its_start() {
    let (folder, status, said) = launch("exit 3").end_of_container();
    assert_eq!(status.code(), Some(3), "{said}");
    let launched = launch_in(folder, "exit 0");
    until("the second start", || launched.starts().len() == 2);
    let hold = launched.starts().iter().map(|line| line.contains("--startup-hold-secs=5")).collect::<Vec<_>>();
    assert_eq!(hold, [false, true]);
    launched.end();
}

#[test]
fn callers_are_let_in_line_while_no_server_takes_them() {
    let launched = launch("touch up; exec sleep 60");
    launched.wait_for("up");
    TcpStream::connect(launched.http).unwrap();
    launched.signal(Signal::TERM);
    let (status, said) = launched.end();
    // what ran was ended by the signal that was passed on to it
    assert_eq!(status.code(), Some(128 + 15), "{said}");
}

#[test]
fn a_server_that_ends_when_it_is_told_to_ends_its_container() {
    let launched = launch("trap 'exit 0' TERM; touch up; while :; do sleep 0.01; done");
    launched.wait_for("up");
    launched.signal(Signal::TERM);
    let (status, said) = launched.end();
    assert_eq!(status.code(), Some(0), "{said}");
}

#[test]
fn a_server_that_keeps_crashing_is_left_to_the_kubelet() {
    let launched = launch("kill -KILL $$");
    let (status, said) = launched.end();
    assert_eq!(status.code(), Some(128 + 9), "{said}");
    assert_eq!(said.matches("started again").count(), 3, "{said}");
    assert!(said.contains("its container ends with it"), "{said}");
}
