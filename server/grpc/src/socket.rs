//! A socket that sends what one poll of its connection produced with one system call, and reads ahead while data streams in.
//!
//! HTTP/2 writes frame by frame and flushes between them. Here a flush does nothing: the driver of the connection sends
//! after each poll. HTTP/2 reads frame by frame too, at least two system calls for each; here a read that found more than
//! was asked for is followed by large ones. Very large writes are not copied; what is buffered is bounded.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use server_tls::{ReadAhead, ReadHalf, Stream, WriteHalf};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes buffered between two sends: seven frames of the usual 16 KiB.
const MAX_BUFFERED: usize = 112 << 10;
/// A write of so many bytes is sent directly: copying it would cost more than a system call.
const LARGE: usize = 64 << 10;
/// Capacity an idle connection keeps, in bytes.
const IDLE_CAPACITY: usize = 8 << 10;

/// Bytes of the preface of HTTP/2 and of the head of the first frame, which every client sends unasked.
const HANDSHAKE: usize = 24 + 9;

/// What HTTP/2 reads and writes.
pub(crate) struct Socket {
    read: ReadHalf,
    ahead: ReadAhead,
    /// Bytes of the handshake that have not come yet.
    handshake_left: usize,
    write_buffer: WriteBuffer,
}

/// The buffered writes of a socket, for the driver of its connection.
#[derive(Clone)]
pub(crate) struct WriteBuffer(Arc<Shared>);

struct Shared {
    writer: Mutex<Writer>,
    is_handshake_received: AtomicBool,
}

struct Writer {
    write: WriteHalf,
    buffered: Vec<u8>,
    /// Bytes of `buffered` that are sent already.
    sent: usize,
    /// Bytes sent since the connection was accepted.
    total_sent: u64,
    /// Whether the last write found no space in the socket.
    is_blocked: bool,
}

impl Socket {
    /// Splits a connection into what HTTP/2 uses and the buffer its driver sends.
    pub(crate) fn new(stream: Stream) -> (Self, WriteBuffer) {
        let (read, write) = stream.into_split();
        let writer = Writer { write, buffered: Vec::new(), sent: 0, total_sent: 0, is_blocked: false };
        let shared = Shared { writer: Mutex::new(writer), is_handshake_received: AtomicBool::new(false) };
        let write_buffer = WriteBuffer(Arc::new(shared));
        let socket =
            Self { read, ahead: ReadAhead::default(), handshake_left: HANDSHAKE, write_buffer: write_buffer.clone() };
        (socket, write_buffer)
    }
}

impl WriteBuffer {
    /// Sends everything buffered.
    pub(crate) fn poll_send(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().poll_send(context)
    }

    /// Whether the client has sent as many bytes as the start of every HTTP/2 connection has.
    pub(crate) fn is_handshake_received(&self) -> bool {
        self.0.is_handshake_received.load(Ordering::Relaxed)
    }

