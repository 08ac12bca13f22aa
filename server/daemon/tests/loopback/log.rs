//! The log: its looks, its places, its switches.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
};

use rustix::process::Signal;

use crate::{
    client::{try_call, until},
    program::{self, Program},
    repository::{self, with_echo},
};

/// A line with every run of digits as one `9`.
fn shape(line: &str) -> String {
    let mut shape = String::new();
    for character in line.chars() {
        match character {
            '0'..='9' if shape.ends_with('9') => {}
            '0'..='9' => shape.push('9'),
            other => shape.push(other),
        }
    }
    shape
}

#[track_caller]
fn looks(flags: &[&str], expect: &str) {
    let repository = with_echo();
    let server = Program::serve(repository.path(), flags);
    assert_eq!(shape(&server.stdout.expect("Started HTTPService")), expect);
}

/// The output of a server that does not log where it listens.
fn said_quietly(flags: &[&str]) -> (String, String) {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let http = format!("--http-port={}", free.port());
    let repository = with_echo();
    let mut server = Program::serve(repository.path(), &[&[http.as_str()], flags].concat());
    until("ready", || is_ready(free));
    server.signal(Signal::TERM);
    assert_eq!(server.exit_code(), Some(0), "{}", server.stderr.text());
    (server.stdout.text(), server.stderr.text())
}

fn is_ready(http: SocketAddr) -> bool {
    try_call(http, "GET", "/v2/health/ready", "").is_some_and(|answer| answer.status == 200)
}

#[test]
fn lines_look_as_tritons_by_default() {
    looks(&[], r#"I9 9:9:9.9 9 lifecycle.rs:9] "Started HTTPService at 9.9.9.9:9""#);
}

#[test]
fn lines_look_as_tritons_other_ones_on_request() {
    looks(&["--log-format=ISO8601"], r#"9-9-9T9:9:9Z I 9 lifecycle.rs:9] "Started HTTPService at 9.9.9.9:9""#);
}

#[test]
fn lines_are_objects_on_request() {
    let repository = with_echo();
    let mut server = Program::serve(repository.path(), &["--log-format=json", "--buffer-manager-thread-count=5"]);
    server.stdout.expect("Started HTTPService");
    server.signal(Signal::TERM);
    assert_eq!(server.exit_code(), Some(0));
    for line in server.stdout.text().lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(event["level"], "INFO", "{line}");
        assert!(event["message"].is_string() && event["time"].is_string(), "{line}");
    }
    let warning: serde_json::Value = serde_json::from_str(server.stderr.text().lines().next().unwrap()).unwrap();
    assert_eq!(warning["level"], "WARN");
}

#[test]
fn unsupported_flags_are_named_in_one_warning() {
    let repository = with_echo();
    let server = Program::serve(repository.path(), &["--buffer-manager-thread-count=5", "--http-thread-count=3"]);
    let line = server.stderr.expect("does not support");
    let expect = r#"W9 9:9:9.9 9 wire.rs:9] "flags that this server does not support are ignored: --buffer-manager-thread-count, --http-thread-count""#;
    assert_eq!(shape(&line), expect);
}

#[test]
fn the_models_are_listed_after_the_start() {
    let repository = with_echo();
    let server = Program::serve(repository.path(), &[]);
    server.stdout.expect("Started HTTPService");
    let expect = "\
+-------+---------+--------+
| Model | Version | Status |
+-------+---------+--------+
| echo  | 1       | READY  |
+-------+---------+--------+";
    assert!(server.stdout.text().contains(expect), "{}", server.stdout.text());
}

#[test]
fn a_log_file_takes_everything() {
    let folder = repository::empty();
    let file = folder.path().join("log");
    let flag = format!("--log-file={}", file.display());
    let (stdout, stderr) = said_quietly(&[&flag, "--buffer-manager-thread-count=5"]);
    assert_eq!((stdout.as_str(), stderr.as_str()), ("", ""));
    let log = fs::read_to_string(&file).unwrap();
    for words in ["--buffer-manager-thread-count", "Started HTTPService", "Signal (15) received."] {
        assert!(log.contains(words), "{words} in:\n{log}");
    }
}

#[test]
fn levels_can_be_switched_off() {
    let (stdout, stderr) = said_quietly(&["--log-info=false", "--log-warn=false", "--buffer-manager-thread-count=5"]);
    assert_eq!((stdout.as_str(), stderr.as_str()), ("", ""));
}

#[test]
fn the_reason_of_a_bad_end_is_printed_even_if_errors_are_not_logged() {
    let output = program::run(&["--model-repository=/nowhere", "--http-address=192.0.2.1", "--log-error=false"]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.starts_with("error: failed to start HTTP service"), "{stderr}");
}
