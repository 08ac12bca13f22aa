//! The body of a response: framed messages, then the status of the call in the trailers.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header::CONTENT_TYPE};
use http_body::{Body, Frame};
use server_core::error::Result;
use server_engine::BlockingPool;
use tonic::Status;

use super::{
    compression::GZIP,
    encode::{self, Parts},
};
use crate::error::status;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// A message is compressed on the event loop up to this size, about a millisecond of work, and beyond on the blocking pool.
const MAX_INLINE: usize = 32 << 10;

/// The responses of a stream, framed.
type Responses = Pin<Box<dyn Stream<Item = Result<Parts, Status>> + Send>>;

/// What is sent after the headers of a response.
#[derive(Default)]
pub(crate) struct ResponseBody(Kind);

#[derive(Default)]
enum Kind {
    /// Nothing more.
    #[default]
    Empty,
    /// One message and the status OK.
    Unary(smallvec::IntoIter<[Bytes; 4]>),
    /// Messages as they come.
    Stream(Responses, Option<Compressor>, smallvec::IntoIter<[Bytes; 4]>),
}

impl ResponseBody {
    /// The response of a unary call.
    pub(crate) fn unary(message: Parts, is_compressed: bool) -> Response<Self> {
        response(Kind::Unary(message.into_iter()), is_compressed)
    }

    /// The responses of a stream, compressed one by one if there is a compressor.
    pub(crate) fn stream(responses: Responses, compressor: Option<Compressor>) -> Response<Self> {
        let is_compressed = compressor.is_some();
        response(Kind::Stream(responses, compressor, Parts::new().into_iter()), is_compressed)
    }
}

fn response(kind: Kind, is_compressed: bool) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody(kind));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if is_compressed {
        response.headers_mut().insert("grpc-encoding", GZIP);
    }
    response
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        let end = match &mut self.0 {
            Kind::Empty => return Poll::Ready(None),
            Kind::Unary(parts) => match parts.next() {
                Some(part) => return Poll::Ready(Some(Ok(Frame::data(part)))),
                None => Ok(()),
            },
            Kind::Stream(responses, compressor, parts) => loop {
                if let Some(part) = parts.next() {
                    return Poll::Ready(Some(Ok(Frame::data(part))));
                }
                match ready!(poll_message(responses, compressor, context)) {
                    Some(Ok(message)) => *parts = message.into_iter(),
                    Some(Err(status)) => break Err(status),
                    None => break Ok(()),
                }
            },
        };
        self.0 = Kind::Empty;
        Poll::Ready(Some(Ok(Frame::trailers(trailers(end)))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Kind::Empty)
    }
}

fn poll_message(
    responses: &mut Responses,
    compressor: &mut Option<Compressor>,
    context: &mut Context<'_>,
) -> Poll<Option<Result<Parts, Status>>> {
    let Some(compressor) = compressor else { return responses.as_mut().poll_next(context) };
    loop {
        if let Some(compressing) = &mut compressor.compressing {
            let message = ready!(compressing.as_mut().poll(context));
            compressor.compressing = None;
            return Poll::Ready(Some(message));
        }
        match ready!(responses.as_mut().poll_next(context)) {
            Some(Ok(message)) => {
                let compressing = compress(compressor.pool.clone(), message);
                compressor.compressing = Some(Box::pin(compressing));
            }
            end => return Poll::Ready(end),
        }
    }
}

/// A message that is being compressed.
type Compressing = Pin<Box<dyn Future<Output = Result<Parts, Status>> + Send>>;

/// Compresses the messages of a stream, one after the other.
pub(crate) struct Compressor {
    pool: BlockingPool,
    compressing: Option<Compressing>,
}

impl Compressor {
    /// With these threads for large messages.
    pub(crate) fn new(pool: BlockingPool) -> Self {
        Self { pool, compressing: None }
    }
}

/// Compresses one framed message.
///
/// Errors: `Internal` if the server ends first.
pub(crate) async fn compress(pool: BlockingPool, message: Parts) -> Result<Parts, Status> {
    let is_long = encode::message_len(&message) > MAX_INLINE;
    pool.run_if(is_long, move || encode::compressed(message)).await.map_err(status)
}

fn trailers(end: Result<(), Status>) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    match end {
        Ok(()) => {
            trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
        }
        Err(status) => {
            if status.add_header(&mut trailers).is_err() {
                trailers.insert(GRPC_STATUS, HeaderValue::from_static("13"));
            }
        }
    }
    trailers
}
