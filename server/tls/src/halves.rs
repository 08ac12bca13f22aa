//! The two halves of a stream. Those of an encrypted one share it under a lock that only one task asks for.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
};

use crate::{stream::Encrypted, transport::Progress};

/// The half of a [`crate::Stream`] that is read.
#[derive(Debug)]
pub enum ReadHalf {
    /// Not encrypted.
    Plain(OwnedReadHalf),
    /// Encrypted.
    Tls(Arc<Mutex<Encrypted>>),
}

/// The half of a [`crate::Stream`] that is written.
#[derive(Debug)]
pub enum WriteHalf {
    /// Not encrypted.
    Plain(OwnedWriteHalf),
    /// Encrypted.
    Tls(Arc<Mutex<Encrypted>>),
}

impl ReadHalf {
    /// Whether each read costs a system call: not where the stream reads ahead by itself.
    pub fn is_unbuffered(&self) -> bool {
        matches!(self, Self::Plain(_))
    }
}

impl WriteHalf {
    /// How far sending is; `None` without TLS, where a write that is ready has reached the socket.
    pub fn progress(&self) -> Option<Progress> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => Some(stream.lock().progress()),
        }
    }
}

impl AsyncRead for ReadHalf {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(context, buffer),
            Self::Tls(stream) => stream.lock().poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for WriteHalf {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(&mut stream.lock().0).poll_write(context, bytes),
        }
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(context, slices),
            Self::Tls(stream) => Pin::new(&mut stream.lock().0).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(_) => Poll::Ready(Ok(())), // a socket has no buffer of its own
            Self::Tls(stream) => Pin::new(&mut stream.lock().0).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(&mut stream.lock().0).poll_shutdown(context),
        }
    }
}
