"""HTTP/2 as the gRPC port speaks it, with clients that choose each frame: what they may do, what ends a call or a connection, and what nobody else
may notice. Each test asks for what RFC 9113 or gRPC over HTTP/2 asks for; where those leave a choice, all of it is right."""

import contextlib
import random
import signal
import socket
import threading
from urllib.parse import unquote

import decoupled
import make
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

import pages
from certificates import Authority
from holdings import memory
from raw_http2 import (
    ACK,
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HAS_PRIORITY,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    LARGE,
    LARGEST,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    NO_ERROR,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW,
    WINDOW_UPDATE,
    Connection,
    call_fields,
    fields,
    frame,
    message,
    padded,
    settings,
)
from serving import Server, scaled, until

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"
NOBODYS = "/inference.GRPCInferenceService/Nobodys"
OK, DEADLINE_EXCEEDED, UNIMPLEMENTED, RESOURCE_EXHAUSTED, UNAVAILABLE = 0, 4, 12, 8, 14
MIB = 1 << 20
# The server of debug builds, allocator and all, after much that was let go again.
SLACK = 48  # MiB


@pytest.fixture(scope="module")
def models(folder):
    make.identity_of(folder, "identity", [-1])
    make.identity(folder, "slow", execute_delay_ms=700)
    decoupled.square(folder)
    return folder


@pytest.fixture(scope="module")
def server(models):
    with Server(models) as running:
        yield running


@pytest.fixture(scope="module")
def small(models):
    """A server with little memory for requests, and so with the smallest windows."""
    with Server(models, f"--max-inflight-request-bytes={8 * MIB}") as running:
        yield running


@pytest.fixture(scope="module")
def encrypted(models, tmp_path_factory):
    certificate, key = Authority(tmp_path_factory.mktemp("authority")).issue()
    with Server(models, "--grpc-use-ssl=true", f"--grpc-server-cert={certificate}", f"--grpc-server-key={key}") as running:
        yield running


@pytest.fixture(params=("plain", "tls"))
def connect(request):
    """Makes connections, plain ones and encrypted ones."""
    of = request.getfixturevalue("server" if request.param == "plain" else "encrypted")
    made = []

    def connection(*arguments, **more):
        made.append(Connection(of, *arguments, tls=request.param == "tls", **more))
        return made[-1]

    yield connection
    for one in made:
        one.close()


# === calls ===


def numbers(count, seed=1):
    return np.random.default_rng(seed).random(count, dtype=np.float32).tobytes()


def infer(data, model="identity"):
    """The message of a call."""
    shape = [1, len(data) // 4] if model == "slow" else [len(data) // 4]
    request = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[data])
    request.inputs.add(name="INPUT0", datatype="FP32", shape=shape)
    return message(request)


def endless():
    """A request to which a model sends a response again and again."""
    request = service_pb2.ModelInferRequest(model_name="square", raw_input_contents=[np.int32(1_000_000_000).tobytes()])
    request.inputs.add(name="IN", datatype="INT32", shape=[1])
    return message(request)


def check(answer, data):
    """It is the answer to that."""
    assert (answer.status, answer.head[":status"], answer.head["content-type"]) == (OK, "200", "application/grpc"), answer
    (said,) = answer.messages(service_pb2.ModelInferResponse)
    assert said.raw_output_contents[0] == data
    assert answer.is_ended


def echo(connection, count=4, size=16_384, more=(), model="identity", **how):
    """A whole call."""
    data = numbers(count)
    stream = connection.begin(INFER, more)
    connection.upload(stream, infer(data, model), size, **how)
    check(connection.answer(stream), data)
    return connection.answers[stream]


def check_others_are_served(server):
    with Connection(server) as other:
        echo(other)


def pending(server, *models):
    """Requests that wait to be executed, by these models or by all."""
    page = pages.read(server.request("GET", "/metrics", port=server.metrics)[2].decode())
    found = page.find("nv_inference_pending_request_count")
    return sum(count for labels, count in found.items() if not models or dict(labels)["model"] in models)


def is_quiet(server):
    return pending(server) == 0


# === what a client may do ===


def test_a_message_comes_in_frames_of_one_byte(connect):
    echo(connect(), 300, size=1)


def test_every_byte_comes_alone(connect):
    connection = connect(is_started=False)
    data = numbers(4)
    connection.unacknowledged.append({})
    said = PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, connection.open(), call_fields(INFER, scheme=connection.scheme))
    for byte in said + frame(DATA, END_STREAM, 1, infer(data)):
        connection.send(bytes([byte]))
    check(connection.answer(1), data)


