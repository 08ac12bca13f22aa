"""Sequences with the real clients: over HTTP, gRPC unary and streams; direct and oldest, backlog, silence, identities, implicit state."""

import asyncio
import concurrent.futures
import queue
import time

import decoupled
import make
import numpy as np
import pytest
import sequences
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as grpcaio
import tritonclient.http.aio as httpaio
from tritonclient.utils import InferenceServerException

from serving import Server, scaled, until
from talking import PROTOCOLS, connect, statistics, tensor

LONG = "max_sequence_idle_microseconds: 600000000"
SHORT = "max_sequence_idle_microseconds: 300000"
DIRECT = f"direct {{ }} {sequences.controls('START', 'READY')}"
OLDEST = f"oldest {{ max_candidate_sequences: 4 }} {sequences.controls('START', 'READY', identity='UINT64')}"
MODELS = ("direct", "oldest")


@pytest.fixture(scope="module")
def server(folder):
    for name, batching in zip(MODELS, (DIRECT, OLDEST)):
        sequences.sums(folder, name, f"{batching} {LONG}", instances=2)
        sequences.sums(folder, f"{name}_full", f"{batching} {LONG}")
        sequences.sums(folder, f"{name}_hasty", f"{batching} {SHORT}")
        sequences.sums(folder, f"{name}_slow", f"{batching} {LONG}", delay_ms=100)
        sequences.stateful(folder, f"state_{name}", "direct { }" if name == "direct" else "oldest { max_candidate_sequences: 4 }", instances=2)
    decoupled.repeat(folder, "repeat_direct", "sequence_batching { direct { } }\n")
    decoupled.repeat(folder, "repeat_oldest", "sequence_batching { oldest { max_candidate_sequences: 4 } }\n")
    sequences.sums(folder, "one", f"{DIRECT} {LONG}", batch=0)
    named = f"oldest {{ }} {sequences.controls('START', 'READY', 'END', identity='STRING')} {LONG}"
    sequences.sums(folder, "named", named)
    make.identity_of(folder, "ordinary", [-1], "INT32")
    with Server(folder) as running:
        yield running


def value(protocol, number, shape=(1, 1)):
    return [tensor(protocol, "INPUT", np.full(shape, number, np.int32), "INT32")]


def ask(client, protocol, model, number, sequence, flags="", shape=(1, 1), **options):
    """Sends one number of a sequence; `S` and `E` among the flags mark the first and the last one."""
    result = client.infer(
        model, value(protocol, number, shape), sequence_id=sequence, sequence_start="S" in flags, sequence_end="E" in flags, **options
    )
    return int(result.as_numpy("OUTPUT").flat[0])


def flags_of(step, count):
    return ("S" if step == 0 else "") + ("E" if step == count - 1 else "")


def refusal(client, protocol, *arguments, **options):
    with pytest.raises(InferenceServerException) as caught:
        ask(client, protocol, *arguments, **options)
    return caught.value.message()


# === what every sequence does ===


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("model", (*MODELS, "one"))
def test_sums_start_go_on_and_end(server, protocol, model):
    client = connect(protocol, server)
    shape = (1,) if model == "one" else (1, 1)
    sums = [ask(client, protocol, model, number, 7, flags, shape) for number, flags in ((1, "S"), (2, ""), (5, "S"), (6, ""), (3, "E"))]
    assert sums == [1, 3, 5, 11, 14]
    assert f"sequence 7 for model '{model}' has a conflict. The previous sequence did not end before" in server.log()
    start = "must specify the START flag on the first request of the sequence"
    assert refusal(client, protocol, model, 1, 7, "", shape) == f"inference request for sequence 7 to model '{model}' {start}"
    assert ask(client, protocol, model, 9, 7, "SE", shape) == 9


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_no_sequence_takes_is_refused(server, protocol):
    client = connect(protocol, server)
    for model in MODELS:
        no_identity = f"inference request to model '{model}' must specify a non-zero or non-empty correlation ID"
        assert refusal(client, protocol, model, 1, 0, "S") == no_identity
        assert refusal(client, protocol, model, 1, "", "S") == no_identity
        rows = f"inference request to model '{model}' must specify batch-size 1 due to requirements of sequence batcher"
        assert refusal(client, protocol, model, 1, 5, "S", (2, 1)) == rows
    kinds = "sequence batching control 'CORRID' data-type is 'BYTES', but model 'oldest' expects 'UINT64'"
    assert refusal(client, protocol, "oldest", 1, "text", "S") == f"[request id: <id_unknown>] {kinds}"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_identities_may_be_text(server, protocol):
    client = connect(protocol, server)
    assert [ask(client, protocol, "direct", number, "one of many", flags) for number, flags in ((1, "S"), (2, "E"))] == [1, 3]
    # the last answer of this backend has the identity added, if it is a number
    assert [ask(client, protocol, "named", number, "1000", flags) for number, flags in ((1, "S"), (2, ""), (3, "E"))] == [1, 3, 1006]
    assert [ask(client, protocol, "named", number, "x" * 128, flags) for number, flags in ((1, "S"), (2, "E"))] == [1, 3]
    largest = 2**64 - 1
    if protocol == "http":
        assert [ask(client, protocol, "oldest", number, largest, flags) for number, flags in ((1, "S"), (2, "E"))] == [1, 3]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("model", MODELS)
