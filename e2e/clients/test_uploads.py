"""Bodies and heads that are too large, again and again: the one who sends them is refused, and nobody else notices."""

import json
import select
import socket
import threading

import make
import pytest
import requests

from serving import Server, scaled, until
from talking import PROTOCOLS, add_one, connect

MIB = 1 << 20
UPLOAD = 400 * MIB
MEMORY = 512 * MIB  # what the server would be given on a cluster
ROUTES = [
    "/v2/models/versions/infer",
    "/v2/models/unknown/infer",
    "/v2/models/versions/generate",
    "/v2/repository/index",
    "/v2/repository/models/versions/load",
    "/v2/nothing",
]


@pytest.fixture
def server(tmp_path):
    make.versions(tmp_path)
    with Server(tmp_path) as running:
        yield running


def most(server, what):
    """Bytes of the most memory the server has had since it started: in use (VmHWM), or asked for (VmPeak)."""
    with open(f"/proc/{server.process.pid}/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith(f"{what}:"))


def upload(server, route):
    """Sends UPLOAD bytes in chunks until there is an answer. Returns its status, or None where the connection was closed without one."""
    piece = b"100000\r\n" + b'"' + bytes(MIB - 1) + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.http), scaled(30)) as caller:
        caller.sendall(f"POST {route} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        has_answer = select.poll()  # select() knows no descriptor above 1023, and the tests before may have left many open
        has_answer.register(caller, select.POLLIN)
        try:
            for _ in range(UPLOAD // MIB):
                if has_answer.poll(0):
                    break
                caller.sendall(piece)
        except ConnectionError:
            pass  # the answer may have arrived before
        try:
            said = caller.recv(4096)
        except ConnectionError:
            return None
        return int(said.split()[1]) if said else None


def many_uploads(server, rounds):
    """Every route gets its uploads, all routes at once, while two callers go on asking; returns what the uploads got and how often the callers
    were answered."""
    got, wrong, answered, over = [], [], [0], threading.Event()

    def send(route):
        for _ in range(rounds):
            got.append(upload(server, route))

    def ask(protocol):
        client = connect(protocol, server)
        while not over.is_set():
            try:
                assert add_one(protocol, client, "versions") == 3
                answered[0] += 1
            except Exception as error:  # noqa: BLE001 - any failure at all is what this watches for
                wrong.append(repr(error))
                return

    uploads = [threading.Thread(target=send, args=(route,)) for route in ROUTES]
    callers = [threading.Thread(target=ask, args=(protocol,)) for protocol in PROTOCOLS]
    for thread in uploads + callers:
        thread.start()
    for thread in uploads:
        thread.join()
    seen = answered[0]
    try:
        until(lambda: wrong or answered[0] > seen + 10, "the callers to go on", process=server.process)
    finally:
        over.set()
        for thread in callers:
            thread.join()
    assert not wrong, wrong
    return got, answered[0]


def check_uploads(server, rounds):
    got, answered = many_uploads(server, rounds)
    assert len(got) == rounds * len(ROUTES)
    # a reset may overtake an answer; most answers arrive
    assert set(got) <= {400, 404, 503, None} and got.count(None) <= len(got) / 2, got
    assert most(server, "VmHWM") < MEMORY, f"{most(server, 'VmHWM') / MIB:.0f} MiB"
    assert answered > 10


def test_uploads_beyond_the_limit_cost_no_memory_and_disturb_nobody(server):
    check_uploads(server, rounds=1)


@pytest.mark.soak
def test_uploads_beyond_the_limit_again_and_again(server):
    check_uploads(server, rounds=100)


def test_an_announced_length_beyond_the_limit_is_refused_before_the_body_is_sent(server):
    with socket.create_connection(("127.0.0.1", server.http), scaled(30)) as caller:
        caller.sendall(b"POST /v2/repository/index HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % UPLOAD)
        said = caller.recv(65536)
    head, body = said.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 400 "), said
    assert str(UPLOAD) in json.loads(body)["error"] and "--http-max-input-size" in json.loads(body)["error"], said


@pytest.mark.parametrize("count", (90, 120, 500))
def test_many_header_fields_are_no_reason_to_refuse(server, count):
    fields = {f"x-{number}": "1" for number in range(count)}
    answer = requests.get(f"http://{server.url}/v2/models/versions", headers=fields)
    assert (answer.status_code, answer.json()["name"]) == (200, "versions")


def test_a_head_beyond_every_limit_is_refused_in_words(server):
    answer = requests.get(f"http://{server.url}/v2", headers={f"x-{number}": "x" * 4000 for number in range(1000)})
    assert answer.status_code == 431 and answer.json()["error"], answer.content


def frame(kind, flags, stream, payload=b""):
    """One frame of HTTP/2."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


DATA, HEADERS, SETTINGS, PING, END_HEADERS, ACK = 0, 1, 4, 6, 4, 1
INFER = b"/inference.GRPCInferenceService/ModelInfer"
HEAD = (  # HPACK: POST, http, then literals that are not remembered
    b"\x83\x86\x04" + bytes([len(INFER)]) + INFER + b"\x01\x01x" + b"\x0f\x10\x10application/grpc" + b"\x00\x02te\x08trailers"
)


def test_a_declared_length_takes_no_memory_before_its_bytes_come(server):
    before = most(server, "VmPeak")
    callers = [socket.create_connection(("127.0.0.1", server.grpc), scaled(30)) for _ in range(4)]
    try:
        for caller in callers:
            sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0)
            for stream in range(1, 100, 2):
                sent += frame(HEADERS, END_HEADERS, stream, HEAD)
                sent += frame(DATA, 0, stream, b"\x00\x7f\xff\xff\xff")  # a message of 2 GiB begins
            caller.sendall(sent + frame(PING, 0, 0, b"all seen"))
            until(lambda caller=caller: b"all seen" in caller.recv(1 << 16), "the answer to the ping, which follows the rest", process=server.process)
        assert add_one("grpc", connect("grpc", server), "versions") == 3
        grown = most(server, "VmPeak") - before
        assert grown < 1024 * MIB, f"200 messages of 2 GiB were announced, and {grown / MIB:.0f} MiB asked for"
    finally:
        for caller in callers:
            caller.close()
