"""Junk, cut-off requests and impatient callers: nobody else notices."""

import os
import re
import socket
import struct
import threading
import time

import grpc
import make
import numpy as np
import pytest
import requests
from tritonclient.grpc import service_pb2, service_pb2_grpc

import pages
from serving import Server, scaled, until
from talking import add_one, connect

JUNK = {
    "nothing": b"",
    "one byte": b"\x00",
    "binary": os.urandom(4096),
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "line feeds": b"\n" * 1000,
    "an old request": b"GET /\r\n\r\n",
    "a request without host": b"GET /v2 HTTP/1.1\r\n\r\n",
    "a bad version": b"GET /v2 HTTP/9.9\r\nHost: x\r\n\r\n",
    "a bad header": b"GET /v2 HTTP/1.1\r\nHost x\r\n\x00\x01: y\r\n\r\n",
    "a header without end": b"GET /v2 HTTP/1.1\r\nX: " + b"x" * 1_000_000,
    "an endless address": b"GET /" + b"a" * 1_000_000,
    "a negative length": b"POST /v2/models/versions/infer HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "two lengths": b"POST /v2/models/versions/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "a length and chunks": b"POST /v2/models/versions/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a bad chunk": b"POST /v2/models/versions/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
    "a body that stops": b"POST /v2/models/versions/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{",
    "a promise of much": b"POST /v2/models/versions/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\n{",
    "the HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "the preface and a huge frame": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + bytes(1000),
    "the preface and settings without end": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" * 5000,
    "the preface and unknown frames": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x05\xee\x00\x00\x00\x00\x01hello" * 100,
}


@pytest.fixture(scope="module")
def server(folder):
    make.versions(folder)
    make.identity(folder, "slow", execute_delay_ms=300)
    with Server(folder) as running:
        yield running


@pytest.mark.parametrize("port", ("http", "grpc", "metrics"))
@pytest.mark.parametrize("junk", JUNK)
def test_junk_disturbs_nobody(server, port, junk):
    with socket.create_connection(("127.0.0.1", getattr(server, port)), 5) as caller:
        caller.settimeout(0.3)
        try:
            caller.sendall(JUNK[junk])
            caller.shutdown(socket.SHUT_WR)
            while caller.recv(65536):
                pass
        except (TimeoutError, ConnectionError, BrokenPipeError, OSError):
            pass
        assert add_one("http", connect("http", server), "versions") == 3
        assert add_one("grpc", connect("grpc", server), "versions") == 3
    assert server.process.poll() is None


def test_many_open_connections_leave_room_for_one_more(server):
    held = [socket.create_connection(("127.0.0.1", port), 5) for port in (server.http, server.grpc) for _ in range(200)]
    try:
        for number, one in enumerate(held):
            one.sendall(b"POST /v2/mod" if number % 2 else b"PRI * HT")
        assert add_one("http", connect("http", server), "versions") == 3
        assert add_one("grpc", connect("grpc", server), "versions") == 3
    finally:
        for one in held:
            one.close()


def test_a_caller_who_leaves_frees_its_place(server):
    body = b'{"inputs":[{"name":"INPUT0","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}'
    head = b"POST /v2/models/slow/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", server.http), 5) as caller:
            caller.sendall(head + body)
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # leave with a reset
    start = time.monotonic()
    answer = requests.post(f"http://{server.url}/v2/models/slow/infer", data=body)
    assert answer.status_code == 200
    assert time.monotonic() - start < 10, "fifty requests nobody waits for would take fifteen seconds"

    def quiet():
        page = pages.read(server.request("GET", "/metrics", port=server.metrics)[2].decode())
        return page.value("nv_inference_pending_request_count", model="slow", version="1") == 0

    until(quiet, "the queue to be empty")


def test_a_grpc_deadline_is_kept(server):
    with grpc.insecure_channel(server.grpc_url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = service_pb2.ModelInferRequest(model_name="slow", raw_input_contents=[bytes(16)])
        request.inputs.add(name="INPUT0", datatype="FP32", shape=[1, 4])
        with pytest.raises(grpc.RpcError) as late:
            stub.ModelInfer(request, timeout=0.05)
        assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert stub.ModelInfer(request, timeout=scaled(10)).raw_output_contents == [bytes(16)]


def test_a_large_request_asks_before_it_sends(server):
    rows = np.zeros((1, 4), np.float32)
    body = b'{"inputs":[{"name":"INPUT0","shape":[1,4],"datatype":"FP32","parameters":{"binary_data_size":16}}]}'
    head = b"POST /v2/models/versions/infer HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
    head += b"Inference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n" % (len(body), len(body) + 16)
    with socket.create_connection(("127.0.0.1", server.http), 5) as caller:
        caller.sendall(head)
        assert caller.recv(4096).startswith(b"HTTP/1.1 100 ")
        caller.sendall(body + rows.tobytes())
        assert caller.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_a_body_that_drips_is_one_request(server):
    body = b'{"inputs":[{"name":"INPUT0","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}'
    with socket.create_connection(("127.0.0.1", server.http), 5) as caller:
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"POST /v2/models/versions/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body:
            caller.sendall(bytes([byte]))
        assert caller.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_requests_in_a_row_on_one_connection_are_answered_in_order(server):
    with socket.create_connection(("127.0.0.1", server.http), 5) as caller:
        caller.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\nGET /v2/nothing HTTP/1.1\r\nHost: x\r\n\r\n" * 10)
        said = b""
        while said.count(b"HTTP/1.1 ") < 20 or not said.endswith(b"}"):
            said += caller.recv(65536)
    assert re.findall(rb"HTTP/1.1 (\d+)", said) == [b"200", b"404"] * 10


def test_good_and_bad_callers_at_once(server):
    wrong, stop = [], threading.Event()

    def good(protocol):
        client = connect(protocol, server)
        for _ in range(100):
            try:
                assert add_one(protocol, client, "versions") == 3
            except Exception as error:  # noqa: BLE001
                wrong.append(repr(error))

    def bad():
        while not stop.is_set():
            requests.post(f"http://{server.url}/v2/models/versions/infer", data=os.urandom(100))
            requests.get(f"http://{server.url}/v2/models/nobody")

    callers = [threading.Thread(target=good, args=(protocol,)) for protocol in ("http", "grpc") * 3]
    bad_callers = [threading.Thread(target=bad) for _ in range(2)]
    for thread in callers + bad_callers:
        thread.start()
    for thread in callers:
        thread.join()
    stop.set()
    for thread in bad_callers:
        thread.join()
    assert not wrong, wrong[:3]


@pytest.mark.parametrize("port", ("http", "metrics"))
def test_a_client_that_has_nothing_more_to_say_is_still_answered(server, port):
    path = b"/v2/models/slow/infer" if port == "http" else b"/metrics"
    body = b'{"inputs":[{"name":"INPUT0","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}' if port == "http" else b""
    head = b"%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (b"POST" if body else b"GET", path, len(body))
    with socket.create_connection(("127.0.0.1", getattr(server, port)), scaled(30)) as caller:
        caller.sendall(head + body)
        caller.shutdown(socket.SHUT_WR)
        said = b""
        while piece := caller.recv(65536):
            said += piece
    # a server may say meanwhile that it is still at work
    assert [status for status in re.findall(rb"HTTP/1.1 (\d+)", said) if status != b"100"] == [b"200"], said[:300]
    assert (b'"data":[1.0,2.0,3.0,4.0]' if port == "http" else b"nv_inference_request_success") in said, said[:300]
