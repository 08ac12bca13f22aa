"""A client of HTTP/2 for tests that choose each frame themselves.

It checks what it reads as strictly as RFC 9113 and RFC 7541 permit: windows, sizes and states. Headers are written without compression, and read with
all of it."""

import socket
import ssl
import struct
import threading
from dataclasses import dataclass, field

from serving import scaled

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
ACK = END_STREAM = 1
END_HEADERS, PADDED, HAS_PRIORITY = 4, 8, 32
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(1, 7)
(NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR,
 CONNECT_ERROR, ENHANCE_YOUR_CALM) = range(12)  # fmt: skip

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WINDOW = 65_535
LARGEST = (1 << 31) - 1
LARGE = 1 << 30


# === what is sent ===


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def settings(values):
    return b"".join(struct.pack(">HI", *one) for one in values.items())


def integer(value, prefix, pattern=0):
    """A number of HPACK."""
    most = (1 << prefix) - 1
    if value < most:
        return bytes([pattern | value])
    coded, value = [pattern | most], value - most
    while value >= 128:
        coded.append(value % 128 | 128)
        value //= 128
    return bytes([*coded, value])


def fields(pairs, pattern=0):
    """A header block, each field by its name and value; those with the pattern 0x40 are added to the table."""

    def text(string):
        string = string if isinstance(string, bytes) else string.encode()
        return integer(len(string), 7) + string

    return b"".join(bytes([pattern]) + text(name) + text(value) for name, value in pairs)


def call_fields(path, more=(), scheme="http"):
    """The header block of a call."""
    pseudo = [(":method", "POST"), (":scheme", scheme), (":path", path), (":authority", "localhost")]
    return fields([*pseudo, ("content-type", "application/grpc"), ("te", "trailers"), *more])


def message(request):
    """A message of gRPC, before it is cut into frames."""
    coded = request.SerializeToString()
    return b"\0" + len(coded).to_bytes(4, "big") + coded


def padded(payload, padding):
    return bytes([padding]) + payload + bytes(padding)


# === what is read ===

# The Huffman code is canonical: the codes of one length are consecutive, in the order of their symbols. Servers send nothing else than these.
CODED = {
    5: "012aceiost", 6: " %-./3456789=A_bdfghlmnpru", 7: ":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz", 8: "&*,;XZ", 10: "!\"()?", 11: "'+|", 12: "#>", 13: "\0$@[]~",
    14: "^}", 15: "<\\`",
}  # fmt: skip
STATIC = [(":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"), (":scheme", "http"), (":scheme", "https")]
STATIC += [(":status", str(status)) for status in (200, 204, 206, 304, 400, 404, 500)] + [("accept-charset", ""), ("accept-encoding", "gzip, deflate")]
STATIC += [
    (name, "")
    for name in (
        "accept-language accept-ranges accept access-control-allow-origin age allow authorization cache-control content-disposition content-encoding"
        " content-language content-length content-location content-range content-type cookie date etag expect expires from host if-match if-modified-since"
        " if-none-match if-range if-unmodified-since last-modified link location max-forwards proxy-authenticate proxy-authorization range referer refresh"
        " retry-after server set-cookie strict-transport-security transfer-encoding user-agent vary via www-authenticate"
    ).split()
]


def huffman():
    """Characters by the length and the number of their code."""
    codes, code, before = {}, 0, 0
    for length, characters in CODED.items():
        code <<= length - before
        for one in characters:
            codes[length, code] = one
            code += 1
        before = length
    return codes


CODES = huffman()


def plain(coded):
    """What stands in a string in the Huffman code."""
    said, code, length = [], 0, 0
    for bit in "".join(f"{byte:08b}" for byte in coded):
        code, length = code * 2 + int(bit), length + 1
        if (length, code) in CODES:
            said.append(CODES[length, code])
            code = length = 0
    assert length < 8 and code == (1 << length) - 1, "the padding is the beginning of the last code"
    return "".join(said)