def test_many_sequences_at_once_do_not_mix(server, protocol, model):
    first = {"http": 1000, "grpc": 2000}[protocol]

    def run(sequence):
        client = connect(protocol, server)
        total = 0
        for step in range(12):
            total += sequence + step
            assert ask(client, protocol, model, sequence + step, sequence, flags_of(step, 12)) == total

    with concurrent.futures.ThreadPoolExecutor(24) as pool:  # three times as many as there are slots
        list(pool.map(run, range(first, first + 24)))


def test_asynchronous_clients(server):
    async def run(client, module, model, sequence):
        total = 0
        for step in range(8):
            total += step
            inputs = [module.InferInput("INPUT", [1, 1], "INT32")]
            inputs[0].set_data_from_numpy(np.full((1, 1), step, np.int32))
            last = step == 7
            result = await client.infer(model, inputs, sequence_id=sequence, sequence_start=step == 0, sequence_end=last)
            assert int(result.as_numpy("OUTPUT").flat[0]) == total

    async def all_of_them():
        http, grpc = httpaio.InferenceServerClient(server.url), grpcaio.InferenceServerClient(server.grpc_url)
        both = ((http, httpaio), (grpc, grpcaio))
        runs = [run(client, module, model, 3000 + 20 * place + k) for place, (client, module) in enumerate(both) for model in MODELS for k in range(6)]
        await asyncio.gather(*runs)
        await http.close()
        await grpc.close()

    asyncio.run(all_of_them())


# === streams ===


class Stream:
    """A client with its stream open; answers are (request id, sum) or the text of an error."""

    def __init__(self, server):
        self.answers = queue.Queue()
        self.client = grpcclient.InferenceServerClient(server.grpc_url)
        self.client.start_stream(callback=lambda result, error: self.answers.put((result, error)))

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.client.stop_stream(cancel_requests=kind is not None)  # a test that failed may have left sequences that wait for ever
        self.client.close()

    def send(self, model, number, sequence, flags="", name="", **options):
        marks = {"sequence_id": sequence, "sequence_start": "S" in flags, "sequence_end": "E" in flags}
        self.client.async_stream_infer(model, value("grpc", number), request_id=name, **marks, **options)

    def next(self):
        result, error = self.answers.get(timeout=scaled(30))
        return error.message() if error else (result.get_response().id, int(result.as_numpy("OUTPUT").flat[0]))


@pytest.mark.parametrize("model", MODELS)
def test_a_stream_carries_many_sequences_without_waiting_for_answers(server, model):
    with Stream(server) as stream:
        expect = []
        for step in range(10):
            for sequence in (4001, 4002, 4003):
                stream.send(model, sequence + step, sequence, flags_of(step, 10), f"{sequence} {step}")
                expect.append((f"{sequence} {step}", sum(sequence + k for k in range(step + 1))))
        stream.send(model, 1, 4001, "", "late")
        answers = [stream.next() for _ in expect]
        assert answers == expect  # in the order of the requests
        assert "must specify the START flag" in stream.next()


@pytest.mark.parametrize("model", MODELS)
def test_the_ends_of_sequences_are_read_however_many_wait_for_them(server, model):
    with Stream(server) as stream:
        sequences_of = range(5000, 6500)
        for flags in ("S", "E"):
            for sequence in sequences_of:
                stream.send(f"{model}_full", 1, sequence, flags)
        assert [stream.next()[1] for _ in sequences_of] + [stream.next()[1] for _ in sequences_of] == [1] * 1500 + [2] * 1500


# === slots, backlog, silence ===


@pytest.mark.parametrize("model", MODELS)
def test_sequences_without_a_slot_wait_and_time_out_as_a_whole(server, model):
    full = f"{model}_full"
    with Stream(server) as stream:
        client = connect("http", server)
        for sequence in range(1, 5):
            ask(client, "http", full, 1, sequence, "S")
        stream.send(full, 10, 11, "S", "waits")
        stream.send(full, 20, 12, "S", "hasty", timeout=200_000)
        stream.send(full, 20, 12, "", "with it")
        until(lambda: pending(server, full) == 3, "all three wait")
        expired = "timeout of the corresponding sequence has been expired"
        time.sleep(0.25)  # the timeout that is being tested
        until(lambda: pending(server, full) == 1, "the hasty ones are gone")
        assert ask(client, "http", full, 4, 3, "E") == 5
        assert stream.next() == ("waits", 10)
        assert [stream.next(), stream.next()] == [expired, expired]
        assert statistics(client, full)[0]["inference_stats"]["fail"]["count"] == 2
        for sequence in (1, 2, 4, 11):
            ask(client, "http", full, 0, sequence, "E")


