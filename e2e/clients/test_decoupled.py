"""Decoupled models with the real clients: streams over gRPC, events over HTTP, errors in the middle, clients that cancel, die or do not read."""

import asyncio
import http.client
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time

import decoupled
import grpc
import make
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as grpcaio
import tritonclient.http as httpclient
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from serving import ROOT, Server, scaled, until
from talking import connect, statistics

MINUTE = 60_000  # milliseconds
MILLISECOND = 1_000_000  # nanoseconds
MANY = 1_000_000_000


@pytest.fixture(scope="module")
def server(folder):
    decoupled.repeat(folder)
    decoupled.square(folder)
    decoupled.square(folder, "partly", fail_count=2, empty_count=1, infer_delay_ns=10 * MILLISECOND, output_delay_ns=5 * MILLISECOND)
    decoupled.square(folder, "slow_to_stop", infer_delay_ns=20 * MILLISECOND, cancel_delay_ns=50 * MILLISECOND)
    decoupled.iterative(folder)
    decoupled.iterative(folder, "iterative_direct", "direct { }")
    make.identity_of(folder, "ordinary", [-1], "INT32")
    with Server(folder) as running:
        yield running


# === requests ===


def words(name, values, kind):
    array = np.array(values, dtype=kind)
    made = grpcclient.InferInput(name, list(array.shape), {np.int32: "INT32", np.uint32: "UINT32"}[kind])
    made.set_data_from_numpy(array)
    return made


def repeat(delays, wait=0):
    """The values from 10 on, each after its delay."""
    return [words("IN", range(10, 10 + len(delays)), np.int32), words("DELAY", delays, np.uint32), words("WAIT", [wait], np.uint32)]


def square(value):
    return [words("IN", [value], np.int32)]


