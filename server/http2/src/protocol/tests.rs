use std::{fmt::Write as _, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{frame::MAX_CONTROL, headers::MAX_BLOCK, *};
use crate::frames::*;

const LIMITS: Limits = Limits {
    stream_window: 100_000,
    connection_window: 200_000,
    max_frame: 1 << 20,
    max_calls: 10,
    max_header_list: 16 << 10,
    pings: PingPolicy { min_interval: Duration::from_secs(300), max_strikes: 2, permits_without_calls: false },
};

/// A connection, and the frames that its client writes by hand.
struct Test {
    protocol: Protocol,
    now: Instant,
    /// How the bytes of the client are cut.
    step: usize,
}

/// A frame of the client.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    put(&mut frame, kind, flags, stream, payload);
    frame
}

/// Fields as they are written without tables.
fn literals(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            if text.len() < 127 {
                block.push(text.len() as u8);
            } else {
                let mut rest = text.len() - 127;
                block.push(127);
                while rest >= 128 {
                    block.push((rest % 128) as u8 | 128);
                    rest /= 128;
                }
                block.push(rest as u8);
            }
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

fn request(more: &[(&str, &str)]) -> Vec<u8> {
    literals(&[&[(":method", "POST"), (":scheme", "http"), (":path", "/a/b")], more].concat())
}

fn call(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &request(&[]))
}

impl Test {
    /// After the handshake.
    fn new() -> Self {
        Self::with(LIMITS)
    }

    fn with(limits: Limits) -> Self {
        let mut test = Self { protocol: Protocol::new(limits), now: Instant::now(), step: usize::MAX };
        assert_eq!(test.send(&[&PREFACE[..], &frame(SETTINGS, 0, 0, &[])].concat()), "windows");
        test.sent();
        test
    }

    /// What comes of these bytes: events, and the error that ends the connection.
    fn send(&mut self, bytes: &[u8]) -> String {
        let mut said = String::new();
        for mut input in bytes.chunks(self.step.min(bytes.len().max(1))) {
            loop {
                let separator = if said.is_empty() { "" } else { ", " };
                match self.protocol.receive(&mut input, self.now) {
                    Ok(None) => break,
                    Ok(Some(Event::Called { key, request, has_ended })) => {
                        let end = if has_ended { " end" } else { "" };
                        write!(said, "{separator}call {key} {} {}{end}", request.method(), request.path())
                    }
                    Ok(Some(Event::Data { key, bytes, has_ended })) => {
                        let end = if has_ended { " end" } else { "" };
                        write!(said, "{separator}data {key} {}{end}", bytes.len())
                    }
                    Ok(Some(Event::TooLarge { key })) => {
                        self.protocol.respond(key, 431, &map(&[]), true);
                        write!(said, "{separator}too large {key}")
                    }
                    Ok(Some(Event::Reset { key })) => write!(said, "{separator}reset {key}"),
                    Ok(Some(Event::WindowsOpened)) => write!(said, "{separator}windows"),
                    Err(error) => {
                        write!(said, "{separator}{:?}", error.code).unwrap();
                        return said;
                    }
                }
                .unwrap();
            }
            assert!(input.is_empty(), "bytes are left");
        }
        said
    }

    /// The frames that wait to be sent.
    fn sent(&mut self) -> String {
        let mut bytes = Vec::new();
        while !self.protocol.queue().is_empty() {
            let mut slices = [std::io::IoSlice::new(&[]); crate::send_queue::MOST_SLICES];
            let count = self.protocol.queue().slices(&mut slices);
            let part: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
            self.protocol.queue().advance(part.len());
            bytes.extend_from_slice(&part);
        }
        let mut said = Vec::new();
        let mut rest = &bytes[..];
        while let Some((head, after)) = rest.split_first_chunk::<HEAD>() {
            let Head { length, kind, flags, stream } = Head::from_bytes(*head);
            let (payload, after) = after.split_at(length as usize);
            rest = after;
            let last = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
            let end = |flag: u8| if flags & flag != 0 { " end" } else { "" };
            said.push(match kind {
                DATA => format!("data {stream} {length}{}", end(END_STREAM)),
                HEADERS => format!("headers {stream} {}{}", flags & END_HEADERS, end(END_STREAM)),
                CONTINUATION => format!("continuation {stream} {}", flags & END_HEADERS),
                RST_STREAM => format!("reset {stream} {}", last(0)),
                SETTINGS if flags == ACK => "settings ack".to_owned(),
                SETTINGS => format!("settings {length}"),
                PING => format!("ping {flags} {}", String::from_utf8_lossy(payload)),
                GOAWAY => format!("goaway {} {} {}", last(0), last(4), String::from_utf8_lossy(&payload[8..])),
                WINDOW_UPDATE => format!("window {stream} {}", last(0)),
                other => format!("kind {other}"),
            });
        }
        assert!(rest.is_empty());
        said.join(", ")
    }

