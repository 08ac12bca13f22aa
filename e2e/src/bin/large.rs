//! Requests of megabytes, over HTTP/1.1 or gRPC, at the least cost: system calls as large as they can be, nothing looked at
//! but lengths and statuses, a thread and a connection for each caller. h2load and wrk, which read 8 KiB at once, take as much
//! processor time for such a request as the server that they measure.
//!
//!     large call http ADDRESS PATH BODY CALLERS SECONDS JSON_LENGTH    sends the file BODY, binary data behind JSON of that length
//!     large call grpc ADDRESS PATH BODY CALLERS SECONDS                the same for BODY, a message with its prefix
//!     large serve http|grpc ADDRESS LENGTH                             throws requests away, answers each with LENGTH bytes: the limit

use std::{
    env, fs,
    io::{IoSlice, Read, Write, stdout},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

/// Bytes read at once.
const READ: usize = 256 << 10;
/// A caller that hears nothing for so long gives up.
const TIMEOUT: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["serve", protocol @ ("http" | "grpc"), address, length] => {
            serve(protocol == "grpc", address.parse()?, length.parse()?)
        }
        ["call", protocol @ ("http" | "grpc"), address, path, body, callers, seconds, ref more @ ..] => {
            let json_length = more.first().copied().unwrap_or("0");
            let calls = Calls {
                address: address.parse()?,
                path,
                json_length,
                body: fs::read(body).with_context(|| format!("cannot read {body}"))?,
                end: Instant::now() + Duration::from_secs(seconds.parse()?),
            };
            call(&calls, protocol == "grpc", callers.parse()?)
        }
        _ => bail!(
            "usage: large call http|grpc ADDRESS PATH BODY CALLERS SECONDS [JSON_LENGTH], or large serve http|grpc ADDRESS LENGTH"
        ),
    }
}

// === callers ===

struct Calls<'a> {
    address: SocketAddr,
    path: &'a str,
    json_length: &'a str,
    body: Vec<u8>,
    end: Instant,
}

/// Prints how many requests there were in how many seconds, and how long they took in microseconds.
fn call(calls: &Calls<'_>, is_grpc: bool, callers: usize) -> Result<()> {
    let begun = Instant::now();
    let mut times = thread::scope(|scope| {
        let one = || if is_grpc { call_grpc(calls) } else { call_http(calls) };
        let threads: Vec<_> = (0..callers).map(|_| scope.spawn(one)).collect();
        let times = threads.into_iter().map(|thread| thread.join().expect("a caller has not panicked"));
        times.collect::<Result<Vec<_>>>()
    })?
    .concat();
    let seconds = begun.elapsed().as_secs_f64();
    ensure!(!times.is_empty(), "no request was answered");
    times.sort_unstable();
    let at = |part: usize| times[times.len() * part / 100].as_secs_f64() * 1e6;
    let requests = times.len();
    let said = serde_json::json!({"requests": requests, "seconds": seconds, "p50": at(50), "p99": at(99)});
    writeln!(stdout(), "{said}")?;
    Ok(())
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.set_write_timeout(Some(TIMEOUT))?;
    Ok(socket)
}

fn call_http(calls: &Calls<'_>) -> Result<Vec<Duration>> {
    let mut socket = connect(calls.address)?;
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\ninference-header-content-length: {}\r\n\r\n",
        calls.path,
        calls.address,
        calls.body.len(),
        calls.json_length
    );
    let mut read = vec![0; READ];
    let mut times = Vec::new();
    while Instant::now() < calls.end {
        let begun = Instant::now();
        write_all(&mut socket, &mut [IoSlice::new(head.as_bytes()), IoSlice::new(&calls.body)])?;
        let (head, mut left) = read_http_head(&mut socket, &mut read)?.context("the connection was closed")?;
        ensure!(head.starts_with("http/1.1 200"), "the server said: {head}");
        while left > 0 {
            left -= read_some(&mut socket, &mut read[..left.min(READ)])?;
        }
        times.push(begun.elapsed());
    }
    Ok(times)
}

fn call_grpc(calls: &Calls<'_>) -> Result<Vec<Duration>> {
    let mut connection = Http2::new(connect(calls.address)?, true)?;
    let authority = calls.address.to_string();
    let fields =
        [(":path", calls.path), (":authority", &authority), ("content-type", "application/grpc"), ("te", "trailers")];
    // from the static table: `:method: POST`, `:scheme: http`
    let head = [&[0x83, 0x86][..], &literals(&fields)].concat();
    let mut times = Vec::new();
    let mut stream = 1;
    while Instant::now() < calls.end {
        let begun = Instant::now();
        let length = connection.exchange(stream, &head, &calls.body)?;
        ensure!(length > 5, "the call has failed"); // its status is in the trailers then, with no message before
        times.push(begun.elapsed());
        stream += 2;
    }
    Ok(times)
}

// === the server that does nothing ===

fn serve(is_grpc: bool, address: SocketAddr, length: usize) -> Result<()> {
    let listener = TcpListener::bind(address)?;
    for socket in listener.incoming() {
        let socket = socket?;
        thread::spawn(move || if is_grpc { serve_grpc(socket, length) } else { serve_http(socket, length) });
    }
    Ok(())
}

