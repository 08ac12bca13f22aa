//! Bodies: of requests, read without a copy where they come in one piece and never beyond their limit; of responses, in
//! the few forms there are.

mod chunk;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{
    HeaderMap, HeaderValue, Response,
    header::{CONNECTION, EXPECT},
};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use server_core::{
    byte_budget::ByteBudget,
    error::{Error, Result},
    input_memory::{InputPlacement, ReceiveBuffer},
};
use smallvec::SmallVec;
use tokio::time::timeout;

pub(crate) use self::chunk::Chunk;
use crate::{connection::Activity, held::Received, limits::BodyLimit};

/// Most memory allocated for a declared length; beyond, it grows as the bytes arrive. Units: bytes.
const MAX_PREALLOCATED: u64 = 64 << 20;
/// Pieces a chunked body may be cut into.
const MAX_CHUNKS: usize = 65536;
/// Only shorter pieces count: longer ones may be parts of one chunk. Units: bytes.
const SMALL_CHUNK: usize = 1024;
/// How long the rest of a body is discarded after its request was refused, so that the client reads the response before
/// the connection closes.
const DISCARD_TIME: Duration = Duration::from_secs(30);
/// How long to wait for more of it.
const DISCARD_PAUSE: Duration = Duration::from_secs(5);

/// The body of a request: read by the handler that wants it, discarded by [`RequestBody::finish`] otherwise.
pub(crate) struct RequestBody {
    /// `None` after its end.
    incoming: Option<Incoming>,
    /// The client waits for `100 Continue`, which is sent when the body is first read.
    is_held_back: bool,
}

impl RequestBody {
    /// `headers` are those of the request.
    pub(crate) fn new(incoming: Incoming, headers: &HeaderMap) -> Self {
        let is_empty = incoming.is_end_stream();
        Self { incoming: (!is_empty).then_some(incoming), is_held_back: !is_empty && headers.contains_key(EXPECT) }
    }

    /// Its length as far as it is declared, in bytes; 0 for one in chunks.
    pub(crate) fn declared_length(&self) -> usize {
        let declared = self.incoming.as_ref().and_then(|incoming| incoming.size_hint().exact()).unwrap_or(0);
        usize::try_from(declared).unwrap_or(usize::MAX)
    }

    /// Reads the body, and notes its end in the connection's activity. One that came in one piece is not copied. Its
    /// bytes are taken from the budget as they arrive. A long one is received where `placement` says.
    ///
    /// Errors: it is larger than its limit, by its declared length or by what has arrived; the budget is used up; the
    /// connection ended; it has too many small chunks. What is left is for [`RequestBody::finish`].
    pub(crate) async fn read(
        &mut self,
        limit: BodyLimit,
        budget: &Arc<ByteBudget>,
        activity: &Activity,
        placement: Option<InputPlacement>,
    ) -> Result<Received> {
        let declared = self.declared_length();
        let received = match &mut self.incoming {
            None => Received { bytes: Bytes::new(), reservation: budget.reserve(0)? },
            Some(incoming) => {
                limit.check(declared)?;
                self.is_held_back = false;
                collect(incoming, limit, budget, declared, placement).await?
            }
        };
        self.incoming = None;
        activity.request_read();
        Ok(received)
    }

    /// Sees to what no handler has read: it is discarded beside the response, and the connection goes on with the next
    /// request, or is closed if the rest takes too long.
    pub(crate) fn finish(self, response: &mut Response<Body>) {
        let Some(incoming) = self.incoming else { return };
        if self.is_held_back {
            // The client may or may not send the body after a response that is not `100 Continue`.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        } else {
            tokio::spawn(discard(incoming));
        }
    }
}

