//! Connections over real sockets, with clients that write frames by hand.

#![allow(clippy::unwrap_used)] // helpers of tests, which clippy takes for programs

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{BufMut, Bytes};
use http::{HeaderMap, HeaderValue, Response};
use http_body::Frame as BodyFrame;
use server_http2::{Body, Config, Connection, Destination, End, KeepAlive, PingPolicy, Request, Reset, UnreadBudget};
use server_tls::Stream;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
    time::{Instant, timeout},
};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Generous: only a server that hangs takes so long.
const DEADLINE: Duration = Duration::from_secs(20);

/// Memory for bodies.
struct Heap(Vec<u8>);

impl Destination for Heap {
    fn extend(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn poll_read(&mut self, stream: &mut Stream, context: &mut Context<'_>, limit: usize) -> Poll<io::Result<usize>> {
        let mut room = (&mut self.0).limit(limit);
        let read = std::pin::pin!(stream.read_buf(&mut room));
        read.poll(context)
    }

    fn is_initialized(&self) -> bool {
        true
    }

    fn extend_with(&mut self, room: usize, write: impl FnOnce(&mut [u8]) -> usize) {
        let begin = self.0.len();
        self.0.resize(begin + room, 0xee);
        let count = write(&mut self.0[begin..]);
        self.0.truncate(begin + count);
    }
}

/// The body of a response: pieces that are there, then trailers or an endless wait.
struct Answer {
    pieces: std::vec::IntoIter<Bytes>,
    given: Arc<AtomicUsize>,
    ends: bool,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        match self.pieces.next() {
            Some(piece) => {
                self.given.fetch_add(piece.len(), Ordering::Relaxed);
                Poll::Ready(Some(Ok(BodyFrame::data(piece))))
            }
            None if self.ends => {
                let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]);
                self.ends = false;
                Poll::Ready(Some(Ok(BodyFrame::trailers(trailers))))
            }
            None => Poll::Pending,
        }
    }
}

/// What the calls of a test share.
#[derive(Default)]
struct Shared {
    /// Bytes that bodies of responses have given.
    given: Arc<AtomicUsize>,
    /// Calls that wait, and calls that were dropped while they did.
    waiting: AtomicUsize,
    dropped: AtomicUsize,
    go_on: Notify,
}

struct CountsDrop(Arc<Shared>);

impl Drop for CountsDrop {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

/// Receives a body, the first kilobyte of it in pieces and what follows where it belongs.
async fn receive(mut body: Body<Heap>, length: usize) -> Result<Vec<u8>, Reset> {
    let mut memory = Some(Heap(Vec::with_capacity(length)));
    poll_fn(|context| {
        loop {
            if let Some(back) = body.take_back() {
                memory = Some(back);
            }
            match body.poll_data(context) {
                Poll::Ready(Some(Ok(bytes))) => memory.as_mut().unwrap().extend(&bytes),
                Poll::Ready(Some(Err(reset))) => return Poll::Ready(Err(reset)),
                Poll::Ready(None) => return Poll::Ready(Ok(memory.take().unwrap().0)),
                Poll::Pending => {
                    let held = memory.take().unwrap();
                    let room = if held.0.len() < 1000 { 0 } else { length - held.0.len() };
                    memory = body.offer(context, held, room);
                    return Poll::Pending;
                }
            }
        }
    })
    .await
}

/// Differs with the order, too.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().zip(1..).map(|(byte, place)| u64::from(*byte) * place).sum()
}

