"""Pings between gRPC clients and the server: which are too many, and when the server asks whether a client is still there."""

import socket
import struct

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from serving import Server, scaled, until
from talking import tensor, wanted

SETTINGS, PING, GOAWAY = 4, 6, 7
ACK = 1
OFTEN = ["--grpc-keepalive-permit-without-calls=true", "--grpc-http2-min-recv-ping-interval-without-data=0"]

IDENTITY = """backend: "identity"
input { name: "INPUT0" data_type: TYPE_FP32 dims: [ -1 ] }
output { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ -1 ] }
"""


@pytest.fixture(scope="module")
def models(folder):
    (folder / "identity" / "1").mkdir(parents=True)
    (folder / "identity" / "config.pbtxt").write_text(IDENTITY)
    return folder


class Frames:
    """A connection whose client writes frames of HTTP/2 by hand and makes no call."""

    def __init__(self, server):
        self.socket = socket.create_connection(("127.0.0.1", server.grpc), scaled(20))
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.send(SETTINGS, 0)
        self.file = self.socket.makefile("rb")

    def send(self, kind, flags, payload=b""):
        self.socket.sendall(len(payload).to_bytes(3, "big") + bytes([kind, flags, 0, 0, 0, 0]) + payload)

    def next(self, *kinds):
        """Flags and payload of the next frame of these kinds; None at the end."""
        while len(head := self.file.read(9)) == 9:
            payload = self.file.read(int.from_bytes(head[:3], "big"))
            if head[3] in kinds:
                return head[3], head[4], payload
        return None

    def pings(self, count):
        """Sends so many pings; how many are answered, and with what the server left, if it did."""
        for number in range(count):
            self.send(PING, 0, number.to_bytes(8, "big"))
            kind, flags, payload = self.next(PING, GOAWAY)
            if kind == GOAWAY:
                return number, payload
            assert (flags, payload) == (ACK, number.to_bytes(8, "big"))
        return count, None


@pytest.mark.parametrize("flags, answered", [([], 4), (["--grpc-http2-max-ping-strikes=4"], 6)])
def test_who_pings_too_often_is_sent_away(models, flags, answered):
    with Server(models, *flags) as server:
        count, farewell = Frames(server).pings(20)
        assert count == answered and farewell == struct.pack(">II", 0, 0xB) + b"too_many_pings"


@pytest.mark.parametrize("flags", [OFTEN, ["--grpc-http2-max-ping-strikes=0"]])
def test_flags_allow_more_pings(models, flags):
    with Server(models, *flags) as server:
        assert Frames(server).pings(50) == (50, None)


def test_a_silent_client_is_pinged_and_closed_without_an_answer(models):
    flags = ["--grpc-keepalive-time=200", "--grpc-keepalive-timeout=500", "--grpc-keepalive-permit-without-calls=true", "--log-verbose=1"]
    with Server(models, *flags) as server:
        answering, dead = Frames(server), Frames(server)
        for _ in range(4):
            kind, asked, payload = answering.next(PING)
            assert asked == 0
            answering.send(PING, ACK, payload)
        kind, asked, _ = dead.next(PING)
        assert asked == 0 and dead.next(PING) is None, "the connection is closed"
        assert "the client does not answer a keepalive ping" in server.log()
        assert "PING ack that we never sent" not in server.log()


def test_the_real_client_goes_on_when_it_is_sent_away(models):
    eager = grpcclient.KeepAliveOptions(keepalive_time_ms=50, keepalive_timeout_ms=10_000, keepalive_permit_without_calls=True, http2_max_pings_without_data=0)
    with Server(models, "--log-verbose=1") as server:
        client = grpcclient.InferenceServerClient(server.grpc_url, keepalive_options=eager)
        values = np.arange(3, dtype=np.float32)

        def echo():
            answer = client.infer("identity", [tensor("grpc", "INPUT0", values, "FP32")], outputs=[wanted("grpc", "OUTPUT0")])
            return np.array_equal(answer.as_numpy("OUTPUT0"), values)

        assert echo()
        until(lambda: "the client pings too often" in server.log(), "the client to be sent away", 30)
        assert echo()