async fn collect(
    body: &mut Incoming,
    limit: BodyLimit,
    budget: &Arc<ByteBudget>,
    declared: usize,
    mut placement: Option<InputPlacement>,
) -> Result<Received> {
    let first = next_piece(body).await?.unwrap_or_default();
    limit.check(first.len())?;
    let mut reservation = budget.reserve(first.len())?;
    if body.is_end_stream() {
        return Ok(Received { bytes: first, reservation });
    }
    let Some(second) = next_piece(body).await? else { return Ok(Received { bytes: first, reservation }) };
    let is_chunked = body.size_hint().exact().is_none();
    let expected = first.len() as u64 + second.len() as u64 + body.size_hint().lower();
    let mut whole = ReceiveBuffer::default();
    if placement.is_none() {
        // one that is moved meanwhile needs no room here
        let capacity = expected.min(MAX_PREALLOCATED) as usize;
        whole.try_reserve_exact(capacity).map_err(|_| out_of_memory(declared))?;
    }
    let mut place = |whole: &mut ReceiveBuffer, received| {
        if InputPlacement::is_due(received, declared)
            && let Some(placement) = placement.take()
        {
            whole.place(&placement, declared);
        }
    };
    place(&mut whole, first.len() + second.len());
    whole.extend_from_slice(&first);
    let is_small = |bytes: &Bytes| usize::from(is_chunked && bytes.len() < SMALL_CHUNK);
    let mut small_chunks = is_small(&first);
    drop(first);
    let mut piece = Some(second);
    while let Some(bytes) = piece {
        small_chunks += is_small(&bytes);
        if small_chunks > MAX_CHUNKS {
            return Err(Error::invalid_argument(format!(
                "Chunked request body exceeds maximum of {MAX_CHUNKS} non-empty chunks. Send fewer or larger HTTP \
                 chunks."
            )));
        }
        limit.check(whole.len() + bytes.len())?;
        reservation.grow_by(bytes.len())?;
        let received = whole.len() + bytes.len();
        place(&mut whole, received);
        whole.extend_from_slice(&bytes);
        piece = next_piece(body).await?;
    }
    Ok(Received { bytes: whole.freeze(), reservation })
}

#[cold]
fn out_of_memory(length: usize) -> Error {
    Error::unavailable(format!("no memory for a request body of {length} bytes"))
}

/// Reads and drops the rest of a body, for a limited time.
async fn discard(mut body: Incoming) {
    let rest = async { while let Ok(Some(Ok(_))) = timeout(DISCARD_PAUSE, body.frame()).await {} };
    _ = timeout(DISCARD_TIME, rest).await; // dropping the body closes the connection if this was not the end
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

/// Gives the next events of a stream; `None` after the last.
pub(crate) type NextEvents = dyn FnMut(&mut Context<'_>) -> Poll<Option<Vec<u8>>> + Send;

/// An event that is none: clients skip it, and the system of one that has left answers that there is nobody.
const COMMENT: &[u8] = b":\n\n";

/// Events as a model gives them. Dropping it, as happens when the client disconnects, cancels the request.
pub(crate) struct Events {
    next: Box<NextEvents>,
    activity: Option<Arc<Activity>>,
}

impl Events {
    pub(crate) fn new(next: impl FnMut(&mut Context<'_>) -> Poll<Option<Vec<u8>>> + Send + 'static) -> Self {
        Self { next: Box::new(next), activity: None }
    }

    /// Notes in the connection's activity that a stream begins, and later that it ends.
    pub(crate) fn watch(&mut self, activity: Arc<Activity>) {
        activity.stream_begun();
        self.activity = Some(activity);
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Chunk>> {
        let chunk = (self.next)(context);
        if chunk.is_pending() && self.activity.as_ref().is_some_and(|activity| activity.take_comment()) {
            return Poll::Ready(Some(COMMENT.to_vec().into()));
        }
        chunk.map(|chunk| chunk.map(Chunk::from))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if let Some(activity) = &self.activity {
            activity.stream_ended();
        }
    }
}

/// A response's body.
pub(crate) enum Body {
    /// Known bytes, in pieces. The common answer has one.
    Pieces(SmallVec<[Chunk; 2]>),
    /// Server-sent events.
    Events(Events),
}

impl Body {
    pub(crate) fn empty() -> Self {
        Self::Pieces(SmallVec::new())
    }
}

impl From<Vec<u8>> for Body {
    fn from(text: Vec<u8>) -> Self {
        Self::Pieces(if text.is_empty() { SmallVec::new() } else { smallvec::smallvec![text.into()] })
    }
}

impl http_body::Body for Body {
    type Data = Chunk;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Chunk>, Self::Error>>> {
        match self.get_mut() {
            Self::Pieces(pieces) if pieces.is_empty() => Poll::Ready(None),
            Self::Pieces(pieces) => Poll::Ready(Some(Ok(Frame::data(pieces.remove(0))))),
            Self::Events(events) => events.poll_next(context).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk)))),
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
            Self::Pieces(pieces) => SizeHint::with_exact(pieces.iter().map(|piece| piece.remaining() as u64).sum()),
            Self::Events(_) => SizeHint::default(),
        }
    }
}
