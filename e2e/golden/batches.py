"""What the dynamic batcher makes of requests that wait together: put to a real Triton once, and to our server in every test run.

All models wait, once, until QUEUED requests are there (TRITONSERVER_DELAY_SCHEDULER), and run for RUN_MS each time, so what is formed from them does not
depend on time. A request is its rows, or (rows, parameters), or (rows, parameters, width) where the model takes any width, or (rows, parameters, width,
width of INPUT1) where it has a second input, which is left out for None.
"""

import http.client
import json
import re
import threading
import time

QUEUED, RUN_MS = 6, 40
SINGLE_RUN_MS = 150  # for batches of one request: their order is read from the times of the answers, which lie far enough apart on a slow machine
ENVIRONMENT = {"TRITONSERVER_DELAY_SCHEDULER": str(QUEUED)}

MODEL_PY = '''
import json
import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.delay = int(json.loads(args["model_config"])["parameters"]["execute_delay_ms"]["string_value"]) / 1000

    def execute(self, requests):
        time.sleep(self.delay)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy())]) for request in requests]
'''


def batching(fields="", batch=8, dims="[ 4 ]", instances=1, run_ms=None, first="", second=None):
    """`first` is added to INPUT0; with `second`, the rest of it, there is an INPUT1."""
    run_ms = run_ms or (RUN_MS if batch > 1 else SINGLE_RUN_MS)
    more = "" if second is None else f'input [ {{ name: "INPUT1" data_type: TYPE_FP32 {second} }} ]\n'
    return (
        f'max_batch_size: {batch}\ninput [ {{ name: "INPUT0" data_type: TYPE_FP32 dims: {dims} {first} }} ]\n{more}output [ {{ name: "OUTPUT0" data_type: TYPE_FP32 dims: {dims} }} ]\n'
        f"instance_group [ {{ kind: KIND_CPU count: {instances} }} ]\ndynamic_batching {{ {fields} }}\n"
        f'parameters {{ key: "execute_delay_ms" value {{ string_value: "{run_ms}" }} }}\n'
    )


SLOW = "max_queue_delay_microseconds: 10000000"  # longer than any test: what leaves does so for another reason
LONG_RUN_MS = 1500
SHORT = "default_timeout_microseconds: 700000"  # all are sent by then; over before the first long execution ends
SOON, LATE = {"timeout": 700_000}, {"timeout": 60_000_000}

RAGGED = "allow_ragged_batch: true"

