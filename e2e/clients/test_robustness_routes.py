"""Junk on every route of both protocols: each is answered, in words where it is an error, and the server is afterwards what it was before."""

import base64
import itertools
import json
import os
import random
import re
import socket
import struct

import make
import pytest

from serving import Server, scaled, until
from talking import add_one, connect

NAMES = ["versions", "nobody", "..", ".", "%2e%2e", "%2e%2e%2fversions", "%00", "a%00b", "a%2fb", "%ff%fe", "%", "%zz", "x" * 9000, "%0a%0d", "é", "*", "stats"]
NESTED = b"[" * 100_000
INPUT = b'{"name":"INPUT0","shape":[1,4],"datatype":"FP32",%s}'
REGION = b'"shared_memory_region":"r","shared_memory_offset":18446744073709551615,"shared_memory_byte_size":18446744073709551615'
BODIES = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"{}",
    b'"x"',
    b"\xff\xfe\x00",
    NESTED,
    b'{"inputs":' + NESTED,
    b'{"a":' * 50_000,
    b'{"inputs":null}',
    b'{"inputs":[null]}',
    b'{"inputs":[{"name":1}]}',
    b'{"inputs":[' + INPUT % b'"data":[1e999,-1e999,NaN,0]' + b"]}",
    b'{"inputs":[{"name":"INPUT0","shape":[9223372036854775807,4],"datatype":"FP32","data":[1]}]}',
    b'{"inputs":[' + b",".join([INPUT % b'"data":[1,2,3,4]'] * 2) + b"]}",
    b'{"inputs":[' + INPUT % b'"data":[1],"data":[],"shape":[1],"parameters":{"binary_data_size":18446744073709551615}' + b"]}",
    b'{"inputs":[' + INPUT % (b'"parameters":{' + REGION + b"}") + b"]}",
    b'{"inputs":[' + b",".join(b'{"name":"I%d","shape":[1],"datatype":"INT8","data":[1]}' % number for number in range(5000)) + b"]}",
    b'{"parameters":{' + b",".join(b'"k%d":%d' % (number, number) for number in range(5000)) + b"}}",
    b'{"parameters":{"triton_x":1}}',
    b'{"parameters":{"config":"{","file:../../etc/x":"AAAA"}}',
    b'{"parameters":{"config":"{}","file:/etc/passwd":"AAAA","file:1/":"AA","file:":"AA","file:\\u0000":"AA"}}',
    b'{"parameters":{"config":' + json.dumps('{"max_batch_size":' + "9" * 400 + "}").encode() + b"}}",
    b'{"parameters":{"config":' + json.dumps("[" * 50_000).encode() + b"}}",
    b'{"parameters":{"unload_dependents":"x"}}',
    b'{"parameters":[]}',
    b'{"key":"/../../etc/passwd","offset":0,"byte_size":10}',
    b'{"key":"/x","offset":18446744073709551615,"byte_size":18446744073709551615}',
    b'{"key":"a\\u0000b","byte_size":1}',
    b'{"key":"' + b"k" * 5000 + b'","byte_size":1}',
    b'{"key":1,"byte_size":"1"}',
    b'{"raw_handle":{"b64":"!!!"},"device_id":0,"byte_size":1}',
    b'{"raw_handle":{"b64":"' + base64.b64encode(bytes(64)) + b'"},"device_id":99999999999999999999,"byte_size":1}',
    b'{"ready":1}',
    b'{"INPUT0":[' + b"1," * 50_000 + b"1]}",
]
ACTIONS = ["", "/ready", "/config", "/stats", "/infer", "/generate", "/generate_stream", "/trace/setting"]
VERSIONS = ["", "/versions/1", "/versions/99999999999999999999999", "/versions/-1"]
FIXED = ["/v2", "/v2/models/stats", "/v2/repository/index", "/v2/repository/r/index", "/v2/logging", "/v2/trace/setting", "/v2/systemsharedmemory/status"]
FIXED += ["/v2/cudasharedmemory/register", "/", "*", "http://x/v2", "//v2", "/v2/%2e%2e/x", "/v2?x=" + "y" * 5000]
METHODS = "ServerLive ServerReady ModelReady ServerMetadata ModelMetadata ModelInfer ModelStreamInfer ModelConfig ModelStatistics RepositoryIndex"
METHODS += " RepositoryModelLoad RepositoryModelUnload SystemSharedMemoryStatus SystemSharedMemoryRegister SystemSharedMemoryUnregister"
METHODS += " CudaSharedMemoryStatus CudaSharedMemoryRegister CudaSharedMemoryUnregister TraceSetting LogSettings Nothing"