class Stream:
    """A client with its stream open; what comes back is in a queue, as (result, error)."""

    def __init__(self, server):
        self.answers = queue.Queue()
        self.client = grpcclient.InferenceServerClient(server.grpc_url)
        self.client.start_stream(callback=lambda result, error: self.answers.put((result, error)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.stop_stream()
        self.client.close()

    def send(self, model, inputs, **options):
        self.client.async_stream_infer(model, inputs, **options)

    def next(self):
        """(id, value, is final) of the next response; the error's text as value, None where there is no tensor."""
        result, error = self.answers.get(timeout=scaled(30))
        if error is not None:
            return None, error.message(), None
        response = result.get_response()
        outputs = [one.name for one in response.outputs if one.name.startswith("OUT")]
        out = result.as_numpy(outputs[0]) if outputs and response.model_name != "ordinary" else None
        return response.id, None if out is None else int(out.flat[0]), response.parameters["triton_final_response"].bool_param

    def all_of(self, count):
        return [self.next() for _ in range(count)]


def stat(server, model, protocol="http"):
    return statistics(connect(protocol, server), model)[0]


def in_flight(server):
    """Threads of the server: those that answer over time belong to instances, not to requests."""
    return len(os.listdir(f"/proc/{server.process.pid}/task"))


def cancelled(server, model):
    return sum(one.get("cancel", {}).get("count", 0) for one in stat(server, model).get("response_stats", {}).values())


# === streams over gRPC ===


def test_responses_come_in_order_and_the_end_alone_only_to_who_asks_for_it(server):
    with Stream(server) as stream:
        stream.send("repeat", repeat([0, 20, 0]), request_id="a")
        assert stream.all_of(3) == [("a", 10, False), ("a", 11, False), ("a", 12, False)]
        stream.send("repeat", repeat([0, 0]), request_id="b", enable_empty_final_response=True)
        assert stream.all_of(3) == [("b", 10, False), ("b", 11, False), ("b", None, True)]
        stream.send("repeat", repeat([]), request_id="c", enable_empty_final_response=True)
        assert stream.next() == ("c", None, True)
        stream.send("repeat", repeat([]), request_id="d")
        # an ordinary model marks its only response; behind the empty request, which says nothing
        data = np.arange(3, dtype=np.int32)
        tensor = grpcclient.InferInput("INPUT0", [3], "INT32")
        tensor.set_data_from_numpy(data)
        stream.send("ordinary", [tensor], request_id="e", enable_empty_final_response=True)
        assert stream.next() == ("e", None, True)
        assert stream.answers.empty()


def test_requests_of_one_stream_are_answered_side_by_side(server):
    with Stream(server) as stream:
        stream.send("repeat", repeat([200, 200]), request_id="slow")
        stream.send("repeat", repeat([0] * 300), request_id="many")
        stream.send("square", square(3), request_id="other")
        answers = stream.all_of(305)
        of = {name: [value for one, value, _ in answers if one == name] for name in ("slow", "many", "other")}
        assert of == {"slow": [10, 11], "many": list(range(10, 310)), "other": [3, 3, 3]}
        assert [one for one, *_ in answers[-2:]] == ["slow", "slow"]


def test_an_error_of_one_response_leaves_the_request_and_the_stream_going(server):
    before = stat(server, "partly")["inference_stats"]["success"]["count"]
    with Stream(server) as stream:
        stream.send("partly", square(5), request_id="p", enable_empty_final_response=True)
        assert stream.all_of(2) == [("p", 5, False)] * 2
        assert [stream.next()[1] for _ in range(2)] == ["simulated failure"] * 2
        assert stream.next()[1:] == (None, True)
        stream.send("square", square(1), request_id="q")
        assert stream.next() == ("q", 1, False)
        stream.send("unknown", square(1), request_id="r")
        assert "unknown model: 'unknown'" in stream.next()[1]
    assert stat(server, "partly")["inference_stats"]["success"]["count"] == before + 1


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_statistics_tell_responses_by_their_number(server, protocol):
    with Server(server_folder(server), "--model-control-mode=explicit", "--load-model=partly") as fresh:
        with Stream(fresh) as stream:
            for _ in range(2):
                stream.send("partly", square(4), enable_empty_final_response=True)
                stream.all_of(4)
        all_of = stat(fresh, "partly", protocol)["response_stats"]
        assert sorted(all_of) == ["0", "1", "2", "3"], "the end is no response"
        count = lambda number, what: all_of[number].get(what, {}).get("count", 0)  # noqa: E731
        kinds = ("compute_infer", "compute_output", "success", "fail", "empty_response", "cancel")
        assert {number: [count(number, kind) for kind in kinds] for number in all_of} == {
            "0": [2, 2, 2, 0, 0, 0],
            "1": [2, 2, 0, 2, 0, 0],
            "2": [2, 2, 0, 2, 0, 0],
            "3": [2, 0, 0, 0, 2, 0],
        }
        for number in "012":
            assert all_of[number]["compute_infer"]["ns"] >= 20 * MILLISECOND and all_of[number]["compute_output"]["ns"] >= 10 * MILLISECOND
            done = all_of[number]["success" if number == "0" else "fail"]["ns"]
            assert done == all_of[number]["compute_infer"]["ns"] + all_of[number]["compute_output"]["ns"]
        assert all_of["3"]["empty_response"]["ns"] == all_of["3"]["compute_infer"]["ns"]


def server_folder(server):
    """The repository of a running server."""
    return next(word.split("=", 1)[1] for word in server.argv if word.startswith("--model-repository="))


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_calls_for_one_response_are_refused(server, protocol):
    text = {"http": "HTTP end point doesn't support models with decoupled transaction policy", "grpc": "ModelInfer RPC doesn't support models with decoupled transaction policy"}
    module = __import__(f"tritonclient.{protocol}", fromlist=["InferInput"])
    tensor = module.InferInput("IN", [1], "INT32")
    tensor.set_data_from_numpy(np.array([1], np.int32))
    with pytest.raises(InferenceServerException, match=text[protocol]) as error:
        connect(protocol, server).infer("square", [tensor])
    assert error.value.status() == {"http": "501", "grpc": "StatusCode.UNIMPLEMENTED"}[protocol]


# === iterative sequences: each request waits in the queue between two responses ===


def count_down(value):
    return [words("INPUT", [[value]], np.int32)]


@pytest.mark.parametrize("model", ["iterative", "iterative_direct"])
def test_a_request_takes_turns_until_its_model_has_said_all(server, model):
    with Stream(server) as stream:
        for number in range(6):  # more than the model has slots
            stream.send(model, count_down(20 + number), request_id=str(number), enable_empty_final_response=True)
        answers = stream.all_of(sum(20 + number + 1 for number in range(6)))
        for number in range(6):
            of = [(value, is_final) for one, value, is_final in answers if one == str(number)]
            assert of == [(value, False) for value in range(19 + number, -1, -1)] + [(None, True)]
    _, answer = post(server, f"/v2/models/{model}/generate_stream", {"INPUT": 3})
    assert [event["OUTPUT"] for event in events(answer)] == [2, 1, 0]
    before = cancelled(server, model)
    with Stream(server) as stream:
        stream.send(model, count_down(MANY))
        assert stream.next()[1] == MANY - 1
        stream.client.stop_stream(cancel_requests=True)
        until(lambda: cancelled(server, model) == before + 1, "the request to end", 20)


@pytest.mark.parametrize("model", ["iterative", "iterative_direct"])
def test_a_reader_that_stops_holds_up_no_other_sequence(server, model):
    with socket.create_connection(("127.0.0.1", server.http)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = json.dumps({"INPUT": MANY})
        slow.sendall(f"POST /v2/models/{model}/generate_stream HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        count = lambda: stat(server, model)["execution_count"]
        behind = [count()]
        until(lambda: len(behind) > 3 and len(set(behind[-3:])) == 1 or behind.append(count()), "it waits for its reader", 20)
        with Stream(server) as stream:
            stream.send(model, count_down(2), request_id="other", enable_empty_final_response=True)
            assert [stream.next() for _ in range(3)] == [("other", 1, False), ("other", 0, False), ("other", None, True)]


@pytest.mark.parametrize("model", ["iterative", "iterative_direct"])
def test_a_request_that_names_its_sequence_starts_it(server, model):
    with Stream(server) as stream:
        for start in (True, False):
            stream.client.async_stream_infer(model, count_down(1), request_id="own", sequence_id=55, sequence_start=start)
        answers = {text for _, text, _ in stream.all_of(2)}
    start = "must specify the START flag on the first request of the sequence"
    assert answers == {0, f"inference request for sequence 55 to model '{model}' {start}"}


# === cancelling ===


def test_a_cancelled_stream_stops_its_models(server):
    before = {model: cancelled(server, model) for model in ("repeat", "square", "slow_to_stop")}
    with Stream(server) as stream:
        stream.send("repeat", repeat([0, MINUTE], wait=MINUTE), request_id="a")
        assert stream.next() == ("a", 10, False)
        stream.send("slow_to_stop", square(MANY), request_id="b")
        assert stream.next() == ("b", MANY, False)
        stream.send("square", square(MANY), request_id="c")
        assert stream.next()[0] in ("b", "c")
        stream.client.stop_stream(cancel_requests=True)
        for model, count in before.items():
            until(lambda: cancelled(server, model) == count + 1, f"{model} to hear that its caller has left", 20)
    ns = [one["cancel"]["ns"] for one in stat(server, "slow_to_stop")["response_stats"].values() if one["cancel"]["count"]]
    assert min(ns) >= 50 * MILLISECOND, "what cleaning up takes"
    failures = stat(server, "repeat")["inference_stats"]["fail"]["count"]
    assert failures >= 1
    # the only instance of the model is free, though its request asked to keep it for a minute
    with Stream(server) as stream:
        stream.send("repeat", repeat([0]))
        assert stream.next()[1] == 10


def test_the_asynchronous_client_reads_and_cancels(server):
    before = cancelled(server, "square")

    async def requests(*all_of):
        for model, inputs in all_of:  # this client has no option that asks for an empty final response
            yield {"model_name": model, "inputs": inputs, "request_id": model}

    async def read():
        async with grpcaio.InferenceServerClient(server.grpc_url) as client:
            got = []
            async for result, error in client.stream_infer(requests(("repeat", repeat([0, 30])), ("square", square(2)))):
                assert error is None
                response = result.get_response()
                got.append((response.id, response.parameters["triton_final_response"].bool_param))
            one = client.stream_infer(requests(("square", square(MANY))))
            async for result, error in one:
                assert error is None and result.as_numpy("OUT")[0] == MANY
                one.cancel()
                break
            return sorted(got)

    got = asyncio.run(asyncio.wait_for(read(), scaled(30)))
    assert got == [("repeat", False)] * 2 + [("square", False)] * 2
    until(lambda: cancelled(server, "square") == before + 1, "the cancelled request to end", 20)


HANGS_ON = """
import sys, time
import numpy as np
import tritonclient.grpc as grpcclient
client = grpcclient.InferenceServerClient(sys.argv[1])
client.start_stream(callback=lambda result, error: print("answered", flush=True))
def words(name, values, kind, text):
    made = grpcclient.InferInput(name, [len(values)], text)
    made.set_data_from_numpy(np.array(values, kind))
    return made
client.async_stream_infer("repeat", [words("IN", [1, 2], np.int32, "INT32"), words("DELAY", [0, 60000], np.uint32, "UINT32"), words("WAIT", [60000], np.uint32, "UINT32")])
time.sleep(600)
"""


def test_of_a_client_that_is_killed_nothing_stays(server):
    before, threads = cancelled(server, "repeat"), in_flight(server)
    program = subprocess.Popen([sys.executable, "-c", HANGS_ON, server.grpc_url], stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert program.stdout.readline() == b"answered\n"
    finally:
        program.send_signal(signal.SIGKILL)
        program.wait()
    until(lambda: cancelled(server, "repeat") == before + 1, "the request to end", 20)
    assert in_flight(server) <= threads + 4, "front ends may have grown, nothing else"


# === generate over HTTP ===


def post(server, path, body, timeout=30):
    connection = http.client.HTTPConnection("127.0.0.1", server.http, timeout=scaled(timeout))
    connection.request("POST", path, json.dumps(body))
    return connection, connection.getresponse()


def ask_repeat(delays):
    return {"IN": list(range(10, 10 + len(delays))), "DELAY": delays, "WAIT": 0}


def test_generate_gives_exactly_one_response(server):
    text = "generate expects model to produce exactly 1 response, use generate stream for model that generates various number of responses"
    _, answer = post(server, "/v2/models/square/generate", {"IN": 1, "id": "7"})
    assert (answer.status, json.loads(answer.read())) == (200, {"model_name": "square", "model_version": "1", "id": "7", "OUT": 1})
    for delays in ([], [0, 0], [0, 0, MINUTE]):
        _, answer = post(server, "/v2/models/repeat/generate", ask_repeat(delays))
        assert (answer.status, json.loads(answer.read())) == (500, {"error": text})


def events(answer):
    """The events as they come."""
    for line in answer:
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


def test_events_come_when_the_model_gives_them(server):
    sent_at = time.monotonic()
    _, answer = post(server, "/v2/models/repeat/generate_stream", ask_repeat([0, 300, 0]))
    assert (answer.status, answer.getheader("Content-Type")) == (200, "text/event-stream; charset=utf-8")
    got, when = [], []
    for event in events(answer):
        got.append((event["OUT"], event["IDX"], event["model_name"]))
        when.append(time.monotonic() - sent_at)
    assert got == [(10, 0, "repeat"), (11, 1, "repeat"), (12, 2, "repeat")]
    assert when[0] < 0.3 <= when[1]
    _, none = post(server, "/v2/models/repeat/generate_stream", ask_repeat([]))
    assert (none.status, none.read()) == (200, b"")


def test_an_error_is_an_event_and_the_status_is_that_of_the_first(server):
    _, answer = post(server, "/v2/models/partly/generate_stream", {"IN": 4})
    assert answer.status == 200
    assert list(events(answer)) == [{"model_name": "partly", "model_version": "1", "OUT": 4}] + [{"error": "simulated failure"}] * 2
    _, answer = post(server, "/v2/models/partly/generate_stream", {"IN": 3})
    assert (answer.status, list(events(answer))) == (400, [{"error": "simulated failure"}] * 2)


@pytest.mark.parametrize("how", ["between two events", "while it waits for the first"])
def test_a_client_that_hangs_up_cancels_its_request(server, how):
    before = cancelled(server, "repeat")
    if how == "between two events":
        connection, answer = post(server, "/v2/models/repeat/generate_stream", ask_repeat([0, MINUTE]))
        assert next(events(answer))["OUT"] == 10
        answer.close()
        connection.close()
    else:
        body = json.dumps(ask_repeat([MINUTE])).encode()
        with socket.create_connection(("127.0.0.1", server.http), scaled(10)) as client:
            client.sendall(b"POST /v2/models/repeat/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            client.settimeout(scaled(10))
            client.shutdown(socket.SHUT_WR)
            assert client.recv(20).startswith(b"HTTP/1.1 100"), "half-closed clients are asked whether they are there"
    until(lambda: cancelled(server, "repeat") == before + 1, "the request to end", 20)


# === readers that stop ===


def resident(server):
    """Megabytes."""
    return next(int(line.split()[1]) for line in open(f"/proc/{server.process.pid}/status") if line.startswith("VmRSS:")) / 1024


def open_without_reading(server):
    """A request for a thousand million events, of which nobody reads any."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", server.http))
    body = b'{"IN":%d}' % MANY
    client.sendall(b"POST /v2/models/square/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    return client


def sent(server):
    return sum(one["success"]["count"] for one in stat(server, "square")["response_stats"].values())


def test_readers_that_stop_make_their_model_wait_and_take_little_memory(server):
    before, memory = cancelled(server, "square"), resident(server)
    readers = [open_without_reading(server) for _ in range(20)]
    with Stream(server) as stream:
        # a stream whose callback never returns does not read either
        blocked = grpcclient.InferenceServerClient(server.grpc_url)
        reading, is_over = queue.Queue(), threading.Event()
        blocked.start_stream(callback=lambda result, error: is_over.is_set() or reading.get())
        try:
            blocked.async_stream_infer("square", square(MANY))
            counts = []
            until(lambda: counts.append(sent(server)) or (len(counts) > 5 and len(set(counts[-5:])) == 1), "the model to wait", 60)
            assert resident(server) - memory < 150
            stream.send("square", square(3), request_id="other")
            assert stream.all_of(3) == [("other", 3, False)] * 3
            for reader in readers:
                reader.close()
            until(lambda: cancelled(server, "square") >= before + len(readers), "their requests to end", 40)
            # the one that reads again goes on where it was
            for _ in range(100_000):
                reading.put(None)
            until(lambda: sent(server) > counts[-1] + 1000, "the model to go on", 30)
            blocked.stop_stream(cancel_requests=True)
        finally:
            # a client whose stream waits for its callback would hang whichever test is running when it is collected
            is_over.set()
            reading.put(None)
            blocked.stop_stream(cancel_requests=True)
    until(lambda: cancelled(server, "square") == before + len(readers) + 1, "the last one to end", 20)


def test_streams_whose_answers_nobody_reads_hold_no_other_call_on_their_connection_up(server):
    """Behind a proxy the calls of all its clients share a connection."""

    def requests():
        for _ in range(100):
            inputs = [{"name": "INPUT0", "datatype": "INT32", "shape": [250_000]}]
            yield service_pb2.ModelInferRequest(model_name="ordinary", inputs=inputs, raw_input_contents=[bytes(1_000_000)])

    observer = httpclient.InferenceServerClient(f"127.0.0.1:{server.http}")
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(server.grpc_url, options) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        streams = [stub.ModelStreamInfer(requests()) for _ in range(8)]
        executed, ended = 0, time.monotonic() + scaled(30)
        # until nothing more is taken from any of them
        while (now := statistics(observer, "ordinary")[0]["inference_count"]) != executed or now == 0:
            assert time.monotonic() < ended, "the streams go on"
            executed = now
            time.sleep(0.5)
        for _ in range(5):
            stub.ModelInfer(next(requests()), timeout=scaled(10))
        for stream in streams:
            stream.cancel()