    #[track_caller]
    fn check(&mut self, bytes: &[u8], events: &str, sent: &str) {
        assert_eq!(self.send(bytes), events);
        assert_eq!(self.sent(), sent);
    }
}

/// What comes of these bytes after the handshake and an open call on stream 1.
#[track_caller]
fn check(bytes: &[u8], events: &str, sent: &str) {
    for step in [usize::MAX, 1, 7] {
        let mut test = Test::new();
        assert_eq!(test.send(&call(1)), "call 0 POST /a/b");
        test.step = step;
        test.check(bytes, events, sent);
    }
}

#[test]
fn a_call_comes_with_its_body_however_the_bytes_are_cut() {
    let bytes = [
        &PREFACE[..],
        &frame(SETTINGS, 0, 0, &[]),
        &call(1),
        &frame(DATA, 0, 1, &[7; 1000]),
        &frame(0xbe, 0, 1, &[7; 70]),
        &frame(DATA, END_STREAM, 1, &[7; 500]),
        &frame(HEADERS, END_HEADERS | END_STREAM, 3, &request(&[])),
    ]
    .concat();
    for step in [1, 2, 3, 8, 9, 10, 100, 1000, usize::MAX] {
        let mut test = Test { protocol: Protocol::new(LIMITS), now: Instant::now(), step };
        assert_eq!(test.sent(), "settings 24, window 0 134465");
        assert!(!test.protocol.is_handshake_received());
        let said = test.send(&bytes);
        assert!(test.protocol.is_handshake_received());
        let data: Vec<_> = said.split(", ").filter(|event| event.starts_with("data 0")).collect();
        let lengths = data.iter().map(|event| event.split(' ').nth(2).unwrap().parse::<usize>().unwrap());
        assert_eq!(
            (lengths.sum::<usize>(), data.iter().filter(|event| event.ends_with("end")).count()),
            (1500, 1),
            "{said}"
        );
        let others: Vec<_> = said.split(", ").filter(|event| !event.starts_with("data 0")).collect();
        assert_eq!(others, ["windows", "call 0 POST /a/b", "call 1 POST /a/b end"]);
        assert_eq!(test.sent(), "settings ack");
        assert_eq!(test.protocol.calls(), 2);
    }
}