def test_a_preface_and_calls_come_at_once(connect):
    connection = connect(is_started=False)
    data, said = numbers(4), [PREFACE, frame(SETTINGS, 0, 0)]
    connection.unacknowledged.append({})
    for _ in range(20):
        stream = connection.open()
        said += [frame(HEADERS, END_HEADERS, stream, call_fields(INFER, scheme=connection.scheme)), frame(DATA, END_STREAM, stream, infer(data))]
    connection.send(*said)
    for stream in connection.answers:
        check(connection.answer(stream), data)


def test_padding_is_left_out_and_given_back(connect):
    """Far more padding than the windows of a call and of the connection hold."""
    connection = connect()
    connection.synchronize()
    for _ in range(4):
        data, stream = numbers(5000), connection.open()
        block = padded(call_fields(INFER, scheme=connection.scheme), 255)
        connection.send(frame(HEADERS, END_HEADERS | PADDED, stream, block))
        connection.upload(stream, infer(data), 1, padding=255)
        check(connection.answer(stream), data)


def test_headers_come_in_several_frames(connect):
    connection = connect()
    data, stream = numbers(4), connection.open()
    block = call_fields(INFER, [("x-long", "x" * 2000)], connection.scheme)
    connection.send(frame(HEADERS, 0, stream))
    for at in range(0, len(block), 600):
        connection.send(frame(CONTINUATION, END_HEADERS if at + 600 >= len(block) else 0, stream, block[at : at + 600]))
    connection.upload(stream, infer(data))
    check(connection.answer(stream), data)


def test_headers_are_written_in_every_form(connect):
    """Names and values are added to the table, and found there; the table is made smaller and larger."""
    connection = connect()
    pseudo = [(":method", "POST"), (":scheme", connection.scheme), (":path", INFER), (":authority", "localhost")]
    blocks = [
        fields([*pseudo, ("content-type", "application/grpc"), ("te", "trailers")], 0x40),
        bytes([0x83, 0x80 | (7 if connection.scheme == "https" else 6)]) + bytes([0x80 | 62 + 3, 0x80 | 62 + 2, 0x80 | 62 + 1, 0x80 | 62]),
        b"\x20\x3f\xe1\x1f" + fields([*pseudo, ("content-type", "application/grpc"), ("te", "trailers")], 0x10),
    ]
    for block in blocks:
        data, stream = numbers(4), connection.open()
        connection.send(frame(HEADERS, END_HEADERS, stream, block))
        connection.upload(stream, infer(data))
        check(connection.answer(stream), data)


def test_priorities_change_nothing(connect):
    connection = connect()
    data, stream = numbers(4), connection.open()
    connection.send(frame(PRIORITY, 0, stream + 10, b"\0\0\0\0\x20"))
    connection.send(frame(HEADERS, END_HEADERS | HAS_PRIORITY, stream, b"\0\0\0\0\xff" + call_fields(INFER, scheme=connection.scheme)))
    connection.send(frame(PRIORITY, 0, stream, b"\x80\0\0\x0b\0"))
    connection.upload(stream, infer(data))
    check(connection.answer(stream), data)
    connection.send(frame(PRIORITY, 0, stream, b"\0\0\0\0\0"))
    echo(connection)


def test_frames_that_nobody_knows_are_skipped(connect):
    connection = connect()
    data, stream = numbers(1000), connection.begin(INFER)
    body = infer(data)
    for at in range(0, len(body), 500):
        connection.send(frame(0xEE, 0xFF, stream, b"?" * 100), frame(0x20, 1, 0), frame(PRIORITY, 0, 9999, b"\0\0\0\0\0"))
        connection.upload(stream, body[at : at + 500], is_ended=at + 500 >= len(body))
    check(connection.answer(stream), data)


def test_a_client_has_trailers(connect):
    connection = connect()
    data, stream = numbers(4), connection.begin(INFER)
    connection.upload(stream, infer(data), is_ended=False)
    connection.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, fields([("x-last", "word")])))
    check(connection.answer(stream), data)
    echo(connection)


def test_the_end_of_a_request_comes_alone(connect):
    connection = connect()
    data, stream = numbers(4), connection.begin(INFER)
    connection.send(frame(DATA, 0, stream), frame(DATA, PADDED, stream, padded(b"", 200)))
    connection.upload(stream, infer(data), is_ended=False)
    connection.synchronize()
    connection.send(frame(DATA, END_STREAM, stream))
    check(connection.answer(stream), data)


def test_what_comes_after_the_request_is_taken(connect):
    """h2spec asks for this where a response has a body."""
    connection = connect()
    data, stream = numbers(4), connection.begin(INFER)
    connection.upload(stream, infer(data, "slow"))
    connection.widen(stream, 1000)
    connection.send(frame(PRIORITY, 0, stream, b"\0\0\0\0\0"))
    check(connection.answer(stream), data)