/// Answers by the path: how many bytes were there, so many bytes, a panic, or nothing for a while.
async fn answer(request: Request, body: Body<Heap>, shared: Arc<Shared>) -> Response<Answer> {
    let number = |text: &str| text.parse::<usize>().unwrap();
    let reply = |pieces: Vec<Bytes>, ends: bool| {
        Response::new(Answer { pieces: pieces.into_iter(), given: shared.given.clone(), ends })
    };
    let path: Vec<&str> = request.path().split('/').collect();
    match path[1] {
        "sum" => {
            let bytes = receive(body, number(path[2])).await.unwrap();
            reply(vec![format!("{} {}", bytes.len(), sum(&bytes)).into()], true)
        }
        "give" => reply(vec![vec![7; number(path[3])].into(); number(path[2])], true),
        "stream" => reply(vec![vec![7; number(path[3])].into(); number(path[2])], false),
        "panic" => panic!("a call panics, as it is to do in this test"),
        "wait" => {
            shared.waiting.fetch_add(1, Ordering::SeqCst);
            let counts = CountsDrop(shared.clone());
            shared.go_on.notified().await;
            std::mem::forget(counts);
            reply(vec!["went on".into()], true)
        }
        other => panic!("no such path: {other}"),
    }
}

fn config() -> Config {
    Config {
        stream_window: 1 << 20,
        connection_window: 4 << 20,
        unread: UnreadBudget::new(64 << 20),
        max_frame: 1 << 20,
        max_calls: 100,
        max_header_list: 16 << 10,
        too_large: Arc::new(Response::builder().status(431).body(()).unwrap()),
        pings: PingPolicy::default(),
        keep_alive: KeepAlive { time: DEADLINE, timeout: DEADLINE, pings_without_calls: false },
        handshake_end: Instant::now() + DEADLINE,
    }
}

struct Client {
    socket: TcpStream,
    server: JoinHandle<End>,
    shared: Arc<Shared>,
    last_stream: u32,
    /// What may be sent on the connection, as far as was read.
    window: usize,
    leave: Arc<Notify>,
}