#[test]
fn what_is_no_http_2_is_noticed_at_once() {
    for bytes in [b"GET / HTTP/1.1\r\n".as_slice(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r!", b"\x16\x03\x01"] {
        let mut test = Test { protocol: Protocol::new(LIMITS), now: Instant::now(), step: usize::MAX };
        assert_eq!(test.send(bytes), "ProtocolError");
    }
    let mut test = Test { protocol: Protocol::new(LIMITS), now: Instant::now(), step: usize::MAX };
    assert_eq!(test.send(&[&PREFACE[..], &frame(PING, 0, 0, b"12345678")].concat()), "ProtocolError");
}

#[test]
fn padding_counts_and_is_thrown_away() {
    check(&frame(DATA, PADDED | END_STREAM, 1, &[4, 1, 0, 0, 0, 0]), "data 0 1 end", "");
}

#[test]
fn faults_of_frames_end_the_connection() {
    for (bytes, code) in [
        (frame(DATA, 0, 0, b"x"), "ProtocolError"),
        (frame(DATA, 0, 3, b"x"), "ProtocolError"),
        (frame(DATA, PADDED, 1, &[1]), "ProtocolError"),
        (frame(DATA, PADDED, 1, &[]), "FrameSizeError"),
        (frame(HEADERS, END_HEADERS, 0, &request(&[])), "ProtocolError"),
        (frame(HEADERS, END_HEADERS, 2, &request(&[])), "ProtocolError"),
        (frame(HEADERS, END_HEADERS | PADDED, 3, &[9, 1]), "ProtocolError"),
        (frame(HEADERS, END_HEADERS | HAS_PRIORITY, 3, &[0; 4]), "FrameSizeError"),
        (frame(HEADERS, END_HEADERS, 3, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), "CompressionError"),
        (frame(CONTINUATION, END_HEADERS, 1, &[]), "ProtocolError"),
        ([frame(HEADERS, 0, 3, &[]), frame(DATA, 0, 1, b"x")].concat(), "ProtocolError"),
        ([frame(HEADERS, 0, 3, &[]), frame(CONTINUATION, 0, 5, &[])].concat(), "ProtocolError"),
        ([frame(HEADERS, 0, 3, &[]), frame(0xbe, 0, 3, &[])].concat(), "ProtocolError"),
        (frame(PRIORITY, 0, 0, &[0; 5]), "ProtocolError"),
        (frame(PRIORITY, 0, 3, &[0, 0, 0, 3, 1]), "ProtocolError"),
        (frame(PRIORITY, 0, 3, &[0; 4]), "FrameSizeError"),
        (frame(RST_STREAM, 0, 0, &[0; 4]), "ProtocolError"),
        (frame(RST_STREAM, 0, 3, &[0; 4]), "ProtocolError"),
        (frame(RST_STREAM, 0, 1, &[0; 3]), "FrameSizeError"),
        (frame(SETTINGS, 0, 1, &[]), "ProtocolError"),
        (frame(SETTINGS, ACK, 0, &[0; 6]), "FrameSizeError"),
        (frame(SETTINGS, 0, 0, &[0; 5]), "FrameSizeError"),
        (frame(PUSH_PROMISE, END_HEADERS, 1, &[0; 4]), "ProtocolError"),
        (frame(PING, 0, 1, &[0; 8]), "ProtocolError"),
        (frame(PING, 0, 0, &[0; 7]), "FrameSizeError"),
        (frame(GOAWAY, 0, 1, &[0; 8]), "ProtocolError"),
        (frame(GOAWAY, 0, 0, &[0; 7]), "FrameSizeError"),
        (frame(WINDOW_UPDATE, 0, 0, &[0; 4]), "ProtocolError"),
        (frame(WINDOW_UPDATE, 0, 0, &MAX_WINDOW.to_be_bytes()), "FlowControlError"),
        (frame(WINDOW_UPDATE, 0, 3, &[0, 0, 0, 1]), "ProtocolError"),
        (frame(WINDOW_UPDATE, 0, 1, &[0; 3]), "FrameSizeError"),
        (frame(HEADERS, END_HEADERS, 3, &vec![0; MAX_BLOCK + 1]), "EnhanceYourCalm"),
        (frame(SETTINGS, 0, 0, &vec![0; MAX_CONTROL + 1]), "EnhanceYourCalm"),
        (vec![0x10, 0, 1, DATA, 0, 0, 0, 0, 1], "FrameSizeError"),
    ] {
        check(&bytes, code, "");
    }
}

#[test]
fn faults_of_a_call_end_that_call() {
    let bad = |more| frame(HEADERS, END_HEADERS, 3, &request(more));
    check(&bad(&[("te", "gzip")]), "", "reset 3 1");
    check(&bad(&[("Upper", "x")]), "", "reset 3 1");
    check(&bad(&[(":path", "/twice")]), "", "reset 3 1");
    check(&bad(&[("connection", "close")]), "", "reset 3 1");
    check(
        &frame(HEADERS, END_HEADERS | HAS_PRIORITY, 3, &[&[0, 0, 0, 3, 1][..], &request(&[])].concat()),
        "",
        "reset 3 1",
    );
    check(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &request(&[("content-length", "1")])), "", "reset 3 1");
    // of the one that is open
    check(&frame(HEADERS, END_HEADERS, 1, &literals(&[("x", "y")])), "reset 0", "reset 1 1");
    check(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &literals(&[(":path", "/")])), "reset 0", "reset 1 1");
    check(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &literals(&[("x", "y")])), "data 0 0 end", "");
    check(&frame(WINDOW_UPDATE, 0, 1, &[0; 4]), "reset 0", "reset 1 1");
    check(&frame(WINDOW_UPDATE, 0, 1, &MAX_WINDOW.to_be_bytes()), "reset 0", "reset 1 3");
    let twice = frame(DATA, END_STREAM, 1, b"").repeat(2);
    check(&twice, "data 0 0 end, reset 0", "reset 1 5");
    let after = [frame(DATA, END_STREAM, 1, b""), frame(HEADERS, END_HEADERS | END_STREAM, 1, &[])].concat();
    check(&after, "data 0 0 end, reset 0", "reset 1 5");
}

