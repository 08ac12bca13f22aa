//! Exit: a signal closes admission, what runs is finished, and nothing that merely exists is waited for.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    client::{call, request, status, try_call, until},
    program::Program,
    repository::{add, empty, infer_body, parameter, with_echo},
};

fn slow_server(delay_ms: u32, flags: &[&str]) -> (tempfile::TempDir, Program) {
    let repository = empty();
    add(repository.path(), "slow", &parameter("execute_delay_ms", &delay_ms.to_string()));
    let server = Program::serve(repository.path(), flags);
    server.stdout.expect("Started HTTPService");
    (repository, server)
}

/// Requests that wait, and requests that have ended well.
fn waiting_and_ended(server: &Program) -> (usize, usize) {
    let page = call(server.address("Metrics Service"), "GET", "/metrics", "").body;
    let value = |family: &str| {
        let line = page.lines().find(|line| line.starts_with(family)).unwrap_or_default();
        line.rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap_or(0)
    };
    (value("nv_inference_pending_request_count{"), value("nv_inference_request_success{"))
}

#[test]
fn a_signal_ends_an_idle_server_well() {
    let repository = with_echo();
    for (signal, number) in [(Signal::TERM, 15), (Signal::INT, 2)] {
        let mut server = Program::serve(repository.path(), &[]);
        server.stdout.expect("Started HTTPService");
        server.signal(signal);
        assert_eq!(server.exit_code(), Some(0), "{}", server.stderr.text());
        server.stdout.expect(&format!("Signal ({number}) received."));
    }
}

#[test]
fn callers_are_sent_elsewhere_before_the_exit() {
    let repository = with_echo();
    let mut server = Program::serve(repository.path(), &["--drain-delay-secs=2"]);
    server.stdout.expect("Started HTTPService");
    server.signal(Signal::TERM);
    server.stdout.expect("Serving on while callers go elsewhere, for 2s.");
    let http = server.http();
    until("not ready", || status(http, "/v2/health/ready") != 200);
    assert_eq!(status(http, "/v2/health/live"), 200);
    let mut stream = TcpStream::connect(http).unwrap();
    stream.write_all(&request("POST", "/v2/models/echo/infer", &infer_body([1, 2]), "keep-alive")).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    assert!(text.to_lowercase().contains("\r\nconnection: close\r\n"), "{text}");
    assert_eq!(server.exit_code(), Some(0), "{}", server.stderr.text());
}

