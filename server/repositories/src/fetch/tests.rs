//! The client that the server has, against a server of bytes that does on purpose what networks do by chance.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use object_store::{ObjectMeta, path::Path as Key};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    client::Client,
    connect::{Transport, connect},
    listing::Listing,
    location::Location,
};

/// What the server does with one request for an object.
#[derive(Clone, Copy)]
enum Answer {
    Whole,
    /// Ends the connection after so many bytes of the body.
    Cut(usize),
    /// Says nothing more after so many bytes of the body.
    Silent(usize),
    /// Changes one byte.
    Damaged,
    /// Gives more than it should, in chunks.
    Longer,
    Status(&'static str),
}

struct Store {
    client: Client,
    file: RemoteFile,
    /// Range and condition of each request, as `1000- "tag"`.
    requests: Arc<Mutex<Vec<String>>>,
}

fn content() -> Vec<u8> {
    (0..5000_u32).map(|number| (number % 251) as u8).collect()
}

fn tag() -> String {
    format!("\"{}\"", hex(&Md5::digest(content())))
}

fn limits() -> Limits {
    Limits { silence: Duration::from_millis(300), pause: Duration::from_millis(1), ..Limits::default() }
}

impl Store {
    /// Answers as scripted, and wholly when the script is over.
    async fn with(script: &[Answer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (mut script, seen) = (VecDeque::from(script.to_vec()), requests.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(answer(socket, script.pop_front().unwrap_or(Answer::Whole), seen.clone()));
            }
        });
        let location = Location::parse(&format!("s3://{address}/bucket")).unwrap();
        let variables = |name: &str| match name {
            "AWS_ACCESS_KEY_ID" | "AWS_SECRET_ACCESS_KEY" => Some("x".to_owned()),
            _ => None,
        };
        let client = connect(&location, &variables, &limits(), &Transport::default()).await.unwrap();
        let object = ObjectMeta {
            location: Key::parse("m/file").unwrap(),
            last_modified: SystemTime::UNIX_EPOCH.into(),
            size: content().len() as u64,
            e_tag: Some(tag()),
            version: None,
        };
        let file = Listing::of("m", [object]).unwrap().files.into_values().next().unwrap();
        Self { client, file, requests }
    }

    async fn fetch(&self, part: &Path) -> Result<(), FetchError> {
        fetch(&*self.client.store, &self.file, part, &limits(), &|_| true).await
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

async fn answer(mut socket: TcpStream, how: Answer, seen: Arc<Mutex<Vec<String>>>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if socket.read_exact(&mut byte).await.is_err() {
            return;
        }
        request.push(byte[0]);
    }
    let request = String::from_utf8(request).unwrap();
    let header = |name: &str| {
        let mut lines = request.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let range = header("range").map(|range| range.trim_start_matches("bytes=").to_owned());
    let start: usize = range.as_deref().map_or(0, |range| range.split('-').next().unwrap().parse().unwrap());
    seen.lock().unwrap().push(format!("{start}- {}", header("if-match").unwrap_or_default()));
    let mut body = content()[start..].to_vec();
    let status = match how {
        Answer::Status(status) => status,
        _ if start > 0 => "206 Partial Content",
        _ => "200 OK",
    };
    if let Answer::Status(_) = how {
        body = b"<Error><Code>Oops</Code><Message>Not today.</Message></Error>".to_vec();
    }
    let total = content().len();
    let mut head = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\netag: {}\r\nlast-modified: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
         x-amz-request-id: 1\r\ncontent-length: {}\r\n",
        tag(),
        body.len()
    );
    if start > 0 {
        head += &format!("content-range: bytes {start}-{}/{total}\r\n", total - 1);
    }
    if let Answer::Damaged = how {
        body[10] ^= 1;
    }
    let until = match how {
        Answer::Cut(count) | Answer::Silent(count) => count.min(body.len()),
        _ => body.len(),
    };
    _ = socket.write_all((head + "\r\n").as_bytes()).await;
    _ = socket.write_all(&body[..until]).await;
    if let Answer::Longer = how {
        _ = socket.write_all(b"more").await;
    }
    _ = socket.flush().await;
    if let Answer::Silent(_) = how {
        _ = socket.read(&mut [0]).await; // until the client gives up
    }
}

#[track_caller]
fn is_whole(part: &Path) {
    assert!(fs::read(part).unwrap() == content(), "the file has other bytes");
}

#[tokio::test]
async fn a_broken_connection_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("part");
    let store = Store::with(&[Answer::Cut(1000), Answer::Cut(500), Answer::Cut(0), Answer::Whole]).await;
    store.fetch(&part).await.unwrap();
    is_whole(&part);
    let tag = tag();
    assert_eq!(store.requests(), [0, 1000, 1500, 1500].map(|start| format!("{start}- {tag}")));
}

#[tokio::test]
async fn progress_is_what_counts_not_the_number_of_breaks() {
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("part");
    let store = Store::with(&[Answer::Cut(100); 12]).await;
    store.fetch(&part).await.unwrap();
    is_whole(&part);
}