#[test]
fn a_body_has_the_length_that_was_declared() {
    for (declared, parts, events, sent) in [
        ("3", &[3][..], "data 1 3 end", ""),
        ("3", &[1, 2], "data 1 1, data 1 2 end", ""),
        ("3", &[1, 1], "data 1 1, reset 1", "reset 3 1"),
        ("3", &[4], "reset 1", "reset 3 1"),
        ("3", &[2, 2], "data 1 2, reset 1", "reset 3 1"),
        ("0", &[0], "data 1 0 end", ""),
    ] {
        let mut test = Test::new();
        test.send(&call(1));
        test.send(&frame(HEADERS, END_HEADERS, 3, &request(&[("content-length", declared)])));
        let last = parts.len() - 1;
        let bytes = parts
            .iter()
            .enumerate()
            .map(|(number, length)| frame(DATA, if number == last { END_STREAM } else { 0 }, 3, &vec![0; *length]));
        test.check(&bytes.flatten().collect::<Vec<u8>>(), events, sent);
    }
}

#[test]
fn headers_that_are_too_large_are_refused_and_later_calls_are_not() {
    let large = "x".repeat(20_000);
    let mut test = Test::new();
    test.check(
        &frame(HEADERS, END_HEADERS, 1, &request(&[("x", &large)])),
        "too large 0",
        "headers 1 4 end, reset 1 0",
    );
    test.check(&frame(DATA, END_STREAM, 1, b"x"), "", "");
    test.check(&call(3), "call 0 POST /a/b", "");
    // in pieces
    let block = request(&[("x", "y")]);
    let pieces = [
        frame(HEADERS, END_STREAM, 5, &block[..9]),
        frame(CONTINUATION, 0, 5, &[]),
        frame(CONTINUATION, END_HEADERS, 5, &block[9..]),
    ];
    test.check(&pieces.concat(), "call 1 POST /a/b end", "");
    let flood = [frame(HEADERS, 0, 7, &[]), frame(CONTINUATION, 0, 7, &[]).repeat(1000)].concat();
    test.check(&flood, "EnhanceYourCalm", "");
    let mut test = Test::new();
    let flood = [frame(HEADERS, 0, 7, &vec![0; MAX_BLOCK]), frame(CONTINUATION, 0, 7, &[0])].concat();
    test.check(&flood, "EnhanceYourCalm", "");
}

#[test]
fn a_client_has_so_many_calls_at_a_time() {
    let mut test = Test::new();
    for number in 0..10 {
        test.check(&call(2 * number + 1), &format!("call {number} POST /a/b"), "");
    }
    test.check(&call(21), "", "reset 21 7");
    test.check(&frame(RST_STREAM, 0, 5, &[0; 4]), "reset 2", "");
    test.check(&call(23), "call 2 POST /a/b", "");
    // lower numbers than before
    test.check(&call(5), "", "reset 5 5");
    test.check(&frame(DATA, 0, 5, b"x"), "", "reset 5 5");
    test.check(&frame(DATA, 0, 21, b"x"), "", "");
    test.check(&frame(RST_STREAM, 0, 5, &[0; 4]), "", "");
    test.check(&frame(WINDOW_UPDATE, 0, 5, &[0, 0, 0, 1]), "", "");
    assert_eq!(test.send(&[call(27), call(25)].concat()), "ProtocolError"); // refused, for there are ten, and never opened
}

