//! What a front end reads and writes: a socket, or an encrypted stream over one.

use std::{
    io::{self, ErrorKind, IoSlice, IoSliceMut},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::{encrypted::Encrypted, transport::Progress};

/// Reads of what is thrown away in a row, before others have their turn.
const DISCARDED_AT_ONCE: usize = 32;

/// An accepted connection.
///
/// The end of the client's side is read as such also if TLS does not announce it: many clients close the socket without a
/// word, and both protocols of this server say in their own messages where those end, so that nothing cut short passes for
/// whole. What TLS has taken to be sent leaves with `poll_flush`.
#[derive(Debug)]
pub enum Stream {
    /// Not encrypted.
    Plain(TcpStream),
    /// Encrypted.
    Tls(Box<Encrypted>),
}

impl Stream {
    /// The socket, for its options and errors: what it carries may be encrypted.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.0.get_ref().0.socket(),
        }
    }

    /// How far sending is; `None` without TLS, where a write that is ready has reached the socket.
    pub fn progress(&self) -> Option<Progress> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => Some(stream.progress()),
        }
    }

    /// Whether the client has ended its side. Takes nothing out of the stream; pending while there is nothing to read.
    ///
    /// Errors: the connection is broken.
    pub fn poll_is_at_end(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        match self {
            Self::Plain(socket) => socket.poll_peek(context, &mut ReadBuf::new(&mut [0])).map_ok(|count| count == 0),
            Self::Tls(stream) => match Pin::new(&mut stream.0).poll_fill_buf(context) {
                Poll::Ready(Ok(bytes)) => Poll::Ready(Ok(bytes.is_empty())),
                Poll::Ready(Err(error)) if error.kind() == ErrorKind::UnexpectedEof => Poll::Ready(Ok(true)),
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    /// Whether what is sent and received is encrypted.
    pub fn is_encrypted(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Reads to several places, one after the other; how many bytes. An encrypted stream reads to the first of them only.
    ///
    /// Errors: those of the connection.
    pub fn poll_read_vectored(
        &mut self,
        context: &mut Context<'_>,
        slices: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => {
                let Some(first) = slices.first_mut() else { return Poll::Ready(Ok(0)) };
                let mut first = ReadBuf::new(first);
                return stream.poll_read(context, &mut first).map_ok(|()| first.filled().len());
            }
        };
        loop {
            ready!(socket.poll_read_ready(context))?;
            match socket.try_read_vectored(slices) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                outcome => return Poll::Ready(outcome),
            }
        }
    }

    /// Throws away what the client still sends, until it has ended its side: a socket that is closed before loses what was
    /// sent last. For when nobody reads any more.
    pub fn poll_discard(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        discard(self.socket(), context)
    }
}

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Self {
        Self::Plain(socket)
    }
}

impl AsyncRead for Stream {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(context, buffer),
            Self::Tls(stream) => stream.poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(&mut stream.0).poll_write(context, bytes),
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
            Self::Tls(stream) => Pin::new(&mut stream.0).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(context),
            Self::Tls(stream) => Pin::new(&mut stream.0).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(&mut stream.0).poll_shutdown(context),
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