def pending(server, model):
    page = server.request("GET", "/metrics", port=server.metrics)[2].decode()
    line = next(line for line in page.splitlines() if line.startswith(f'nv_inference_pending_request_count{{model="{model}"'))
    return int(line.rpartition(" ")[2])


@pytest.mark.parametrize("model", MODELS)
def test_a_silent_sequence_gives_its_slot_up(server, model):
    hasty = f"{model}_hasty"
    client = connect("http", server)
    for sequence in range(1, 5):
        ask(client, "http", hasty, 1, sequence, "S")
    began = time.monotonic()
    assert ask(client, "http", hasty, 5, 5, "SE") == 5  # nobody ended: it got the slot of one that was silent
    assert 0.2 < time.monotonic() - began < scaled(10)
    assert "must specify the START flag" in refusal(client, "http", hasty, 1, 1)


@pytest.mark.parametrize("model", MODELS)
def test_a_long_execution_is_no_silence(server, folder, model):
    name = f"{model}_long"
    sequences.sums(folder, name, f"{DIRECT if model == 'direct' else OLDEST} max_sequence_idle_microseconds: 100000", delay_ms=250)
    with Server(folder, "--model-control-mode=explicit", f"--load-model={name}") as other:
        client = connect("http", other)
        assert [ask(client, "http", name, 1, 7, flags) for flags in ("S", "", "E")] == [1, 2, 3]


@pytest.mark.parametrize("model", MODELS)
def test_a_client_that_leaves_does_not_end_its_sequence(server, model):
    slow = f"{model}_slow"
    client = connect("grpc", server)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, connect("grpc", server), "grpc", slow, 1, 7, "S")
        until(lambda: client_sees(client, slow), "it began")
        with pytest.raises(InferenceServerException):
            ask(client, "grpc", slow, 100, 7, client_timeout=0.01)
        assert first.result() == 1
    assert ask(client, "grpc", slow, 2, 7, "E") in (3, 103)  # whether it was taken back in time, the sequence goes on
    assert "must specify the START flag" in refusal(client, "grpc", slow, 1, 7)


def client_sees(client, model):
    try:
        ask(client, "grpc", model, 0, 7)
    except InferenceServerException:
        return False
    return True


def test_rows_that_hold_no_request_are_not_counted(server):
    client = connect("http", server)
    before = statistics(client, "direct_full")[0]
    for sequence in range(1, 5):
        ask(client, "http", "direct_full", 1, sequence, "S")
    for sequence in range(1, 5):
        ask(client, "http", "direct_full", 1, sequence, "E")
    after = statistics(client, "direct_full")[0]
    assert after["inference_count"] - before["inference_count"] == 8
    assert after["execution_count"] - before["execution_count"] == 8
    assert {one["batch_size"] for one in after["batch_stats"]} >= {1, 2, 3, 4}  # the row of a sequence says how large its batch is


@pytest.mark.parametrize("model", MODELS)
def test_an_unload_finishes_what_waits_and_forgets_the_rest(server, folder, model):
    name = f"{model}_unloaded"
    sequences.sums(folder, name, f"{DIRECT if model == 'direct' else OLDEST} {LONG}", delay_ms=20)
    with Server(folder, "--model-control-mode=explicit", f"--load-model={name}") as other:
        client = connect("http", other)
        with Stream(other) as stream:
            for sequence in range(1, 9):  # twice as many as there are slots
                stream.send(name, sequence, sequence, "S", str(sequence))
            until(lambda: pending(other, name) > 0 and statistics(client, name)[0]["execution_count"] > 0, "some run, some wait")
            client.unload_model(name)
            assert [stream.next() for _ in range(8)] == [(str(sequence), sequence) for sequence in range(1, 9)]
        client.load_model(name)
        assert "must specify the START flag" in refusal(client, "http", name, 1, 1)