#[test]
fn a_client_may_send_what_its_windows_allow() {
    let mut test = Test::new();
    test.send(&[call(1), call(3), call(5)].concat());
    let data = |stream, length| frame(DATA, 0, stream, &vec![0; length]);
    test.check(&data(1, 100_000), "data 0 100000", "");
    test.check(&data(1, 1), "reset 0", "reset 1 3");
    test.check(&data(3, 99_999), "data 1 99999", "");
    test.check(&data(5, 1), "FlowControlError", "");
}

#[test]
fn what_is_gone_from_memory_may_be_sent_again() {
    let mut test = Test::new();
    test.send(&[call(1), call(3)].concat());
    test.check(&frame(DATA, 0, 1, &[0; 60_000]), "data 0 60000", "");
    test.protocol.free(Some(0), 49_999);
    assert_eq!(test.sent(), "");
    test.protocol.free(Some(0), 1);
    assert_eq!(test.sent(), "window 1 50000");
    test.check(&frame(DATA, END_STREAM, 3, &[0; 90_000]), "data 1 90000 end", "");
    test.protocol.free(Some(1), 90_000);
    assert_eq!(test.sent(), "window 0 140000"); // none for a call that has ended its side
    // of calls that are over, bytes count for the connection, and are gone at once
    test.protocol.reset(0, Code::InternalError);
    assert_eq!(test.sent(), "reset 1 2");
    test.protocol.free(None, 10_000);
    for sent in ["window 0 109000", "", "window 0 198000"] {
        test.check(&frame(DATA, 0, 1, &[0; 99_000]), "", sent);
    }
}

fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
}

#[test]
fn responses_are_sent_as_the_client_allows() {
    let mut test = Test::new();
    let settings = |name: u16, value: u32| {
        let mut frame = Vec::new();
        put_settings(&mut frame, &[(name, value)]);
        frame
    };
    test.check(&settings(INITIAL_WINDOW_SIZE, 10), "windows", "settings ack");
    test.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &request(&[])));
    test.protocol.respond(0, 200, &map(&[("content-type", "application/grpc")]), false);
    assert_eq!((test.protocol.window(0), test.sent().as_str()), (10, "headers 1 4"));
    let put = |length: usize| move |queue: &mut SendQueue| queue.add(Bytes::from(vec![0; length]));
    test.protocol.send_data(0, 10, false, put(10));
    assert_eq!((test.protocol.sendable(0), test.sent().as_str()), (0, "data 1 10"));
    test.check(&settings(INITIAL_WINDOW_SIZE, 5), "windows", "settings ack");
    test.check(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 5]), "windows", "");
    assert_eq!(test.protocol.sendable(0), 0);
    test.check(&settings(INITIAL_WINDOW_SIZE, 100_000), "windows", "settings ack");
    assert_eq!(test.protocol.window(0), 65_525); // that of the connection
    assert_eq!(test.protocol.sendable(0), 16_384);
    test.check(&settings(MAX_FRAME_SIZE, 20_000), "windows", "settings ack");
    assert_eq!(test.protocol.sendable(0), 20_000);
    test.protocol.send_data(0, 20_000, false, put(20_000));
    test.protocol.end(0, &map(&[("grpc-status", "0"), ("grpc-message", &"x".repeat(50_000))]));
    assert_eq!(test.sent(), "data 1 20000, headers 1 0 end, continuation 1 0, continuation 1 4");
    assert_eq!(test.protocol.calls(), 0);
    // one that is answered before its request is complete
    test.send(&call(3));
    test.protocol.respond(0, 200, &map(&[("grpc-status", "12")]), true);
    assert_eq!(test.sent(), "headers 3 4 end, reset 3 0");
    test.check(&frame(DATA, 0, 3, b"late"), "", "");
    test.check(&frame(HEADERS, END_HEADERS, 3, &literals(&[("x", "late")])), "", "reset 3 1");
    test.check(&frame(WINDOW_UPDATE, 0, 3, &[0; 4]), "", "reset 3 1");
    // it has ended its side with that, and so sends nothing more
    test.check(&frame(DATA, END_STREAM, 3, b"late"), "", "");
    test.check(&frame(DATA, END_STREAM, 3, b"later"), "", "reset 3 5");
    // one that the client resets when it is closed already
    test.send(&call(9));
    test.protocol.respond(0, 200, &map(&[]), true);
    assert_eq!(test.sent(), "headers 9 4 end, reset 9 0");
    test.check(&frame(RST_STREAM, 0, 9, &[0; 4]), "", "");
    test.check(&frame(HEADERS, END_HEADERS | END_STREAM, 9, &literals(&[("x", "late")])), "", "reset 9 5");
    // one that both sides have ended
    test.send(&frame(HEADERS, END_HEADERS | END_STREAM, 11, &request(&[])));
    test.protocol.respond(0, 200, &map(&[]), true);
    assert_eq!(test.sent(), "headers 11 4 end");
    test.check(&frame(DATA, END_STREAM, 11, b"late"), "", "reset 11 5");
    // what is sent for calls that are over is nothing
    test.protocol.respond(0, 200, &map(&[]), false);
    test.protocol.send_data(0, 10, true, put(10));
    assert_eq!((test.protocol.window(0), test.sent().as_str()), (0, ""));
    test.check(&settings(INITIAL_WINDOW_SIZE, MAX_WINDOW), "windows", "settings ack");
    test.send(&call(13));
    test.check(&frame(WINDOW_UPDATE, 0, 13, &[0, 0, 0, 1]), "reset 0", "reset 13 3");
    test.check(&frame(HEADERS, END_STREAM | END_HEADERS, 11, &literals(&[("x", "late")])), "StreamClosed", "");
}

