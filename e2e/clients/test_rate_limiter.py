"""The rate limiter with a real client: models that share a resource take turns, by their priorities, and what could never run is refused."""

import time
from concurrent.futures import ThreadPoolExecutor

import make
import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from serving import Server, until
from talking import connect, statistics, tensor

ON = "--rate-limit=execution_count"
DELAY = 0.3  # seconds one execution takes


def model(folder, name, resources, priority=1, count=1, delay=DELAY):
    """An identity model, INPUT0 FP32 [4], whose instances need these: (name, count, whether it is global)."""
    needs = " ".join(f'resources {{ name: "{r}" count: {n} global: {str(everywhere).lower()} }}' for r, n, everywhere in resources)
    config = make.onnx_config(1, [("INPUT0", "FP32", [4])], [("OUTPUT0", "FP32", [4])]).replace('backend: "onnxruntime"', 'backend: "identity"')
    group = f"instance_group {{ count: {count} kind: KIND_CPU rate_limiter {{ {needs} priority: {priority} }} }}"
    delay = f'parameters {{ key: "execute_delay_ms" value {{ string_value: "{round(delay * 1000)}" }} }}'
    make.write(folder, name, f"{config}\n{group}\n{delay}", {1: None})


def ask(server, name):
    """When one request was sent and when it was answered."""
    with connect("http", server) as client:
        data = tensor("http", "INPUT0", np.zeros((1, 4), np.float32), "FP32")
        start = time.monotonic()
        client.infer(name, [data])
        return start, time.monotonic()


def took(server, names):
    """Seconds from the first request to the last answer, all sent at once."""
    with ThreadPoolExecutor(len(names)) as pool:
        spans = list(pool.map(lambda name: ask(server, name), names))
    return max(end for _, end in spans) - min(start for start, _ in spans)


@pytest.fixture(scope="module")
def server(folder):
    model(folder, "a", [("R", 1, False)])
    model(folder, "b", [("R", 1, False)])
    model(folder, "both", [("R", 1, False), ("G", 2, True)])
    model(folder, "free", [])
    model(folder, "often", [("T", 1, True)], priority=1, delay=0.01)
    model(folder, "seldom", [("T", 1, True)], priority=3, delay=0.01)
    model(folder, "greedy", [("R", 3, False)])
    model(folder, "everywhere", [("R", 1, True)])
    model(folder, "undeclared", [("U", 7, False)])
    models = [f"--load-model={name}" for name in ("a", "b", "both", "free", "often", "seldom")]
    declared = [f"--rate-limit-resource={amount}" for amount in ("R:2", "R:1:0", "G:2", "T:1")]
    with Server(folder, ON, *declared, "--model-control-mode=explicit", *models) as running:
        yield running


def test_models_that_share_a_resource_run_one_after_the_other(server):
    assert took(server, ["a", "b"]) >= 2 * DELAY
    assert took(server, ["a", "b", "both"]) >= 3 * DELAY, "every resource must be free"


def test_models_that_share_nothing_run_side_by_side(server):
    assert min(took(server, ["a", "free"]) for _ in range(3)) < 2 * DELAY


def test_without_the_flag_nobody_waits(tmp_path):
    model(tmp_path, "a", [("R", 1, False)])
    model(tmp_path, "b", [("R", 1, False)])
    with Server(tmp_path, "--rate-limit-resource=R:1") as running:
        assert min(took(running, ["a", "b"]) for _ in range(3)) < 2 * DELAY
        assert "rate_limiter" not in running.log(), "nothing is said to be unsupported"


def test_turns_are_shared_by_priority(server):
    client = connect("http", server)
    count = {name: 0 for name in ("often", "seldom")}
    with ThreadPoolExecutor(60) as pool:
        # Both have something to do until the first has run everything.
        futures = [pool.submit(ask, server, name) for _ in range(30) for name in count]
        def executed():
            for name in count:
                count[name] = statistics(client, name)[0].get("execution_count", 0)
            return count["often"] >= 20
        until(executed, "one of them has run twenty", pause=0.001)
        seen = dict(count)
        for future in futures:
            future.result()
    assert 2 <= seen["often"] / max(seen["seldom"], 1) <= 5, f"three turns to one: {seen}"
    assert {name: statistics(client, name)[0]["execution_count"] for name in count} == {"often": 30, "seldom": 30}


@pytest.mark.parametrize(
    "name, text",
    [
        (
            "greedy",
            'Resource count for "R" is limited to 1 which will prevent scheduling of one or more model instances, the minimum required count is 3',
        ),
        (
            "undeclared",
            'Resource count for "U" is limited to 0 which will prevent scheduling of one or more model instances, the minimum required count is 7',
        ),
        ("everywhere", 'Resource "R" is present as both global and device-specific resource in the model configuration.'),
    ],
)
def test_what_could_never_run_is_not_loaded(server, name, text):
    client = connect("http", server)
    with pytest.raises(InferenceServerException) as refused:
        client.load_model(name)
    assert text in refused.value.message()
    assert client.is_model_ready("a") and not client.is_model_ready(name)


def test_resources_of_a_model_that_goes_are_free_for_others(server):
    client = connect("http", server)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ask, server, "a")
        client.unload_model("a")
        running.exception()  # answered, or refused because it came too late
    assert took(server, ["b"]) < 10
    client.load_model("a")
    assert took(server, ["a", "b"]) >= 2 * DELAY