class Reader:
    """Reads header blocks, with the table that goes with the connection."""

    def __init__(self):
        self.table, self.size = [], 4096

    def block(self, coded):
        """Its fields, pairs of a name and a value."""
        self.rest, found = memoryview(coded), []
        while self.rest:
            first = self.rest[0]
            if first & 0x80:
                found.append(self.entry(self.number(7)))
            elif first & 0xE0 == 0x20:
                assert not found, "the size of the table changes at the start of a block"
                self.size = self.number(5)
                assert self.size <= 4096
            else:
                index = self.number(6 if first & 0x40 else 4)
                name = self.entry(index)[0] if index else self.string()
                found.append((name, self.string()))
                if first & 0x40:
                    self.table.insert(0, found[-1])
            while sum(len(name) + len(value) + 32 for name, value in self.table) > self.size:
                self.table.pop()
        return found

    def entry(self, index):
        assert 0 < index <= len(STATIC) + len(self.table)
        return STATIC[index - 1] if index <= len(STATIC) else self.table[index - len(STATIC) - 1]

    def number(self, prefix):
        value = self.take(1)[0] & ((1 << prefix) - 1)
        if value < (1 << prefix) - 1:
            return value
        shift = 0
        while True:
            byte = self.take(1)[0]
            value += (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def string(self):
        is_coded = self.rest[0] & 0x80
        taken = bytes(self.take(self.number(7)))
        return plain(taken) if is_coded else taken.decode("ascii")

    def take(self, count):
        assert count <= len(self.rest), "the block ends within a field"
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken


@dataclass
class Answer:
    """What has come for a call so far."""

    head: dict = None
    data: bytearray = field(default_factory=bytearray)
    trailers: dict = None
    is_ended: bool = False
    reset: int = None
    largest: int = 0  # frame of data

    @property
    def is_over(self):
        return self.is_ended or self.reset is not None

    @property
    def status(self):
        """That of gRPC; None where there is none."""
        said = (self.trailers if self.trailers is not None else self.head or {}).get("grpc-status")
        return None if said is None else int(said)

    def messages(self, kind):
        """All whole messages."""
        rest, found = bytes(self.data), []
        while len(rest) >= 5 and len(rest) >= 5 + (length := int.from_bytes(rest[1:5], "big")):
            assert rest[0] == 0
            found.append(kind.FromString(rest[5 : 5 + length]))
            rest = rest[5 + length :]
        return found


class Connection:
    """A connection to the gRPC port. It acknowledges settings and pings, and has large windows unless a test says otherwise."""

    def __init__(self, server, values=None, *, tls=False, window=LARGE, is_started=True):
        self.socket = socket.create_connection(("127.0.0.1", server.grpc), scaled(20))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
            assert self.socket.selected_alpn_protocol() == "h2"
        self.scheme, self.sending = "https" if tls else "http", threading.Lock()
        self.buffer, self.reader, self.has_begun, self.is_broken = bytearray(), Reader(), False, False
        self.answers, self.next_stream, self.goaways = {}, 1, []
        # ours, as the server sees them: it acknowledges changes, which count from then on
        self.values = {INITIAL_WINDOW_SIZE: WINDOW, MAX_FRAME_SIZE: 16_384}
        self.unacknowledged, self.acknowledged = [], 0
        self.receive_windows = {0: WINDOW}
        # the server's
        self.peer, self.send_windows = {INITIAL_WINDOW_SIZE: WINDOW, MAX_FRAME_SIZE: 16_384}, {0: WINDOW}
        if is_started:
            self.start(values, window)

    def start(self, values=None, window=LARGE):
        self.send(PREFACE)
        self.set({INITIAL_WINDOW_SIZE: LARGE, **(values or {})})
        if window > WINDOW:
            self.widen(0, window - WINDOW)

    # --- sending ---

    def send(self, *frames):
        """Sends them; what cannot be sent, for the server has closed the connection, is lost."""
        try:
            with self.sending:
                self.socket.sendall(b"".join(frames))
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
            self.is_broken = True

    def set(self, values):
        self.unacknowledged.append(values)
        self.send(frame(SETTINGS, 0, 0, settings(values)))

    def widen(self, stream, increment):
        self.receive_windows[stream] = self.receive_window(stream) + increment
        self.send(frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big")))

    def reset(self, stream, code=CANCEL):
        self.send(frame(RST_STREAM, 0, stream, code.to_bytes(4, "big")))

    def open(self):
        """The number of a new call, for which nothing is sent yet."""
        stream = self.next_stream
        self.next_stream += 2
        self.answers[stream] = Answer()
        return stream

    def begin(self, path, more=(), *, is_ended=False):
        """Sends the headers of a call."""
        stream = self.open()
        self.send(frame(HEADERS, END_HEADERS | (END_STREAM if is_ended else 0), stream, call_fields(path, more, self.scheme)))
        return stream

    def upload(self, stream, body, size=16_384, *, is_ended=True, padding=None):
        """Sends data in frames of this size, as the windows of the server permit."""
        flags = 0 if padding is None else PADDED
        for at in range(0, len(body), size) or [0]:
            part = body[at : at + size]
            payload = part if padding is None else padded(part, padding)
            while self.may_send(stream) < len(payload):
                assert not self.answers[stream].is_over and self.read() is not None, "the call ended while it was sent"
            is_last = is_ended and at + size >= len(body)
            self.account(stream, len(payload))
            self.send(frame(DATA, flags | (END_STREAM if is_last else 0), stream, payload))

    def may_send(self, stream):
        return min(self.send_windows[0], self.send_windows.setdefault(stream, self.peer[INITIAL_WINDOW_SIZE]))

    def account(self, stream, length):
        self.may_send(stream)
        self.send_windows[0] -= length
        self.send_windows[stream] -= length

    # --- reading ---

    def take(self, count):
        while len(self.buffer) < count:
            try:
                more = self.socket.recv(1 << 18)
            except (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError):
                more = b""
            if not more:
                self.is_broken = True
                return None
            self.buffer += more
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]
        return taken

    def read(self):
        """The next frame: kind, flags, stream and payload. None at the end of the connection."""
        head = self.take(9)
        if head is None:
            return None
        length, kind, flags, stream = int.from_bytes(head[:3], "big"), head[3], head[4], int.from_bytes(head[5:], "big")
        assert self.has_begun or (kind, flags) == (SETTINGS, 0), "a server begins with its settings"
        self.has_begun = True
        assert length <= self.values[MAX_FRAME_SIZE], f"a frame of {length} bytes"
        payload = self.take(length)
        if payload is None:
            return None
        if kind in (DATA, HEADERS, RST_STREAM):
            assert stream in self.answers, f"frame {kind} of call {stream}, which nobody began"
        {DATA: self.on_data, HEADERS: self.on_headers, RST_STREAM: self.on_reset, SETTINGS: self.on_settings, PING: self.on_ping, GOAWAY: self.on_goaway,
         WINDOW_UPDATE: self.on_window_update}[kind](flags, stream, payload)  # fmt: skip
        return kind, flags, stream, payload

    def on_data(self, flags, stream, payload):
        answer = self.answers[stream]
        assert answer.head is not None and not answer.is_ended
        for one in (0, stream):
            self.receive_windows[one] = self.receive_window(one) - len(payload)
            assert self.receive_windows[one] >= 0 or not payload, f"more data than the window of {one} permits"
        if flags & PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        answer.data += payload
        answer.largest = max(answer.largest, len(payload))
        answer.is_ended = bool(flags & END_STREAM)

    def on_headers(self, flags, stream, payload):
        answer = self.answers[stream]
        assert not answer.is_ended
        while not flags & END_HEADERS:
            head = self.take(9)
            assert (head[3], int.from_bytes(head[5:], "big")) == (CONTINUATION, stream)
            payload, flags = payload + self.take(int.from_bytes(head[:3], "big")), flags | head[4]
        pairs = self.reader.block(payload)
        said = dict(pairs)
        assert len(said) == len(pairs) and all(name == name.lower() for name in said)
        if answer.head is None:
            answer.head = said
            assert pairs[0][0] == ":status"
        else:
            assert answer.trailers is None and flags & END_STREAM and ":status" not in said
            answer.trailers = said
        answer.is_ended = bool(flags & END_STREAM)

    def on_reset(self, _, stream, payload):
        self.answers[stream].reset = int.from_bytes(payload, "big")

    def on_settings(self, flags, stream, payload):
        assert stream == 0
        if flags & ACK:
            self.acknowledged += 1
            values = self.unacknowledged.pop(0)
            if INITIAL_WINDOW_SIZE in values:
                change = values[INITIAL_WINDOW_SIZE] - self.values[INITIAL_WINDOW_SIZE]
                self.receive_windows.update({one: window + change for one, window in self.receive_windows.items() if one})
            self.values.update(values)
            return
        values = dict(struct.iter_unpack(">HI", payload))
        if INITIAL_WINDOW_SIZE in values:
            change = values[INITIAL_WINDOW_SIZE] - self.peer[INITIAL_WINDOW_SIZE]
            self.send_windows.update({one: window + change for one, window in self.send_windows.items() if one})
        self.peer.update(values)
        self.send(frame(SETTINGS, ACK, 0))

    def on_ping(self, flags, stream, payload):
        assert (stream, len(payload)) == (0, 8)
        if not flags & ACK:
            self.send(frame(PING, ACK, 0, payload))

    def on_goaway(self, _, stream, payload):
        assert stream == 0
        last, code = struct.unpack(">II", payload[:8])
        assert all(last <= before for before, _ in self.goaways), "the last call of a server that leaves grows no more"
        self.goaways.append((last, code))

    def on_window_update(self, _, stream, payload):
        increment = int.from_bytes(payload, "big")
        assert 0 < increment <= LARGEST
        self.may_send(stream)  # from here on it has a window
        self.send_windows[stream] += increment
        assert self.send_windows[stream] <= LARGEST

    def receive_window(self, stream):
        return self.receive_windows.setdefault(stream, self.values[INITIAL_WINDOW_SIZE])

    # --- both ---

    def until(self, holds, what):
        """Reads until that holds."""
        while not holds():
            assert self.read() is not None, f"the connection ended before {what}; {self.goaways}"

    def answer(self, stream):
        """All that is answered to a call."""
        answer = self.answers[stream]
        self.until(lambda: answer.is_over, f"call {stream} was answered")
        return answer

    def synchronize(self):
        """Returns when the server has acted on all that was sent before. An empty SETTINGS frame is answered in turn, and is no ping."""
        self.set({})
        self.until(lambda: not self.unacknowledged, "the settings were acknowledged")

    def end(self):
        """Reads to the end of the connection; why the server ended it, if it said so."""
        while self.read() is not None:
            pass
        return self.goaways[-1][1] if self.goaways else None

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