@pytest.fixture(scope="module")
def server(folder):
    make.versions(folder)
    flags = ["--model-control-mode=explicit", "--load-model=*", "--allow-client-shm=true"]
    with Server(folder, *flags, *(f"--{protocol}-header-forward-pattern=.*" for protocol in ("http", "grpc"))) as running:
        yield running


def routes(name):
    """Every path that has this name in it. What would be good is left out: the model stays."""
    yield from (f"/v2/models/{name}{version}{action}" for version in VERSIONS for action in ACTIONS)
    for memory in ("system", "cuda"):
        yield from (f"/v2/{memory}sharedmemory/region/{name}/{action}" for action in ("status", "register", "unregister"))
    if name != "versions":
        yield from (f"/v2/repository/{place}models/{name}/{action}" for place in ("", "r/") for action in ("load", "unload"))


def ask(server, method, path, body=b"", headers=()):
    """All that the server says to one request; fails if it says nothing for long."""
    lines = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", f"Content-Length: {len(body)}", *headers, "", ""]
    with socket.create_connection(("127.0.0.1", server.http), scaled(20)) as caller:
        try:
            caller.sendall("\r\n".join(lines).encode() + body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it need not read all of what it refuses
        said = b""
        try:
            while piece := caller.recv(65536):
                said += piece
        except ConnectionResetError:
            pass
    return said


def check(said, what):
    """It is an answer of HTTP, and an error has a text."""
    assert (status := re.match(rb"HTTP/1\.1 (\d+) ", said)), (what, said[:200])
    head, _, body = said.partition(b"\r\n\r\n")
    status = int(status[1])
    assert status in (200, 400, 403, 404, 405, 431, 500, 501, 503), (what, said[:200])
    if status != 200 and body:
        text = json.loads(body)["error"]
        assert text and "panic" not in text, (what, said[:300])


def quiet(server):
    """Serves as before, and nothing is left of those who called: neither descriptors nor threads, and little memory."""
    assert server.process.poll() is None
    for protocol in ("http", "grpc"):
        with connect(protocol, server) as client:
            assert add_one(protocol, client, "versions") == 3
    assert "panicked" not in server.log()


def held(server):
    process = f"/proc/{server.process.pid}"
    status = open(f"{process}/status").read()
    return {
        "descriptors": len(os.listdir(f"{process}/fd")),
        "threads": int(re.search(r"Threads:\s+(\d+)", status)[1]),
        "MiB": int(re.search(r"VmRSS:\s+(\d+)", status)[1]) >> 10,
    }


def test_http_junk_leaves_nothing_behind(server):
    choose = random.Random(1)
    quiet(server)
    before = held(server)
    for name in NAMES:
        for path in routes(name):
            check(ask(server, "GET", path), ("GET", path[:80]))
            body = choose.choice(BODIES)
            check(ask(server, "POST", path, body), ("POST", path[:80], body[:80]))
    for path, method in itertools.product(FIXED, ("GET", "POST", "PUT", "DELETE", "OPTIONS", "BREW")):
        check(ask(server, method, path), (method, path[:80]))
    for body in BODIES:
        for path in ("models/versions/infer", "models/versions/generate", "repository/index", "repository/models/nobody/load", "systemsharedmemory/region/r/register"):
            for headers in ((), (f"Inference-Header-Content-Length: {max(0, len(body) - 3)}",), ("Content-Encoding: gzip",)):
                check(ask(server, "POST", f"/v2/{path}", body, headers), (path, body[:80], headers))
    for length in ("0", "-1", "99999999", "2147483648", "x", "", "1e3", "0x10", "80, 80"):
        said = ask(server, "POST", "/v2/models/versions/infer", BODIES[4], [f"Inference-Header-Content-Length: {length}"])
        check(said, length)
    quiet(server)
    until(lambda: held(server)["descriptors"] <= before["descriptors"] + 4, "connections to be closed")
    after = held(server)
    assert after["threads"] <= before["threads"] + 12 and after["MiB"] < before["MiB"] + 150, (before, after)


# --- gRPC, as frames of HTTP/2 ---------------------------------------------------------------------------------------------------------

DATA, HEADERS, RESET, SETTINGS, PING, LEAVING, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
LAST, LAST_HEADERS = 1, 4


def frame(kind, flags, stream, content):
    return struct.pack(">I", len(content))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + content


START = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b"")