# name -> configuration, requests
SCENARIOS = {
    "b_plain": (batching(), [1] * 6),
    "b_fills_up": (batching(), [2] * 6),
    "b_exactly_full": (batching(batch=6), [1] * 6),
    "b_mixed_rows": (batching(), [3, 3, 3, 3, 1, 1]),
    "b_does_not_look_past_the_next": (batching(), [5, 4, 1, 1, 1, 1]),
    "b_single_too": (batching(batch=1), [1] * 6),
    "b_no_batching": (batching(batch=0), [0] * 6),
    "b_preferred": (batching("preferred_batch_size: [ 4 ]"), [1] * 6),
    "b_preferred_two": (batching("preferred_batch_size: [ 2, 4 ]"), [1] * 6),
    "b_preferred_not_met": (batching("preferred_batch_size: [ 4 ]"), [3] * 6),
    "b_preferred_met_late": (batching("preferred_batch_size: [ 6 ]"), [2, 2, 2, 2, 2, 1]),
    "b_preferred_largest": (batching("preferred_batch_size: [ 2, 4 ]"), [1, 1, 1, 1, 1, 2]),
    "b_delay_and_preferred": (batching(f"preferred_batch_size: [ 3 ] {SLOW}"), [1] * 6),
    "b_delay_until_full": (batching(SLOW, batch=3), [1] * 6),
    "b_widths": (batching(dims="[ -1 ]"), [(1, {}, 4), (1, {}, 4), (1, {}, 5), (1, {}, 5), (1, {}, 4), (1, {}, 4)]),
    "b_widths_all_different": (batching(dims="[ -1 ]"), [(1, {}, width) for width in range(1, 7)]),
    "b_ragged": (batching(dims="[ -1 ]", first=RAGGED), [(1, {}, width) for width in range(1, 7)]),
    "b_ragged_rows": (batching(dims="[ -1 ]", first=RAGGED), [(rows, {}, width) for rows, width in zip((1, 2, 3, 4, 1, 1), range(1, 7))]),
    "b_ragged_beside_widths": (
        batching(dims="[ -1 ]", first=RAGGED, second="dims: [ -1 ]"),
        [(1, {}, width, beside) for width, beside in zip(range(1, 7), (2, 2, 3, 3, 2, 2))],
    ),
    "b_ragged_beside_fixed": (batching(dims="[ -1 ]", first=RAGGED, second="dims: [ 2 ]"), [(1, {}, width, 2) for width in range(1, 7)]),
    "b_optional": (batching(second="dims: [ 2 ] optional: true"), [(1, {}, 4, beside) for beside in (2, 2, None, None, 2, None)]),
    "b_optional_widths": (batching(second="dims: [ -1 ] optional: true"), [(1, {}, 4, beside) for beside in (2, 3, 3, None, None, 2)]),
    "b_optional_ragged": (batching(second=f"dims: [ -1 ] optional: true {RAGGED}"), [(1, {}, 4, beside) for beside in (2, 3, 3, None, None, 2)]),
    "b_priorities": (batching("priority_levels: 3 default_priority_level: 2", batch=1), [(1, {"priority": p}) for p in (3, 2, 1, 3, 2, 1)]),
    "b_priority_default": (batching("priority_levels: 2 default_priority_level: 1", batch=1), [(1, {"priority": p}) for p in (2, 0, 2, 9, 1, 2)]),
    "b_priorities_in_one_batch": (batching("priority_levels: 2 default_priority_level: 1", batch=4), [(1, {"priority": p}) for p in (2, 1, 2, 1, 2, 1)]),
    "b_queue_full": (
        batching("priority_levels: 2 default_priority_level: 2 default_queue_policy { max_queue_size: 5 }", batch=2),
        [(1, {"priority": p}) for p in (2, 2, 2, 2, 2, 2, 1)],
    ),
    "b_level_full": (
        batching("priority_levels: 2 default_priority_level: 2 priority_queue_policy { key: 1 value { max_queue_size: 2 } }", batch=1),
        [(1, {"priority": p}) for p in (2, 2, 1, 1, 1, 1, 2, 2)],
    ),
    "b_reject": (batching(f"default_queue_policy {{ {SHORT} }}", batch=1, run_ms=LONG_RUN_MS), [1] * 6),
    "b_reject_all_of_a_batch": (batching(f"default_queue_policy {{ {SHORT} }}", batch=4, run_ms=LONG_RUN_MS), [1] * 6),
    "b_delay_action": (batching(f"default_queue_policy {{ timeout_action: DELAY {SHORT} }}", batch=1, run_ms=LONG_RUN_MS), [1] * 6),
    "b_override": (
        batching("default_queue_policy { allow_timeout_override: true default_timeout_microseconds: 60000000 }", batch=1, run_ms=LONG_RUN_MS),
        [1, (1, SOON), 1, (1, SOON), (1, LATE), 1],
    ),
    "b_override_not_allowed": (batching("default_queue_policy { default_timeout_microseconds: 60000000 }", batch=1, run_ms=LONG_RUN_MS), [1, (1, SOON), 1, (1, SOON), 1, 1]),
    "b_override_without_default": (batching("default_queue_policy { allow_timeout_override: true }", batch=1, run_ms=LONG_RUN_MS), [1, (1, SOON), 1, (1, SOON), 1, 1]),
    "b_override_larger": (batching(f"default_queue_policy {{ allow_timeout_override: true {SHORT} }}", batch=1, run_ms=LONG_RUN_MS), [1, (1, LATE), 1, 1, 1, 1]),
    "b_override_delayed": (
        batching("default_queue_policy { timeout_action: DELAY allow_timeout_override: true default_timeout_microseconds: 60000000 }", batch=1, run_ms=LONG_RUN_MS),
        [1, (1, SOON), (1, SOON), 1, 1, 1],
    ),
    "b_ordered": (batching("preserve_ordering: true", batch=1), [1] * 6),
    "b_two_instances": (batching(batch=2, instances=2), [1] * 8),
    "b_grows_past_preferred": (batching("preferred_batch_size: [ 6 ]", run_ms=LONG_RUN_MS), [1] * 6 + [4, 3, 5, 2]),
    "b_grows_up_to_the_maximum": (batching("preferred_batch_size: [ 6 ]", run_ms=LONG_RUN_MS), [1] * 6 + [4, 5, 1]),
    "b_grows_not_beside_a_delay": (batching(f"preferred_batch_size: [ 6 ] {SLOW}", run_ms=LONG_RUN_MS), [1] * 6 + [4, 3, 6]),
}

