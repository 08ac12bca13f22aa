//! What a connection is doing, so that a stalled client can be detected: one that never ends a head or a body, or never
//! reads its response. Idle connections may stay.
//!
//! One task owns a connection; the atomics are only there because it may change threads.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, Version};
use server_tls::Progress;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{head::HeadRecord, transport::Transport};

/// What a connection has done so far.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    /// `bytes_in` when the last answer was ready: bytes beyond belong to a new request.
    bytes_in_at_answer: AtomicU64,
    requests: AtomicU64,
    phase: AtomicU8,
    is_write_blocked: AtomicBool,
    /// A response was handed to hyper and may not be written yet.
    is_writing: AtomicBool,
    /// The client has ended its side while a request ran.
    is_half_closed: AtomicBool,
    /// The connection is to be probed.
    wants_probe: AtomicBool,
    /// The same while events are sent: a comment among them is the probe.
    wants_comment: AtomicBool,
    /// The client understands interim responses.
    may_probe: AtomicBool,
    /// Status of a response of hyper's own that was not sent; 0 for none.
    suppressed_status: AtomicU16,
    /// How the headers of the request were written, if anybody asks.
    head: Option<HeadRecord>,
}

/// No request is being worked on.
const BETWEEN: u8 = 0;
/// A request's body is being read.
const READING: u8 = 1;
/// A request runs.
const RUNNING: u8 = 2;
/// The events of a response are being sent.
const STREAMING: u8 = 3;

/// An interim response: clients skip it, and the system of one that has left answers that there is nobody. Some clients
/// know no other than this one.
const PROBE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

impl Activity {
    /// Of a connection of which each head is kept if `records_heads`.
    pub(crate) fn new(records_heads: bool) -> Self {
        Self { head: records_heads.then(HeadRecord::default), ..Self::default() }
    }