def field(name, value):
    """A header that is written out, in HPACK."""

    def text(content):
        length = len(content)
        if length < 127:
            return bytes([length]) + content
        rest, prefix = length - 127, b"\x7f"
        while rest >= 128:
            prefix += bytes([rest % 128 + 128])
            rest //= 128
        return prefix + bytes([rest]) + content

    return b"\x00" + text(name.encode()) + text(value.encode())


def head(method, kind="application/grpc", verb="POST", **more):
    path = method if "/" in method else f"/inference.GRPCInferenceService/{method}"
    fields = [(":method", verb), (":scheme", "http"), (":path", path), (":authority", "x"), ("te", "trailers"), ("content-type", kind)]
    return b"".join(field(name.replace("_", "-"), value) for name, value in [*fields, *more.items()])


def message(content, flag=0, length=None):
    return bytes([flag]) + struct.pack(">I", len(content) if length is None else length) + content


def member(number, content):
    length, prefix = len(content), b""
    while length >= 128:
        prefix += bytes([length % 128 + 128])
        length //= 128
    return bytes([number << 3 | 2]) + prefix + bytes([length]) + content


def call(server, *frames):
    """What the server says until it ends the first call, or says that it leaves; nothing if the connection ends without either."""
    said, at = b"", 0
    with socket.create_connection(("127.0.0.1", server.grpc), scaled(20)) as caller:
        try:
            caller.sendall(START + b"".join(frames))
            while piece := caller.recv(65536):
                said += piece
                while len(said) >= at + 9:
                    length = int.from_bytes(said[at : at + 3], "big")
                    kind, flags = said[at + 3], said[at + 4]
                    is_first = int.from_bytes(said[at + 5 : at + 9], "big") == 1
                    if kind == LEAVING or (is_first and (kind == RESET or (kind in (DATA, HEADERS) and flags & LAST))):
                        return said
                    at += 9 + length
        except (BrokenPipeError, ConnectionResetError):
            pass
    return b""


def deep(levels):
    content = b""
    for _ in range(levels):
        content = member(5, content)
    return content


MESSAGES = [
    b"",
    b"\xff" * 100,
    b"\x0b" * 20_000,  # groups in groups
    b"\x0a\xff\xff\xff\xff\x0f",
    b"\x0a\x05ab",
    member(1, b"\xff\xfe"),
    member(1, b"../x"),
    member(1, b"a\0b"),
    member(1, b"m") * 5000,
    member(1, b"versions") + member(2, b"-1"),
    member(1, b"versions") + member(2, b"9" * 50),
    member(1, b"versions") + member(5, b"") * 10_000,
    member(1, b"versions") + member(7, b"") * 10_000,
    member(1, b"versions") + member(5, member(1, b"INPUT0") + member(2, b"FP32") + member(3, b"\xff" * 9 + b"\x01\x04")) + member(7, bytes(16)),
    member(2, b"versions") + member(3, member(1, b"config") + member(2, member(3, b"{"))),
    member(2, b"versions") + member(3, member(1, b"file:../../x") + member(2, member(4, b"x"))),
    deep(2000),
]
FRAMED = [message(b"ab", length=100), message(b"ab", length=0xFFFFFFFF), message(b"ab", length=1), message(b"", flag=1), message(b"", flag=77), message(b"") * 3, b"\0\0", b""]


