//! The responses of a request as server-sent events. Those that are there together leave together, in one chunk.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use server_core::error::Result;
use server_engine::BlockingPool;

use super::{
    flat::{flat, is_long, push_flat},
    running::Running,
};
use crate::{error::error_json, tracing};

/// A chunk takes no further event once it is this long, bytes.
const FULL: usize = 16 << 10;

/// A response that is being encoded on the blocking pool.
type Encoding = Pin<Box<dyn Future<Output = Result<Vec<u8>>> + Send>>;

/// The events of a request. Dropping it cancels the request.
pub(super) struct EventStream {
    running: Running,
    pool: BlockingPool,
    encoding: Option<Encoding>,
    /// Events that are there.
    chunk: Vec<u8>,
    is_over: bool,
}

impl EventStream {
    /// `first` is there already: an object, or an error.
    pub(super) fn new(first: Result<Vec<u8>>, running: Running, pool: BlockingPool) -> Self {
        let mut events = Self { running, pool, encoding: None, chunk: Vec::new(), is_over: false };
        events.push(first);
        events
    }

    /// The next chunk of events; `None` after the last.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        while self.chunk.len() < FULL && !self.is_over {
            if self.poll_event(context).is_pending() {
                break;
            }
        }
        if !self.chunk.is_empty() {
            return Poll::Ready(Some(std::mem::take(&mut self.chunk)));
        }
        if self.is_over { Poll::Ready(None) } else { Poll::Pending }
    }

    /// Adds one event to the chunk, or notes that there are no more.
    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(encoding) = &mut self.encoding {
            let Poll::Ready(object) = encoding.as_mut().poll(context) else { return Poll::Pending };
            self.encoding = None;
            self.push(object);
            return Poll::Ready(());
        }
        let Poll::Ready(response) = self.running.poll_next(context) else { return Poll::Pending };
        let _sending = response.as_ref().map(|_| tracing::sends(self.running.trace.clone()));
        match response {
            None => self.is_over = true,
            Some(Err(error)) => self.push(Err(error)),
            Some(Ok(response)) if is_long(&response) => {
                let pool = self.pool.clone();
                self.encoding = Some(Box::pin(async move { flat(&pool, response).await }));
            }
            Some(Ok(response)) => {
                let start = self.chunk.len();
                self.chunk.extend_from_slice(b"data: ");
                match push_flat(&mut self.chunk, &response) {
                    Ok(()) => self.chunk.extend_from_slice(b"\n\n"),
                    Err(error) => {
                        self.chunk.truncate(start);
                        self.push(Err(error));
                    }
                }
            }
        }
        Poll::Ready(())
    }

    fn push(&mut self, object: Result<Vec<u8>>) {
        let object = object.unwrap_or_else(|error| error_json(&error.message));
        for part in [b"data: ".as_slice(), &object, b"\n\n"] {
            self.chunk.extend_from_slice(part);
        }
    }
}
