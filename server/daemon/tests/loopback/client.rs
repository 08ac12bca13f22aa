//! An HTTP client of thirty lines: one request, one answer, one connection.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    time::Instant,
};

use crate::program::DEADLINE;

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// A request as bytes.
pub(crate) fn request(method: &str, path: &str, body: &str, connection: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: {connection}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Sends a request; `None` if no whole answer came back.
pub(crate) fn try_call(address: SocketAddr, method: &str, path: &str, body: &str) -> Option<Answer> {
    let stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).ok()?;
    exchange(stream, &request(method, path, body, "close"))
}

fn exchange(mut stream: impl Read + Write, request: &[u8]) -> Option<Answer> {
    stream.write_all(request).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some(Answer { status: head.split(' ').nth(1)?.parse().ok()?, body: body.to_owned() })
}

/// Sends a request that must be answered.
#[track_caller]
pub(crate) fn call(address: SocketAddr, method: &str, path: &str, body: &str) -> Answer {
    try_call(address, method, path, body).unwrap_or_else(|| panic!("no answer to {method} {path}"))
}

/// Sends a request to a Unix socket that must be answered.
#[track_caller]
pub(crate) fn call_local(socket: &Path, method: &str, path: &str, body: &str) -> Answer {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let answer = exchange(stream, &request(method, path, body, "close"));
    answer.unwrap_or_else(|| panic!("no answer to {method} {path}"))
}

/// Status of a GET.
#[track_caller]
pub(crate) fn status(address: SocketAddr, path: &str) -> u16 {
    call(address, "GET", path, "").status
}

/// Asks until the answer is as wished.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        std::thread::yield_now();
    }
}