def test_grpc_junk_leaves_nothing_behind(server):
    quiet(server)
    before = held(server)
    for method in METHODS.split():
        is_taking = method in ("RepositoryModelUnload", "RepositoryModelLoad")
        for content in MESSAGES:
            if is_taking and b"versions" in content:
                continue
            framed = message(content)
            pieces = [frame(DATA, 0, 1, framed[at : at + 16_000]) for at in range(0, len(framed), 16_000)]
            assert call(server, frame(HEADERS, LAST_HEADERS, 1, head(method)), *pieces, frame(DATA, LAST, 1, b"")), (method, content[:40])
        for content in FRAMED:
            for more in ({}, {"grpc_encoding": "gzip"}, {"grpc_encoding": "zstd"}):
                assert call(server, frame(HEADERS, LAST_HEADERS, 1, head(method, **more)), frame(DATA, LAST, 1, content)), (method, content, more)
        for kind in ("", "text/plain", "application/json", "application/grpc+json"):
            assert call(server, frame(HEADERS, LAST_HEADERS, 1, head(method, kind)), frame(DATA, LAST, 1, message(b""))), (method, kind)
    for path in ("/", "/x", "/inference.GRPCInferenceService/", "/../", "/grpc.health.v1.Health/Watch", "/" + "a" * 15_000):
        for verb in ("POST", "GET", "CONNECT"):
            assert call(server, frame(HEADERS, LAST_HEADERS, 1, head(path, verb=verb)), frame(DATA, LAST, 1, message(b""))), (path[:40], verb)
    for time in ("0n", "99999999H", "x", "-1S", ""):
        assert call(server, frame(HEADERS, LAST_HEADERS, 1, head("ServerLive", grpc_timeout=time)), frame(DATA, LAST, 1, message(b""))), time
    quiet(server)
    until(lambda: held(server)["descriptors"] <= before["descriptors"] + 4, "connections to be closed")
    after = held(server)
    assert after["threads"] <= before["threads"] + 12 and after["MiB"] < before["MiB"] + 150, (before, after)


LIVE = head("ServerLive")
FLOODS = {
    "headers without end": frame(HEADERS, 0, 1, LIVE) + frame(CONTINUATION, 0, 1, field("x", "y" * 15_000)) * 700,
    "empty continuations": frame(HEADERS, 0, 1, LIVE) + frame(CONTINUATION, 0, 1, b"") * 100_000,
    "empty data": frame(HEADERS, LAST_HEADERS, 1, LIVE) + frame(DATA, 0, 1, b"") * 100_000,
    "calls that are reset at once": b"".join(frame(HEADERS, LAST_HEADERS | LAST, one, LIVE) + frame(RESET, 0, one, bytes(4)) for one in range(1, 40_001, 2)),
    "a window beyond its limit": frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff") * 3,
    "a window of nothing": frame(HEADERS, LAST_HEADERS, 1, LIVE) + frame(WINDOW, 0, 1, bytes(4)),
    # one long value in the table, then references to it, a byte each
    "small headers that become large": frame(HEADERS, LAST_HEADERS, 1, LIVE + b"\x40\x01a\x7f\x81\x1e" + b"v" * 3968 + b"\xbe" * 12_000),
    "padding longer than its frame": frame(HEADERS, LAST_HEADERS | 8, 1, b"\xff" + LIVE),
    "a stream of the server's own": frame(HEADERS, LAST_HEADERS | LAST, 2, LIVE),
    "data of nobody": frame(DATA, LAST, 5, b"x"),
    "a promise": frame(5, LAST_HEADERS, 1, b"\0\0\0\x02" + LIVE),
    "a bad code": frame(HEADERS, LAST_HEADERS | LAST, 1, b"\x00\x81\xff\x81\xff"),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_ends_its_own_connection_only(server, flood):
    before = held(server)
    call(server, FLOODS[flood])
    quiet(server)
    assert held(server)["MiB"] < before["MiB"] + 60