#[test]
fn a_call_that_ends_within_a_frame_hears_nothing_of_the_rest() {
    let mut test = Test::new();
    test.send(&call(1));
    let bytes = frame(DATA, END_STREAM, 1, &[0; 1000]);
    test.check(&bytes[..500], "data 0 491", "");
    assert_eq!(test.protocol.direct(), Some(Coming { key: 0, left: 509, frame: 1000, is_last: true }));
    test.protocol.respond(0, 200, &map(&[]), true);
    assert_eq!((test.protocol.direct(), test.sent().as_str()), (None, "headers 1 4 end, reset 1 0"));
    test.check(&[&bytes[500..], &call(3)].concat(), "call 0 POST /a/b", "");
}

#[test]
fn data_may_be_read_to_where_it_belongs() {
    let mut test = Test::new();
    let head = Head { length: 1000, kind: DATA, flags: END_STREAM, stream: 1 }.to_bytes();
    test.send(&[&call(1)[..], &head].concat());
    assert_eq!(test.protocol.direct(), Some(Coming { key: 0, left: 1000, frame: 1000, is_last: true }));
    assert!(matches!(test.protocol.received(600, test.now), Ok(None)));
    assert_eq!(test.protocol.direct(), Some(Coming { key: 0, left: 400, frame: 1000, is_last: true }));
    let event = test.protocol.received(400, test.now);
    assert!(matches!(event, Ok(Some(Event::Data { key: 0, bytes: [], has_ended: true }))), "{event:?}");
    assert_eq!(test.protocol.direct(), None);
    test.check(&call(3), "call 1 POST /a/b", "");
    // more than was declared
    let declared = frame(HEADERS, END_HEADERS, 5, &request(&[("content-length", "10")]));
    test.send(&[&declared[..], &Head { length: 100, kind: DATA, flags: 0, stream: 5 }.to_bytes()].concat());
    assert!(matches!(test.protocol.received(11, test.now), Ok(Some(Event::Reset { key: 2 }))));
    test.check(&[vec![0; 89], call(7)].concat(), "call 2 POST /a/b", "reset 5 1");
}