#[tokio::test]
async fn silence_ends_a_connection() {
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("part");
    let store = Store::with(&[Answer::Silent(2000), Answer::Silent(0)]).await;
    store.fetch(&part).await.unwrap();
    is_whole(&part);
    assert_eq!(store.requests().last(), Some(&format!("2000- {}", tag())));
}

#[tokio::test]
async fn damage_is_seen_and_fetched_anew() {
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("part");
    let store = Store::with(&[Answer::Damaged, Answer::Cut(2000)]).await;
    store.fetch(&part).await.unwrap();
    is_whole(&part);

    let store = Store::with(&[Answer::Damaged; 3]).await;
    let part = folder.path().join("other");
    match store.fetch(&part).await {
        Err(FetchError::Damaged { attempts: 3, detail }) => assert!(detail.starts_with("MD5 is "), "{detail}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::metadata(&part).unwrap().len(), 0, "nothing of it is used again");
}

#[tokio::test]
async fn an_object_that_changes_meanwhile_is_not_put_together() {
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("part");
    for status in ["412 Precondition Failed", "404 Not Found"] {
        let store = Store::with(&[Answer::Cut(1000), Answer::Status(status)]).await;
        assert!(matches!(store.fetch(&part).await, Err(FetchError::Changed)), "{status}");
    }
}

#[tokio::test]
async fn what_came_is_kept_for_the_next_attempt() {
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("part");
    let mut script = vec![Answer::Status("500 Internal Server Error"); 200];
    script[0] = Answer::Cut(3000);
    let store = Store::with(&script).await;
    match store.fetch(&part).await {
        Err(FetchError::Broken { detail, got: 3000 }) => assert_eq!(detail, "Oops: Not today."),
        other => panic!("{other:?}"),
    }
    let store = Store::with(&[]).await;
    store.fetch(&part).await.unwrap();
    is_whole(&part);
    assert_eq!(store.requests(), [format!("3000- {}", tag())]);
    // All is there and was not counted: the checksum is all that is asked for.
    store.fetch(&part).await.unwrap();
    is_whole(&part);
    assert_eq!(store.requests().len(), 2);
}

#[tokio::test]
async fn a_part_that_is_none_of_it_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("part");
    for junk in [vec![7; 100], vec![7; 9000], vec![7; content().len()]] {
        fs::write(&part, junk).unwrap();
        Store::with(&[]).await.fetch(&part).await.unwrap();
        is_whole(&part);
    }
}

#[tokio::test]
async fn refusals_are_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("part");
    let store = Store::with(&[Answer::Status("403 Forbidden")]).await;
    match store.fetch(&part).await {
        Err(FetchError::Denied(detail)) => assert_eq!(detail, "Oops: Not today."),
        other => panic!("{other:?}"),
    }
    assert_eq!(store.requests().len(), 1);
    let closed = fetch(&*store.client.store, &store.file, &part, &limits(), &|_| false).await;
    assert!(matches!(closed, Err(FetchError::Closed)));
}

#[tokio::test]
async fn bytes_beyond_the_end_are_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("part");
    Store::with(&[Answer::Longer]).await.fetch(&part).await.unwrap();
    is_whole(&part);
}

#[test]
fn a_tag_is_a_checksum_only_where_the_store_says_so() {
    let headers = |pairs: &[(&'static str, &'static str)]| {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect::<HeaderMap>()
    };
    let md5 = "\"d41d8cd98f00b204e9800998ecf8427e\"";
    let s3 = ("x-amz-request-id", "1");
    assert!(tag_md5(&headers(&[s3]), md5).is_some());
    assert!(tag_md5(&headers(&[s3, ("x-amz-server-side-encryption", "AES256")]), md5).is_some());
    assert!(tag_md5(&headers(&[s3, ("x-amz-server-side-encryption", "aws:kms")]), md5).is_none());
    assert!(tag_md5(&headers(&[s3, ("x-amz-server-side-encryption-customer-algorithm", "AES256")]), md5).is_none());
    assert!(tag_md5(&headers(&[]), md5).is_none(), "of another store");
    assert!(tag_md5(&headers(&[s3]), "\"d41d8cd98f00b204e9800998ecf8427e-3\"").is_none(), "put in three pieces");
    assert!(tag_md5(&headers(&[s3]), "\"éééééééééééééééé\"").is_none());
}

#[test]
fn google_tells_two_checksums() {
    let mut headers = HeaderMap::new();
    headers.insert("x-goog-hash", "crc32c=AAAAAA==,md5=1B2M2Y8AsgTpgAmY7PhCfg==".parse().unwrap());
    assert_eq!(google(&headers, "crc32c="), Some([0; 4]));
    assert_eq!(google::<16>(&headers, "md5=").map(|md5| hex(&md5)), Some("d41d8cd98f00b204e9800998ecf8427e".into()));
    headers.insert("x-goog-hash", "crc32c=AAAA,md5=!".parse().unwrap());
    assert_eq!((google::<4>(&headers, "crc32c="), google::<16>(&headers, "md5=")), (None, None));
}

#[test]
fn crc32c_is_the_one_that_google_means() {
    let mut digest = crc32c();
    digest.update(b"123456789");
    assert_eq!(digest.finalize(), 0xe306_9283); // RFC 3720, Castagnoli
}
