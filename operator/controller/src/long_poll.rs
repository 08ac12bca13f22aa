//! A document that one program follows at another: whoever names the state it knows (`If-None-Match`) and is willing to wait
//! (`Prefer: wait=SECONDS`, RFC 7240) is answered when there is another one, or with 304 once the time is over. Both sides are here.
//! All waits and lengths have limits.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::{
    HeaderMap, Request, Response, StatusCode, Uri,
    header::{CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use sha2::{Digest, Sha256};
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

/// The header of RFC 7240.
const PREFER: HeaderName = HeaderName::from_static("prefer");
/// How long an answer is waited for by those who follow.
const WAIT: Duration = Duration::from_secs(20);
/// How long an answer may take beyond that.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest wait that is granted.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Between two looks at what changes without a sign.
const LOOK: Duration = Duration::from_secs(1);
/// Several changes that come together are one.
const FOLD: Duration = Duration::from_millis(20);
/// The longest document that is read: ten thousand servers with their pods.
const LONGEST: usize = 16 << 20;
/// Pause after a question that was not answered.
const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// Places for those who wait.
#[derive(Debug)]
pub(crate) struct Waits(Semaphore);

impl Waits {
    /// `count` may wait at the same time. Further ones are answered at once.
    pub(crate) fn new(count: usize) -> Self {
        Self(Semaphore::new(count))
    }

    /// The answer to a request with these headers: the document at once, or when it is another than the one known. `changes` counts
    /// what may have changed it.
    pub(crate) async fn answer(
        &self,
        headers: &HeaderMap,
        document: impl Fn() -> Vec<u8>,
        mut changes: watch::Receiver<u64>,
    ) -> Response<Full<Bytes>> {
        let deadline = Instant::now() + preferred(headers);
        let known = headers.get(IF_NONE_MATCH).map(|tag| tag.as_bytes().to_vec());
        let place = self.0.try_acquire();
        loop {
            changes.borrow_and_update();
            let body = document();
            let tag = format!("\"{}\"", hex::encode(&Sha256::digest(&body)[..16]));
            let is_known = known.as_deref() == Some(tag.as_bytes());
            if !is_known || place.is_err() || Instant::now() >= deadline {
                return response(is_known, tag, body);
            }
            let next = deadline.min(Instant::now() + LOOK);
            match tokio::time::timeout_at(next, changes.changed()).await {
                Ok(Ok(())) => tokio::time::sleep(FOLD).await,
                Ok(Err(_)) => return response(is_known, tag, body), // nobody is left to change it
                Err(_) => {}
            }
        }
    }
}

fn response(is_known: bool, tag: String, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        *response.body_mut() = Full::new(body.into());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if let Ok(tag) = HeaderValue::try_from(tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

/// How long the caller is willing to wait; what cannot be read is no preference.
fn preferred(headers: &HeaderMap) -> Duration {
    let text = headers.get(PREFER).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let seconds = text.trim().strip_prefix("wait=").and_then(|seconds| seconds.parse().ok()).unwrap_or(0);
    Duration::from_secs(seconds).min(LONGEST_WAIT)
}

/// Follows the document at an address.
#[derive(Debug)]
pub(crate) struct Follower {
    client: Client<HttpConnector, Empty<Bytes>>,
    uri: Uri,
    tag: Option<HeaderValue>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Nobody answers.
    #[error("no answer from {uri}: {why}")]
    Silent { uri: Uri, why: String },
    /// It is not the document.
    #[error("{uri} answers with {what}")]
    Junk { uri: Uri, what: String },
}

impl Follower {
    /// Asks nothing yet.
    pub(crate) fn new(uri: Uri) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(Duration::from_secs(2)));
        connector.set_nodelay(true);
        connector.set_keepalive(Some(Duration::from_secs(1)));
        connector.set_keepalive_interval(Some(Duration::from_secs(1)));
        connector.set_keepalive_retries(Some(3));
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        Self { client, uri, tag: None }
    }

    /// Waits for a document other than the last one.
    ///
    /// Errors: [`Failure`], after a short pause, so that it can be asked again at once.
    pub(crate) async fn next(&mut self) -> Result<Bytes, Failure> {
        loop {
            match tokio::time::timeout(WAIT + PATIENCE, self.ask()).await {
                Ok(Ok(Some(document))) => return Ok(document),
                Ok(Ok(None)) => {}
                Ok(Err(failure)) => {
                    tokio::time::sleep(AFTER_FAILURE).await;
                    return Err(failure);
                }
                Err(_) => return Err(Failure::Silent { uri: self.uri.clone(), why: "the time is over".into() }),
            }
        }
    }

    async fn ask(&mut self) -> Result<Option<Bytes>, Failure> {
        let silent = |why: String| Failure::Silent { uri: self.uri.clone(), why };
        let junk = |what: String| Failure::Junk { uri: self.uri.clone(), what };
        // after a failure all of it is wanted: whoever answers now may be another one
        let tag = self.tag.take();
        let mut request = Request::get(self.uri.clone());
        if let Some(tag) = &tag {
            request = request.header(IF_NONE_MATCH, tag).header(PREFER, format!("wait={}", WAIT.as_secs()));
        }
        let request = request.body(Empty::new()).map_err(|error| silent(error.to_string()))?;
        let response = self.client.request(request).await.map_err(|error| silent(cause(&error)))?;
        let (head, body) = response.into_parts();
        match head.status {
            StatusCode::NOT_MODIFIED => {
                self.tag = tag;
                return Ok(None);
            }
            StatusCode::OK => {}
            status => return Err(junk(status.to_string())),
        }
        let body = Limited::new(body, LONGEST).collect().await.map_err(|error| junk(error.to_string()))?;
        self.tag = head.headers.get(ETAG).cloned();
        Ok(Some(body.to_bytes()))
    }
}

/// The innermost reason of an error, which says most.
pub(crate) fn cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_preference_is_read_as_far_as_it_can_be() {
        let seconds = |value: &str| preferred(&headers(&[(PREFER, value)])).as_secs();
        assert_eq!([seconds("wait=7"), seconds("wait=4000000000")], [7, LONGEST_WAIT.as_secs()]);
        for junk in ["wait", "wait=", "wait=-1", "wait=1e9", "wait=99999999999999999999", ""] {
            assert_eq!(seconds(junk), 0, "{junk}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_knows_the_document_waits_for_the_next_one() {
        let waits = Waits::new(1);
        let (changes, receiver) = watch::channel(0);
        let text = std::sync::Mutex::new("a");
        let document = || text.lock().unwrap().as_bytes().to_vec();
        let first = waits.answer(&HeaderMap::new(), document, receiver.clone()).await;
        let tag = first.headers()[ETAG].to_str().unwrap().to_owned();
        let known = headers(&[(IF_NONE_MATCH, &tag), (PREFER, "wait=20")]);
        let began = Instant::now();
        let unchanged = waits.answer(&known, document, receiver.clone()).await;
        assert_eq!((unchanged.status(), began.elapsed().as_secs()), (StatusCode::NOT_MODIFIED, 20));

        let began = Instant::now();
        let change = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            changes.send_modify(|count| *count += 1); // nothing new
            tokio::time::sleep(Duration::from_millis(200)).await;
            *text.lock().unwrap() = "b";
            changes.send_modify(|count| *count += 1);
        };
        let (changed, ()) = tokio::join!(waits.answer(&known, document, receiver.clone()), change);
        assert_eq!(changed.status(), StatusCode::OK);
        assert!(began.elapsed() < Duration::from_millis(600), "{:?}", began.elapsed());

        // what changes without a sign is seen within a second; who finds no place to wait is answered at once
        *text.lock().unwrap() = "a";
        let quiet = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            *text.lock().unwrap() = "c";
        };
        let second = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            waits.answer(&known, document, receiver.clone()).await.status()
        };
        let began = Instant::now();
        let (changed, (), second) = tokio::join!(waits.answer(&known, document, receiver.clone()), quiet, second);
        assert_eq!((changed.status(), second), (StatusCode::OK, StatusCode::NOT_MODIFIED));
        assert!(began.elapsed() <= Duration::from_secs(4));
    }

    #[tokio::test]
    async fn junk_and_silence_are_told_apart_from_documents() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri: Uri = format!("http://{}/demand", listener.local_addr().unwrap()).parse().unwrap();
        let answers = [
            "HTTP/1.1 503 x\r\ncontent-length: 0\r\n\r\n",
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        ];
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1024]).await;
                tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes()).await.unwrap();
            }
        });
        let mut follower = Follower::new(uri);
        assert!(matches!(follower.next().await, Err(Failure::Junk { .. })));
        assert!(matches!(follower.next().await, Err(Failure::Silent { .. })));
        assert_eq!(&follower.next().await.unwrap()[..], b"{}");
        assert!(matches!(follower.next().await, Err(Failure::Silent { .. })), "nobody listens any more");
    }
}
