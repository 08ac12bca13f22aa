//! A response on its way to the client, with what the access log will say of it.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use http::{Method, Response};
use http_body::{Body as _, Frame, SizeHint};
use server_engine::Access;

use crate::body::{Body, Chunk};

/// The body of a response, and the line of the access log that it becomes when it has been sent or given up.
pub(crate) struct Sent {
    body: Body,
    access: Option<Box<Access>>,
}

impl Sent {
    /// Of a response to a request of that method. Without an access log there is no `access`.
    pub(crate) fn new(response: Response<Body>, method: &Method, mut access: Option<Box<Access>>) -> Response<Self> {
        if let Some(access) = &mut access {
            access.answered(response.status().as_u16().into());
            if response.body().is_end_stream() || *method == Method::HEAD {
                access.ended(); // nobody will ask for the body
            }
        }
        response.map(|body| Self { body, access })
    }
}

impl http_body::Body for Sent {
    type Data = Chunk;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Chunk>, Infallible>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let is_end = frame.is_none() || self.body.is_end_stream();
        if let Some(access) = &mut self.access {
            let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
            access.sent(data.map_or(0, Buf::remaining));
            if is_end {
                access.ended();
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
