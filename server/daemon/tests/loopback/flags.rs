//! Command lines that end by themselves: help, and those that are not accepted.

use std::{net::TcpListener, process::Output};

use crate::{program, repository};

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn refuses(flags: &[&str], reason: &str) {
    let output = program::run(flags);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains(reason), "no '{reason}' in:\n{}", stderr(&output));
}

#[test]
fn help_shows_the_flags_and_ends_well() {
    let output = program::run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let usage = String::from_utf8_lossy(&output.stdout);
    for words in ["Usage: tritonserver", "Model Repository:", "--model-repository <path>", "--grpc-port <port>"] {
        assert!(usage.contains(words), "{words}");
    }
}

#[test]
fn version_is_one_line() {
    let output = program::run(&["--version"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("tritonserver {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn an_unknown_flag_is_named_with_the_usage_and_ends_with_one() {
    refuses(&["--model-repository=/tmp", "--colour=red"], "unrecognized option '--colour=red'");
    refuses(&["--colour=red"], "Usage: tritonserver");
}

#[test]
fn a_repository_must_be_given() {
    refuses(&[], "--model-repository must be specified");
}

#[test]
fn bad_ports_are_refused() {
    refuses(
        &["--model-repository=/tmp", "--http-port=99999"],
        "--http-port: got '99999', expected a whole number from 0 to 65535",
    );
    refuses(
        &["--model-repository=/tmp", "--http-port=7000", "--grpc-port=7000"],
        "The server cannot listen to HTTP requests and GRPC requests at the same address and port 0.0.0.0:7000",
    );
}

#[test]
fn a_port_that_is_taken_is_refused() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let repository = repository::with_echo();
    let flags = [
        format!("--model-repository={}", repository.path().display()),
        "--http-address=127.0.0.1".into(),
        format!("--http-port={port}"),
        "--grpc-port=0".into(),
        "--metrics-port=0".into(),
    ];
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let reason = format!("failed to start HTTP service: Unavailable - Socket '127.0.0.1:{port}' already in use");
    refuses(&flags, &reason);
}

#[test]
fn a_log_file_that_cannot_be_written_is_refused() {
    refuses(&["--model-repository=/tmp", "--log-file=/nowhere/at/all"], "cannot write the log to '/nowhere/at/all'");
}
