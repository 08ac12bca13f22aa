//! What a connection is doing, so that a stalled client can be detected: one that never ends a head or a body, or never
//! reads its response. Idle connections may stay.
//!
//! One task owns a connection; the atomics are only there because it may change threads.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

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
}

/// No request is being worked on.
const BETWEEN: u8 = 0;
/// A request's body is being read.
const READING: u8 = 1;
/// A request runs.
const RUNNING: u8 = 2;

impl Activity {
    /// A request's head was read.
    pub(crate) fn request_begun(&self) {
        self.requests.fetch_add(1, Relaxed);
        self.phase.store(READING, Relaxed);
    }

    /// A request's body was read.
    pub(crate) fn request_read(&self) {
        self.phase.store(RUNNING, Relaxed);
    }

    /// A request's answer is ready.
    pub(crate) fn answered(&self) {
        self.bytes_in_at_answer.store(self.bytes_in.load(Relaxed), Relaxed);
        self.phase.store(BETWEEN, Relaxed);
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
            READING => Some(Wait::Body { bytes_in }),
            _ => None,
        }
    }

    fn count_write(&self, outcome: &Poll<io::Result<usize>>) {
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
    /// More of a body.
    Body { bytes_in: u64 },
    /// To read its response.
    Fetch { bytes_out: u64 },
}

/// Compares what a connection waits for from one check to the next.
#[derive(Debug, Default)]
pub(crate) struct StallDetector {
    last: Option<Wait>,
}

impl StallDetector {
    /// Whether the connection has waited for the same thing since the last check.
    pub(crate) fn is_stalled(&mut self, activity: &Activity) -> bool {
        let now = activity.waits_for();
        let is_over = now.is_some() && now == self.last;
        self.last = now;
        is_over
    }
}

/// A socket that keeps its [`Activity`].
#[derive(Debug)]
pub(crate) struct MonitoredStream {
    stream: TcpStream,
    activity: Arc<Activity>,
}

impl MonitoredStream {
    pub(crate) fn new(stream: TcpStream, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }
}

impl AsyncRead for MonitoredStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.activity.bytes_in.fetch_add((buffer.filled().len() - before) as u64, Relaxed);
        outcome
    }
}

impl AsyncWrite for MonitoredStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.activity.count_write(&outcome);
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.activity.count_write(&outcome);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
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
        activity.request_begun();
        activity.request_read();
        activity.answered();
        for _ in 0..3 {
            assert!(!stalls.is_stalled(&activity));
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
        activity.request_begun();
        for _ in 0..3 {
            received(&activity, 10);
            assert!(!stalls.is_stalled(&activity));
        }
        assert!(stalls.is_stalled(&activity));
    }

    #[test]
    fn a_long_inference_is_no_stall() {
        let (activity, mut stalls) = (Activity::default(), StallDetector::default());
        activity.request_begun();
        activity.request_read();
        for _ in 0..3 {
            assert!(!stalls.is_stalled(&activity));
        }
    }

    #[test]
    fn a_response_that_is_not_read_is_a_stall() {
        let (activity, mut stalls) = (Activity::default(), StallDetector::default());
        activity.count_write(&Poll::Ready(Ok(10)));
        activity.count_write(&Poll::Pending);
        assert!(!stalls.is_stalled(&activity));
        activity.count_write(&Poll::Ready(Ok(10)));
        activity.count_write(&Poll::Pending);
        assert!(!stalls.is_stalled(&activity));
        assert!(stalls.is_stalled(&activity));
    }
}
