//! The control socket: it takes what the ports refuse, from the first moment to the last, and asks nothing of its callers.

use std::{os::unix::fs::PermissionsExt, path::PathBuf};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    client::{Answer, call, call_local, status, until},
    program::{self, Program},
    repository::{add, empty, parameter, with_echo},
};

const LOAD: &str = "/v2/repository/models/echo/load";

/// A folder for the socket, its path, and the flags for a server that is controlled there.
fn controlled(more: &[&str]) -> (TempDir, PathBuf, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let mut flags = vec![format!("--control-socket={}", path.display()), "--model-control-mode=explicit".into()];
    flags.extend(more.iter().map(|flag| (*flag).to_owned()));
    (folder, path, flags)
}

fn serve(repository: &TempDir, flags: &[String]) -> Program {
    Program::serve(repository.path(), &flags.iter().map(String::as_str).collect::<Vec<_>>())
}

#[track_caller]
fn is_refused(answer: &Answer, path: &std::path::Path) {
    let expect = format!("its control socket '{}' only. Send them there, or start the server with", path.display());
    assert!(answer.status == 403 && answer.body.contains(&expect), "{answer:?}");
}

#[test]
fn models_are_loaded_at_the_socket_only_and_its_file_goes_with_the_server() {
    let repository = with_echo();
    let restricted = "--http-restricted-api=model-repository,health,metadata:key=secret";
    let (_folder, path, flags) = controlled(&[restricted, "--http-header-forward-pattern=.*"]);
    let mut server = serve(&repository, &flags);
    server.stdout.expect(&format!("Started ControlService at {}", path.display()));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    is_refused(&call(server.http(), "POST", LOAD, ""), &path);
    assert_eq!(call_local(&path, "POST", LOAD, "").status, 200);
    assert_eq!(call_local(&path, "GET", "/v2/models/echo/ready", "").status, 200);
    assert_eq!(status(server.http(), "/v2"), 403, "what is restricted on the port stays so");
    assert_eq!(call_local(&path, "GET", "/v2/nothing", "").status, 404);
    assert!(call_local(&path, "POST", LOAD, "not json").body.contains("failed to parse the request JSON buffer"));
    is_refused(&call(server.http(), "POST", "/v2/repository/models/echo/unload", ""), &path);
    assert_eq!(call_local(&path, "POST", "/v2/repository/models/echo/unload", "").status, 200);
    server.signal(Signal::TERM);
    assert_eq!(server.exit_code(), Some(0), "{}", server.stderr.text());
    assert!(!path.exists());
}

#[test]
fn the_ports_take_control_calls_where_that_is_said() {
    let repository = with_echo();
    let (_folder, path, flags) = controlled(&["--public-control=true"]);
    let server = serve(&repository, &flags);
    server.stdout.expect("Started ControlService");
    assert_eq!(call(server.http(), "POST", LOAD, "").status, 200);
    assert_eq!(call_local(&path, "POST", "/v2/repository/models/echo/unload", "").status, 200);
}

#[test]
fn the_socket_answers_while_models_load_at_the_start_and_while_the_server_drains() {
    let repository = empty();
    add(repository.path(), "slow", &parameter("creation_delay_sec", "2"));
    let flags = ["--load-model=slow", "--startup-hold-secs=30", "--drain-delay-secs=1"];
    let (_folder, path, flags) = controlled(&flags);
    let mut server = serve(&repository, &flags);
    server.stdout.expect("ControlService listens at");
    assert_eq!(call_local(&path, "GET", "/v2/health/live", "").status, 200);
    until("the model loads", || {
        call_local(&path, "POST", "/v2/repository/index", "").body.contains(r#""state":"LOADING""#)
    });
    until("the model is ready", || call_local(&path, "GET", "/v2/health/ready", "").status == 200);
    server.stdout.expect("Started HTTPService");
    server.signal(Signal::TERM);
    server.stdout.expect("Serving on while callers go elsewhere, for 1s");
    assert_eq!(call_local(&path, "GET", "/v2/models/slow/ready", "").status, 200);
    assert_eq!(server.exit_code(), Some(0), "{}", server.stderr.text());
}

#[test]
fn a_server_takes_the_place_of_one_that_was_killed_and_of_none_that_lives() {
    let repository = with_echo();
    let (_folder, path, flags) = controlled(&[]);
    let mut killed = serve(&repository, &flags);
    killed.stdout.expect("Started ControlService");
    let refused = program::run(&[
        &format!("--model-repository={}", repository.path().display()),
        "--http-port=0",
        "--grpc-port=0",
        "--metrics-port=0",
        &flags[0],
    ]);
    let text = String::from_utf8_lossy(&refused.stderr);
    let expect = format!("failed to start Control service: Unavailable - Socket '{}' already in use", path.display());
    assert!(refused.status.code() == Some(1) && text.contains(&expect), "{text}");
    killed.signal(Signal::KILL);
    killed.exit_code();
    assert!(path.exists());
    let server = serve(&repository, &flags);
    server.stdout.expect("Started ControlService");
    assert_eq!(call_local(&path, "POST", LOAD, "").status, 200);
}
