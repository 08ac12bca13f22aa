//! Downloads from a real server on the loopback, well-behaved and not.

use std::sync::Mutex;

use super::*;
use crate::{
    disk::{Disk, DiskLimits},
    source::{
        AddressRule,
        progress::{Limits, Stage},
        web::{Answers, ok, serve, status, unwatched},
    },
};

/// Downloads with the limits and the rule of somebody's own machine; the bytes that came.
async fn download(url: &str, progress: &Arc<Progress>) -> Result<Vec<u8>, Fault> {
    by(&AddressRule::with_loopback(), url, HeaderMap::new(), progress).await
}

async fn by(rule: &AddressRule, url: &str, headers: HeaderMap, progress: &Arc<Progress>) -> Result<Vec<u8>, Fault> {
    let folder = tempfile::tempdir().unwrap();
    into(folder.path(), rule, url, headers, progress).await
}

async fn into(
    folder: &Path,
    rule: &AddressRule,
    url: &str,
    headers: HeaderMap,
    progress: &Arc<Progress>,
) -> Result<Vec<u8>, Fault> {
    let client = HttpClient::new(&Arc::new(rule.clone()), progress.limits()).unwrap();
    let download = Download::new(&client, url, headers);
    let path = folder.join("download");
    let Downloaded { hash, length } = download.fetch(&path, progress).await?;
    let bytes = std::fs::read(path).unwrap();
    assert_eq!((FileHash::from(Sha256::digest(&bytes)), bytes.len() as u64), (hash, length));
    Ok(bytes)
}

fn cut(headers: &str, length: usize, sent: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n{headers}\r\n").as_bytes(), sent].concat()
}

#[tokio::test]
async fn a_file_is_streamed_to_disk_and_its_progress_told() {
    let body: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
    let (server, _) = serve(Answers::from([("/net.onnx", vec![ok(&body)])])).await;
    let stages = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&stages);
    let progress = Progress::new(Limits::default(), move |stage| told.lock().unwrap().push(stage));
    assert!(download(&format!("{server}/net.onnx?v=1"), &progress).await.unwrap() == body);
    let stages = stages.lock().unwrap();
    assert_eq!(stages.first(), Some(&Stage::Downloading(0, Some(3_000_000))));
    assert!(stages.len() > 3, "{stages:?}");
}

#[tokio::test]
async fn a_download_that_breaks_off_is_begun_again_where_nothing_tells_that_it_is_the_same() {
    let busy = status("503 Service Unavailable", "", b"");
    let chunked_cut = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n".to_vec();
    let answers = vec![cut("", 100, b"half"), busy, chunked_cut, ok(b"whole")];
    let (server, seen) = serve(Answers::from([("/m.onnx", answers)])).await;
    tokio::time::pause(); // the pauses between attempts take no time
    assert_eq!(download(&format!("{server}/m.onnx"), &unwatched(Limits::default())).await.unwrap(), b"whole");
    let seen = seen.lock().unwrap();
    assert!(seen.len() == 4 && !seen.iter().any(|request| request.contains("range:")), "{seen:?}");
}

#[tokio::test]
async fn a_download_that_breaks_off_goes_on_where_it_was() {
    let body: Vec<u8> = (0..1_000_000u32).map(|n| (n / 7) as u8).collect();
    let tag = "etag: \"one\"\r\n";
    let rest = |from: usize, to: usize| {
        let headers = format!("content-range: bytes {from}-{}/{}\r\n{tag}", body.len() - 1, body.len());
        let mut answer = status("206 Partial Content", &headers, &body[from..]);
        answer.truncate(answer.len() - (body.len() - to));
        answer
    };
    // more breaks than there are pauses: each brought something
    let steps: Vec<usize> = (1..=6).map(|step| step * 150_000).collect();
    let mut answers = vec![cut(tag, body.len(), &body[..steps[0]])];
    answers.extend(steps.windows(2).map(|step| rest(step[0], step[1])));
    answers.push(rest(steps[5], body.len()));
    let (server, seen) = serve(Answers::from([("/m", answers)])).await;
    tokio::time::pause();
    let progress = unwatched(Limits { bytes: body.len() as u64, ..Limits::default() });
    assert!(download(&format!("{server}/m"), &progress).await.unwrap() == body, "nothing counts twice");
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 7);
    assert!(seen[1].contains("range: bytes=150000-\r\n") && seen[1].contains("if-range: \"one\"\r\n"), "{}", seen[1]);
}

#[tokio::test]
async fn what_changed_between_two_attempts_is_never_mixed() {
    let tag = "etag: \"one\"\r\n";
    for second in [
        ok(b"another file"),                                                       // as If-Range asks for
        status("416 Range Not Satisfiable", "content-range: bytes */12\r\n", b""), // shorter now
        status("206 Partial Content", "content-range: bytes 2-11/12\r\n", b"other file"), // of another place
        status("206 Partial Content", "", b"nobody knows"),
    ] {
        let answers = vec![cut(tag, 12, b"one file"), second, ok(b"another file")];
        let (server, _) = serve(Answers::from([("/m", answers)])).await;
        tokio::time::pause();
        let bytes = download(&format!("{server}/m"), &unwatched(Limits::default())).await.unwrap();
        assert_eq!(bytes, b"another file");
        tokio::time::resume();
    }
}