#[derive(Debug, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Client {
    async fn connect(config: Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let shared = Arc::<Shared>::default();
        let for_calls = shared.clone();
        let leave = Arc::<Notify>::default();
        let leaves = leave.clone();
        let server = tokio::spawn(async move {
            let answer = |request, body| answer(request, body, for_calls.clone());
            let mut connection = Connection::new(accepted.into(), &config, answer);
            let end = tokio::select! {
                end = poll_fn(|context| connection.poll(context)) => Some(end),
                () = leaves.notified() => None,
            };
            let end = match end {
                Some(end) => end,
                None => {
                    connection.leave();
                    poll_fn(|context| connection.poll(context)).await
                }
            };
            if end == End::Complete {
                let _ = timeout(DEADLINE, poll_fn(|context| connection.poll_close(context))).await;
            }
            end
        });
        socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        Self { socket, server, shared, last_stream: 0, window: 65_535, leave }
    }

    async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let _ = self.socket.write_all(&frame(kind, flags, stream, payload)).await;
    }

    /// Begins a call; its stream.
    async fn call(&mut self, path: &str, flags: u8) -> u32 {
        self.last_stream += if self.last_stream == 0 { 1 } else { 2 };
        let block = request(path);
        self.write(HEADERS, END_HEADERS | flags, self.last_stream, &block).await;
        self.last_stream
    }

    /// The next frame; `None` at the end.
    async fn read(&mut self) -> Option<Frame> {
        let read = async {
            let mut head = [0; 9];
            self.socket.read_exact(&mut head).await.ok()?;
            let [a, b, c, kind, flags, d, e, f, g] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.socket.read_exact(&mut payload).await.ok()?;
            Some(Frame { kind, flags, stream: u32::from_be_bytes([d, e, f, g]), payload })
        };
        let frame = timeout(DEADLINE, read).await.expect("the server says nothing");
        if let Some(Frame { kind: WINDOW_UPDATE, stream: 0, payload, .. }) = &frame {
            self.window += u32::from_be_bytes(payload[..].try_into().unwrap()) as usize;
        }
        frame
    }

    /// The next frame of a kind.
    async fn read_until(&mut self, kind: u8) -> Frame {
        loop {
            match self.read().await {
                Some(frame) if frame.kind == kind => return frame,
                Some(_) => {}
                None => panic!("the connection has ended"),
            }
        }
    }

    /// The data of a response, to the end of its stream.
    async fn response(&mut self, stream: u32) -> Vec<u8> {
        let mut data = Vec::new();
        loop {
            let frame = self.read().await.expect("the connection has ended");
            if frame.stream != stream {
                continue;
            }
            assert!(matches!(frame.kind, DATA | HEADERS | WINDOW_UPDATE), "{frame:?}");
            if frame.kind == DATA {
                data.extend_from_slice(&frame.payload);
            }
            if frame.kind != WINDOW_UPDATE && frame.flags & END_STREAM != 0 {
                return data;
            }
        }
    }

    async fn ended(self) -> End {
        drop(self.socket);
        timeout(DEADLINE, self.server).await.expect("the server goes on").unwrap()
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn request(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    block.extend_from_slice(path.as_bytes());
    block
}

async fn until(mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "the condition did not hold in time");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn bodies_arrive_whole_however_they_are_cut() {
    let body: Vec<u8> = (0..700_000u32).map(|index| (index % 251) as u8).collect();
    let sum = sum(&body);
    let mut client = Client::connect(config()).await;
    for cut in [1000, 16_384, 100_000, 700_000] {
        for written in [usize::MAX, 50_000] {
            let stream = client.call("/sum/700000", 0).await;
            let mut bytes = Vec::new();
            for (number, part) in body.chunks(cut).enumerate() {
                let is_last = (number + 1) * cut >= body.len();
                bytes.extend(frame(DATA, if is_last { END_STREAM } else { 0 }, stream, part));
            }
            for part in bytes.chunks(written.min(bytes.len())) {
                client.socket.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
            assert_eq!(client.response(stream).await, format!("700000 {sum}").into_bytes(), "{cut} {written}");
        }
    }
    assert_eq!(client.ended().await, End::Complete);
}

#[tokio::test]
async fn large_bodies_of_two_calls_arrive_whole_with_other_frames_between() {
    let body: Vec<u8> = (0..3_000_000u32).map(|index| (index % 253) as u8).collect();
    let mut client = Client::connect(Config { stream_window: 4 << 20, connection_window: 8 << 20, ..config() }).await;
    let streams = [client.call("/sum/3000000", 0).await, client.call("/sum/3000000", 0).await];
    let mut bytes = Vec::new();
    for (number, part) in body.chunks(16_384).enumerate() {
        let is_last = (number + 1) * 16_384 >= body.len();
        for stream in streams {
            // long stretches of one call, and then of the other
            bytes.push((number / 40, stream, frame(DATA, if is_last { END_STREAM } else { 0 }, stream, part)));
        }
        if number % 17 == 0 {
            bytes.push((number / 40, streams[0], frame(WINDOW_UPDATE, 0, streams[1], &[0, 0, 0, 1])));
        }
    }
    bytes.sort_by_key(|(stretch, stream, _)| (*stretch, *stream));
    let bytes = bytes.into_iter().map(|(.., frame)| frame).collect::<Vec<_>>().concat();
    for part in bytes.chunks(300_000) {
        client.socket.write_all(part).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut answers = std::collections::BTreeMap::new();
    while answers.len() < 2 {
        let frame = client.read_until(DATA).await;
        answers.insert(frame.stream, String::from_utf8(frame.payload).unwrap());
    }
    for stream in streams {
        assert_eq!(answers[&stream], format!("3000000 {}", sum(&body)));
    }
}

/// Sends a megabyte for a call that does not read it, or as much of that as the connection's window allows.
async fn fill(client: &mut Client) {
    let stream = client.call("/wait", 0).await;
    for _ in 0..10 {
        while client.window < 100_000 {
            if timeout(Duration::from_millis(500), client.read()).await.is_err() {
                return;
            }
        }
        client.write(DATA, 0, stream, &[1; 100_000]).await;
        client.window -= 100_000;
    }
}

#[tokio::test]
async fn calls_that_do_not_read_hold_no_other_up_until_the_budget_for_that_is_used_up() {
    let unread = UnreadBudget::new(10_000_000);
    let mut client = Client::connect(Config { unread: unread.clone(), ..config() }).await;
    for _ in 0..10 {
        fill(&mut client).await;
        let body = vec![1; 50_000];
        let stream = client.call("/sum/50000", 0).await;
        client.write(DATA, END_STREAM, stream, &body).await;
        client.window -= 50_000;
        let frame = client.read_until(DATA).await;
        assert_eq!((frame.stream, frame.payload), (stream, format!("50000 {}", sum(&body)).into_bytes()));
    }
    assert!(unread.left() < 3_000_000, "{}", unread.left());
    // no more than the budget and the window, however many calls there are
    for _ in 0..10 {
        fill(&mut client).await;
    }
    assert!(client.window < 100_000 && unread.left() < 1_000_000, "{} {}", client.window, unread.left());
    client.ended().await;
    assert_eq!(unread.left(), 10_000_000);
}

#[tokio::test]
async fn many_calls_at_a_time_get_their_own_answers() {
    let mut client = Client::connect(config()).await;
    let mut bytes = Vec::new();
    for call in 0..50u32 {
        bytes.extend(frame(HEADERS, END_HEADERS, 2 * call + 1, &request("/sum/100")));
    }
    for call in 0..50u32 {
        bytes.extend(frame(DATA, END_STREAM, 2 * call + 1, &vec![1; call as usize]));
    }
    client.socket.write_all(&bytes).await.unwrap();
    let mut answers = std::collections::BTreeMap::new();
    while answers.len() < 50 {
        let frame = client.read_until(DATA).await;
        answers.insert(frame.stream, String::from_utf8(frame.payload).unwrap());
    }
    for call in 0..50 {
        assert_eq!(answers[&(2 * call + 1)], format!("{call} {}", call * (call + 1) / 2));
    }
}

#[tokio::test]
async fn a_call_that_panics_ends_alone() {
    let mut client = Client::connect(config()).await;
    let waits = client.call("/wait", END_STREAM).await;
    let panics = client.call("/panic", END_STREAM).await;
    let reset = client.read_until(RST_STREAM).await;
    assert_eq!((reset.stream, reset.payload), (panics, vec![0, 0, 0, 2]));
    until(|| client.shared.waiting.load(Ordering::SeqCst) == 1).await;
    client.shared.go_on.notify_waiters();
    assert_eq!(client.response(waits).await, b"went on");
}

#[tokio::test]
async fn a_call_that_is_reset_or_whose_client_is_gone_is_dropped_at_once() {
    let mut client = Client::connect(config()).await;
    let first = client.call("/wait", 0).await;
    client.call("/wait", END_STREAM).await;
    until(|| client.shared.waiting.load(Ordering::SeqCst) == 2).await;
    client.write(RST_STREAM, 0, first, &[0, 0, 0, 8]).await;
    let shared = client.shared.clone();
    until(|| shared.dropped.load(Ordering::SeqCst) == 1).await;
    client.ended().await;
    assert_eq!(shared.dropped.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_few_bytes_and_hears_all_when_it_does() {
    let mut client = Client::connect(config()).await;
    // the connection's window is as large as can be, and so are those of calls
    client.write(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]).await;
    client.write(WINDOW_UPDATE, 0, 0, &(0x7fff_ffff_u32 - 65_535).to_be_bytes()).await;
    let stream = client.call("/give/10000/10000", END_STREAM).await;
    let given = client.shared.given.clone();
    until(|| given.load(Ordering::Relaxed) > 1_000_000).await;
    let mut received = 0;
    while received < 100_000_000 {
        received += client.read_until(DATA).await.payload.len();
        // what the sockets hold are some megabytes
        let held = given.load(Ordering::Relaxed) - received;
        assert!(held < 20_000_000, "{held}");
    }
    assert_eq!(client.read_until(HEADERS).await.stream, stream);
}

#[tokio::test]
async fn a_response_waits_for_the_windows_of_the_client() {
    let mut client = Client::connect(config()).await;
    let stream = client.call("/give/10/10000", END_STREAM).await;
    let mut received = 0;
    while received < 65_535 {
        received += client.read_until(DATA).await.payload.len();
    }
    assert_eq!(received, 65_535);
    // another call is answered meanwhile, as far as it has no data
    client.write(WINDOW_UPDATE, 0, stream, &[0, 1, 0, 0]).await;
    client.write(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).await;
    assert_eq!(client.read_until(DATA).await.payload.len(), 1);
    client.write(WINDOW_UPDATE, 0, 0, &[0, 1, 0, 0]).await;
    assert_eq!(client.response(stream).await.len(), 100_000 - 65_536);
}

#[tokio::test]
async fn nothing_is_read_from_a_client_that_does_not_read_its_answers_until_it_does() {
    let pings = PingPolicy { max_strikes: 0, ..PingPolicy::default() };
    let mut client = Client::connect(Config { pings, ..config() }).await;
    // pings and their answers fill the sockets both ways until neither takes more
    let ping = frame(6, 0, 0, b"12345678");
    let pings = ping.repeat(1000);
    let mut sent = 0;
    while let Ok(written) = timeout(Duration::from_millis(300), client.socket.write(&pings[sent % ping.len()..])).await
    {
        sent += written.unwrap();
        assert!(sent < 100_000_000, "the server takes whatever comes");
    }
    // what is left of the last one, and then each is answered
    let rest = (ping.len() - sent % ping.len()) % ping.len();
    let (mut theirs, mut ours) = client.socket.split();
    let write = async { ours.write_all(&ping[ping.len() - rest..]).await.unwrap() };
    let read = async {
        let mut wanted = sent + rest;
        let mut buffer = vec![0; 1 << 16];
        while wanted > 0 {
            let count = timeout(DEADLINE, theirs.read(&mut buffer)).await.expect("the server reads no more").unwrap();
            assert!(count > 0, "the connection has ended");
            wanted = wanted.saturating_sub(count);
        }
    };
    tokio::join!(write, read);
}

#[tokio::test]
async fn a_connection_that_is_asked_to_leave_answers_its_calls() {
    let mut client = Client::connect(config()).await;
    let stream = client.call("/wait", END_STREAM).await;
    until(|| client.shared.waiting.load(Ordering::SeqCst) == 1).await;
    client.leave.notify_one();
    assert_eq!(client.read_until(GOAWAY).await.payload[..4], [0x7f, 0xff, 0xff, 0xff]);
    let asked = client.read_until(6).await;
    client.write(6, 1, 0, &asked.payload).await;
    assert_eq!(client.read_until(GOAWAY).await.payload, [0, 0, 0, stream as u8, 0, 0, 0, 0]);
    client.call("/give/1/1", END_STREAM).await; // not served any more
    client.shared.go_on.notify_waiters();
    assert_eq!(client.response(stream).await, b"went on");
    assert_eq!(client.read().await, None);
    assert_eq!(client.ended().await, End::Complete);
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let mut client = Client::connect(config()).await;
    client.write(DATA, 0, 1, b"x").await;
    let goaway = client.read_until(GOAWAY).await;
    assert_eq!(goaway.payload[..8], [0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(client.read().await, None);
}

#[tokio::test]
async fn a_stream_that_goes_on_does_not_stop_others() {
    let mut client = Client::connect(config()).await;
    client.call("/stream/3/100", END_STREAM).await;
    assert_eq!(client.read_until(DATA).await.payload.len(), 300); // what is there together comes together
    let other = client.call("/give/2/100", END_STREAM).await;
    assert_eq!(client.response(other).await.len(), 200);
}
