//! Downloads from a real server on the loopback, well-behaved and not.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::source::{
    Stage,
    unpack::tests::{gzip, tar_of},
};

/// What the server writes to each connection, byte for byte, by path; then it closes.
type Answers = BTreeMap<&'static str, Vec<Vec<u8>>>;

/// A server that answers each request of a path with the next answer listed, the last one again and again.
async fn serve(answers: Answers) -> (String, Arc<Mutex<Vec<String>>>) {
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

fn status(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn ok(body: &[u8]) -> Vec<u8> {
    status("200 OK", "", body)
}

struct Place {
    root: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("into")).unwrap();
        Self { root }
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join("into")
    }

    async fn fetch(&self, uri: &str, checksum: Option<&str>, progress: &Arc<Progress>) -> Result<Fetched, Fault> {
        let download = Download { uri, credentials: None, checksum, layout: Layout::Auto };
        download.fetch(&self.folder(), &self.root.path().join("download"), progress).await
    }
}

fn unwatched(limits: Limits) -> Arc<Progress> {
    Progress::new(limits, |_| {})
}

#[tokio::test]
async fn a_file_is_streamed_to_disk_and_its_progress_told() {
    let body: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
    let (server, _) = serve(Answers::from([("/net.onnx", vec![ok(&body)])])).await;
    let stages = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&stages);
    let progress = Progress::new(Limits::default(), move |stage| told.lock().unwrap().push(stage));
    let place = Place::new();
    let hash: FileHash = Sha256::digest(&body).into();
    let fetched = place.fetch(&format!("{server}/net.onnx?v=1"), Some(&hex::encode(hash)), &progress).await.unwrap();
    assert!(fetched.is_bare && fetched.hash == hash);
    assert!(std::fs::read(place.folder().join("net.onnx")).unwrap() == body);
    let stages = stages.lock().unwrap();
    assert_eq!(stages.first(), Some(&Stage::Downloading(0, Some(3_000_000))));
    assert_eq!(stages.last(), Some(&Stage::Verifying));
    assert!(stages.len() > 3, "{stages:?}");
}

#[tokio::test]
async fn an_archive_is_unpacked_once_its_checksum_is_right() {
    let file = tar::EntryType::Regular;
    let good = gzip(&tar_of(&[("net/1/model.onnx", file, b"weights"), ("net/config.pbtxt", file, b"")]));
    let evil = gzip(&tar_of(&[("../evil", file, b"x")]));
    let (server, _) = serve(Answers::from([("/good.tar.gz", vec![ok(&good)]), ("/evil.tgz", vec![ok(&evil)])])).await;
    let (place, progress) = (Place::new(), unwatched(Limits::default()));
    let uri = format!("{server}/good.tar.gz");
    let fault = place.fetch(&uri, Some(&"0".repeat(64)), &progress).await.unwrap_err();
    assert_eq!(fault.reason, Reason::ChecksumMismatch);
    assert_eq!(std::fs::read_dir(place.folder()).unwrap().count(), 0, "nothing is unpacked before it is checked");
    let fetched = place.fetch(&uri, Some(&hex::encode(Sha256::digest(&good))), &progress).await.unwrap();
    assert_eq!(fetched.files.keys().collect::<Vec<_>>(), ["net/1/model.onnx", "net/config.pbtxt"]);

    let place = Place::new();
    let fault = place.fetch(&format!("{server}/evil.tgz"), None, &progress).await.unwrap_err();
    assert_eq!(fault.reason, Reason::InvalidSource, "{fault}");
    assert!(!place.root.path().join("evil").exists());
}