def test_hundreds_of_calls_mix_their_frames(connect):
    connection = connect()
    connection.synchronize()
    chance = random.Random(1)
    under_way, sent = {}, {}
    for seed in range(400):
        data = numbers(chance.randrange(1, 3000), seed)
        stream = connection.begin(INFER)
        under_way[stream], sent[stream] = infer(data), data
        while len(under_way) > 100 or (seed == 399 and under_way):
            stream = chance.choice(list(under_way))
            size = chance.randrange(1, 5000)
            rest = under_way[stream][size:]
            connection.upload(stream, under_way.pop(stream)[:size], is_ended=not rest)
            if rest:
                under_way[stream] = rest
    for stream, data in sent.items():
        check(connection.answer(stream), data)


def test_large_messages_mix_their_frames(connect):
    """Together they are larger than the window of the connection."""
    connection = connect()
    data = {connection.begin(INFER): numbers(MIB, seed) for seed in range(12)}
    body = {stream: infer(one) for stream, one in data.items()}
    for at in range(0, 5 * MIB, 50_000):
        for stream, one in body.items():
            if at < len(one):
                connection.upload(stream, one[at : at + 50_000], is_ended=at + 50_000 >= len(one))
    for stream, one in data.items():
        check(connection.answer(stream), one)


@pytest.mark.parametrize("size", (16_384, MIB))
def test_a_large_message_comes_and_goes(connect, size):
    connection = connect({MAX_FRAME_SIZE: size})
    connection.synchronize()
    assert connection.peer[MAX_FRAME_SIZE] >= MIB, "frames of tensors are large"
    answer = echo(connection, 4 * MIB, size)
    assert answer.largest <= size


def test_windows_are_sized_for_tensors(connect):
    connection = connect()
    stream = connection.open()
    connection.until(lambda: connection.may_send(stream) >= 4 * MIB, "the windows were that large")


def test_the_client_half_closes_its_connection(server):
    """A server may take it for the end of the connection, or answer what was asked; then it ends the connection."""
    with Connection(server) as connection:
        data = numbers(4)
        streams = [connection.begin(INFER) for _ in range(5)]
        for stream in streams:
            connection.upload(stream, infer(data, "slow"))
        connection.synchronize()
        connection.socket.shutdown(socket.SHUT_WR)
        assert connection.end() in (None, NO_ERROR)
        over = [connection.answers[stream] for stream in streams if connection.answers[stream].is_over]
        for answer in over:
            check(answer, data)
        assert len(over) in (0, len(streams))
    until(lambda: is_quiet(server), "the calls to be over")


def test_a_client_says_that_it_leaves(connect):
    connection = connect()
    data = numbers(4)
    streams = [connection.begin(INFER) for _ in range(3)]
    for stream in streams:
        connection.upload(stream, infer(data, "slow"))
    connection.send(frame(GOAWAY, 0, 0, bytes(8) + b"bye"))
    for stream in streams:
        check(connection.answer(stream), data)


# === windows and settings of the client ===


def test_a_response_waits_for_the_window_of_its_call(connect):
    connection = connect({INITIAL_WINDOW_SIZE: 1})
    data, stream = numbers(1000), connection.begin(INFER)
    connection.upload(stream, infer(data))
    answer = connection.answers[stream]
    for bytes_so_far in range(1, 5):
        connection.until(lambda: len(answer.data) == bytes_so_far, "the window was used")
        connection.synchronize()
        assert len(answer.data) == bytes_so_far and answer.largest == 1
        connection.widen(stream, 1)
    connection.set({INITIAL_WINDOW_SIZE: 100})
    connection.until(lambda: len(answer.data) == 5 + 99, "the window was used")
    connection.set({INITIAL_WINDOW_SIZE: LARGE})
    check(connection.answer(stream), data)
    echo(connection, 10_000)


def test_a_window_may_be_negative(connect):
    connection = connect({INITIAL_WINDOW_SIZE: 1000})
    data, stream = numbers(1000), connection.begin(INFER)
    connection.upload(stream, infer(data))
    answer = connection.answers[stream]
    connection.until(lambda: len(answer.data) == 1000, "the window was used")
    connection.set({INITIAL_WINDOW_SIZE: 10})
    connection.synchronize()
    connection.widen(stream, 990)
    for _ in range(2):
        connection.synchronize()
    assert len(answer.data) == 1000
    connection.widen(stream, 5)
    connection.until(lambda: len(answer.data) == 1005, "the window was used")
    connection.set({INITIAL_WINDOW_SIZE: LARGE})
    check(connection.answer(stream), data)


