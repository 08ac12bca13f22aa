//! A web server on the loopback for the tests of sources, well-behaved and not.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::progress::{Limits, Progress};

/// What the server writes to each connection, byte for byte, by path; then it closes.
pub(crate) type Answers = BTreeMap<&'static str, Vec<Vec<u8>>>;

/// A server that answers each request of a path with the next answer listed, the last one again and again.
pub(crate) async fn serve(answers: Answers) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    tokio::spawn(async move {
        let counts: BTreeMap<&str, AtomicUsize> = answers.keys().map(|path| (*path, AtomicUsize::new(0))).collect();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            answer(stream, &answers, &counts, &log).await;
        }
    });
    (format!("http://{address}"), seen)
}

async fn answer(
    mut stream: TcpStream,
    answers: &Answers,
    counts: &BTreeMap<&str, AtomicUsize>,
    log: &Mutex<Vec<String>>,
) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => return,
        }
    }
    let request = String::from_utf8(request).unwrap();
    let path = request.split(' ').nth(1).unwrap().split('?').next().unwrap().to_owned();
    log.lock().unwrap().push(request);
    let Some((path, list)) = answers.get_key_value(path.as_str()) else {
        let _ = stream.write_all(&status("404 Not Found", "", b"no")).await;
        return;
    };
    let turn = counts[path].fetch_add(1, Ordering::Relaxed).min(list.len() - 1);
    let _ = stream.write_all(&list[turn]).await;
    if list[turn].ends_with(b"SILENCE") {
        std::future::pending::<()>().await;
    }
}

pub(crate) fn status(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

pub(crate) fn ok(body: &[u8]) -> Vec<u8> {
    status("200 OK", "", body)
}

/// A fetch that nobody watches.
pub(crate) fn unwatched(limits: Limits) -> Arc<Progress> {
    Progress::new(limits, |_| {})
}
