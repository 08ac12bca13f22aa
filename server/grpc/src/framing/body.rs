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
use server_engine::{Access, BlockingPool};
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
pub(crate) struct ResponseBody {
    kind: Kind,
    /// What the access log will say of the call, if there is one.
    access: Option<Box<Access>>,
}

#[derive(Default)]
enum Kind {
    /// Nothing more.
    #[default]
    Empty,
    /// One message and the status OK.
    Unary(smallvec::IntoIter<[Bytes; 4]>),
    /// Messages as they come.
    Stream(Messages),
}

impl ResponseBody {
    /// Keeps what is logged of the call until the body is sent or given up.
    pub(crate) fn hold(&mut self, access: Option<Box<Access>>) {
        self.access = access;
    }

    /// The response of a unary call.
    pub(crate) fn unary(message: Parts, is_compressed: bool) -> Response<Self> {
        response(Kind::Unary(message.into_iter()), is_compressed)
    }

    /// The responses of a stream, compressed one by one if there is a compressor.
    pub(crate) fn stream(responses: Responses, compressor: Option<Compressor>) -> Response<Self> {
        let is_compressed = compressor.is_some();
        let messages = Messages { responses, compressor, parts: Parts::new().into_iter() };
        response(Kind::Stream(messages), is_compressed)
    }
}

fn response(kind: Kind, is_compressed: bool) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody { kind, access: None });
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
        let next = match &mut self.kind {
            Kind::Empty => return Poll::Ready(None),
            Kind::Unary(parts) => parts.next().ok_or(Ok(())),
            Kind::Stream(messages) => ready!(messages.poll_part(context)),
        };
        let end = match next {
            Ok(part) => {
                self.access.iter_mut().for_each(|access| access.sent(part.len()));
                return Poll::Ready(Some(Ok(Frame::data(part))));
            }
            Err(end) => end,
        };
        self.kind = Kind::Empty;
        if let Some(mut access) = self.access.take() {
            access.answered(end.as_ref().err().map_or(0, |status| status.code() as u32));
            access.ended();
        }
        Poll::Ready(Some(Ok(Frame::trailers(trailers(end)))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.kind, Kind::Empty)
    }
}

/// The messages of a stream on their way out.
struct Messages {
    responses: Responses,
    compressor: Option<Compressor>,
    /// Parts of the last message that are not sent.
    parts: smallvec::IntoIter<[Bytes; 4]>,
}

impl Messages {
    /// The next part to send, or the status after the last. The connection joins those that are there together.
    fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, Result<(), Status>>> {
        loop {
            if let Some(part) = self.parts.next() {
                return Poll::Ready(Ok(part));
            }
            match ready!(self.poll_message(context)) {
                None => return Poll::Ready(Err(Ok(()))),
                Some(Err(status)) => return Poll::Ready(Err(Err(status))),
                Some(Ok(message)) => self.parts = message.into_iter(),
            }
        }
    }

    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Parts, Status>>> {
        let Some(compressor) = &mut self.compressor else { return self.responses.as_mut().poll_next(context) };
        loop {
            if let Some(compressing) = &mut compressor.compressing {
                let message = ready!(compressing.as_mut().poll(context));
                compressor.compressing = None;
                return Poll::Ready(Some(message));
            }
            match ready!(self.responses.as_mut().poll_next(context)) {
                Some(Ok(message)) => {
                    let compressing = compress(compressor.pool.clone(), message);
                    compressor.compressing = Some(Box::pin(compressing));
                }
                end => return Poll::Ready(end),
            }
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

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use futures_util::stream;
    use smallvec::smallvec;

    use super::*;

    /// The lengths of the data frames that one poll after the other gives, and the status of the trailers.
    fn frames(responses: impl Stream<Item = Result<Parts, Status>> + Send + 'static) -> (Vec<usize>, String) {
        let mut body = ResponseBody::stream(Box::pin(responses), None).into_body();
        let mut lengths = Vec::new();
        loop {
            let mut context = Context::from_waker(Waker::noop());
            let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut context) else {
                lengths.push(0); // it waits
                continue;
            };
            match frame.into_data() {
                Ok(data) => lengths.push(data.len()),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_else(|_| panic!("neither data nor trailers"));
                    assert!(body.is_end_stream());
                    return (lengths, trailers["grpc-status"].to_str().unwrap().to_owned());
                }
            }
        }
    }

    fn message(length: usize) -> Result<Parts, Status> {
        Ok(smallvec![vec![0; length].into()])
    }

    #[test]
    fn messages_are_sent_in_their_parts() {
        let parts: Parts = smallvec![vec![0; 10].into(), vec![0; 70_000].into()];
        let all = [message(100), message(9000), Ok(parts), message(5)];
        assert_eq!(frames(stream::iter(all)), (vec![100, 9000, 10, 70_000, 5], "0".to_owned()));
    }

    #[test]
    fn nothing_waits_for_messages_that_are_not_there_and_a_status_comes_last() {
        let mut polls = 0;
        let all = stream::poll_fn(move |_| {
            polls += 1;
            match polls {
                1 | 3 => Poll::Ready(Some(message(100))),
                2 => Poll::Pending,
                _ => Poll::Ready(Some(Err(Status::internal("no")))),
            }
        });
        assert_eq!(frames(all), (vec![100, 0, 100], "13".to_owned()));
    }
}