@pytest.mark.parametrize("model", MODELS)
def test_callers_that_give_up_while_their_sequences_wait_block_nobody(server, model):
    full = f"{model}_full"
    client = connect("grpc", server)
    for sequence in range(1, 5):
        ask(client, "grpc", full, 1, sequence, "S")
    for sequence in range(21, 24):
        with pytest.raises(InferenceServerException):
            ask(client, "grpc", full, 1, sequence, "S", client_timeout=0.05)
    until(lambda: pending(server, full) == 0, "they are gone")
    assert "must specify the START flag" in refusal(client, "grpc", full, 1, 21)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waits = pool.submit(ask, connect("grpc", server), "grpc", full, 5, 30, "SE")
        ask(client, "grpc", full, 1, 1, "E")
        assert waits.result() == 5
    for sequence in range(2, 5):
        ask(client, "grpc", full, 1, sequence, "E")


# === models that answer several times ===


@pytest.mark.parametrize("model", MODELS)
def test_a_decoupled_model_has_one_request_of_a_sequence_at_a_time(server, model):
    answers = queue.Queue()
    client = grpcclient.InferenceServerClient(server.grpc_url)
    client.start_stream(callback=lambda result, error: answers.put((result, error)))

    def send(name, delays, sequence, flags):
        words = [np.arange(10, 10 + len(delays), dtype=np.int32), np.array(delays, np.uint32), np.zeros(1, np.uint32)]
        inputs = [tensor("grpc", label, array, kind) for label, array, kind in zip(("IN", "DELAY", "WAIT"), words, ("INT32", "UINT32", "UINT32"))]
        marks = {"sequence_id": sequence, "sequence_start": "S" in flags, "sequence_end": "E" in flags}
        client.async_stream_infer(f"repeat_{model}", inputs, request_id=name, **marks)

    def next_one():
        result, error = answers.get(timeout=scaled(30))
        assert error is None, error
        return result.get_response().id, int(result.as_numpy("OUT").flat[0])

    send("first", [100, 100], 5, "S")  # its instance is free at once, the request goes on
    send("second", [100, 0], 5, "E")
    send("other", [0], 6, "SE")
    answers_seen = [next_one() for _ in range(5)]
    assert [one for one in answers_seen if one[0] != "other"] == [("first", 10), ("first", 11), ("second", 10), ("second", 11)]
    # direct has one slot here, so the other sequence waits for the end of this one; oldest has more
    runs_beside = answers_seen.index(("other", 10)) < answers_seen.index(("first", 11))
    assert runs_beside == (model == "oldest"), answers_seen
    client.stop_stream()
    client.close()


# === implicit state ===


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("model", MODELS)
def test_states_are_kept_for_every_sequence_and_grow(server, protocol, model):
    name = f"state_{model}"
    first = {"http": 100, "grpc": 200}[protocol]

    def run(sequence):
        client = connect(protocol, server)
        for step in range(6):
            flags = flags_of(step, 6)
            result = client.infer(
                name, value(protocol, sequence + step), sequence_id=sequence, sequence_start="S" in flags, sequence_end="E" in flags
            )
            seen = [sequence + k for k in range(step + 1)]
            assert int(result.as_numpy("OUTPUT").flat[0]) == sum(seen)
            assert result.as_numpy("SEEN_OUT").tolist() == [[-1, -2, *seen]]
            assert result.as_numpy("SUM_OUT") is None  # no output of the configuration

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        list(pool.map(run, range(first, first + 12)))


def test_a_state_is_no_output_that_can_be_asked_for(server):
    client = connect("grpc", server)
    with pytest.raises(InferenceServerException, match="unexpected inference output 'SUM_OUT' for model 'state_direct'"):
        client.infer("state_direct", value("grpc", 1), outputs=[grpcclient.InferRequestedOutput("SUM_OUT")], sequence_id=9, sequence_start=True)


# === switches for tests ===


def test_schedulers_wait_for_requests_when_asked_to(folder):
    sequences.sums(folder, "held", f"{DIRECT} {LONG}")
    switches = {"TRITONSERVER_DELAY_SCHEDULER": "4", "TRITONSERVER_BACKLOG_DELAY_SCHEDULER": "2"}
    with Server(folder, "--model-control-mode=explicit", "--load-model=held", env=switches) as server, Stream(server) as stream:
        for sequence in range(1, 6):
            stream.send("held", sequence, sequence, "S", str(sequence))
        until(lambda: pending(server, "held") == 5, "all wait")
        assert stream.answers.empty()
        stream.send("held", 6, 6, "SE", "6")
        assert [stream.next() for _ in range(4)] == [(str(sequence), sequence) for sequence in range(1, 5)]
        assert "Delaying scheduler thread held_0_0 until 4 queued requests, current total = 0" in server.log()
        batches = statistics(connect("http", server), "held")[0]["batch_stats"]
        assert [one["batch_size"] for one in batches] == [4]
        for sequence in (1, 2):
            stream.send("held", 0, sequence, "E", f"{sequence} ends")
        assert {stream.next() for _ in range(4)} == {("5", 5), ("6", 6), ("1 ends", 1), ("2 ends", 2)}