fn serve_http(mut socket: TcpStream, length: usize) -> Result<()> {
    socket.set_nodelay(true)?;
    let (head, body) = (format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n"), vec![1; length]);
    let mut read = vec![0; READ];
    while let Some((_, mut left)) = read_http_head(&mut socket, &mut read)? {
        while left > 0 {
            left -= read_some(&mut socket, &mut read[..left.min(READ)])?;
        }
        write_all(&mut socket, &mut [IoSlice::new(head.as_bytes()), IoSlice::new(&body)])?;
    }
    Ok(())
}

fn serve_grpc(socket: TcpStream, length: usize) -> Result<()> {
    socket.set_nodelay(true)?;
    let mut connection = Http2::new(socket, false)?;
    let body = [&[0][..], &u32::try_from(length)?.to_be_bytes(), &vec![1; length]].concat();
    // from the static table: `:status: 200`
    let head = [&[0x88][..], &literals(&[("content-type", "application/grpc")])].concat();
    let trailers = literals(&[("grpc-status", "0")]);
    while let Some(stream) = connection.next_request()? {
        connection.write_frame(HEADERS, END_HEADERS, stream, &head)?;
        connection.write_message(stream, &body, 0)?;
        connection.write_frame(HEADERS, END_HEADERS | END_STREAM, stream, &trailers)?;
    }
    Ok(())
}

// === HTTP/1.1 ===

/// Reads a head; what it says in lower case, and how much of the body is still to come. `None` if there is no further one.
fn read_http_head(socket: &mut TcpStream, buffer: &mut [u8]) -> Result<Option<(String, usize)>> {
    let mut filled = 0;
    loop {
        let count = socket.read(&mut buffer[filled..])?;
        if count == 0 {
            ensure!(filled == 0, "the connection ends within a head");
            return Ok(None);
        }
        filled += count;
        let Some(end) = buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).context("no content-length")?;
        let length: usize = length.trim().parse()?;
        let body = filled - end - 4;
        return Ok(Some((head, length.checked_sub(body).context("more came than was announced")?)));
    }
}

fn read_some(socket: &mut TcpStream, buffer: &mut [u8]) -> Result<usize> {
    let count = socket.read(buffer)?;
    ensure!(count > 0, "the connection was closed");
    Ok(count)
}