# Requests that are refused while one more would make the models run: the next is sent after their answer.
REFUSED_AT_ONCE = {"b_queue_full": {5}}
# Those after the first QUEUED come while these run, one after the other.
WHILE_BUSY = {name for name in SCENARIOS if name.startswith("b_grows_")}


def play(server, name):
    """Sends a scenario's requests one after the other, each once the one before waits; what became of them."""
    config, requests = SCENARIOS[name]
    has_batches = "max_batch_size: 0" not in config
    answers, threads = {}, []
    for place, request in enumerate(requests):
        rows, parameters, *widths = (*request, *({}, 4)[len(request) - 1 :]) if isinstance(request, tuple) else (request, {}, 4)
        inputs = [
            {"name": f"INPUT{k}", "shape": [rows, width] if has_batches else [width], "datatype": "FP32", "data": [1.0] * (max(rows, 1) * width)}
            for k, width in enumerate(widths)
            if width is not None
        ]
        body = {"id": str(place), "parameters": parameters, "inputs": inputs}
        threads.append(threading.Thread(target=send, args=(server, name, place, body, answers)))
        threads[-1].start()
        if place in REFUSED_AT_ONCE.get(name, ()):
            wait_until(lambda: place in answers, f"request {place} of {name} to be refused")
        elif place + 1 >= QUEUED and name in WHILE_BUSY:
            wait_until(lambda: pending(server, name) == place + 1 - QUEUED, f"request {place} of {name} to wait for the instance")
        elif place + 1 - len(answers) < QUEUED:
            wait_until(lambda: pending(server, name) == place + 1 - len(answers), f"request {place} of {name} to wait")
    for thread in threads:
        thread.join(60)
    stats = json.loads(ask(server.http, "GET", f"/v2/models/{name}/stats"))["model_stats"][0]
    sizes = {str(line["batch_size"]): line["compute_infer"]["count"] for line in stats["batch_stats"]}
    outcomes = [answers[place][0] for place in range(len(requests))]
    by_end = sorted(range(len(requests)), key=lambda place: answers[place][1])
    return {
        "batches": dict(sorted(sizes.items())),
        "outcomes": outcomes,
        "success": stats["inference_stats"]["success"]["count"],
        "fail": stats["inference_stats"]["fail"]["count"],
        # Who ran together ends together: only single requests have an order.
        **({"order": [place for place in by_end if outcomes[place] == "ok"]} if set(sizes) == {"1"} and "count: 2" not in config else {}),
    }


def send(server, name, place, body, answers):
    text = json.loads(ask(server.http, "POST", f"/v2/models/{name}/infer", json.dumps(body)))
    answers[place] = (text.get("error", "ok"), time.monotonic())


def pending(server, name):
    page = ask(server.metrics, "GET", "/metrics")
    lines = re.findall(rf'^nv_inference_pending_request_count{{[^}}]*model="{name}"[^}}]*}} ([0-9.]+)', page, re.MULTILINE)
    return sum(map(float, lines))


def ask(port, method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def wait_until(holds, what, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.002)