    /// How many bytes were sent so far, if more wait for space in the socket.
    pub(crate) fn blocked_at(&self) -> Option<u64> {
        self.lock().blocked_at()
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.0.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.buffered.len() {
            let outcome = Pin::new(&mut self.write).poll_write(context, &self.buffered[self.sent..]);
            match ready!(self.count(outcome))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.sent += sent,
            }
        }
        self.buffered.clear();
        self.buffered.shrink_to(IDLE_CAPACITY);
        self.sent = 0;
        Pin::new(&mut self.write).poll_flush(context)
    }

    /// What was sent, if more waits: what TLS has taken but the socket has not waits too.
    fn blocked_at(&self) -> Option<u64> {
        match self.write.progress() {
            None => self.is_blocked.then_some(self.total_sent),
            Some(progress) => progress.is_blocked.then_some(progress.sent),
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let length = pieces.iter().map(|piece| piece.len()).sum();
        if length >= LARGE || self.buffered.len() + length > MAX_BUFFERED {
            ready!(self.poll_send(context))?;
        }
        if length >= LARGE {
            let outcome = Pin::new(&mut self.write).poll_write_vectored(context, pieces);
            return self.count(outcome);
        }
        if length > self.buffered.capacity() - self.buffered.len() && self.buffered.len() + length > IDLE_CAPACITY {
            self.buffered.reserve_exact(MAX_BUFFERED - self.buffered.len());
        }
        pieces.iter().for_each(|piece| self.buffered.extend_from_slice(piece));
        Poll::Ready(Ok(length))
    }

    fn count(&mut self, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.is_blocked = outcome.is_pending();
        if let Poll::Ready(Ok(sent)) = outcome {
            self.total_sent += sent as u64;
        }
        outcome
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let Self { read, ahead, .. } = &mut *self;
        let outcome = match read.is_unbuffered() {
            true => ahead.poll_read(read, context, buffer),
            false => Pin::new(read).poll_read(context, buffer),
        };
        if self.handshake_left > 0 {
            self.handshake_left = self.handshake_left.saturating_sub(buffer.filled().len() - before);
            let is_received = self.handshake_left == 0;
            self.write_buffer.0.is_handshake_received.store(is_received, Ordering::Relaxed);
        }
        outcome
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.write_buffer.lock().poll_write(context, &[IoSlice::new(buffer)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write_buffer.lock().poll_write(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Does nothing: see [`WriteBuffer::poll_send`].
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut writer = self.write_buffer.lock();
        ready!(writer.poll_send(context))?;
        Pin::new(&mut writer.write).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    async fn pair() -> (TcpStream, Socket, WriteBuffer) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, write_buffer) = Socket::new(listener.accept().await.unwrap().0.into());
        (client, socket, write_buffer)
    }

    #[tokio::test]
    async fn small_writes_are_buffered_until_sent() {
        let (mut client, mut socket, write_buffer) = pair().await;
        for piece in [b"one ".as_slice(), b"two ", b"three"] {
            socket.write_all(piece).await.unwrap();
            socket.flush().await.unwrap();
        }
        assert_eq!(write_buffer.lock().buffered, b"one two three");
        poll_fn(|context| write_buffer.poll_send(context)).await.unwrap();
        let mut read = [0; 13];
        client.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"one two three");
    }

    #[tokio::test]
    async fn writes_of_every_size_arrive_in_order() {
        let (mut client, mut socket, write_buffer) = pair().await;
        let pieces: Vec<Vec<u8>> =
            [1, 100, LARGE, 3, MAX_BUFFERED - 1, 7, 4 << 20, 5, LARGE - 1, LARGE - 1, LARGE - 1, LARGE - 1]
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
            assert!(write_buffer.lock().buffered.len() <= MAX_BUFFERED);
        }
        socket.shutdown().await.unwrap();
        assert!(reader.await.unwrap() == pieces.concat(), "bytes were lost or moved");
    }

    #[tokio::test]
    async fn reads_of_every_size_give_the_bytes_in_order() {
        let sent: Vec<u8> = (0..3_000_000u32).map(|index| (index % 251) as u8).collect();
        for size in [1, 9, 64, 8 << 10, 16_393, 64 << 10, 1 << 20] {
            let (mut client, mut socket, _write_buffer) = pair().await;
            let bytes = sent[..sent.len().min(size * 10_000)].to_vec();
            let expected = bytes.clone();
            let writer = tokio::spawn(async move {
                client.write_all(&bytes).await.unwrap();
                client
            });
            let mut read = Vec::new();
            while read.len() < expected.len() {
                let mut buffer = vec![0; size];
                let count = socket.read(&mut buffer).await.unwrap();
                assert!(count > 0);
                read.extend_from_slice(&buffer[..count]);
            }
            assert!(read == expected, "bytes were lost or moved in reads of {size}");
            drop(writer.await.unwrap());
            assert_eq!(socket.read(&mut [0; 10]).await.unwrap(), 0);
        }
    }

    #[tokio::test]
    async fn an_idle_connection_keeps_no_buffers() {
        let (mut client, mut socket, write_buffer) = pair().await;
        client.write_all(&[7; 100_000]).await.unwrap();
        let mut read = vec![0; 100_000];
        for part in read.chunks_mut(10_000) {
            socket.read_exact(part).await.unwrap();
        }
        client.write_all(b"end").await.unwrap();
        socket.read_exact(&mut [0; 3]).await.unwrap();
        let pending = poll_fn(|context| {
            let mut buffer = [0; 100];
            Poll::Ready(Pin::new(&mut socket).poll_read(context, &mut ReadBuf::new(&mut buffer)).is_pending())
        });
        assert!(pending.await);
        assert_eq!(socket.ahead.capacity(), 0);
        socket.write_all(&[7; 50_000]).await.unwrap();
        poll_fn(|context| write_buffer.poll_send(context)).await.unwrap();
        assert!(write_buffer.lock().buffered.capacity() <= IDLE_CAPACITY);
    }
}