#[tokio::test]
async fn a_download_that_never_comes_whole_fails_and_says_how() {
    for headers in ["", "etag: \"one\"\r\n"] {
        let (server, seen) = serve(Answers::from([("/m.onnx", vec![cut(headers, 100, b"half")])])).await;
        tokio::time::pause();
        let fault = download(&format!("{server}/m.onnx"), &unwatched(Limits::default())).await.unwrap_err();
        assert_eq!(fault.reason, Reason::DownloadFailed);
        assert!(fault.message.contains("/m.onnx"), "{fault}");
        assert_eq!(seen.lock().unwrap().len(), 4);
        tokio::time::resume();
    }
}

#[tokio::test]
async fn a_server_that_falls_silent_is_left_after_the_limit() {
    let limits = Limits { silence: Duration::from_millis(50), ..Limits::default() };
    for stuck in [cut("", 100, b"SILENCE"), b"HTTP/1.1 200 OK\r\nSILENCE".to_vec()] {
        let (server, seen) = serve(Answers::from([("/m.onnx", vec![stuck])])).await;
        let fault = download(&format!("{server}/m.onnx"), &unwatched(limits)).await.unwrap_err();
        assert!(fault.message.contains("timed out"), "{fault}");
        assert_eq!(seen.lock().unwrap().len(), 1, "it is left to the caller whether to wait again");
    }
}

#[tokio::test]
async fn a_server_that_trickles_is_left_once_it_is_slower_than_the_least_rate() {
    let limits = Limits { least_rate: 1 << 20, least_rate_over: Duration::from_millis(50), ..Limits::default() };
    let (server, _) = serve(Answers::from([("/m", vec![cut("", 100, b"some SILENCE")])])).await;
    let fault = download(&format!("{server}/m"), &unwatched(limits)).await.unwrap_err();
    assert!(fault.message.contains("12 bytes in") && fault.message.contains("least rate"), "{fault}");
}

#[tokio::test]
async fn an_address_that_nobody_answers_at_is_told_soon() {
    // a listener whose queue is full drops what comes: to the caller it is a black hole
    let listener = socket(1);
    let address = listener.local_addr().unwrap();
    let mut held = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(50)) {
        held.push(stream);
    }
    let limits = Limits { connect: Duration::from_millis(100), ..Limits::default() };
    let began = std::time::Instant::now();
    let fault = download(&format!("http://{address}/m"), &unwatched(limits)).await.unwrap_err();
    assert!(fault.message.contains("timed out"), "{fault}");
    assert!(began.elapsed() < Duration::from_secs(3), "one attempt, no pauses: {:?}", began.elapsed());
    assert!(Limits::default().connect < Duration::from_secs(10));
}

/// A listener that takes few connections.
fn socket(backlog: i32) -> std::net::TcpListener {
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
    let made = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&made, &std::net::SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    listen(&made, backlog).unwrap();
    std::net::TcpListener::from(made)
}

#[tokio::test]
async fn what_is_not_there_or_locked_is_told_at_once() {
    let (server, seen) = serve(Answers::from([("/locked", vec![status("401 Unauthorized", "", b"")])])).await;
    let progress = unwatched(Limits::default());
    let fault = download(&format!("{server}/none.onnx?token=secret"), &progress).await.unwrap_err();
    assert_eq!(fault.reason, Reason::SourceNotFound);
    assert!(fault.message.ends_with("/none.onnx answered 404 Not Found"), "{fault}");
    let fault = download(&format!("{server}/locked"), &progress).await.unwrap_err();
    assert_eq!(fault.reason, Reason::CredentialsMissing);
    assert_eq!(seen.lock().unwrap().len(), 2, "neither is tried twice");
}

#[tokio::test]
async fn redirects_are_followed_but_not_for_ever() {
    let there = status("302 Found", "location: /there.onnx\r\n", b"");
    let circle = status("302 Found", "location: /circle\r\n", b"");
    let nowhere = status("302 Found", "location: ftp://h/x\r\n", b"");
    let (server, _) = serve(Answers::from([
        ("/here.onnx", vec![there]),
        ("/there.onnx", vec![ok(b"weights")]),
        ("/circle", vec![circle]),
        ("/nowhere", vec![nowhere]),
    ]))
    .await;
    let progress = unwatched(Limits::default());
    assert_eq!(download(&format!("{server}/here.onnx"), &progress).await.unwrap(), b"weights");
    let fault = download(&format!("{server}/circle"), &progress).await.unwrap_err();
    assert!(fault.message.contains("more than 5 redirects, the last one to http://"), "{fault}");
    let fault = download(&format!("{server}/nowhere"), &progress).await.unwrap_err();
    assert!(fault.message.contains("redirected to 'ftp://h/x'"), "{fault}");
}