    /// The headers of the request that runs as its client wrote them; `None` if that was not kept.
    pub(crate) fn written<'a>(&self, headers: &'a HeaderMap) -> Option<Vec<(String, &'a HeaderValue)>> {
        self.head.as_ref()?.written(headers)
    }

    /// The next bytes that come are a new request.
    fn begin_head(&self) {
        if let Some(head) = &self.head {
            head.clear();
        }
    }

    /// A request's head was read.
    pub(crate) fn request_begun(&self, version: Version) {
        self.requests.fetch_add(1, Relaxed);
        self.may_probe.store(version == Version::HTTP_11, Relaxed);
        self.phase.store(READING, Relaxed);
    }

    /// A request's body was read.
    pub(crate) fn request_read(&self) {
        self.phase.store(RUNNING, Relaxed);
    }

    /// A request's answer is ready.
    pub(crate) fn answered(&self) {
        self.bytes_in_at_answer.store(self.bytes_in.load(Relaxed), Relaxed);
        self.is_writing.store(true, Relaxed);
        self.begin_head();
        self.phase.store(BETWEEN, Relaxed);
    }

    /// The answer that is ready is a stream of events.
    pub(crate) fn stream_begun(&self) {
        self.phase.store(STREAMING, Relaxed);
    }

    /// The last event was handed over.
    pub(crate) fn stream_ended(&self) {
        self.bytes_in_at_answer.store(self.bytes_in.load(Relaxed), Relaxed);
        self.begin_head();
        self.phase.store(BETWEEN, Relaxed);
    }

    /// The connection has done all it could: a response that was handed over is written, unless the socket is full.
    pub(crate) fn note_written(&self) {
        if self.phase.load(Relaxed) == BETWEEN && !self.is_write_blocked.load(Relaxed) {
            self.is_writing.store(false, Relaxed);
        }
    }

    /// Whether the client has ended its side while a request ran.
    pub(crate) fn is_half_closed(&self) -> bool {
        self.is_half_closed.load(Relaxed)
    }

    /// Whether a response was handed over that may not be written yet.
    pub(crate) fn is_writing(&self) -> bool {
        self.is_writing.load(Relaxed)
    }

    /// Has the connection probed when it is polled next. Whether that is so: only while a request runs.
    pub(crate) fn request_probe(&self) -> bool {
        let phase = self.phase.load(Relaxed);
        let is_free = !self.is_write_blocked.load(Relaxed);
        let is_due = is_free && phase == RUNNING && self.may_probe.load(Relaxed);
        let is_comment_due = is_free && phase == STREAMING;
        self.wants_probe.store(is_due, Relaxed);
        self.wants_comment.store(is_comment_due, Relaxed);
        is_due || is_comment_due
    }

    /// Whether the events that are being sent are to have a comment among them, once.
    pub(crate) fn take_comment(&self) -> bool {
        self.wants_comment.load(Relaxed) && self.wants_comment.swap(false, Relaxed)
    }

    /// Forgets the response that was not sent: its request is read again.
    pub(crate) fn forget_suppressed(&self) {
        self.suppressed_status.store(0, Relaxed);
    }

    /// The status of a response of hyper's own that was not sent.
    pub(crate) fn suppressed_status(&self) -> Option<StatusCode> {
        StatusCode::from_u16(self.suppressed_status.load(Relaxed)).ok()
    }

    /// Whether a request runs, so that the client's side of the connection is watched for its end.
    fn is_running(&self) -> bool {
        matches!(self.phase.load(Relaxed), RUNNING | STREAMING)
    }

    /// Keeps a response that hyper writes without a request: it has no body. Its status is remembered.
    fn suppresses(&self, bytes: &[u8]) -> bool {
        if self.phase.load(Relaxed) != BETWEEN || self.is_writing() || self.is_write_blocked.load(Relaxed) {
            return false;
        }
        let status = bytes.get(9..12).and_then(|digits| StatusCode::from_bytes(digits).ok());
        if let Some(status) = status {
            self.suppressed_status.store(status.as_u16(), Relaxed);
        }
        self.suppressed_status().is_some()
    }

    /// What this connection waits for its client to do, with a number that changes when the client does it.
    fn waits_for(&self) -> Option<Wait> {
        if self.is_write_blocked.load(Relaxed) {
            return Some(Wait::Fetch { bytes_out: self.bytes_out.load(Relaxed) });
        }
        let bytes_in = self.bytes_in.load(Relaxed);
        match self.phase.load(Relaxed) {
            BETWEEN if bytes_in > self.bytes_in_at_answer.load(Relaxed) => {
                Some(Wait::Head { requests: self.requests.load(Relaxed) })
            }
            READING => Some(Wait::Body {
                requests: self.requests.load(Relaxed),
                bytes_in,
                held: bytes_in - self.bytes_in_at_answer.load(Relaxed),
            }),
            _ => None,
        }
    }

    /// Counts a write. `stream` knows better than its outcome what has left, if it has a buffer of its own.
    fn count_write(&self, outcome: &Poll<io::Result<usize>>, stream: &Transport) {
        match stream.progress() {
            None => self.count_written(outcome),
            Some(progress) => self.note_progress(progress),
        }
    }

    fn note_progress(&self, progress: Progress) {
        self.bytes_out.store(progress.sent, Relaxed);
        self.is_write_blocked.store(progress.is_blocked, Relaxed);
    }

    fn count_written(&self, outcome: &Poll<io::Result<usize>>) {
        match outcome {
            Poll::Ready(Ok(count)) => {
                self.bytes_out.fetch_add(*count as u64, Relaxed);
                self.is_write_blocked.store(false, Relaxed);
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.is_write_blocked.store(true, Relaxed),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// The rest of a head: it does not count that bytes trickle in.
    Head { requests: u64 },
    /// More of a body: the more of it is held, the more must come.
    Body { requests: u64, bytes_in: u64, held: u64 },
    /// To read its response.
    Fetch { bytes_out: u64 },
}

/// Between two checks a body must grow by this part of what is held of it: few connections must not keep the memory of
/// all by sending a byte now and then. 60 MiB need 128 KB a second.
const LEAST_GROWTH: u64 = 16;
/// Between two checks so much of a response must be read that did not fit into the socket, bytes.
const LEAST_READ: u64 = 16 << 10;

impl Wait {
    /// Whether the client has not done what it had to since `before`.
    fn is_same_as(self, before: Self) -> bool {
        match (before, self) {
            (Self::Head { requests: before }, Self::Head { requests }) => requests == before,
            (Self::Body { requests: before, bytes_in: read, held }, Self::Body { requests, bytes_in, .. }) => {
                requests == before && bytes_in - read < (held / LEAST_GROWTH).max(1)
            }
            (Self::Fetch { bytes_out: before }, Self::Fetch { bytes_out }) => bytes_out - before < LEAST_READ,
            _ => false,
        }
    }
}

/// Compares what a connection waits for from one check to the next.
#[derive(Debug, Default)]
pub(crate) struct StallDetector {
    last: Option<Wait>,
}

impl StallDetector {
    /// Whether the connection has waited for the same thing since the last check, and got less than the least of it.
    pub(crate) fn is_stalled(&mut self, activity: &Activity) -> bool {
        let now = activity.waits_for();
        let is_over = now.zip(self.last).is_some_and(|(now, before)| now.is_same_as(before));
        self.last = now;
        is_over
    }
}

/// A stream that keeps its [`Activity`].
pub(crate) struct MonitoredStream {
    stream: Transport,
    /// What was read from it before, to be read again.
    unread: Bytes,
    activity: Arc<Activity>,
    /// Completes once the socket has an error; watched when the client has ended its side.
    error: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl MonitoredStream {
    /// `unread` is read before what comes from the socket.
    pub(crate) fn new(stream: Transport, unread: Bytes, activity: Arc<Activity>) -> Self {
        Self { stream, unread, activity, error: None }
    }

    /// The stream.
    pub(crate) fn into_inner(self) -> Transport {
        self.stream
    }

    /// Notes what has left a stream with a buffer of its own: the last of a response leaves when it is flushed.
    fn note_flushed(&self) {
        if let Some(progress) = self.stream.progress() {
            self.activity.note_progress(progress);
        }
    }

    /// Looks for the end of the client's side while a request runs, when hyper does not read.
    ///
    /// Errors: the connection is reset.
    fn watch(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if !self.activity.is_half_closed() {
            match self.stream.poll_is_at_end(context) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending | Poll::Ready(Ok(false)) => return Ok(()),
            }
            self.activity.is_half_closed.store(true, Relaxed);
            // without a descriptor to spare, the next probe finds the error
            self.error = self.stream.error().ok();
        }
        self.check_half_closed(context)
    }

    /// Whether a half-closed connection has ended for good. Probes it first if that is due.
    fn check_half_closed(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.activity.wants_probe.swap(false, Relaxed) {
            match Pin::new(&mut self.stream).poll_write(context, PROBE) {
                Poll::Ready(Ok(PROBE_LENGTH)) | Poll::Pending => {}
                Poll::Ready(Ok(_)) => return Err(io::ErrorKind::WriteZero.into()), // half a probe would spoil the response
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        if self.error.as_mut().is_some_and(|error| error.as_mut().poll(context).is_ready()) {
            self.error = None;
        }
        // reading would only give the end again
        self.stream.check()
    }
}

const PROBE_LENGTH: usize = PROBE.len();

impl AsyncRead for MonitoredStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            let count = self.unread.len().min(buffer.remaining());
            buffer.put_slice(&self.unread.split_to(count));
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.activity.bytes_in.fetch_add((buffer.filled().len() - before) as u64, Relaxed);
        if let Some(head) = &self.activity.head
            && self.activity.phase.load(Relaxed) == BETWEEN
        {
            head.push(&buffer.filled()[before..]);
        }
        outcome
    }
}

impl AsyncWrite for MonitoredStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.activity.suppresses(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.activity.count_write(&outcome, &self.stream);
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if slices.first().is_some_and(|bytes| self.activity.suppresses(bytes)) {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.activity.count_write(&outcome, &self.stream);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Called by hyper at the end of each round, also if there is nothing to flush.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.activity.is_running() {
            self.watch(context)?;
        }
        let outcome = Pin::new(&mut self.stream).poll_flush(context);
        self.note_flushed();
        outcome
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.activity.suppressed_status().is_some() {
            return Poll::Ready(Ok(())); // the response is still to come
        }
        let outcome = Pin::new(&mut self.stream).poll_shutdown(context);
        self.note_flushed();
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(activity: &Activity, bytes: u64) {
        activity.bytes_in.fetch_add(bytes, Relaxed);
    }

    #[test]
    fn an_idle_connection_may_stay() {
        let (activity, mut stalls) = (Activity::default(), StallDetector::default());
        for _ in 0..3 {
            assert!(!stalls.is_stalled(&activity));
        }
        received(&activity, 100);
        activity.request_begun(Version::HTTP_11);
        activity.request_read();
        activity.answered();
        for _ in 0..3 {
            assert!(!stalls.is_stalled(&activity));
        }
    }

    #[test]
    fn only_a_running_request_whose_client_knows_interim_responses_is_probed() {
        for (version, expected) in [(Version::HTTP_11, true), (Version::HTTP_10, false)] {
            let activity = Activity::default();
            assert!(!activity.request_probe());
            activity.request_begun(version);
            assert!(!activity.request_probe());
            activity.request_read();
            assert_eq!(activity.request_probe(), expected);
            activity.count_written(&Poll::Pending);
            assert!(!activity.request_probe());
            activity.count_written(&Poll::Ready(Ok(1)));
            assert_eq!(activity.request_probe(), expected);
            activity.answered();
            assert!(!activity.request_probe());
        }
    }

    #[test]
    fn a_head_that_trickles_in_is_a_stall() {
        let (activity, mut stalls) = (Activity::default(), StallDetector::default());
        received(&activity, 1);
        assert!(!stalls.is_stalled(&activity));
        received(&activity, 1);
        assert!(stalls.is_stalled(&activity));
    }

    #[test]
    fn a_body_that_arrives_slowly_is_no_stall() {
        let (activity, mut stalls) = (Activity::default(), StallDetector::default());
        activity.request_begun(Version::HTTP_11);
        for _ in 0..3 {
            received(&activity, 10);
            assert!(!stalls.is_stalled(&activity));
        }
        assert!(stalls.is_stalled(&activity));
    }

    #[test]
    fn a_large_body_must_arrive_at_a_least_rate() {
        let (activity, mut stalls) = (Activity::default(), StallDetector::default());
        activity.request_begun(Version::HTTP_11);
        received(&activity, 32 << 20);
        assert!(!stalls.is_stalled(&activity));
        received(&activity, 2 << 20);
        assert!(!stalls.is_stalled(&activity));
        received(&activity, 2 << 20);
        assert!(stalls.is_stalled(&activity), "34 MiB are held: a sixteenth of that is more");
    }

    #[test]
    fn a_long_inference_is_no_stall() {
        let (activity, mut stalls) = (Activity::default(), StallDetector::default());
        activity.request_begun(Version::HTTP_11);
        activity.request_read();
        for _ in 0..3 {
            assert!(!stalls.is_stalled(&activity));
        }
    }

    #[test]
    fn a_response_that_is_not_read_is_a_stall() {
        let (activity, mut stalls) = (Activity::default(), StallDetector::default());
        activity.count_written(&Poll::Ready(Ok(10)));
        activity.count_written(&Poll::Pending);
        assert!(!stalls.is_stalled(&activity));
        activity.count_written(&Poll::Ready(Ok(16 << 10)));
        activity.count_written(&Poll::Pending);
        assert!(!stalls.is_stalled(&activity));
        activity.count_written(&Poll::Ready(Ok(10)));
        activity.count_written(&Poll::Pending);
        assert!(stalls.is_stalled(&activity), "a byte now and then is not enough");
    }
}