#[tokio::test]
async fn a_download_that_breaks_off_is_begun_again() {
    let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".to_vec();
    let busy = status("503 Service Unavailable", "", b"");
    let chunked_cut = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n".to_vec();
    let (server, seen) = serve(Answers::from([("/m.onnx", vec![cut, busy, chunked_cut, ok(b"whole")])])).await;
    tokio::time::pause(); // the pauses between attempts take no time
    let place = Place::new();
    let fetched = place.fetch(&format!("{server}/m.onnx"), None, &unwatched(Limits::default())).await.unwrap();
    assert_eq!(fetched.hash, <FileHash>::from(Sha256::digest(b"whole")));
    assert_eq!(seen.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn a_download_that_never_comes_whole_fails_and_says_how() {
    let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".to_vec();
    let (server, seen) = serve(Answers::from([("/m.onnx", vec![cut])])).await;
    tokio::time::pause();
    let place = Place::new();
    let fault = place.fetch(&format!("{server}/m.onnx"), None, &unwatched(Limits::default())).await.unwrap_err();
    assert_eq!(fault.reason, Reason::DownloadFailed);
    assert!(fault.message.contains("/m.onnx: "), "{fault}");
    assert_eq!(seen.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn a_server_that_falls_silent_is_left_after_the_limit() {
    let stuck = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nSILENCE".to_vec();
    let (server, _) = serve(Answers::from([("/m.onnx", vec![stuck])])).await;
    let limits = Limits { silence: Duration::from_millis(50), ..Limits::default() };
    let client = client(&server, &limits).unwrap();
    let place = Place::new();
    let uri = format!("{server}/m.onnx");
    let download = Download { uri: &uri, credentials: None, checksum: None, layout: Layout::Auto };
    let attempt = download.attempt(&client, &place.root.path().join("download"), &unwatched(limits)).await;
    let Err(Broken::ForNow(fault)) = attempt else { panic!("not a fault for now") };
    assert!(fault.message.contains("timed out"), "{fault}");
}

#[tokio::test]
async fn what_is_not_there_or_locked_is_told_at_once() {
    let (server, seen) = serve(Answers::from([("/locked", vec![status("401 Unauthorized", "", b"")])])).await;
    let (place, progress) = (Place::new(), unwatched(Limits::default()));
    let fault = place.fetch(&format!("{server}/none.onnx?token=secret"), None, &progress).await.unwrap_err();
    assert_eq!(fault.reason, Reason::SourceNotFound);
    assert!(fault.message.ends_with("/none.onnx answered 404 Not Found"), "{fault}");
    let fault = place.fetch(&format!("{server}/locked"), None, &progress).await.unwrap_err();
    assert_eq!(fault.reason, Reason::CredentialsMissing);
    assert_eq!(seen.lock().unwrap().len(), 2, "neither is tried twice");
}

#[tokio::test]
async fn redirects_are_followed_but_not_for_ever() {
    let there = status("302 Found", "location: /there.onnx\r\n", b"");
    let circle = status("302 Found", "location: /circle\r\n", b"");
    let (server, _) = serve(Answers::from([
        ("/here.onnx", vec![there]),
        ("/there.onnx", vec![ok(b"weights")]),
        ("/circle", vec![circle]),
    ]))
    .await;
    let (place, progress) = (Place::new(), unwatched(Limits::default()));
    let fetched = place.fetch(&format!("{server}/here.onnx"), None, &progress).await.unwrap();
    assert_eq!(fetched.files.keys().collect::<Vec<_>>(), ["here.onnx"]);
    let fault = place.fetch(&format!("{server}/circle"), None, &progress).await.unwrap_err();
    assert!(fault.message.contains("too many redirects"), "{fault}");
}

#[tokio::test]
async fn too_much_is_refused_whether_announced_or_not() {
    let announced = b"HTTP/1.1 200 OK\r\ncontent-length: 4000000000\r\n\r\n".to_vec();
    let body = vec![7; 300_000];
    let endless = [b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".as_slice(), &body].concat();
    let (server, _) = serve(Answers::from([("/a", vec![announced]), ("/b", vec![endless])])).await;
    let limits = Limits { bytes: 1000, ..Limits::default() };
    for path in ["/a", "/b"] {
        let fault = Place::new().fetch(&format!("{server}{path}"), None, &unwatched(limits)).await.unwrap_err();
        assert_eq!(fault.reason, Reason::InvalidSource, "{path}: {fault}");
        assert!(fault.message.contains("limit of 1000"), "{fault}");
    }
}

#[tokio::test]
async fn credentials_of_a_mounted_secret_are_sent() {
    let (server, seen) = serve(Answers::from([("/m.onnx", vec![ok(b"x")])])).await;
    let root = tempfile::tempdir().unwrap();
    let secret = |name: &str, keys: &[(&str, &str)]| {
        std::fs::create_dir(root.path().join(name)).unwrap();
        for (key, value) in keys {
            std::fs::write(root.path().join(name).join(key), value).unwrap();
        }
    };
    secret("token", &[("token", "abc\n")]);
    secret("basic", &[("username", "me"), ("password", "pw")]);
    secret("half", &[("username", "me")]);
    let secrets = Mounts { named: BTreeMap::new(), below: vec![root.path().to_owned()] };
    for name in ["token", "basic"] {
        let credentials = Some(Credentials::read(&secrets, name).unwrap());
        let uri = format!("{server}/m.onnx");
        let download = Download { uri: &uri, credentials, checksum: None, layout: Layout::Auto };
        let place = Place::new();
        let beside = place.root.path().join("download");
        download.fetch(&place.folder(), &beside, &unwatched(Limits::default())).await.unwrap();
    }
    let seen = seen.lock().unwrap();
    assert!(seen[0].contains("authorization: Bearer abc\r\n") && seen[1].contains("authorization: Basic bWU6cHc=\r\n"));
    for name in ["half", "none"] {
        let Err(fault) = Credentials::read(&secrets, name) else { panic!("{name} is no credential") };
        assert_eq!(fault.reason, Reason::CredentialsMissing);
    }
}

#[test]
fn addresses_are_shown_without_their_secrets() {
    assert_eq!(shown("https://me:pw@host/m.onnx?sig=x"), "https://host/m.onnx");
    assert_eq!(shown("https://host/a@b"), "https://host/a@b");
    assert_eq!(file_name("https://host/a/net.tar.gz?x=/y"), "net.tar.gz");
    assert_eq!(file_name("https://host"), "model");
    assert_eq!(file_name("https://host/"), "model");
}
