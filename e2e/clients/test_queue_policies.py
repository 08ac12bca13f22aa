"""Queue policies and batching of the dynamic batcher, with the real clients. The models are built-in ones that take a configured time, and
one server is held (TRITONSERVER_DELAY_SCHEDULER) until four requests wait: what comes first is the test's to say, not the machine's."""

import time
from concurrent.futures import ThreadPoolExecutor

import make
import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

import pages
from serving import Server, scaled, until
from talking import PROTOCOLS, connect, statistics, tensor

SECOND = 1_000_000  # microseconds, the unit of timeouts
HELD = 4  # requests


def model(folder, name, batching, delay_ms=0, batch=1, count=1, more=""):
    """An identity model, INPUT0 INT32 [-1], with this `dynamic_batching`; None leaves it out."""
    batching = "" if batching is None else f"dynamic_batching {{ {batching} }}"
    config = f"""backend: "identity" max_batch_size: {batch} {batching} {more}
        input {{ name: "INPUT0" data_type: TYPE_INT32 dims: -1 }} output {{ name: "OUTPUT0" data_type: TYPE_INT32 dims: -1 }}
        instance_group {{ count: {count} kind: KIND_CPU }}
        parameters {{ key: "execute_delay_ms" value {{ string_value: "{delay_ms}" }} }}"""
    make.write(folder, name, config, {1: None})


@pytest.fixture(scope="module")
def server(folder):
    """One instance each that takes a while: whoever comes second waits."""
    model(folder, "bounded", "default_queue_policy { max_queue_size: 2 }", 500)
    model(folder, "overrides", f"default_queue_policy {{ default_timeout_microseconds: {60 * SECOND} allow_timeout_override: true }}", 1000)
    model(folder, "fixed", f"default_queue_policy {{ default_timeout_microseconds: {SECOND // 5} }}", 500)
    model(folder, "unlimited", "default_queue_policy { allow_timeout_override: true }", 200)
    model(folder, "plain", None, 200)
    with Server(folder) as running:
        yield running


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    folder = tmp_path_factory.mktemp("held")
    model(folder, "levels", "priority_levels: 3 default_priority_level: 2", 100)
    model(folder, "delay", f"default_queue_policy {{ timeout_action: DELAY default_timeout_microseconds: {SECOND // 10} }}", 10)
    model(folder, "preferred", "preferred_batch_size: [ 2, 4 ] max_queue_delay_microseconds: 60000000", batch=8)
    model(folder, "pairs", "preferred_batch_size: 2 max_queue_delay_microseconds: 60000000", batch=8)
    model(folder, "shapes", "", batch=8)
    model(folder, "single_rows", "", batch=0)
    slower = 'parameters { key: "instance_wise_delay_multiplier" value { string_value: "10" } }'  # instance 1 takes ten times as long
    model(folder, "ordered", "preserve_ordering: true", 40, count=2, more=slower)
    model(folder, "unordered", "", 40, count=2, more=slower)
    with Server(folder, env={"TRITONSERVER_DELAY_SCHEDULER": str(HELD)}) as running:
        yield running


class Callers:
    """Sends requests to one model, each on a thread and a connection of its own, and notes when each answer came."""

    def __init__(self, server, name, protocol="http"):
        self.server, self.name, self.protocol = server, name, protocol
        self.pool, self.done = ThreadPoolExecutor(16), []

    def submit(self, values, **options):
        return self.pool.submit(self.ask, values, options)

    def send(self, values, **options):
        """Sends one and returns when it waits in the queue, or is answered."""
        waiting = self.pending()
        future = self.submit(values, **options)
        until(lambda: future.done() or self.pending() > waiting, f"request {values} waits")
        return future

    def send_busy(self):
        """Sends two: when this returns, the instance runs one of them and the other is the first of those that wait."""
        futures = [self.submit([-1]), self.submit([-1])]
        until(lambda: self.pending() == 1 or any(future.done() for future in futures), "one runs and one waits")
        return futures

    def ask(self, values, options):
        values = values if isinstance(values, list) else [values]
        data = np.array(values if self.name == "single_rows" else [values], np.int32)
        with connect(self.protocol, self.server) as client:
            try:
                answer = client.infer(self.name, [tensor(self.protocol, "INPUT0", data, "INT32")], **options).as_numpy("OUTPUT0").flatten().tolist()
            except InferenceServerException as error:
                answer = error
        self.done.append((values[0], time.monotonic()))
        return answer

    def pending(self):
        return self.metric("nv_inference_pending_request_count")

    def metric(self, name, **labels):
        page = pages.read(self.server.request("GET", "/metrics", port=self.server.metrics)[2].decode())
        return page.value(name, model=self.name, version="1", **labels)

    def failures(self):
        reasons = {reason: self.metric("nv_inference_request_failure", reason=reason) for reason in ("REJECTED", "CANCELED", "BACKEND", "OTHER")}
        return {reason: count for reason, count in reasons.items() if count}

    def order(self):
        return [value for value, _ in sorted(self.done, key=lambda one: one[1])]

    def batches(self):
        stats = statistics(connect("http", self.server), self.name)[0]
        return {one["batch_size"]: one["compute_infer"]["count"] for one in stats["batch_stats"]}


def refused(answer, text):
    assert isinstance(answer, InferenceServerException), answer
    assert text == answer.message(), answer
    assert answer.status() in ("503", "StatusCode.UNAVAILABLE"), answer.status()