#[tokio::test]
async fn addresses_of_the_machine_itself_are_refused_also_after_a_redirect() {
    let (inside, reached) = serve(Answers::from([("/secret", vec![ok(b"not yours")])])).await;
    let port = inside.rsplit(':').next().unwrap();
    let progress = unwatched(Limits::default());
    let strict = AddressRule::default();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "0.0.0.0", "[::]"] {
        let fault =
            by(&strict, &format!("http://{host}:{port}/secret"), HeaderMap::new(), &progress).await.unwrap_err();
        assert_eq!(fault.reason, Reason::AddressRefused, "{host}: {fault}");
    }
    // the first server may be asked, the one it redirects to may not
    let to = |host: &str| status("302 Found", &format!("location: http://{host}:{port}/secret\r\n"), b"");
    let hosts = ["127.0.0.2", "localhost", "169.254.169.254"];
    let paths = ["/literal", "/name", "/metadata"];
    let (outside, _) = serve(paths.into_iter().zip(hosts).map(|(path, host)| (path, vec![to(host)])).collect()).await;
    let only_it = AddressRule::new(["127.0.0.1"], None::<[&str; 0]>).unwrap();
    for path in ["/literal", "/metadata"] {
        let fault = by(&only_it, &format!("{outside}{path}"), HeaderMap::new(), &progress).await.unwrap_err();
        assert_eq!(fault.reason, Reason::AddressRefused, "{path}: {fault}");
        let both = format!("{outside}{path} redirects to http://");
        assert!(fault.message.starts_with(&both) && fault.message.contains("/secret: "), "{path}: {fault}");
    }
    let named = AddressRule::new(["127.0.0.1"], Some(["127.0.0.1/32", "other.test"])).unwrap();
    assert_eq!(by(&named, &format!("{outside}/name"), HeaderMap::new(), &progress).await.unwrap(), b"not yours");
    assert_eq!(reached.lock().unwrap().len(), 1, "nothing refused was asked for");
}

#[tokio::test]
async fn what_opens_one_server_is_not_sent_to_another() {
    let (other, at_other) = serve(Answers::from([("/m", vec![ok(b"x")])])).await;
    let away = status("302 Found", &format!("location: {other}/m\r\n"), b"");
    let stay = status("302 Found", "location: /away\r\n", b"");
    let (first, at_first) = serve(Answers::from([("/stay", vec![stay]), ("/away", vec![away])])).await;
    let headers = HeaderMap::from_iter([
        (header::AUTHORIZATION, HeaderValue::from_static("Bearer s3cret")),
        (header::ACCEPT, HeaderValue::from_static("text/plain")),
    ]);
    let rule = AddressRule::with_loopback();
    by(&rule, &format!("{first}/stay"), headers, &unwatched(Limits::default())).await.unwrap();
    assert!(at_first.lock().unwrap().iter().all(|request| request.contains("s3cret")));
    let at_other = at_other.lock().unwrap();
    assert!(
        at_other.len() == 1 && !at_other[0].contains("s3cret") && at_other[0].contains("text/plain"),
        "{at_other:?}"
    );
}

#[tokio::test]
async fn too_much_is_refused_whether_announced_or_not() {
    let announced = b"HTTP/1.1 200 OK\r\ncontent-length: 4000000000\r\n\r\n".to_vec();
    let body = vec![7; 300_000];
    let endless = [b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".as_slice(), &body].concat();
    let (server, _) = serve(Answers::from([("/a", vec![announced]), ("/b", vec![endless])])).await;
    let limits = Limits { bytes: 1000, ..Limits::default() };
    for path in ["/a", "/b"] {
        let fault = download(&format!("{server}{path}"), &unwatched(limits)).await.unwrap_err();
        assert_eq!(fault.reason, Reason::InvalidSource, "{path}: {fault}");
        assert!(fault.message.contains("limit of 1000"), "{fault}");
    }
}

#[tokio::test]
async fn what_the_disk_has_no_room_for_is_refused_before_it_comes_or_while_it_does() {
    let announced = b"HTTP/1.1 200 OK\r\ncontent-length: 400000000\r\n\r\n".to_vec();
    let endless = [b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".as_slice(), &vec![7; 3 << 20]].concat();
    let (server, seen) = serve(Answers::from([("/a", vec![announced]), ("/b", vec![endless])])).await;
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(folder.path().to_owned(), DiskLimits { limit: Some(3 << 20), is_of_node: true }, || {});
    for (path, needed) in [("/a", "381.5Mi bytes more are needed"), ("/b", "bytes more are needed")] {
        let progress = Progress::on_disk(Limits::default(), disk.reservation(), |_| {});
        let (rule, url) = (AddressRule::with_loopback(), format!("{server}{path}"));
        let Err(fault) = into(folder.path(), &rule, &url, HeaderMap::new(), &progress).await else {
            panic!("there was no room for {path}")
        };
        assert_eq!(fault.reason, Reason::StoreFull, "{path}: {fault}");
        assert!(fault.message.contains(needed) && fault.message.contains("of its limit of 3Mi"), "{fault}");
    }
    assert_eq!(seen.lock().unwrap().len(), 2, "neither is tried again at once");
    std::fs::remove_file(folder.path().join("download")).unwrap();
    assert!(disk.reservation().expect(1 << 20).is_ok(), "what was promised is given back");
}
