//! Bodies: of requests, read without a copy where they come in one piece; of responses, in the few forms there are.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use server_core::error::{Error, Result};
use smallvec::SmallVec;

use crate::connection::Activity;

/// Gives the next event of a stream; `None` after the last.
pub(crate) type NextEvent = dyn FnMut(&mut Context<'_>) -> Poll<Option<Bytes>> + Send;

/// Most memory allocated for a declared length; beyond, it grows as the bytes arrive. Units: bytes.
const MAX_PREALLOCATED: u64 = 64 << 20;
/// Pieces a chunked body may be cut into.
const MAX_CHUNKS: usize = 65536;
/// Only shorter pieces count: longer ones may be parts of one chunk. Units: bytes.
const SMALL_CHUNK: usize = 1024;

/// Reads the body of a request and notes its end in the connection's activity.
///
/// Errors: as [`collect`].
pub(crate) async fn read(body: Incoming, activity: &Activity) -> Result<Bytes> {
    let body = collect(body).await?;
    activity.request_read();
    Ok(body)
}

/// Collects a request's body. One that came in one piece is not copied.
///
/// Errors: the connection ended, or the body has too many small chunks.
async fn collect(mut body: Incoming) -> Result<Bytes> {
    let Some(first) = next_piece(&mut body).await? else { return Ok(Bytes::new()) };
    if body.is_end_stream() {
        return Ok(first);
    }
    let Some(second) = next_piece(&mut body).await? else { return Ok(first) };
    let is_chunked = body.size_hint().exact().is_none();
    let expected = first.len() as u64 + second.len() as u64 + body.size_hint().lower();
    let mut whole = Vec::with_capacity(expected.min(MAX_PREALLOCATED) as usize);
    let mut small_chunks = 0;
    let mut piece = Some(first);
    let mut following = Some(second);
    while let Some(bytes) = piece {
        small_chunks += usize::from(is_chunked && bytes.len() < SMALL_CHUNK);
        if small_chunks > MAX_CHUNKS {
            return Err(Error::invalid_argument(format!(
                "Chunked request body exceeds maximum of {MAX_CHUNKS} non-empty chunks. Send fewer or larger HTTP \
                 chunks."
            )));
        }
        whole.extend_from_slice(&bytes);
        piece = match following.take() {
            Some(second) => Some(second),
            None => next_piece(&mut body).await?,
        };
    }
    Ok(Bytes::from(whole))
}

/// The next piece that is not empty.
async fn next_piece(body: &mut Incoming) -> Result<Option<Bytes>> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data()
                    && !data.is_empty()
                {
                    return Ok(Some(data));
                }
            }
            Some(Err(error)) => return Err(Error::cancelled(format!("the request body ended early: {error}"))),
        }
    }
}

/// A response's body.
pub(crate) enum Body {
    /// Known bytes, in pieces. The common answer has one.
    Pieces(SmallVec<[Bytes; 2]>),
    /// Events as a model gives them. Dropping it, as happens when the client disconnects, cancels the request.
    Events(Box<NextEvent>),
}

impl Body {
    pub(crate) fn empty() -> Self {
        Self::Pieces(SmallVec::new())
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from(Bytes::from(bytes))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Pieces(if bytes.is_empty() { SmallVec::new() } else { smallvec::smallvec![bytes] })
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Pieces(pieces) if pieces.is_empty() => Poll::Ready(None),
            Self::Pieces(pieces) => Poll::Ready(Some(Ok(Frame::data(pieces.remove(0))))),
            Self::Events(events) => events(context).map(|event| event.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Pieces(pieces) => pieces.is_empty(),
            Self::Events(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Pieces(pieces) => SizeHint::with_exact(pieces.iter().map(|piece| piece.len() as u64).sum()),
            Self::Events(_) => SizeHint::default(),
        }
    }
}
