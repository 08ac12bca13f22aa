//! The socket below an encrypted stream: TLS reads it in pieces of a few kilobytes, so it is read ahead, and what leaves it
//! is counted, since TLS takes bytes to be sent before the socket does.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::read_ahead::ReadAhead;

/// How far the sending of an encrypted stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes that the socket has taken, encrypted.
    pub sent: u64,
    /// Whether more wait, for the socket had no space.
    pub is_blocked: bool,
}

/// A socket that is read ahead and counts what it sends.
#[derive(Debug)]
pub(crate) struct Transport {
    socket: TcpStream,
    ahead: ReadAhead,
    progress: Progress,
}

impl Transport {
    pub(crate) fn new(socket: TcpStream) -> Self {
        Self { socket, ahead: ReadAhead::default(), progress: Progress::default() }
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub(crate) fn progress(&self) -> Progress {
        self.progress
    }

    fn count(&mut self, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.progress.is_blocked = outcome.is_pending();
        if let Poll::Ready(Ok(sent)) = outcome {
            self.progress.sent += sent as u64;
        }
        outcome
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { socket, ahead, .. } = &mut *self;
        ahead.poll_read(socket, context, buffer)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.count(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.socket).poll_write_vectored(context, slices);
        self.count(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