# === what may wait, and how long ===


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_full_queue_refuses_and_counts_it(server, protocol):
    callers = Callers(server, "bounded", protocol)
    before = callers.failures().get("REJECTED", 0)
    inside = [*callers.send_busy(), callers.send(2)]
    refused(callers.submit(3, request_id="third").result(), "[request id: third] Exceeds maximum queue size")
    assert callers.pending() == 2 and callers.failures() == {"REJECTED": before + 1}
    fail = statistics(connect("http", server), "bounded")[0]["inference_stats"]["fail"]
    assert fail["count"] == 0, "what was not taken in did not fail"
    assert [future.result() for future in inside] == [[-1], [-1], [2]]
    assert callers.pending() == 0


def test_a_request_may_wait_shorter_than_the_default_and_hears_of_it_in_time(server):
    callers = Callers(server, "overrides")
    inside = callers.send_busy()
    start = time.monotonic()
    refused(callers.submit(1, timeout=SECOND // 50).result(), "Request timeout expired")
    assert time.monotonic() - start < 1, "it did not wait for the execution that was under way"
    assert callers.failures() == {"REJECTED": 1}
    longer = callers.send(2, timeout=3600 * SECOND)
    assert [future.result() for future in [*inside, longer]] == [[-1], [-1], [2]]


def test_without_leave_to_override_the_default_alone_counts(server):
    callers = Callers(server, "fixed")
    answers = [future.result() for future in callers.send_busy()]
    texts = [answer.message() for answer in answers if not isinstance(answer, list)]
    assert texts == ["Request timeout expired"], "the second waited longer than a fifth of a second"
    # A timeout that is longer, or shorter, than the default says nothing.
    run, late = callers.submit(1, timeout=60 * SECOND), callers.submit(1, timeout=60 * SECOND)
    assert sorted(isinstance(future.result(), list) for future in (run, late)) == [False, True]


@pytest.mark.parametrize("name", ["unlimited", "plain"])
def test_where_nothing_limits_the_wait_a_timeout_shortens_nothing(server, name):
    callers = Callers(server, name)
    inside = [*callers.send_busy(), callers.send(2, timeout=1000)]
    assert [future.result() for future in inside] == [[-1], [-1], [2]]


def test_a_cancelled_call_leaves_the_queue_and_is_counted(server):
    callers = Callers(server, "bounded", "grpc")
    inside = callers.send_busy()
    before = callers.failures().get("CANCELED", 0)
    errors = []
    client = connect("grpc", server)
    data = tensor("grpc", "INPUT0", np.array([[1]], np.int32), "INT32")
    call = client.async_infer("bounded", [data], callback=lambda result, error: errors.append(error))
    until(lambda: callers.pending() == 2, "it waits")
    call.cancel()
    until(lambda: errors, "the client knows")
    after = callers.send(2)  # there is a place again
    assert [future.result() for future in [*inside, after]] == [[-1], [-1], [2]]
    assert callers.failures()["CANCELED"] == before + 1
    assert callers.pending() == 0


# === who runs when, and with whom ===


def test_levels_are_served_in_their_order_whatever_came_first(held):
    callers = Callers(held, "levels")
    futures = [callers.send(value, priority=priority) for value, priority in ((3, 3), (20, 0), (21, 9), (1, 1))]
    assert all(isinstance(future.result(), list) for future in futures)
    assert callers.order() == [1, 20, 21, 3], "0 and 9 mean the default level 2"


def test_who_waited_too_long_may_be_served_last(held):
    callers = Callers(held, "delay")
    late = callers.send(0)
    time.sleep(0.15)  # longer than its timeout: nobody can be asked whether that is over
    others = [callers.send(value) for value in (1, 2, 3)]
    assert [future.result() for future in [late, *others]] == [[0], [1], [2], [3]]
    assert callers.order() == [1, 2, 3, 0]
    assert callers.failures() == {}


@pytest.mark.parametrize(
    "name, requests, batches",
    [
        ("preferred", [[1], [1], [1], [1]], {4: 1}),
        ("pairs", [[1], [1], [1], [1]], {2: 2}),
        ("shapes", [[1], [1], [1, 2], [1]], {2: 1, 1: 2}),
        ("single_rows", [[1], [1], [1], [1]], {1: 4}),
    ],
)
def test_batches_are_formed_of_what_waits(held, name, requests, batches):
    callers = Callers(held, name)
    futures = [callers.send(values) for values in requests]
    assert [future.result() for future in futures] == requests
    assert callers.batches() == batches
    if name == "preferred":
        assert f"Delaying scheduler thread {name} until {HELD} queued requests, current total = " in held.log()


@pytest.mark.parametrize("name", ["ordered", "unordered"])
def test_responses_keep_the_order_of_the_requests_where_that_is_asked_for(held, name):
    callers = Callers(held, name)
    futures = [callers.send(value) for value in range(HELD)]
    assert [future.result() for future in futures] == [[value] for value in range(HELD)]
    moments = [moment for _, moment in sorted(callers.done)]
    ahead = max(early - late for early, late in zip(moments, moments[1:]))
    if name == "ordered":
        assert ahead < scaled(0.1), f"nobody overtakes: {moments}"
    else:
        assert ahead > 0.1, f"an instance that is faster answers sooner: {moments}"