def test_the_last_of_several_values_counts(connect):
    """h2spec asks for this where a response has a body."""
    connection = connect()
    connection.synchronize()
    connection.unacknowledged.append({INITIAL_WINDOW_SIZE: 1})
    connection.send(frame(SETTINGS, 0, 0, settings({INITIAL_WINDOW_SIZE: 100}) + settings({INITIAL_WINDOW_SIZE: 1})))
    data, stream = numbers(1000), connection.begin(INFER)
    connection.upload(stream, infer(data))
    connection.until(lambda: len(connection.answers[stream].data) == 1, "the window was used")
    connection.synchronize()
    assert len(connection.answers[stream].data) == 1


def test_responses_share_the_window_of_the_connection(connect):
    connection = connect(window=WINDOW)
    data = numbers(10_000)
    streams = [connection.begin(INFER) for _ in range(4)]
    for stream in streams:
        connection.upload(stream, infer(data))
    connection.until(lambda: connection.receive_windows[0] == 0, "the window was used")
    for _ in range(2):
        connection.synchronize()
    # one is given up, the others get what is left for it
    connection.reset(streams[0])
    connection.widen(0, LARGE)
    for stream in streams[1:]:
        check(connection.answer(stream), data)


def test_a_response_without_a_body_needs_no_window(connect):
    connection = connect({INITIAL_WINDOW_SIZE: 0}, window=WINDOW)
    stream = connection.begin(NOBODYS, is_ended=True)
    assert connection.answer(stream).status == UNIMPLEMENTED


@pytest.mark.parametrize("size", (16_384, 16_385, 100_000, (1 << 24) - 1))
def test_frames_are_no_larger_than_the_client_permits(connect, size):
    connection = connect({MAX_FRAME_SIZE: size})
    connection.synchronize()
    assert echo(connection, MIB // 2).largest <= size  # the connection checks it as well


@pytest.mark.parametrize("size", (0, 50, 100, 4096, LARGEST))
def test_headers_are_written_for_the_table_of_the_client(connect, size):
    connection = connect({HEADER_TABLE_SIZE: size})
    connection.synchronize()
    for _ in range(3):
        echo(connection)
        stream = connection.begin(NOBODYS, is_ended=True)
        assert connection.answer(stream).status == UNIMPLEMENTED
        connection.set({HEADER_TABLE_SIZE: 0})
        connection.set({HEADER_TABLE_SIZE: size})
        connection.synchronize()
        assert sum(len(name) + len(value) + 32 for name, value in connection.reader.table) <= size


# === calls that end early ===


def test_what_is_no_call_of_grpc_has_a_status_of_http(connect):
    connection = connect()
    stream = connection.open()
    block = fields([(":method", "POST"), (":scheme", connection.scheme), (":path", INFER), (":authority", "x"), ("content-type", "application/json")])
    connection.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, block))
    answer = connection.answer(stream)
    assert (answer.head[":status"], answer.is_ended, bytes(answer.data)) == ("415", True, b"")


def test_a_method_that_is_not_there_is_answered_with_headers_alone(connect):
    connection = connect()
    stream = connection.begin(NOBODYS, is_ended=True)
    answer = connection.answer(stream)
    assert (answer.head[":status"], answer.status, answer.trailers, bytes(answer.data)) == ("200", UNIMPLEMENTED, None, b"")


def test_a_request_without_a_message_is_an_error(connect):
    connection = connect()
    for is_ended in (True, False):
        stream = connection.begin(INFER, is_ended=is_ended)
        if not is_ended:
            connection.upload(stream, infer(numbers(100))[:-1])
        answer = connection.answer(stream)
        assert answer.head[":status"] == "200" and answer.status not in (None, OK)


def test_a_deadline_ends_a_call(connect):
    connection = connect()
    stream = connection.begin(INFER, [("grpc-timeout", "50m")])
    connection.upload(stream, infer(numbers(4), "slow"))
    assert connection.answer(stream).status == DEADLINE_EXCEEDED
    # one whose request never comes
    stream = connection.begin(INFER, [("grpc-timeout", "50m")])
    assert connection.answer(stream).status == DEADLINE_EXCEEDED
    echo(connection)


