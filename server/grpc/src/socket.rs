//! A socket that sends what one poll of its connection produced with one system call, and reads ahead while data streams in.
//!
//! HTTP/2 writes frame by frame and flushes between them. Here a flush does nothing: the driver of the connection sends
//! after each poll. HTTP/2 reads frame by frame too, at least two system calls for each; here a read that found more than
//! was asked for is followed by large ones. Tensors that are sent are not copied; what waits to be sent is bounded, and so is
//! what is read in a row.

use std::{
    future::Future,
    io::{self, IoSlice},
    mem,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use server_tls::{ReadAhead, ReadHalf, Stream, WriteHalf};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::yield_now,
};

use crate::{
    frames::{ACK, DATA, Frames, GOAWAY, HEAD, HEADERS, Head, PING, PREFACE, UNKNOWN, WINDOW_UPDATE},
    large_parts::{LEAST_SLICE, LargeParts},
    write_queue::{MOST_SLICES, WriteQueue},
};

/// Most bytes copied between two sends: seven frames of the usual 16 KiB.
const MAX_COPIED: usize = 112 << 10;
/// Most bytes between two sends that are not copied: as many frames as one system call takes.
const MAX_LARGE: usize = 512 << 10;
/// A write of so many bytes that would have to be copied is sent directly: copying it would cost more than a system call.
const DIRECT: usize = 64 << 10;
/// Bytes sent in a row, to a client that reads as fast as that, before other connections have their turn.
const SENT_IN_A_ROW: usize = 1 << 20;
/// Bytes read in a row. Then the calls of the connection have their turn: what they take over is in the processor's cache
/// still, HTTP/2 has the memory for the next ones back, and other connections do not wait for a large tensor.
const READ_IN_A_ROW: usize = 256 << 10;

/// What pings of this server carry, by which their answers are known.
const PING_PAYLOAD: [u8; 8] = *b"keepaliv";
/// Code of an error: the client asks for more than it may. Source: RFC 9113, section 7.
const ENHANCE_YOUR_CALM: u32 = 0xb;

/// What HTTP/2 reads and writes.
pub(crate) struct Socket {
    read: ReadHalf,
    ahead: ReadAhead,
    frames: Frames,
    /// Bytes read since there were none.
    read_in_a_row: usize,
    large_parts: LargeParts,
    write_buffer: WriteBuffer,
}

/// The buffered writes of a socket, for the driver of its connection.
#[derive(Clone)]
pub(crate) struct WriteBuffer(Arc<Shared>);

struct Shared {
    writer: Mutex<Writer>,
    is_handshake_received: AtomicBool,
    /// How often something was read.
    reads: AtomicU64,
    /// Pings that came since they were taken last.
    pings: AtomicU32,
    /// The last call of the client.
    last_stream: AtomicU32,
}

struct Writer {
    write: WriteHalf,
    queue: WriteQueue,
    /// Bytes sent since the connection was accepted.
    total_sent: u64,
    /// Bytes sent since the socket had no space, or others had their turn.
    sent_in_a_row: usize,
    /// Whether the last write found no space in the socket.
    is_blocked: bool,
    frames: Frames,
    /// Whether something was sent for a call since that was asked last.
    has_sent_for_calls: bool,
}

impl Socket {
    /// Splits a connection into what HTTP/2 uses and the buffer its driver sends. Of what HTTP/2 writes, `large_parts` are not
    /// copied.
    pub(crate) fn new(stream: Stream, large_parts: LargeParts) -> (Self, WriteBuffer) {
        let (read, write) = stream.into_split();
        let writer = Writer {
            write,
            queue: WriteQueue::default(),
            total_sent: 0,
            sent_in_a_row: 0,
            is_blocked: false,
            frames: Frames::default(),
            has_sent_for_calls: false,
        };
        let shared = Shared {
            writer: Mutex::new(writer),
            is_handshake_received: AtomicBool::new(false),
            reads: AtomicU64::new(0),
            pings: AtomicU32::new(0),
            last_stream: AtomicU32::new(0),
        };
        let write_buffer = WriteBuffer(Arc::new(shared));
        let socket = Self {
            read,
            ahead: ReadAhead::default(),
            frames: Frames::after(PREFACE),
            read_in_a_row: 0,
            large_parts,
            write_buffer: write_buffer.clone(),
        };
        (socket, write_buffer)
    }
}

/// Has this task polled again after the tasks that are ready. One that woke itself would be polled as late, but have the
/// runtime wake another of its threads to help with it.
pub(crate) fn yield_turn(context: &mut Context<'_>) -> Poll<()> {
    pin!(yield_now()).poll(context)
}

