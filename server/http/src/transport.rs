//! What carries a connection: a socket of the network, plain or encrypted, or a Unix socket of this machine.

use std::{
    future::Future,
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::AsFd,
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustix::net::{RecvFlags, recv};
use server_tls::{Progress, Stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
};

/// An accepted connection.
#[derive(Debug)]
pub(crate) enum Transport {
    /// From the network.
    Network(Stream),
    /// From this machine.
    Local(UnixStream),
}

impl Transport {
    /// The other end, if it has an address.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Network(stream) => stream.socket().peer_addr().ok(),
            Self::Local(_) => None,
        }
    }

    /// How far sending is; `None` where a write that is ready has reached the socket.
    pub(crate) fn progress(&self) -> Option<Progress> {
        match self {
            Self::Network(stream) => stream.progress(),
            Self::Local(_) => None,
        }
    }

    /// Whether the client has ended its side. Takes nothing out of the stream; pending while there is nothing to read.
    ///
    /// Errors: the connection is broken.
    pub(crate) fn poll_is_at_end(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        match self {
            Self::Network(stream) => stream.poll_is_at_end(context),
            Self::Local(socket) => loop {
                ready!(socket.poll_read_ready(context))?;
                let peeked = socket
                    .try_io(Interest::READABLE, || Ok(recv(&*socket, &mut [0_u8; 1][..], RecvFlags::PEEK)?.0 == 0));
                match peeked {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {} // waits for the next byte
                    outcome => return Poll::Ready(outcome),
                }
            },
        }
    }

    /// The error of the socket, once.
    ///
    /// Errors: it has one.
    pub(crate) fn check(&self) -> io::Result<()> {
        let error = match self {
            Self::Network(stream) => stream.socket().take_error()?,
            Self::Local(socket) => socket.take_error()?,
        };
        error.map_or(Ok(()), Err)
    }

    /// Completes once the socket has an error: the reset by a client that had ended its side before. Nobody reads from such
    /// a connection, and it is always ready to be written, so that neither shows it.
    ///
    /// Errors: there is no descriptor to spare.
    pub(crate) fn error(&self) -> io::Result<Pin<Box<dyn Future<Output = ()> + Send>>> {
        Ok(match self {
            Self::Network(stream) => {
                let socket = TcpStream::from_std(stream.socket().as_fd().try_clone_to_owned()?.into())?;
                Box::pin(async move { _ = socket.ready(Interest::ERROR).await })
            }
            Self::Local(socket) => {
                let socket = UnixStream::from_std(socket.as_fd().try_clone_to_owned()?.into())?;
                Box::pin(async move { _ = socket.ready(Interest::ERROR).await })
            }
        })
    }
}

impl AsyncRead for Transport {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Network(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Local(socket) => Pin::new(socket).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Network(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Local(socket) => Pin::new(socket).poll_write(context, bytes),
        }
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Network(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Local(socket) => Pin::new(socket).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Network(stream) => Pin::new(stream).poll_flush(context),
            Self::Local(socket) => Pin::new(socket).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Network(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Local(socket) => Pin::new(socket).poll_shutdown(context),
        }
    }
}