/// One request on a connection of its own.
fn infers(http: SocketAddr) {
    let answer = call(http, "POST", "/v2/models/echo/infer", &infer_body([1, 2]));
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[test]
fn callers_that_have_nowhere_else_to_go_are_served_until_they_have() {
    let repository = with_echo();
    let mut server = Program::serve(repository.path(), &["--drain-delay-secs=1", "--drain-timeout-secs=600"]);
    server.stdout.expect("Started HTTPService");
    let http = server.http();
    let begun = Instant::now();
    server.signal(Signal::TERM);
    server.stdout.expect("until none has come for 1s, for 600s at most");
    while begun.elapsed() < Duration::from_secs(3) {
        infers(http);
        assert_eq!(status(http, "/v2/health/ready"), 200);
    }
    assert_eq!(server.exit_code(), Some(0), "{}", server.stderr.text());
}

#[test]
fn callers_that_never_go_are_served_until_the_timeout() {
    let repository = with_echo();
    let mut server = Program::serve(repository.path(), &["--drain-delay-secs=1", "--drain-timeout-secs=2"]);
    server.stdout.expect("Started HTTPService");
    let http = server.http();
    server.signal(Signal::TERM);
    until("not ready", || {
        infers(http);
        status(http, "/v2/health/ready") != 200
    });
    server.stderr.expect("Callers still come after");
    assert_eq!(server.exit_code(), Some(0), "{}", server.stderr.text());
}

#[test]
fn a_signal_during_loading_ends_the_server_well() {
    let repository = empty();
    add(repository.path(), "slow", &parameter("creation_delay_sec", "1"));
    let mut server = Program::serve(repository.path(), &[]);
    assert_eq!(status(server.http(), "/v2/health/live"), 200);
    server.signal(Signal::TERM);
    assert_eq!(server.exit_code(), Some(0), "{}", server.stderr.text());
}

#[test]
fn requests_inside_are_finished_and_later_ones_are_refused() {
    const CALLERS: usize = 4;
    let (_repository, mut server) = slow_server(300, &[]);
    let http = server.http();
    let answered = AtomicUsize::new(0);
    let all_sent = Barrier::new(CALLERS + 1);
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (answered, all_sent) = (&answered, &all_sent);
            scope.spawn(move || {
                let value = i32::try_from(caller).unwrap();
                let mut stream = TcpStream::connect(http).unwrap();
                let body = infer_body([value, value]);
                stream.write_all(&request("POST", "/v2/models/slow/infer", &body, "close")).unwrap();
                all_sent.wait();
                let mut text = String::new();
                stream.read_to_string(&mut text).unwrap();
                assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
                assert!(text.contains(&format!(r#""data":[{value},{value}]"#)), "{text}");
                answered.fetch_add(1, Ordering::SeqCst);
            });
        }
        all_sent.wait();
        // The first has ended, so the next one runs: with those that wait, all are inside.
        until("all requests inside", || {
            let (waiting, ended) = waiting_and_ended(&server);
            ended >= 1 && waiting + ended >= CALLERS - 1
        });
        server.signal(Signal::TERM);
        server.stdout.expect("Signal (15) received.");
        until("health to show the exit", || status(http, "/v2/health/ready") == 503);
        let health = call(http, "GET", "/v2/health/live", "");
        assert_eq!((health.status, health.body.as_str()), (503, r#"{"error":"Server exiting"}"#));
        let late = call(http, "POST", "/v2/models/slow/infer", &infer_body([9, 9]));
        assert_eq!(late.status, 503, "{}", late.body);
        // A second signal changes nothing.
        server.signal(Signal::TERM);
    });
    assert_eq!(answered.load(Ordering::SeqCst), CALLERS);
    assert_eq!(server.exit_code(), Some(0), "{}", server.stderr.text());
}

#[test]
fn under_load_every_request_gets_an_answer() {
    let (_repository, mut server) = slow_server(1, &[]);
    let http = server.http();
    let served = AtomicUsize::new(0);
    let served = &served;
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(move || {
                // Until the sockets are closed: connecting is refused then, which is no lost request.
                while let Ok(mut stream) = TcpStream::connect(http) {
                    let sent =
                        stream.write_all(&request("POST", "/v2/models/slow/infer", &infer_body([1, 2]), "close"));
                    let mut text = String::new();
                    let read = stream.read_to_string(&mut text);
                    if sent.is_err() || read.is_err() || text.is_empty() {
                        // Taken by the kernel and never by the server: nothing of it was seen.
                        break;
                    }
                    assert!(text.starts_with("HTTP/1.1 200 ") || text.starts_with("HTTP/1.1 503 "), "{text}");
                    assert!(text.ends_with('}'), "{text}");
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        until("load", || served.load(Ordering::SeqCst) > 100);
        server.signal(Signal::TERM);
    });
    assert_eq!(server.exit_code(), Some(0), "{}", server.stderr.text());
}

#[test]
fn idle_connections_neither_delay_nor_spoil_the_exit() {
    let repository = with_echo();
    let mut server = Program::serve(repository.path(), &["--exit-timeout-secs=1"]);
    server.stdout.expect("Started HTTPService");
    let (http, grpc) = (server.http(), server.address("GRPCInferenceService"));
    let mut used = TcpStream::connect(http).unwrap();
    used.write_all(&request("GET", "/v2/health/live", "", "keep-alive")).unwrap();
    let mut start = [0; 12];
    used.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    let fresh = TcpStream::connect(http).unwrap();
    let silent = TcpStream::connect(grpc).unwrap();
    let mut half = TcpStream::connect(http).unwrap();
    half.write_all(b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: te").unwrap();

    let begun = Instant::now();
    server.signal(Signal::TERM);
    assert_eq!(server.exit_code(), Some(0), "{}", server.stderr.text());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    drop((used, fresh, silent, half));
}

#[test]
fn work_that_takes_longer_than_the_exit_may_is_left_behind() {
    let (_repository, mut server) = slow_server(20_000, &["--exit-timeout-secs=1"]);
    let http = server.http();
    std::thread::scope(|scope| {
        scope.spawn(|| try_call(http, "POST", "/v2/models/slow/infer", &infer_body([1, 2])));
        scope.spawn(|| try_call(http, "POST", "/v2/models/slow/infer", &infer_body([1, 2])));
        until("a request inside", || waiting_and_ended(&server).0 >= 1);
        server.signal(Signal::TERM);
        assert_eq!(server.exit_code(), Some(1));
    });
    server.stderr.expect("Exit timeout expired. Exiting immediately.");
}