impl WriteBuffer {
    /// Sends everything buffered.
    pub(crate) fn poll_send(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().poll_send(context)
    }

    /// How often something was read.
    pub(crate) fn reads(&self) -> u64 {
        self.0.reads.load(Ordering::Relaxed)
    }

    /// The pings that have come since the last time.
    pub(crate) fn take_pings(&self) -> u32 {
        match self.0.pings.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.0.pings.swap(0, Ordering::Relaxed),
        }
    }

    /// Whether something was sent for a call since the last time.
    pub(crate) fn take_has_sent_for_calls(&self) -> bool {
        mem::take(&mut self.lock().has_sent_for_calls)
    }

    /// Adds a ping to what is sent next, if it can be put there.
    pub(crate) fn ping(&self) {
        self.lock().insert(Head { length: 8, kind: PING, flags: 0, stream: 0 }, &PING_PAYLOAD);
    }

    /// Adds to what is sent next that the client has to leave for it pings too often, if that can be put there. It is read
    /// by clients of gRPC, which ping half as often from then on.
    pub(crate) fn tell_too_many_pings(&self) {
        let last_stream = self.0.last_stream.load(Ordering::Relaxed);
        let text = b"too_many_pings";
        let payload = [&last_stream.to_be_bytes(), &ENHANCE_YOUR_CALM.to_be_bytes(), text.as_slice()].concat();
        self.lock().insert(Head { length: payload.len() as u32, kind: GOAWAY, flags: 0, stream: 0 }, &payload);
    }

    /// Sends what is buffered, ends this side, and waits for the client to end its own. For when HTTP/2 is gone.
    pub(crate) fn poll_close(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut writer = self.lock();
        ready!(writer.poll_send(context))?;
        ready!(Pin::new(&mut writer.write).poll_shutdown(context))?;
        writer.write.poll_discard(context)
    }

    /// Whether the client has sent the preface of HTTP/2 and the head of the first frame, which every client sends unasked.
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
        while !self.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); MOST_SLICES];
            let count = self.queue.slices(&mut slices);
            let write = Pin::new(&mut self.write);
            let outcome = match &slices[..count] {
                [slice] => write.poll_write(context, slice),
                slices => write.poll_write_vectored(context, slices),
            };
            match ready!(self.count(outcome))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.queue.advance(sent),
            }
        }
        Pin::new(&mut self.write).poll_flush(context)
    }

    /// What was sent, if more waits: what TLS has taken but the socket has not waits too.
    fn blocked_at(&self) -> Option<u64> {
        match self.write.progress() {
            None => self.is_blocked.then_some(self.total_sent),
            Some(progress) => progress.is_blocked.then_some(progress.sent),
        }
    }

    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
        large_parts: &LargeParts,
    ) -> Poll<io::Result<usize>> {
        // the payload of a frame comes last
        let payload = pieces.last().filter(|payload| payload.len() >= LEAST_SLICE);
        let large = payload.and_then(|payload| large_parts.find(payload));
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        let large_bytes = large.as_ref().map_or(0, Bytes::len);
        let copied = length - large_bytes;
        if copied >= DIRECT
            || self.queue.copied_bytes() + copied > MAX_COPIED
            || self.queue.large_bytes() + large_bytes > MAX_LARGE
        {
            if self.sent_in_a_row >= SENT_IN_A_ROW {
                self.sent_in_a_row = 0;
                ready!(yield_turn(context));
            }
            ready!(self.poll_send(context))?;
        }
        if copied >= DIRECT {
            let outcome = Pin::new(&mut self.write).poll_write_vectored(context, pieces);
            if let Poll::Ready(Ok(written)) = outcome {
                self.follow(pieces, written);
            }
            return self.count(outcome);
        }
        let to_copy = if large.is_some() { &pieces[..pieces.len() - 1] } else { pieces };
        to_copy.iter().for_each(|piece| self.queue.copy(piece, MAX_COPIED));
        large.into_iter().for_each(|piece| self.queue.push(piece));
        self.follow(pieces, length);
        Poll::Ready(Ok(length))
    }

    /// Follows the frames in the first `length` bytes of these.
    fn follow(&mut self, pieces: &[IoSlice<'_>], mut length: usize) {
        for piece in pieces {
            let part = piece.len().min(length);
            length -= part;
            self.frames.follow(&piece[..part], |head, _| {
                self.has_sent_for_calls |= matches!(head.kind, DATA | HEADERS | WINDOW_UPDATE);
            });
        }
    }

    /// Puts a frame between those of HTTP/2, unless one of them is half written: then the socket is full.
    fn insert(&mut self, head: Head, payload: &[u8]) {
        if self.frames.is_between() {
            self.queue.copy(&head.to_bytes(), MAX_COPIED);
            self.queue.copy(payload, MAX_COPIED);
        }
    }

    fn count(&mut self, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.is_blocked = outcome.is_pending();
        match outcome {
            Poll::Ready(Ok(sent)) => {
                self.total_sent += sent as u64;
                self.sent_in_a_row += sent;
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.sent_in_a_row = 0,
        }
        outcome
    }
}

impl Socket {
    /// Notes what was read. The answer to a ping of this file is made a frame of no kind: HTTP/2, which knows nothing of the
    /// ping, would complain about it in the log. One that is cut in two stays as it is.
    fn note_read(&mut self, bytes: &mut [u8]) {
        let shared = &self.write_buffer.0;
        // this task is the only one that writes these, so that no more than a store is needed
        shared.reads.store(shared.reads.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let mut answer = None;
        self.frames.follow(bytes, |head, at| {
            shared.is_handshake_received.store(true, Ordering::Relaxed);
            match head.kind {
                HEADERS => shared.last_stream.store(head.stream, Ordering::Relaxed),
                PING if head.flags & ACK == 0 => _ = shared.pings.fetch_add(1, Ordering::Relaxed),
                PING if at >= HEAD && bytes[at..].starts_with(&PING_PAYLOAD) => answer = Some(at),
                _ => {}
            }
        });
        if let Some(at) = answer {
            bytes[at - HEAD + 3] = UNKNOWN;
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read_in_a_row >= READ_IN_A_ROW {
            self.read_in_a_row = 0;
            ready!(yield_turn(context));
        }
        let before = buffer.filled().len();
        let Self { read, ahead, .. } = &mut *self;
        let outcome = match read.is_unbuffered() {
            true => ahead.poll_read(read, context, buffer),
            false => Pin::new(read).poll_read(context, buffer),
        };
        let count = buffer.filled().len() - before;
        self.read_in_a_row = if count == 0 { 0 } else { self.read_in_a_row + count };
        if count > 0 {
            self.note_read(&mut buffer.filled_mut()[before..]);
        }
        outcome
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.write_buffer.lock().poll_write(context, &[IoSlice::new(buffer)], &self.large_parts)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write_buffer.lock().poll_write(context, pieces, &self.large_parts)
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
pub(crate) mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::write_queue::IDLE_CAPACITY;

    /// Payload of a usual frame.
    const FRAME: usize = 16 << 10;

    /// A client's end and the server's end of one connection.
    pub(crate) async fn pair() -> (TcpStream, Socket, WriteBuffer) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, write_buffer) = Socket::new(listener.accept().await.unwrap().0.into(), LargeParts::default());
        (client, socket, write_buffer)
    }

    #[tokio::test]
    async fn small_writes_are_buffered_until_sent() {
        let (mut client, mut socket, write_buffer) = pair().await;
        for piece in [b"one ".as_slice(), b"two ", b"three"] {
            socket.write_all(piece).await.unwrap();
            socket.flush().await.unwrap();
        }
        assert_eq!(write_buffer.lock().queue.copied_bytes(), 13);
        poll_fn(|context| write_buffer.poll_send(context)).await.unwrap();
        let mut read = [0; 13];
        client.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"one two three");
    }

    #[tokio::test]
    async fn writes_of_every_size_arrive_in_order() {
        let (mut client, mut socket, write_buffer) = pair().await;
        let pieces: Vec<Vec<u8>> =
            [1, 100, DIRECT, 3, MAX_COPIED - 1, 7, 4 << 20, 5, DIRECT - 1, DIRECT - 1, DIRECT - 1, DIRECT - 1]
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
            assert!(write_buffer.lock().queue.copied_bytes() <= MAX_COPIED);
        }
        socket.shutdown().await.unwrap();
        assert!(reader.await.unwrap() == pieces.concat(), "bytes were lost or moved");
    }

    #[tokio::test]
    async fn large_parts_are_sent_in_their_place_and_not_copied() {
        let (mut client, mut socket, write_buffer) = pair().await;
        let part = socket.large_parts.add((0..200 * FRAME).map(|index| (index % 251) as u8).collect());
        let expected: Vec<u8> =
            part.chunks(FRAME).flat_map(|frame| [b"head".as_slice(), frame]).flatten().copied().collect();
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.unwrap();
            all
        });
        for frame in part.chunks(FRAME) {
            let pieces = [IoSlice::new(b"head"), IoSlice::new(frame)];
            let written = poll_fn(|context| Pin::new(&mut socket).poll_write_vectored(context, &pieces)).await.unwrap();
            assert_eq!(written, 4 + frame.len());
            let queue = &write_buffer.lock().queue;
            assert!(queue.copied_bytes() <= 4 * MOST_SLICES && queue.large_bytes() <= MAX_LARGE);
        }
        socket.shutdown().await.unwrap();
        assert!(reader.await.unwrap() == expected, "bytes were lost or moved");
    }

    /// How many bytes `step` passes on at most while no other task has a turn, of so many in all.
    async fn most_in_a_row(all: usize, mut step: impl AsyncFnMut()) -> usize {
        let turns = Arc::new(AtomicU32::new(0));
        let others = turns.clone();
        let other = tokio::spawn(async move {
            loop {
                others.fetch_add(1, Ordering::Relaxed);
                yield_now().await;
            }
        });
        let (mut most, mut in_a_row, mut before) = (0, 0, 0);
        for _ in 0..all / FRAME {
            step().await;
            let now = turns.load(Ordering::Relaxed);
            in_a_row = if now == before { in_a_row + FRAME } else { FRAME };
            before = now;
            most = most.max(in_a_row);
        }
        other.abort();
        most
    }

    #[tokio::test]
    async fn other_tasks_have_their_turn_while_much_is_read() {
        let (mut client, mut socket, _write_buffer) = pair().await;
        let all = 8 * READ_IN_A_ROW;
        let writer = tokio::spawn(async move { client.write_all(&vec![7; all]).await.unwrap() });
        let mut buffer = vec![0; FRAME];
        let most = most_in_a_row(all, async || _ = socket.read_exact(&mut buffer).await.unwrap()).await;
        assert!(most <= READ_IN_A_ROW + FRAME, "{most}");
        writer.await.unwrap();
    }

    #[tokio::test]
    async fn other_tasks_have_their_turn_while_much_is_sent() {
        let (client, mut socket, _write_buffer) = pair().await;
        let all = 8 * SENT_IN_A_ROW;
        let mut client = client.into_std().unwrap();
        client.set_nonblocking(false).unwrap();
        // a client that reads at once, on a thread of its own
        let reader = std::thread::spawn(move || std::io::Read::read_exact(&mut client, &mut vec![0; all]).unwrap());
        let part = socket.large_parts.add(vec![7; 8 * FRAME].into());
        let most = most_in_a_row(all, async || socket.write_all(&part[..FRAME]).await.unwrap()).await;
        assert!(most <= SENT_IN_A_ROW + 2 * MAX_LARGE, "{most}");
        socket.shutdown().await.unwrap();
        reader.join().unwrap();
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
        assert!(write_buffer.lock().queue.capacity() <= IDLE_CAPACITY);
    }

    #[tokio::test]
    async fn answers_to_own_pings_are_hidden_and_others_are_not() {
        let (mut client, mut socket, _) = pair().await;
        let frame = |flags: u8, payload: &[u8; 8]| [&[0, 0, 8, PING, flags, 0, 0, 0, 0], payload.as_slice()].concat();
        let preface = [0; PREFACE as usize].as_slice();
        let (own, others) = (frame(ACK, &PING_PAYLOAD), frame(ACK, b"shutdown"));
        let asked = frame(0, &PING_PAYLOAD);
        client.write_all(&[preface, &own, &others, &asked].concat()).await.unwrap();
        let mut read = vec![0; preface.len() + 3 * own.len()];
        socket.read_exact(&mut read).await.unwrap();
        let mut hidden = own.clone();
        hidden[3] = UNKNOWN;
        assert_eq!(read, [preface, &hidden, &others, &asked].concat());
    }

    #[tokio::test]
    async fn own_frames_stand_between_those_of_http_2() {
        let (mut client, mut socket, write_buffer) = pair().await;
        let head = Head { length: 4, kind: DATA, flags: 0, stream: 1 }.to_bytes();
        socket.write_all(&head).await.unwrap();
        write_buffer.ping(); // in the middle of a frame: left out
        socket.write_all(b"data").await.unwrap();
        write_buffer.ping();
        socket.write_all(&head).await.unwrap();
        socket.write_all(b"more").await.unwrap();
        poll_fn(|context| write_buffer.poll_send(context)).await.unwrap();
        let ping = [&Head { length: 8, kind: PING, flags: 0, stream: 0 }.to_bytes()[..], &PING_PAYLOAD].concat();
        let expected = [&head[..], b"data", &ping, &head, b"more"].concat();
        let mut read = vec![0; expected.len()];
        client.read_exact(&mut read).await.unwrap();
        assert_eq!(read, expected);
        assert!(write_buffer.take_has_sent_for_calls());
        assert!(!write_buffer.take_has_sent_for_calls());
    }
}
