//! Pings of HTTP/2, with a client that writes frames by hand.

use std::time::Duration;

use server_grpc::{Options, PingPolicy};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::harness::Server;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Generous: only a server that hangs takes so long.
const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

struct Client {
    socket: TcpStream,
    last_stream: u32,
}

impl Client {
    async fn connect(server: &Server) -> Self {
        let mut client = Self { socket: TcpStream::connect(server.address).await.unwrap(), last_stream: 0 };
        client.socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        client.write(SETTINGS, 0, 0, &[]).await;
        client
    }

    async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        // the server may have left already, and said why
        let _ = self.socket.write_all(&[&head, payload].concat()).await;
    }

    /// Begins a call.
    async fn call(&mut self, method: &str) {
        self.last_stream += if self.last_stream == 0 { 1 } else { 2 };
        let path = format!("/inference.GRPCInferenceService/{method}");
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", &path),
            (":authority", "here"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ];
        let mut block = Vec::new();
        for (name, value) in fields {
            block.push(0); // a field that is not kept, with its name
            for text in [name, value] {
                block.push(u8::try_from(text.len()).unwrap());
                block.extend_from_slice(text.as_bytes());
            }
        }
        self.write(HEADERS, END_HEADERS, self.last_stream, &block).await;
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
        timeout(DEADLINE, read).await.expect("the server says nothing")
    }

    /// The next frame of a kind; `None` at the end.
    async fn read_until(&mut self, kind: u8) -> Option<Frame> {
        loop {
            match self.read().await {
                Some(frame) if frame.kind != kind => {}
                other => return other,
            }
        }
    }

    /// Pings; what the server answers, or why it leaves.
    async fn ping(&mut self) -> Result<(), Frame> {
        self.write(PING, 0, 0, b"12345678").await;
        loop {
            let frame = self.read().await.expect("the server leaves without a word");
            match frame.kind {
                PING if frame.flags == ACK && frame.payload == b"12345678" => return Ok(()),
                GOAWAY => return Err(frame),
                _ => {}
            }
        }
    }

    /// Pings until it is told to leave; how often. The first is no strike, and the one too many is answered as well.
    async fn ping_until_sent_away(&mut self) -> usize {
        let mut answered = 0;
        let farewell = loop {
            match self.ping().await {
                Ok(()) => answered += 1,
                Err(farewell) => break farewell,
            }
            assert!(answered < 1000, "the server takes every ping");
        };
        let (numbers, text) = farewell.payload.split_at(8);
        let expected = [self.last_stream.to_be_bytes(), 0xb_u32.to_be_bytes()].concat();
        assert_eq!((farewell.stream, numbers, text), (0, &*expected, &b"too_many_pings"[..]));
        assert!(self.read().await.is_none(), "the connection is closed");
        answered
    }
}

async fn with(pings: PingPolicy) -> Server {
    Server::with(Options { pings, ..Options::default() }).await
}

#[tokio::test]
async fn who_pings_too_often_is_sent_away_with_the_reason() {
    let server = with(PingPolicy::default()).await;
    let mut other = server.client().await;
    assert_eq!(Client::connect(&server).await.ping_until_sent_away().await, 4);
    let server_live = server_proto::inference::ServerLiveRequest {};
    other.server_live(server_live).await.unwrap(); // others stay

    let five = with(PingPolicy { max_strikes: 5, ..PingPolicy::default() }).await;
    assert_eq!(Client::connect(&five).await.ping_until_sent_away().await, 7);
}

#[tokio::test]
async fn an_interval_that_is_kept_is_no_strike() {
    let often = PingPolicy { min_interval: Duration::ZERO, ..PingPolicy::default() };
    let server = with(PingPolicy { permits_without_calls: true, ..often }).await;
    let mut client = Client::connect(&server).await;
    for _ in 0..100 {
        client.ping().await.unwrap();
    }
    // without that permission it holds during a call only: here one whose responses are still to come
    let server = with(often).await;
    let mut client = Client::connect(&server).await;
    client.call("ModelStreamInfer").await;
    assert_eq!(client.read_until(HEADERS).await.unwrap().flags & END_STREAM, 0);
    for _ in 0..100 {
        client.ping().await.unwrap();
    }
    client.write(DATA, END_STREAM, client.last_stream, &[]).await;
    assert_eq!(client.read_until(HEADERS).await.unwrap().flags & END_STREAM, END_STREAM);
    assert_eq!(client.ping_until_sent_away().await, 4);
}

#[tokio::test]
async fn any_number_can_be_allowed() {
    let server = with(PingPolicy { max_strikes: 0, ..PingPolicy::default() }).await;
    let mut client = Client::connect(&server).await;
    for _ in 0..100 {
        client.ping().await.unwrap();
    }
}

#[tokio::test]
async fn what_is_sent_for_calls_forgives_pings() {
    let server = with(PingPolicy::default()).await;
    let mut client = Client::connect(&server).await;
    for _ in 0..5 {
        for _ in 0..3 {
            client.ping().await.unwrap();
        }
        client.call("ServerLive").await;
        client.write(DATA, END_STREAM, client.last_stream, &[0; 5]).await;
        while client.read_until(HEADERS).await.unwrap().flags & END_STREAM == 0 {}
    }
    assert_eq!(client.ping_until_sent_away().await, 4);
}

#[tokio::test]
async fn many_pings_at_once_are_counted_one_by_one() {
    let server = with(PingPolicy::default()).await;
    let mut client = Client::connect(&server).await;
    let ping = [&[0, 0, 8, PING, 0, 0, 0, 0, 0][..], b"12345678"].concat();
    let _ = client.socket.write_all(&ping.repeat(10_000)).await;
    assert!(client.read_until(GOAWAY).await.unwrap().payload.ends_with(b"too_many_pings"));
}

/// Reads what the server sends and answers its pings, if it should.
async fn pings_of(server: &Server, is_answering: bool, has_call: bool, most: usize) -> usize {
    let mut client = Client::connect(server).await;
    if has_call {
        client.call("ModelStreamInfer").await;
    }
    let mut count = 0;
    while let Some(frame) = client.read().await {
        if frame.kind == PING && frame.flags == 0 {
            count += 1;
            if count == most {
                break;
            }
            if is_answering {
                client.write(PING, ACK, 0, &frame.payload).await;
            }
        }
    }
    count
}

#[tokio::test]
async fn silent_clients_are_pinged_and_closed_if_they_do_not_answer() {
    let options = |permits_without_calls| Options {
        keepalive_time: Duration::from_millis(20),
        keepalive_timeout: Duration::from_millis(200),
        pings: PingPolicy { permits_without_calls, ..PingPolicy::default() },
        ..Options::default()
    };
    let server = Server::with(options(true)).await;
    assert_eq!(pings_of(&server, true, false, 5).await, 5);
    assert_eq!(pings_of(&server, false, false, 5).await, 1, "the connection is closed after the first");
    let server = Server::with(options(false)).await;
    assert_eq!(pings_of(&server, true, true, 5).await, 5);
    assert_eq!(pings_of(&server, false, true, 5).await, 1);
}
