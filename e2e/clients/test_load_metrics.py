"""What a server tells of its load on the metrics page: how long requests wait and how busy instances are, for every way of scheduling,
and also while nothing ends. Autoscalers go by it."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import decoupled
import ensembles
import make
import numpy as np
import pytest
import python_model
import sequences
from tritonclient.utils import InferenceServerException

import pages
from serving import Server, scaled, until
from talking import connect, tensor

SLOW = 1.5  # seconds that one execution of a slow model takes
FAMILIES = ("queue_time_us", "queue_exits", "queue_oldest_age_us", "busy_us", "instances")
NO_QUEUE = ("ensemble",)


def identity(folder, name, seconds, batching="", count=1, more=""):
    config = f"""backend: "identity" max_batch_size: 1 {batching} {more}
        input {{ name: "INPUT0" data_type: TYPE_INT32 dims: -1 }} output {{ name: "OUTPUT0" data_type: TYPE_INT32 dims: -1 }}
        instance_group {{ count: {count} kind: KIND_CPU }}
        parameters {{ key: "execute_delay_ms" value {{ string_value: "{int(seconds * 1000)}" }} }}"""
    make.write(folder, name, config, {1: None})


@pytest.fixture(scope="module")
def server(folder):
    identity(folder, "single", SLOW)
    identity(folder, "batched", SLOW, "dynamic_batching { }")
    identity(folder, "hasty", SLOW, "dynamic_batching { default_queue_policy { default_timeout_microseconds: 200000 } }")
    identity(folder, "bounded", SLOW, "dynamic_batching { default_queue_policy { max_queue_size: 1 } }")
    identity(folder, "two", 0.2, count=2)
    identity(folder, "quick", 0)
    identity(folder, "reloaded", 0.01)
    sleeps = f"""
    import time
    class TritonPythonModel:
        def execute(self, requests):
            time.sleep({SLOW})
            return [pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", request.inputs()[0].as_numpy())]) for request in requests]
    """
    python_model.write(folder, "python", sleeps, python_model.tensors(["INPUT0 INT32 -1"], ["OUTPUT0 INT32 -1"], batch=1))
    full = f"direct {{ }} {sequences.controls('START', 'READY')} max_sequence_idle_microseconds: 600000000"
    sequences.sums(folder, "sequences", full, batch=1)
    oldest = f"oldest {{ max_candidate_sequences: 4 }} {sequences.controls('START', 'READY', identity='UINT64')}"
    sequences.sums(folder, "oldest", f"{oldest} max_sequence_idle_microseconds: 600000000", batch=1, delay_ms=int(SLOW * 1000))
    whole = [("INPUT0", "INT32", [-1])], [("OUTPUT0", "INT32", [-1])]
    ensembles.ensemble(folder, "ensemble", 1, *whole, [ensembles.step("quick", {"INPUT0": "INPUT0"}, {"OUTPUT0": "OUTPUT0"})])
    decoupled.repeat(folder, "decoupled", "")
    with Server(folder, "--model-control-mode=explicit", "--load-model=*") as running:
        yield running


def load(server, model, version="1"):
    """The families by their short names; None where the page has none of them."""
    page = pages.read(server.request("GET", "/metrics", port=server.metrics)[2].decode())
    found = {name: page.find(f"tritonserver_{name}", model=model, version=version) for name in FAMILIES}
    assert len({len(series) for series in found.values()}) == 1, found
    return {name: next(iter(series.values())) for name, series in found.items()} if found["busy_us"] else None


@contextlib.contextmanager
def asking(server, model, count, **options):
    """`count` requests at the same time; gives their futures, and waits for them at the end."""
    def ask(_):
        with contextlib.closing(connect("grpc", server)) as client:
            return client.infer(model, [tensor("grpc", "INPUT0", np.array([[1]], np.int32), "INT32")], **options)

    with ThreadPoolExecutor(count) as pool:
        yield [pool.submit(ask, at) for at in range(count)]


@pytest.mark.parametrize("model", ["single", "batched", "python"])
def test_a_model_that_stands_still_shows_between_two_pages(server, model):
    before = load(server, model)
    assert before["queue_oldest_age_us"] == 0 and before["instances"] == 1
    with asking(server, model, 3):
        until(lambda: load(server, model)["queue_oldest_age_us"] > 0 and load(server, model)["queue_exits"] > before["queue_exits"], "two wait")
        began = time.monotonic()
        one = load(server, model)
        time.sleep(0.2)  # what is measured is time
        two = load(server, model)
        took = (time.monotonic() - began) * 1e6
        if two["queue_exits"] == one["queue_exits"]:  # else a busy machine let the execution end between the pages
            grown = {name: two[name] - one[name] for name in FAMILIES}
            assert 150_000 < grown["queue_oldest_age_us"] <= took and 150_000 < grown["busy_us"] <= took, (one, two)
            waiting = two["queue_exits"] - before["queue_exits"]
            assert 150_000 < grown["queue_time_us"] <= took * (3 - waiting), (one, two)
    after = load(server, model)
    assert after["queue_exits"] - before["queue_exits"] == 3 and after["queue_oldest_age_us"] == 0
    assert after["queue_time_us"] - before["queue_time_us"] > 2 * SLOW * 1e6  # one waited for one execution, one for two
    assert after["busy_us"] - before["busy_us"] >= 3 * SLOW * 1e6 * 0.99
    assert load(server, model) == after, "nothing counts while nothing waits"


def test_requests_that_expire_or_are_refused_leave_the_queue_or_never_enter_it(server):
    before = load(server, "hasty")
    with asking(server, "hasty", 4) as requests:
        ended = [request.exception() for request in requests]
    assert sum(isinstance(error, InferenceServerException) for error in ended) == 3
    after = load(server, "hasty")
    assert after["queue_exits"] - before["queue_exits"] == 4 and after["queue_oldest_age_us"] == 0
    before = load(server, "bounded")
    with asking(server, "bounded", 5) as requests:
        refused = sum(request.exception() is not None for request in requests)
    after = load(server, "bounded")
    assert refused > 0 and after["queue_exits"] - before["queue_exits"] == 5 - refused


def test_requests_whose_callers_left_do_not_age(server):
    before = load(server, "batched")
    with asking(server, "batched", 3, client_timeout=0.3) as requests:
        assert all(request.exception() is not None for request in requests)
    until(lambda: load(server, "batched")["queue_exits"] - before["queue_exits"] == 3, "all have left the queue")
    assert load(server, "batched")["queue_oldest_age_us"] == 0


def test_busy_time_is_that_of_all_instances(server):
    before = load(server, "two")
    assert before["instances"] == 2
    with asking(server, "two", 4):
        pass
    busy = load(server, "two")["busy_us"] - before["busy_us"]
    assert 4 * 0.2e6 * 0.99 <= busy < scaled(3e6)


def test_quick_requests_that_nobody_is_woken_for_count_too(server):
    before = load(server, "quick")
    with contextlib.closing(connect("http", server)) as client:
        for _ in range(50):
            client.infer("quick", [tensor("http", "INPUT0", np.array([[1]], np.int32), "INT32")])
    after = load(server, "quick")
    assert after["queue_exits"] - before["queue_exits"] == 50 and after["busy_us"] > before["busy_us"]
    assert load(server, "quick") == after


def number(client, model, sequence, **flags):
    value = tensor("grpc", "INPUT", np.array([[1]], np.int32), "INT32")
    return client.infer(model, [value], sequence_id=sequence, **flags)


def test_sequences_that_wait_for_a_slot_age(server):
    with contextlib.closing(connect("grpc", server)) as one, contextlib.closing(connect("grpc", server)) as other:
        number(one, "sequences", 1, sequence_start=True)
        before = load(server, "sequences")
        with ThreadPoolExecutor(1) as pool:
            waits = pool.submit(number, other, "sequences", 2, sequence_start=True, sequence_end=True)
            until(lambda: load(server, "sequences")["queue_oldest_age_us"] > 100_000, "the second sequence waits for the slot of the first")
            during = load(server, "sequences")
            assert during["queue_time_us"] - before["queue_time_us"] >= 100_000 and during["queue_exits"] == before["queue_exits"]
            number(one, "sequences", 1, sequence_end=True)
            waits.result(scaled(10))
    after = load(server, "sequences")
    assert after["queue_exits"] - before["queue_exits"] == 2 and after["queue_oldest_age_us"] == 0


def test_a_candidate_sequence_is_as_old_as_its_request(server):
    with ThreadPoolExecutor(3) as pool, contextlib.closing(connect("grpc", server)) as client:
        ends = {"sequence_start": True, "sequence_end": True}
        requests = [pool.submit(number, client, "oldest", sequence, **ends) for sequence in (1, 2, 3)]
        until(lambda: load(server, "oldest")["queue_oldest_age_us"] > 0.5e6, "one of them waits for the executions of the others")
        assert all(request.result(scaled(20)) for request in requests)
    assert load(server, "oldest")["queue_oldest_age_us"] == 0


def test_series_go_on_over_a_reload_and_end_with_the_model(server):
    with contextlib.closing(connect("http", server)) as client:
        ask = lambda: client.infer("reloaded", [tensor("http", "INPUT0", np.array([[1]], np.int32), "INT32")])  # noqa: E731
        for _ in range(5):
            ask()
        before = load(server, "reloaded")
        client.load_model("reloaded", config='{"backend": "identity", "max_batch_size": 1, "parameters": {"execute_delay_ms": {"string_value": "20"}},'
                          ' "input": [{"name": "INPUT0", "data_type": "TYPE_INT32", "dims": [-1]}],'
                          ' "output": [{"name": "OUTPUT0", "data_type": "TYPE_INT32", "dims": [-1]}]}')
        ask()
        after = load(server, "reloaded")
        assert after["queue_exits"] - before["queue_exits"] == 1 and after["busy_us"] - before["busy_us"] >= 19_000
        client.unload_model("reloaded")
        until(lambda: load(server, "reloaded") is None, "a model that is gone has no series")


def test_an_ensemble_has_no_queue_of_its_own(server):
    with asking(server, "ensemble", 2) as requests:
        assert all(request.result() for request in requests)
    assert all(load(server, model) is None for model in NO_QUEUE)
    assert load(server, "decoupled") is not None
