//! Sockets that are handed over: whoever is in line waits for models, and for the next process when one dies.

use std::{
    net::{SocketAddr, TcpListener},
    os::fd::AsRawFd,
    path::Path,
    process::Command,
    thread,
};

use rustix::{
    io::{FdFlags, fcntl_setfd},
    process::Signal,
};

use crate::{
    client::{call, status},
    program::{DEADLINE, Program},
    repository::{add, empty, infer_body, parameter},
};

/// A server that takes over `kept` for HTTP.
fn serving(kept: &TcpListener, repository: &Path) -> Command {
    let mut command = Program::serving(repository, &["--startup-hold-secs=5"]);
    fcntl_setfd(kept, FdFlags::empty()).unwrap();
    command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "http").env_remove("LISTEN_PID");
    command.env("LISTEN_FDS_FIRST_FD", kept.as_raw_fd().to_string());
    command
}

fn infer(address: SocketAddr) -> u16 {
    call(address, "POST", "/v2/models/slow/infer", &infer_body([7, 8])).status
}

#[test]
fn callers_in_line_wait_for_models_and_for_the_next_process() {
    let repository = empty();
    add(repository.path(), "slow", &parameter("creation_delay_sec", "1"));
    let kept = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = kept.local_addr().unwrap();
    let asking = || thread::spawn(move || infer(address));

    let early = asking();
    let mut first = Program::spawn(serving(&kept, repository.path()));
    assert_eq!(early.join().unwrap(), 200, "{}", first.stdout.text());
    assert_eq!(first.http(), address);

    first.signal(Signal::KILL);
    assert_eq!(first.exit_code(), None);
    let between = asking();
    let mut second = Program::spawn(serving(&kept, repository.path()));
    assert_eq!(between.join().unwrap(), 200, "{}", second.stdout.text());

    second.signal(Signal::TERM);
    assert_eq!(second.exit_code(), Some(0), "{}", second.stdout.text());
}

#[test]
fn nobody_waits_in_line_for_ever() {
    let repository = empty();
    add(repository.path(), "slow", &parameter("creation_delay_sec", &DEADLINE.as_secs().to_string()));
    let kept = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Program::spawn(serving(&kept, repository.path()));
    let address = kept.local_addr().unwrap();
    assert_eq!(status(address, "/v2/health/live"), 200, "{}", server.stdout.text());
    assert_ne!(infer(address), 200);
}
