//! The two halves of a stream. Those of an encrypted one share it under a lock that only one task asks for.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::{encrypted::Encrypted, transport::Progress};

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

/// Reads of what is thrown away in a row, before others have their turn.
const DISCARDED_AT_ONCE: usize = 32;

impl WriteHalf {
    /// Throws away what the client still sends, until it has ended its side: a socket that is closed before loses what was
    /// sent last. For when nobody reads any more.
    pub fn poll_discard(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(half) => discard(half.as_ref(), context),
            Self::Tls(stream) => discard(stream.lock().0.get_ref().0.socket(), context),
        }
    }

    /// How far sending is; `None` without TLS, where a write that is ready has reached the socket.
    pub fn progress(&self) -> Option<Progress> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => Some(stream.lock().progress()),
        }
    }
}

fn discard(socket: &TcpStream, context: &mut Context<'_>) -> Poll<io::Result<()>> {
    for _ in 0..DISCARDED_AT_ONCE {
        ready!(socket.poll_read_ready(context))?;
        match socket.try_read(&mut [0; 4096]) {
            Ok(0) => return Poll::Ready(Ok(())),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
    context.waker().wake_by_ref();
    Poll::Pending
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