/// `Write::write_all_vectored`, which is not stable.
fn write_all(socket: &mut TcpStream, mut slices: &mut [IoSlice<'_>]) -> Result<()> {
    while slices.iter().any(|slice| !slice.is_empty()) {
        let count = socket.write_vectored(slices)?;
        ensure!(count > 0, "the connection takes nothing");
        IoSlice::advance_slices(&mut slices, count);
    }
    Ok(())
}

// === HTTP/2, as far as an exchange of large messages needs it: RFC 9113 ===

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const INITIAL_WINDOW_SIZE: u16 = 4;
/// As large a window as there can be, but for the one that a connection begins with.
const WINDOW: u32 = (1 << 31) - (1 << 16);
const FIRST_WINDOW: i64 = 65_535;
/// The connection's window is opened again when so much of it is used.
const WINDOW_STEP: u32 = 1 << 28;
/// Payload of a frame of data: the limit that a connection begins with, and what most clients send.
const FRAME: usize = 16 << 10;
/// Frames given to one system call.
const FRAMES_AT_ONCE: usize = 32;

/// One end of a connection, of which one stream at a time is used.
struct Http2 {
    socket: TcpStream,
    buffer: Vec<u8>,
    /// What was read and not looked at yet.
    unread: std::ops::Range<usize>,
    /// What the other end takes: of the connection, and of each stream at its beginning.
    connection_window: i64,
    stream_window: i64,
    /// Bytes of data since the connection's window was opened last.
    received: u32,
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    length: usize,
    /// Of all frames but those of data, as far as anybody looks at it.
    payload: Vec<u8>,
}

impl Http2 {
    fn new(mut socket: TcpStream, is_client: bool) -> Result<Self> {
        if is_client {
            socket.write_all(PREFACE)?;
        } else {
            socket.read_exact(&mut [0; PREFACE.len()])?;
        }
        let (connection_window, stream_window) = (FIRST_WINDOW, FIRST_WINDOW);
        let mut connection =
            Self { socket, buffer: vec![0; READ], unread: 0..0, connection_window, stream_window, received: 0 };
        let window = [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &WINDOW.to_be_bytes()].concat();
        connection.write_frame(SETTINGS, 0, 0, &window)?;
        connection.write_frame(WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes())?;
        Ok(connection)
    }

    /// Sends a request and reads its response; how many bytes of data that had.
    fn exchange(&mut self, stream: u32, head: &[u8], body: &[u8]) -> Result<usize> {
        self.write_frame(HEADERS, END_HEADERS, stream, head)?;
        self.write_message(stream, body, END_STREAM)?;
        let mut received = 0;
        loop {
            let Some(frame) = self.read_frame()? else { bail!("the connection was closed") };
            if frame.stream != stream {
                continue;
            }
            received += if frame.kind == DATA { frame.length } else { 0 };
            if matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0 {
                return Ok(received);
            }
        }
    }

    /// Reads until a request is whole; its stream.
    fn next_request(&mut self) -> Result<Option<u32>> {
        while let Some(frame) = self.read_frame()? {
            if matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0 {
                return Ok(Some(frame.stream));
            }
        }
        Ok(None)
    }

    /// Sends a message in frames, as the other end's windows allow. The last of them has `flags`.
    fn write_message(&mut self, stream: u32, mut message: &[u8], flags: u8) -> Result<()> {
        let mut sent = 0;
        while !message.is_empty() {
            // may open while this waits, for what a stream begins with comes with the settings
            let window = self.connection_window.min(self.stream_window - sent);
            let mut left = usize::try_from(window).unwrap_or(0).min(message.len());
            if left == 0 {
                let Some(frame) = self.read_frame()? else { bail!("the connection was closed") };
                match frame.kind {
                    WINDOW_UPDATE if frame.stream == stream => sent -= increment(&frame)?,
                    HEADERS => bail!("the call was answered before its request was sent"),
                    _ => {}
                }
                continue;
            }
            let mut heads = Vec::with_capacity(FRAMES_AT_ONCE);
            let mut payloads = Vec::with_capacity(FRAMES_AT_ONCE);
            while left > 0 && heads.len() < FRAMES_AT_ONCE {
                let (payload, rest) = message.split_at(left.min(FRAME));
                message = rest;
                left -= payload.len();
                sent += payload.len() as i64;
                self.connection_window -= payload.len() as i64;
                let flags = if message.is_empty() { flags } else { 0 };
                heads.push(head(DATA, flags, stream, payload.len()));
                payloads.push(payload);
            }
            let mut slices: Vec<_> = heads
                .iter()
                .zip(&payloads)
                .flat_map(|(head, payload)| [IoSlice::new(head), IoSlice::new(payload)])
                .collect();
            write_all(&mut self.socket, &mut slices)?;
        }
        Ok(())
    }

    fn write_frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<()> {
        Ok(self.socket.write_all(&[&head(kind, flags, stream, payload.len())[..], payload].concat())?)
    }

    /// The next frame, after what concerns the connection was done; `None` at the end of the connection.
    fn read_frame(&mut self) -> Result<Option<Frame>> {
        let mut head = [0; 9];
        for byte in &mut head {
            if self.unread.is_empty() && !self.fill()? {
                return Ok(None);
            }
            *byte = self.buffer[self.unread.start];
            self.unread.start += 1;
        }
        let [a, b, c, kind, flags, d, e, f, g] = head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let mut payload = Vec::new();
        let mut left = length;
        while left > 0 {
            if self.unread.is_empty() && !self.fill()? {
                return Ok(None);
            }
            let part = self.unread.start..self.unread.end.min(self.unread.start + left);
            left -= part.len();
            self.unread.start = part.end;
            if kind != DATA {
                payload.extend_from_slice(&self.buffer[part]);
            }
        }
        let frame = Frame { kind, flags, stream: u32::from_be_bytes([d, e, f, g]), length, payload };
        self.follow(&frame)?;
        Ok(Some(frame))
    }

    fn fill(&mut self) -> Result<bool> {
        let count = self.socket.read(&mut self.buffer)?;
        self.unread = 0..count;
        Ok(count > 0)
    }

    fn follow(&mut self, frame: &Frame) -> Result<()> {
        match frame.kind {
            DATA => {
                self.received += frame.length as u32;
                if self.received >= WINDOW_STEP {
                    let increment = std::mem::take(&mut self.received);
                    self.write_frame(WINDOW_UPDATE, 0, 0, &increment.to_be_bytes())?;
                }
            }
            SETTINGS if frame.flags & ACK == 0 => {
                for setting in frame.payload.chunks_exact(6) {
                    if setting[..2] == INITIAL_WINDOW_SIZE.to_be_bytes() {
                        self.stream_window = i64::from(u32::from_be_bytes(setting[2..].try_into()?));
                    }
                }
                self.write_frame(SETTINGS, ACK, 0, &[])?;
            }
            PING if frame.flags & ACK == 0 => self.write_frame(PING, ACK, 0, &frame.payload)?,
            WINDOW_UPDATE if frame.stream == 0 => self.connection_window += increment(frame)?,
            RST_STREAM | GOAWAY => bail!("the other end has reset a call or ended the connection"),
            _ => {}
        }
        Ok(())
    }
}

fn increment(frame: &Frame) -> Result<i64> {
    Ok(i64::from(u32::from_be_bytes(frame.payload[..].try_into()?)))
}

fn head(kind: u8, flags: u8, stream: u32, length: usize) -> [u8; 9] {
    let ([_, a, b, c], [d, e, f, g]) = ((length as u32).to_be_bytes(), stream.to_be_bytes());
    [a, b, c, kind, flags, d, e, f, g]
}

/// Fields as literals that are not indexed: RFC 7541, section 6.2.2. Each name and value is shorter than 127 bytes.
fn literals(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8][..], text.as_bytes()].concat();
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}
