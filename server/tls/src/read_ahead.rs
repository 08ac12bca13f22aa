//! Reads ahead while data streams in: whoever reads in small pieces then needs few system calls.

use std::{
    future::Future,
    io,
    pin::pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// Bytes read at once while data streams in.
const LENGTH: usize = 64 << 10;

/// Bytes that were read before they were asked for. It has memory only while data streams in: as long as reads find at
/// least as much as was asked for.
#[derive(Debug, Default)]
pub(crate) struct ReadAhead {
    bytes: Vec<u8>,
    /// How many of them are handed out.
    taken: usize,
    is_streaming: bool,
}

impl ReadAhead {
    /// Reads what there is, up to what `buffer` takes, and ahead of it while data streams in.
    pub(crate) fn poll_read(
        &mut self,
        source: &mut (impl AsyncRead + Unpin),
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.taken == self.bytes.len() {
            if !self.is_streaming {
                let outcome = pin!(source).poll_read(context, buffer);
                self.is_streaming = buffer.remaining() == 0;
                return outcome;
            }
            self.bytes.clear();
            self.taken = 0;
            self.bytes.reserve_exact(LENGTH);
            let read = pin!(source.read_buf(&mut self.bytes)).poll(context);
            self.is_streaming = self.bytes.len() >= buffer.remaining();
            if !self.is_streaming {
                // The stream pauses: what is there fits, so nothing stays ahead.
                buffer.put_slice(&self.bytes);
                self.bytes = Vec::new();
                return read.map_ok(|_| ());
            }
            ready!(read)?;
        }
        let count = buffer.remaining().min(self.bytes.len() - self.taken);
        buffer.put_slice(&self.bytes[self.taken..self.taken + count]);
        self.taken += count;
        Poll::Ready(Ok(()))
    }
}
