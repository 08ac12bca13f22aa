//! One connection from its first byte to its last: requests through hyper, and what hyper leaves to us: the stop signal,
//! stalled clients, half-closed connections, and a body for the errors of the HTTP layer itself.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header::CONNECTION};
use hyper::{
    body::Incoming,
    server::conn::http1::{self, Parts},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use server_engine::{Access, Leaving, Protocol};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tracing::debug;

use crate::{
    access::Sent,
    application::Application,
    body::Body,
    connection::{Activity, MonitoredStream, StallDetector},
    error::error_json,
    own_wakes::OwnWakes,
    transport::Transport,
};

/// How often a connection is checked for a stalled client; one is closed after one to two of these.
const STALL_INTERVAL: Duration = Duration::from_secs(30);
/// The same during the shutdown, which does not wait for a request that does not arrive.
const STOPPING_STALL_INTERVAL: Duration = Duration::from_secs(1);
/// How long after the end of the client's side its connection is first probed: quick responses are sent before. Most
/// clients that close their connection have left, and what they asked for is cancelled from then on.
const FIRST_PROBE: Duration = Duration::from_millis(100);
/// How long until the next probe.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// Largest head of a request. Units: bytes.
const MAX_HEAD: usize = 64 << 10;
/// Most header fields of a request.
const MAX_HEADER_FIELDS: usize = 1000;
/// Age from which connections are ended by a server that leaves and is ready for those that have nowhere else to go.
const LEAVING_AGE: Duration = Duration::from_secs(1);
/// How long the last response of a connection may take to be written, and what the client still sends to be discarded.
const LAST_RESPONSE_TIME: Duration = Duration::from_secs(2);

/// What the requests of one connection share: one reference count per request, that no other connection touches.
struct Shared<A> {
    application: Arc<A>,
    activity: Arc<Activity>,
    began: Instant,
    /// Known only where requests are logged.
    client: Option<SocketAddr>,
}

impl<A: Application> Shared<A> {
    /// Whether the connection ends with the response that is ready, so that its client goes where others serve. A client that has
    /// nowhere else to go comes back at once: while the server is ready for it, it need not come back for each request.
    fn is_over(&self) -> bool {
        match self.application.leaves() {
            Leaving::No => false,
            Leaving::WhileReady => self.began.elapsed() >= LEAVING_AGE,
            Leaving::Unready => true,
        }
    }
}

impl<A: Application> Shared<A> {
    /// What the access log will say of a request, if there is one.
    fn access(&self, request: &http::Request<Incoming>) -> Option<Box<Access>> {
        let log = self.application.access_log()?;
        Some(log.begin(Protocol::Http, self.client, request.method().as_str(), request.uri().path()))
    }
}

/// Drives one connection to its end. Dropping `stop`'s sender or sending asks it to end after the running request.
pub(crate) async fn drive(stream: Transport, application: Arc<impl Application>, stop: watch::Receiver<()>) {
    let activity = Arc::new(Activity::new(application.records_heads()));
    let client = application.access_log().and_then(|_| stream.peer());
    let shared = Arc::new(Shared { application, activity: activity.clone(), began: Instant::now(), client });
    let service = service_fn(move |request: http::Request<Incoming>| {
        let shared = shared.clone();
        async move {
            shared.activity.request_begun(request.version());
            let access = shared.access(&request);
            debug!("HTTP request: {} {}", request.method(), request.uri().path());
            let method = request.method().clone();
            let mut response = shared.application.answer(&shared.activity, request).await;
            if shared.is_over() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            shared.activity.answered();
            if let Body::Events(events) = response.body_mut() {
                events.watch(shared.activity.clone());
            }
            Ok::<_, Infallible>(Sent::new(response, &method, access))
        }
    });
    let mut http = http1::Builder::new();
    http.auto_date_header(false) // Triton sends none
        .half_close(true)
        .max_header_size(MAX_HEAD);
    let io = MonitoredStream::new(stream, Bytes::new(), activity.clone());
    let mut connection = http.serve_connection(TokioIo::new(io), service);
    let mut takes_many_fields = false;

    let mut has_stopped = stop.clone();
    let mut has_stopped = pin!(has_stopped.changed());
    let mut is_stopping = false;
    let mut next_check = pin!(sleep(STALL_INTERVAL));
    let mut stalls = StallDetector::default();
    let mut is_half_closed = false;
    let mut is_first = true;
    let own_wakes = OwnWakes::new();
    // The stop signal and the timer are polled only when they may be ready, not on every wake-up of a busy connection:
    // both keep the waker of the first poll, and a task's waker stays the same.
    //
    // A client may end its side after its request and wait for the response; one that has left looks the same until
    // something is sent to it: a probe.
    loop {
        let outcome = poll_fn(|context| {
            loop {
                let polled = own_wakes.poll(context, |context| Pin::new(&mut connection).poll(context));
                if let Poll::Ready(outcome) = polled {
                    return Poll::Ready(outcome.map_err(Some));
                }
                activity.note_written();
                let mut is_done = true;
                if !is_stopping
                    && (is_first || stop.has_changed().unwrap_or(true))
                    && has_stopped.as_mut().poll(context).is_ready()
                {
                    is_stopping = true;
                    Pin::new(&mut connection).graceful_shutdown();
                    next_check.as_mut().reset(Instant::now() + STOPPING_STALL_INTERVAL);
                    is_first = true;
                    is_done = false;
                }
                if activity.is_half_closed() && !is_half_closed {
                    is_half_closed = true;
                    next_check.as_mut().reset(Instant::now() + FIRST_PROBE);
                    is_first = true;
                }
                if is_first || next_check.is_elapsed() {
                    while next_check.as_mut().poll(context).is_ready() {
                        let interval = if is_half_closed && activity.request_probe() {
                            is_done = false; // polling the connection writes the probe
                            PROBE_INTERVAL
                        } else if stalls.is_stalled(&activity) {
                            debug!("a connection is closed because its client has stalled");
                            return Poll::Ready(Err(None));
                        } else if is_stopping {
                            STOPPING_STALL_INTERVAL
                        } else {
                            STALL_INTERVAL
                        };
                        next_check.as_mut().reset(Instant::now() + interval);
                    }
                }
                is_first = false;
                if is_done {
                    return Poll::Pending;
                }
            }
        })
        .await;
        let Err(Some(error)) = outcome else { return };
        debug!(%error, "a connection ended early");
        // hyper answers HTTP/2 with nothing at all
        let is_unanswered = error.is_parse() && !activity.is_writing();
        let status = activity.suppressed_status().or(is_unanswered.then_some(StatusCode::BAD_REQUEST));
        let Some(status) = status else { return };
        let Parts { io, read_buf, service, .. } = connection.into_parts();
        let stream = io.into_inner().into_inner();
        if takes_many_fields || status != StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE {
            _ = timeout(LAST_RESPONSE_TIME, refuse(stream, &refusal(status, &error.to_string()))).await;
            return;
        }
        // room for many header fields costs each request two allocations: only connections that need it have it
        takes_many_fields = true;
        activity.forget_suppressed();
        let io = MonitoredStream::new(stream, read_buf, activity.clone());
        connection = http.max_headers(MAX_HEADER_FIELDS).serve_connection(TokioIo::new(io), service);
        if is_stopping {
            Pin::new(&mut connection).graceful_shutdown();
        }
        is_first = true;
    }
}

/// Tells a client that did not begin with TLS that this port wants it.
pub(crate) async fn refuse_plain(stream: Transport) {
    let message = "this port is for HTTPS only: send the request to https:// instead of http://";
    _ = timeout(LAST_RESPONSE_TIME, refuse(stream, &last_response(StatusCode::BAD_REQUEST, message))).await;
}

/// Answers what is no request to hyper, whose own responses have no body, and ends the connection.
async fn refuse(mut stream: Transport, response: &[u8]) -> std::io::Result<()> {
    stream.write_all(response).await?;
    stream.shutdown().await?;
    // closing a socket with unread bytes would reset the connection, and with it the response on its way
    let mut rest = [0; 4096];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

fn refusal(status: StatusCode, error: &str) -> Vec<u8> {
    let message = match status {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => format!(
            "the head of the request exceeds the maximum of {MAX_HEADER_FIELDS} header fields or {MAX_HEAD} bytes. Send \
             fewer or shorter header fields."
        ),
        StatusCode::URI_TOO_LONG => "the request target exceeds the maximum of 65534 bytes. Send a shorter one.".into(),
        _ => format!("the request is not HTTP/1.1: {error}. Send it as RFC 9112 defines it."),
    };
    last_response(status, &message)
}

fn last_response(status: StatusCode, message: &str) -> Vec<u8> {
    let body = error_json(message);
    let mut response = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    response.extend_from_slice(&body);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_http_layer_have_a_body_that_names_the_limit() {
        let text = |status| String::from_utf8(refusal(status, "invalid HTTP version parsed")).unwrap();
        assert_eq!(
            text(StatusCode::BAD_REQUEST),
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: 101\r\nconnection: close\r\n\r\n\
             {\"error\":\"the request is not HTTP/1.1: invalid HTTP version parsed. Send it as RFC 9112 defines it.\"}"
        );
        let too_large = text(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        assert!(too_large.contains("1000 header fields or 65536 bytes"), "{too_large}");
        assert!(text(StatusCode::URI_TOO_LONG).contains("65534 bytes"));
    }
}
