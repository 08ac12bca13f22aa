//! A socket that sends what one turn of its connection produced with one system call.
//!
//! HTTP/2 hands over frame by frame and flushes between them. Here a flush only means "later": whoever drives the
//! connection sends when its turn is over. Large pieces are not copied; what waits is bounded.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// Bytes that may wait for the end of a turn.
const WAITING: usize = 64 << 10;
/// From here on a piece goes out as it lies: copying it would cost more than a system call.
const LARGE: usize = 16 << 10;

/// Capacity an idle connection keeps.
const KEPT: usize = 8 << 10;

/// The end that HTTP/2 reads and writes.
pub(crate) struct Socket {
    read: OwnedReadHalf,
    outbox: Outbox,
}

/// The end of whoever drives the connection.
#[derive(Clone)]
pub(crate) struct Outbox(Arc<Mutex<Outgoing>>);

struct Outgoing {
    write: OwnedWriteHalf,
    waiting: Vec<u8>,
    /// Bytes of `waiting` that are gone already.
    sent: usize,
}

impl Socket {
    /// Both ends of a connection.
    pub(crate) fn new(stream: TcpStream) -> (Self, Outbox) {
        let (read, write) = stream.into_split();
        let outbox = Outbox(Arc::new(Mutex::new(Outgoing { write, waiting: Vec::new(), sent: 0 })));
        (Self { read, outbox: outbox.clone() }, outbox)
    }
}

impl Outbox {
    /// Sends everything that waits.
    pub(crate) fn poll_send(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().poll_send(context)
    }

    fn lock(&self) -> MutexGuard<'_, Outgoing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outgoing {
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.waiting.len() {
            match ready!(Pin::new(&mut self.write).poll_write(context, &self.waiting[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.sent += sent,
            }
        }
        self.waiting.clear();
        self.waiting.shrink_to(KEPT);
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, context: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let length = pieces.iter().map(|piece| piece.len()).sum();
        if length >= LARGE || self.waiting.len() + length > WAITING {
            ready!(self.poll_send(context))?;
        }
        if length >= LARGE {
            return Pin::new(&mut self.write).poll_write_vectored(context, pieces);
        }
        pieces.iter().for_each(|piece| self.waiting.extend_from_slice(piece));
        Poll::Ready(Ok(length))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.outbox.lock().poll_write(context, &[IoSlice::new(buffer)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.outbox.lock().poll_write(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Later: see [`Outbox::poll_send`].
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut outgoing = self.outbox.lock();
        ready!(outgoing.poll_send(context))?;
        Pin::new(&mut outgoing.write).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    async fn pair() -> (TcpStream, Socket, Outbox) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, outbox) = Socket::new(listener.accept().await.unwrap().0);
        (client, socket, outbox)
    }

    #[tokio::test]
    async fn small_pieces_wait_for_the_end_of_the_turn() {
        let (mut client, mut socket, outbox) = pair().await;
        for piece in [b"one ".as_slice(), b"two ", b"three"] {
            socket.write_all(piece).await.unwrap();
            socket.flush().await.unwrap();
        }
        assert_eq!(outbox.lock().waiting, b"one two three");
        poll_fn(|context| outbox.poll_send(context)).await.unwrap();
        let mut read = [0; 13];
        client.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"one two three");
    }

    #[tokio::test]
    async fn everything_arrives_in_order_whatever_its_size() {
        let (mut client, mut socket, outbox) = pair().await;
        let pieces: Vec<Vec<u8>> =
            [1, 100, LARGE, 3, WAITING - 1, 7, 4 << 20, 5, LARGE - 1, LARGE - 1, LARGE - 1, LARGE - 1]
                .into_iter()
                .enumerate()
                .map(|(number, length)| vec![number as u8; length])
                .collect();
        let sent = pieces.clone();
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.unwrap();
            all
        });
        for piece in &sent {
            socket.write_all(piece).await.unwrap();
            assert!(outbox.lock().waiting.len() <= WAITING);
        }
        socket.shutdown().await.unwrap();
        assert!(reader.await.unwrap() == pieces.concat(), "bytes were lost or moved");
    }

    #[tokio::test]
    async fn what_comes_is_read_as_it_comes() {
        let (mut client, mut socket, _outbox) = pair().await;
        client.write_all(b"hello").await.unwrap();
        let mut read = [0; 5];
        socket.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"hello");
    }
}
