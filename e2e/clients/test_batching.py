"""Dynamic batching as a client can watch it: through the statistics of the model."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import make
import numpy as np
import pytest

from serving import Server, scaled
from talking import PROTOCOLS, add_one, connect, statistics, tensor


DELAY = 3  # seconds: of the model `long_delay`


@pytest.fixture(scope="module")
def server(folder):
    make.shapes(folder)
    make.bench(folder)
    with Server(folder) as running:
        yield running


def together(server, protocol, calls):
    """Runs all calls at the same time, each on a thread and a connection of its own; returns their results in order."""
    start = threading.Barrier(len(calls))

    def run(call):
        client = connect(protocol, server)
        client.is_server_live()  # the connection stands before the clock starts
        start.wait(scaled(30))
        return call(client)

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def batches(server, model):
    """How many executions there have been of each batch size."""
    stats = statistics(connect("http", server), model)[0]
    return {one["batch_size"]: one["compute_infer"]["count"] for one in stats["batch_stats"]}


def grown(before, after):
    return {size: count - before.get(size, 0) for size, count in after.items() if count != before.get(size, 0)}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_preferred_size_leaves_at_once_and_as_one(server, protocol):
    before, start = batches(server, "long_delay"), time.monotonic()
    numbers = together(server, protocol, [lambda client: add_one(protocol, client, "long_delay")] * 8)
    taken = time.monotonic() - start
    assert numbers == [1] * 8
    now = grown(before, batches(server, "long_delay"))
    assert sum(size * count for size, count in now.items()) == 8
    assert max(now) >= 4, f"requests sent together share a batch: {now}"
    assert taken < DELAY


def test_a_lone_request_waits_its_delay_and_no_longer(server):
    client = connect("http", server)
    before, start = batches(server, "long_delay"), time.monotonic()
    assert add_one("http", client, "long_delay") == 1
    taken = time.monotonic() - start
    assert grown(before, batches(server, "long_delay")) == {1: 1}
    assert DELAY <= taken < DELAY + scaled(10), f"the delay of the model is {DELAY} s, the answer took {taken:.3f} s"


def test_a_request_that_fills_the_batch_does_not_wait(server):
    client, start = connect("http", server), time.monotonic()
    assert add_one("http", client, "long_delay", rows=8) == 1
    assert time.monotonic() - start < DELAY


def test_requests_with_rows_add_up_to_one_batch(server):
    before = batches(server, "long_delay")
    together(server, "grpc", [lambda client: add_one("grpc", client, "long_delay", rows=3), lambda client: add_one("grpc", client, "long_delay", rows=1)])
    assert grown(before, batches(server, "long_delay")) == {4: 1}


def test_each_caller_gets_its_own_rows_back(server):
    before = batches(server, "long_delay")

    def call(number):
        def ask(client):
            data = np.full((1 + number % 2, 4), number, np.float32)
            answer = client.infer("long_delay", [tensor("http", "INPUT0", data, "FP32")]).as_numpy("OUTPUT0")
            return np.array_equal(answer, data + 1)

        return ask

    assert all(together(server, "http", [call(number) for number in range(12)]))
    now = grown(before, batches(server, "long_delay"))
    assert sum(size * count for size, count in now.items()) == 18 and max(now) <= 8


def test_shapes_that_differ_do_not_share_a_batch(server):
    before = batches(server, "ragged_rows")

    def call(rows):
        def ask(client):
            data = np.random.default_rng(rows).random((1, rows, 3), np.float32)
            return np.array_equal(client.infer("ragged_rows", [tensor("http", "INPUT0", data, "FP32")]).as_numpy("OUTPUT0"), data + 1)

        return ask

    assert all(together(server, "http", [call(1 + number % 3) for number in range(9)]))
    now = grown(before, batches(server, "ragged_rows"))
    assert sum(size * count for size, count in now.items()) == 9 and max(now) <= 3


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_under_load_batches_form_and_every_answer_is_right(server, protocol):
    callers, each = 32, 40
    features = np.random.default_rng(5).random((callers, 50), np.float32)
    client = connect(protocol, server)
    expected = [client.infer("mlp", [tensor(protocol, "features", features[n : n + 1], "FP32")]).as_numpy("prediction") for n in range(callers)]
    before = statistics(client, "mlp_batched")[0]

    def call(number):
        def ask(own):
            inputs = [tensor(protocol, "features", features[number : number + 1], "FP32")]
            answers = [own.infer("mlp_batched", inputs).as_numpy("prediction") for _ in range(each)]
            return all(np.allclose(answer, expected[number], rtol=1e-5) for answer in answers)

        return ask

    assert all(together(server, protocol, [call(number) for number in range(callers)]))
    after = statistics(client, "mlp_batched")[0]
    requests = after["inference_count"] - before.get("inference_count", 0)
    executions = after["execution_count"] - before.get("execution_count", 0)
    assert requests == callers * each
    assert executions < requests, "at least some requests shared a batch"