#[test]
fn a_connection_ends_when_its_client_has_heard_of_it_and_its_calls_are_answered() {
    let mut test = Test::new();
    test.send(&call(1));
    test.protocol.leave();
    test.protocol.leave();
    assert_eq!(test.sent(), "goaway 2147483647 0 , ping 0 goodbye!");
    test.check(&call(3), "call 1 POST /a/b", ""); // was on its way
    assert!(test.protocol.is_asking());
    test.check(&frame(PING, ACK, 0, b"something"[..8].as_ref()), "", "");
    test.check(&frame(PING, ACK, 0, b"goodbye!"), "", "goaway 3 0 ");
    test.check(&call(5), "", "");
    test.check(&frame(DATA, END_STREAM, 5, b"x"), "", "");
    assert!(!test.protocol.is_done() && !test.protocol.is_asking());
    for key in [0, 1] {
        test.protocol.respond(key, 200, &map(&[]), true);
    }
    assert!(test.protocol.is_done());
    test.sent();
    test.protocol.fail(TOO_MANY_PINGS);
    assert_eq!(test.sent(), "goaway 3 11 too_many_pings");
    // the client leaves
    let mut test = Test::new();
    test.send(&call(1));
    test.check(&frame(GOAWAY, 0, 0, &[0; 8]), "", "");
    assert!(!test.protocol.is_done());
    test.check(&frame(RST_STREAM, 0, 1, &[0; 4]), "reset 0", "");
    assert!(test.protocol.is_done());
}

#[test]
fn floods_end_the_connection() {
    let calm = |bytes: &[u8], times: usize| {
        let mut test = Test::new();
        test.send(&call(1));
        let mut last = String::new();
        for _ in 0..times {
            last = test.send(bytes);
            test.sent();
            if last == "EnhanceYourCalm" {
                break;
            }
        }
        assert_eq!(last, "EnhanceYourCalm", "{bytes:?}");
    };
    calm(&frame(DATA, 0, 1, &[]), 10_001);
    calm(&frame(SETTINGS, 0, 0, &[]), 10_001);
    calm(&frame(SETTINGS, ACK, 0, &[]), 10_001);
    calm(&frame(PING, ACK, 0, &[0; 8]), 10_001);
    calm(&frame(GOAWAY, 0, 0, &[0; 8]), 10_001);
    calm(&frame(PRIORITY, 0, 1, &[0; 5]), 10_001);
    calm(&frame(0xbe, 0, 1, &[]), 10_001);
    calm(&frame(RST_STREAM, 0, 1, &[0; 4]), 10_001);
    calm(&frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), 10_001);
    calm(&frame(PING, 0, 0, &[0; 8]), 4);
    // calls that are reset before anybody has looked at them, or that the server is made to reset
    let mut test = Test::new();
    let pairs = |test: &mut Test, at: u32| test.send(&[call(at), frame(RST_STREAM, 0, at, &[0; 4])].concat());
    let ended = (0..9000).map(|number| 2 * number + 1).position(|at| pairs(&mut test, at).ends_with("EnhanceYourCalm"));
    assert_eq!(ended, Some(8192));
    let mut test = Test::new();
    let ended = (0..9000).position(|number| {
        test.protocol.begin_batch();
        test.send(&frame(HEADERS, END_HEADERS, 2 * number + 1, &request(&[("te", "x")]))) == "EnhanceYourCalm"
    });
    assert_eq!(ended, Some(8192));
    // many expired deadlines are no flood
    let mut test = Test::with(Limits { max_calls: 8192, ..LIMITS });
    let calls: Vec<u8> = (0..8192).flat_map(|number| call(2 * number + 1)).collect();
    test.send(&calls);
    test.protocol.begin_batch();
    let resets: Vec<u8> = (0..8192).flat_map(|number| frame(RST_STREAM, 0, 2 * number + 1, &[0; 4])).collect();
    assert!(!test.send(&resets).contains("Enhance"));
    assert_eq!(test.protocol.calls(), 0);
}

#[test]
fn pings_are_answered_and_what_is_sent_for_calls_forgives_them() {
    let mut test = Test::new();
    let ping = frame(PING, 0, 0, b"12345678");
    for number in 0..5 {
        for _ in 0..3 {
            test.check(&ping, "", "ping 1 12345678");
        }
        test.send(&call(2 * number + 1));
        test.protocol.respond(0, 200, &map(&[]), true);
        test.sent();
    }
    for _ in 0..3 {
        test.check(&ping, "", "ping 1 12345678");
    }
    test.check(&ping, "EnhanceYourCalm", "ping 1 12345678");
    test.protocol.ping();
    assert_eq!(test.sent(), "ping 0 keepaliv");
}