def test_data_for_calls_that_are_over_takes_nothing_from_others(connect):
    """The client sends on for calls that are answered already, far more than the window of the connection holds."""
    connection = connect()
    connection.synchronize()
    window = connection.send_windows[0]
    for _ in range(window // MIB + 5):
        stream = connection.begin(NOBODYS)
        for number in range(64):
            while connection.may_send(stream) < 16_384:
                assert connection.read() is not None
            connection.account(stream, 16_384)
            connection.send(frame(DATA, END_STREAM if number == 63 else 0, stream, bytes(16_384)))
        connection.until(lambda: connection.answers[stream].is_over, "the call was answered")  # noqa: B023
        assert connection.answers[stream].status == UNIMPLEMENTED
    echo(connection, MIB)


def test_frames_for_calls_that_are_over_disturb_nobody(connect):
    connection = connect()
    for _ in range(3):
        stream = connection.begin(INFER)
        connection.upload(stream, infer(numbers(4)))
        connection.answer(stream)
        connection.send(frame(WINDOW_UPDATE, 0, stream, b"\0\0\0\1"), frame(PRIORITY, 0, stream, b"\0\0\0\0\0"))
        connection.reset(stream)
        echo(connection)


def test_data_behind_a_reset_is_wrong(connect):
    """RFC 9113, section 5.1: the client knows that it has given the call up. Others are served unless the connection ends."""
    connection = connect()
    stream = connection.begin(INFER)
    connection.reset(stream)
    connection.send(frame(DATA, END_STREAM, stream, b"late"))
    connection.set({})
    while connection.unacknowledged and connection.read() is not None:
        pass
    if connection.unacknowledged:
        assert connection.goaways[-1][1] == STREAM_CLOSED
    else:
        assert connection.answers[stream].reset in (None, STREAM_CLOSED)
        echo(connection)


def test_many_calls_that_are_given_up_at_once_are_no_attack(server):
    """The deadlines of all that wait for one model may expire together."""
    with Connection(server) as connection:
        for _ in range(2):
            streams = [connection.begin(INFER) for _ in range(3000)]
            body = infer(numbers(4), "slow")
            connection.send(*(frame(DATA, END_STREAM, stream, body) for stream in streams))
            for stream in streams:
                connection.account(stream, len(body))
            until(lambda: pending(server, "slow") >= 2990, "the requests to wait")
            connection.send(*(frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big")) for stream in streams))
            until(lambda: pending(server, "slow") == 0, "the requests to be given up")
            echo(connection)


def test_uploads_that_are_given_up_hold_no_memory(small):
    with Connection(small) as connection:
        for _ in range(30):
            stream = connection.begin(INFER)
            connection.upload(stream, infer(numbers(MIB))[: 3 * MIB], is_ended=False)
            connection.reset(stream)
        echo(connection, MIB)


def test_more_than_the_memory_for_requests_is_refused_and_holds_nobody_up(small):
    """All are answered, also those that wait for windows of the connection behind others; what is refused says so."""
    with Connection(small) as connection:
        body, streams = infer(numbers(MIB)), [connection.begin(INFER) for _ in range(8)]
        left = dict.fromkeys(streams, body)
        while left:
            for stream, rest in list(left.items()):
                while connection.may_send(stream) < 16_384 and not connection.answers[stream].is_over:
                    assert connection.read() is not None
                if connection.answers[stream].is_over or len(rest) <= 16_384:
                    del left[stream]
                else:
                    left[stream] = rest[16_384:]
                if not connection.answers[stream].is_over:
                    connection.upload(stream, rest[:16_384], is_ended=len(rest) <= 16_384)
        statuses = {connection.answer(stream).status for stream in streams}
        assert OK in statuses and statuses <= {OK, RESOURCE_EXHAUSTED, UNAVAILABLE}
        echo(connection, MIB)


def test_a_response_that_is_given_up_ends(connect):
    """The model has one instance, which sends responses until its reader has left."""
    connection = connect()
    for _ in range(3):
        stream = connection.begin(STREAM_INFER)
        connection.upload(stream, endless(), is_ended=False)
        answer = connection.answers[stream]
        connection.until(lambda: len(answer.data) > 100_000, "responses came")  # noqa: B023
        connection.reset(stream)
        connection.synchronize()
        count = len(answer.data)
        connection.synchronize()
        assert len(answer.data) == count
    echo(connection)


# === what ends a connection ===


def test_a_frame_that_is_too_large_ends_the_connection(connect):
    connection = connect()
    connection.synchronize()
    stream = connection.begin(INFER)
    length = connection.peer[MAX_FRAME_SIZE] + 1
    connection.send(length.to_bytes(3, "big") + bytes([DATA, 0]) + stream.to_bytes(4, "big"))
    assert connection.end() == FRAME_SIZE_ERROR


def test_more_data_than_the_window_permits_is_an_error(small):
    connection = Connection(small)
    connection.synchronize()
    stream = connection.begin(INFER)
    assert connection.may_send(stream) < MIB
    connection.send(frame(DATA, 0, stream, infer(numbers(MIB))[:MIB]))
    connection.set({})
    while connection.answers[stream].reset is None and connection.read() is not None:
        pass
    assert FLOW_CONTROL_ERROR in (connection.answers[stream].reset, *(code for _, code in connection.goaways))
    check_others_are_served(small)


@pytest.mark.parametrize("wrong", ("no preface", "another preface", "HTTP/1.1"))
def test_what_does_not_begin_like_http2_is_closed(server, wrong):
    said = {"no preface": frame(SETTINGS, 0, 0) * 10, "another preface": PREFACE[:-1] + b"?", "HTTP/1.1": b"POST / HTTP/1.1\r\nHost: x\r\n\r\n"}[wrong]
    with Connection(server, is_started=False) as connection:
        connection.send(said)
        connection.end()


# === limits ===


def test_there_are_so_many_calls_and_no_more(server):
    with Connection(server) as connection:
        connection.synchronize()
        most = connection.peer[MAX_CONCURRENT_STREAMS]
        streams = [connection.begin(INFER) for _ in range(most)]
        connection.synchronize()
        refused = connection.begin(INFER, is_ended=True)
        assert connection.answer(refused).reset == REFUSED_STREAM
        assert not any(connection.answers[one].is_over for one in streams)
        for stream in streams[:100]:
            connection.reset(stream)
        connection.synchronize()
        echo(connection)
        data = numbers(4)
        for stream in streams[100:200]:
            connection.upload(stream, infer(data))
            check(connection.answer(stream), data)
    until(lambda: is_quiet(server), "the calls to be over")


def large_headers(connection, how):
    """What a call has besides its own fields, or what is added to the table and how often it is named."""
    if how == "one field":
        return call_fields(LIVE, [("x-large", "x" * 300_000)], connection.scheme)
    if how == "many fields":
        return call_fields(LIVE, [(f"x-{number}", "x" * 100) for number in range(3000)], connection.scheme)
    return call_fields(LIVE, scheme=connection.scheme) + fields([("x-large", "x" * 4000)], 0x40) + b"\xbe" * 100_000


@pytest.mark.parametrize("how", ("one field", "many fields", "one field of the table again and again"))
def test_headers_that_are_too_large_are_refused(connect, server, how):
    connection = connect()
    connection.synchronize()
    stream = connection.open()
    connection.send(frame(HEADERS, END_HEADERS, stream, large_headers(connection, how)), frame(DATA, END_STREAM, stream, b"\0\0\0\0\0"))
    answer = connection.answers[stream]
    while not answer.is_over and connection.read() is not None:
        pass
    if answer.is_ended:
        assert (answer.head[":status"], answer.status) == ("200", RESOURCE_EXHAUSTED)
        assert "metadata size exceeds hard limit (16384 bytes" in unquote(answer.head["grpc-message"])
    elif answer.reset is None:
        assert connection.end() in (ENHANCE_YOUR_CALM, FRAME_SIZE_ERROR)
    if answer.is_over:
        echo(connection)
    check_others_are_served(server)


def test_large_headers_within_the_limit_are_taken(connect):
    echo(connect(), more=[(f"x-{number}", "x" * 1000) for number in range(8)])


# === floods ===


class Flood:
    """A client that sends the same again and again, and reads what comes unless it `is_deaf`; meanwhile others are served."""

    def __init__(self, server, make_part, limit, *, is_deaf=False):
        self.server, self.make_part, self.limit, self.is_deaf = server, make_part, limit, is_deaf
        self.connection, self.sent, self.errors = Connection(server), 0, []

    def run(self):
        before = most = memory(self.server.process.pid, "RssAnon")
        self.connection.synchronize()  # nothing else is sent by the reader then
        # where nobody reads what is answered, a server is right to read no more
        self.connection.socket.settimeout(scaled(3 if self.is_deaf else 60))
        threads = [threading.Thread(target=self.catch, args=(work,)) for work in ([self.write] if self.is_deaf else [self.write, self.connection.end])]
        for thread in threads:
            thread.start()
        while threads[0].is_alive():
            check_others_are_served(self.server)
            most = max(most, memory(self.server.process.pid, "RssAnon"))
        with contextlib.suppress(OSError):
            self.connection.socket.shutdown(socket.SHUT_WR)
        for thread in threads:
            thread.join()
        self.connection.close()
        assert not self.errors, self.errors
        assert most < before + SLACK, f"{most - before} MiB more"
        until(lambda: is_quiet(self.server), "the calls to be over")
        check_others_are_served(self.server)
        return self

    def catch(self, work):
        try:
            work()
        except TimeoutError as error:
            self.errors += [] if self.is_deaf else [error]
        except Exception as error:  # noqa: BLE001
            self.errors.append(error)

    def write(self):
        while self.sent < self.limit and not self.connection.is_broken:
            part = self.make_part(self.connection)
            self.connection.send(part)
            self.sent += len(part)


def resets(connection):
    said = []
    for _ in range(100):
        stream = connection.open()
        said += [frame(HEADERS, END_HEADERS | END_STREAM, stream, call_fields(INFER)), frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big"))]
    return b"".join(said)


def resets_of_requests(connection):
    said = []
    for _ in range(100):
        stream = connection.open()
        said += [frame(HEADERS, END_HEADERS, stream, call_fields(INFER)), frame(DATA, END_STREAM, stream, infer(bytes(16), "slow"))]
        said.append(frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big")))
    return b"".join(said)


def made_resets(connection):
    """Calls that the server has to reset."""
    said = []
    for _ in range(100):
        stream = connection.open()
        said += [frame(HEADERS, END_HEADERS, stream, call_fields(INFER)), frame(DATA, END_STREAM, stream, infer(bytes(16), "slow"))]
        said.append(frame(WINDOW_UPDATE, 0, stream, bytes(4)))
    return b"".join(said)


def unknown_methods(connection):
    return b"".join(frame(HEADERS, END_HEADERS | END_STREAM, connection.open(), call_fields(NOBODYS)) for _ in range(100))


def many_settings(connection, count, values):
    connection.unacknowledged += [{}] * count
    return frame(SETTINGS, 0, 0, values) * count


FLOODS_OF_CALLS = {
    "calls that are reset at once": resets,
    "requests that are reset at once": resets_of_requests,
    "calls that the server has to reset": made_resets,
    "calls of a method that is not there": unknown_methods,
}
FLOODS_OF_FRAMES = {
    "settings": lambda connection: many_settings(connection, 1000, b""),
    "settings with many values": lambda connection: many_settings(connection, 4, settings({INITIAL_WINDOW_SIZE: LARGE}) * 2000),
    "acknowledgements of pings": lambda _: frame(PING, ACK, 0, bytes(8)) * 1000,
    "priorities": lambda _: frame(PRIORITY, 0, 1, b"\0\0\0\0\x10") * 1000,
    "frames that nobody knows": lambda _: frame(0xEE, 0, 0) * 1000,
    "window updates": lambda _: frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1") * 1000,
}


@pytest.mark.parametrize("kind", FLOODS_OF_CALLS)
def test_a_flood_of_calls_disturbs_nobody(server, kind):
    """The connection may go on or end: a server may have enough of what comes to nothing."""
    Flood(server, FLOODS_OF_CALLS[kind], 6 * MIB).run()


@pytest.mark.parametrize("kind", FLOODS_OF_FRAMES)
def test_a_flood_of_frames_disturbs_nobody(server, kind):
    Flood(server, FLOODS_OF_FRAMES[kind], MIB).run()


@pytest.mark.parametrize("kind", ("empty", "padding", "one byte"))
def test_a_flood_of_data_disturbs_nobody(server, kind):
    """For a call whose message never comes."""
    payload = {"empty": frame(DATA, 0, 1), "padding": frame(DATA, PADDED, 1, b"\0"), "one byte": frame(DATA, 0, 1, b"\0")}[kind]

    def part(connection):
        if not connection.answers:
            return frame(HEADERS, END_HEADERS, connection.open(), call_fields(INFER)) + frame(DATA, 0, 1, b"\0\x7f\0\0\0")
        if kind == "one byte":
            until(lambda: connection.may_send(1) > 1000 or connection.is_broken, "a window")
            connection.account(1, 1000)
        return payload * 1000

    Flood(server, part, 6 * MIB).run()


@pytest.mark.parametrize("payload", (b"", fields([("x", "y")]), fields([("x", "y" * 16_000)])), ids=("empty", "small", "large"))
def test_headers_without_end_end_the_connection(server, payload):
    def part(connection):
        if not connection.answers:
            return frame(HEADERS, 0, connection.open(), call_fields(INFER))
        return frame(CONTINUATION, 0, 1, payload) * max(1, 16_384 // (len(payload) + 9))

    flood = Flood(server, part, 64 * MIB).run()
    assert flood.sent < 32 * MIB
    assert [code for _, code in flood.connection.goaways] in ([], [ENHANCE_YOUR_CALM])


@pytest.mark.parametrize("kind", ("settings", "calls of a method that is not there"))
def test_a_flood_by_a_client_that_reads_nothing_fills_no_memory(server, kind):
    Flood(server, (FLOODS_OF_CALLS | FLOODS_OF_FRAMES)[kind], 48 * MIB, is_deaf=True).run()


def test_pings_that_are_permitted_fill_no_memory(models):
    flags = ["--grpc-keepalive-permit-without-calls=true", "--grpc-http2-min-recv-ping-interval-without-data=0", "--grpc-http2-max-ping-strikes=0"]
    with Server(models, *flags) as server:
        Flood(server, lambda _: frame(PING, 0, 0, bytes(8)) * 1000, MIB).run()
        Flood(server, lambda _: frame(PING, 0, 0, bytes(8)) * 1000, 48 * MIB, is_deaf=True).run()


# === clients that do not read ===


@pytest.mark.parametrize("how", ("no window", "no window of the connection", "an unread socket"))
def test_responses_that_nobody_reads_wait_in_the_model(server, how):
    """A model that would send for hours: what waits is bounded, and others are served."""
    before = memory(server.process.pid, "RssAnon")
    values = {INITIAL_WINDOW_SIZE: 0} if how == "no window" else {}
    with Connection(server, values, window=WINDOW if how == "no window of the connection" else LARGE) as connection:
        connection.synchronize()
        streams = [connection.begin(STREAM_INFER) for _ in range(8)]
        for stream in streams:
            connection.upload(stream, endless(), is_ended=False)
        most = before
        for _ in range(200):
            check_others_are_served(server)
            most = max(most, memory(server.process.pid, "RssAnon"))
        assert most < before + SLACK, f"{most - before} MiB more"
        if how == "no window":
            connection.synchronize()
            assert not any(connection.answers[one].data for one in streams)
            connection.set({INITIAL_WINDOW_SIZE: LARGE})
            first = connection.answers[streams[0]]
            connection.until(lambda: len(first.data) > MIB, "responses came")
    check_others_are_served(server)


def test_large_responses_that_nobody_reads_are_let_go_with_the_connection(server):
    before = memory(server.process.pid, "RssAnon")
    with Connection(server, {INITIAL_WINDOW_SIZE: 0}) as connection:
        connection.synchronize()
        body = infer(numbers(MIB // 4))
        for _ in range(64):
            connection.upload(connection.begin(INFER), body)
        connection.until(lambda: all(one.head for one in connection.answers.values()), "the calls were answered")
        check_others_are_served(server)
    until(lambda: memory(server.process.pid, "RssAnon") < before + SLACK, "the memory to be given back")


# === the end of a connection ===


def test_a_server_that_stops_answers_first(models):
    with Server(models) as server, Connection(server) as connection:
        data, streams = numbers(4), [connection.begin(INFER) for _ in range(3)]
        for stream in streams:
            connection.upload(stream, infer(data, "slow"))
        until(lambda: pending(server, "slow") == 2, "one to run and the others to wait")
        server.process.send_signal(signal.SIGTERM)
        for stream in streams:
            check(connection.answer(stream), data)
        assert connection.end() == NO_ERROR
        assert connection.goaways[-1][0] >= streams[-1]


def test_an_old_connection_ends_after_its_calls(models):
    """It says twice that it leaves: what comes between is served."""
    with Server(models, "--grpc-max-connection-age=1000") as server, Connection(server) as connection:
        data, first = numbers(4), connection.begin(STREAM_INFER)
        connection.until(lambda: connection.goaways, "it was asked to leave")
        assert connection.goaways == [(LARGEST, NO_ERROR)]
        second = connection.begin(INFER)
        connection.upload(second, infer(data, "slow"))
        check(connection.answer(second), data)
        connection.upload(first, b"")
        assert connection.answer(first).status == OK
        assert connection.end() == NO_ERROR
        assert len(connection.goaways) == 2 and connection.goaways[-1][0] == second


def test_an_old_connection_is_closed_after_the_grace(models):
    flags = ["--grpc-max-connection-age=200", "--grpc-max-connection-age-grace=200"]
    with Server(models, *flags) as server, Connection(server) as connection:
        stream = connection.begin(STREAM_INFER)
        connection.upload(stream, endless(), is_ended=False)
        assert connection.end() == NO_ERROR
        assert not connection.answers[stream].is_ended


def test_a_call_of_a_client_that_is_gone_is_given_up(server):
    for _ in range(3):
        with Connection(server) as connection:
            stream = connection.begin(STREAM_INFER)
            connection.upload(stream, endless(), is_ended=False)
            connection.until(lambda: connection.answers[stream].data, "responses came")  # noqa: B023
    until(lambda: is_quiet(server), "the calls to be over")
