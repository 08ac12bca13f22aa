"""What Python models write into the log, show on the metrics page, and do to other models."""

import json
import re

import numpy as np
import pytest
import python_model
from serving import Server, until
from talking import connect, tensor

TEXT = python_model.tensors(["IN STRING 1"], ["OUT STRING -1"])
ONE = python_model.tensors(["IN FP32 -1"], ["OUT FP32 -1"], batch=64)

CASES = """
import gc, json

kept = {}

def refused(function, *arguments, **named):
    try:
        return function(*arguments, **named)
    except (pb_utils.TritonModelException, TypeError) as error:
        return type(error).__name__ + ": " + str(error)

def case_counts():
    family = pb_utils.MetricFamily(name="seen", description="What was seen.", kind=pb_utils.MetricFamily.COUNTER)
    kept["colors"] = family
    red, blue = family.Metric(labels={"color": "red", "model": "m"}), family.Metric(labels={"color": "blue"})
    red.increment(2)
    red.increment(1.5)
    kept["counts"] = red, blue
    return [red.value(), blue.value(), refused(red.increment, -1), refused(red.set, 3), refused(red.observe, 3), red.value()]

def case_gauge():
    family = kept["depths"] = pb_utils.MetricFamily("depth", "How deep it is.", pb_utils.MetricFamily.GAUGE)
    gauge = family.Metric()
    gauge.set(5)
    gauge.increment(-7.25)
    return gauge.value()

def case_histogram():
    family = pb_utils.MetricFamily("took", "How long it took.", pb_utils.MetricFamily.HISTOGRAM)
    kept["histogram"] = family
    metric = family.Metric(labels={"a": "b"}, buckets=[0.1, 1, 10])
    for value in (0.05, 0.5, 5, 50):
        metric.observe(value)
    return [refused(metric.value), refused(metric.increment, 1), refused(family.Metric, labels={"a": "c"})]

def case_one_more():
    if "ones" not in kept:
        family = kept["ones family"] = pb_utils.MetricFamily("ones", "Calls.", pb_utils.MetricFamily.COUNTER)
        sizes = kept["sizes family"] = pb_utils.MetricFamily("sizes", "Sizes.", pb_utils.MetricFamily.HISTOGRAM)
        kept["ones"] = family.Metric(), sizes.Metric(buckets=[1.0])
    counter, histogram = kept["ones"]
    counter.increment(1)
    histogram.observe(1)
    return None

def case_same_name_other_kind():
    kept["counter"] = pb_utils.MetricFamily("twice", "One.", pb_utils.MetricFamily.COUNTER)
    same = pb_utils.MetricFamily("twice", "One.", pb_utils.MetricFamily.COUNTER)
    one, other = kept["counter"].Metric(labels={"a": "1"}), same.Metric(labels={"a": "1"})
    kept["same"] = same
    one.increment(1)
    other.increment(2)
    return [one.value(), refused(pb_utils.MetricFamily, "twice", "One.", pb_utils.MetricFamily.GAUGE)]

def case_dropped():
    metric = kept.pop("counts")[0]
    kept.clear()
    gc.collect()
    return refused(metric.increment, 1)

def case_logs():
    pb_utils.Logger.log_info("told to everybody")
    pb_utils.Logger.log_warn("a warning")
    pb_utils.Logger.log_error("an error \\u20ac")
    pb_utils.Logger.log_verbose("told in detail")
    pb_utils.Logger.log("said with a level", pb_utils.Logger.WARNING)
    pb_utils.Logger.log(message="said without")
    return [refused(pb_utils.Logger.log, 3)[:9], refused(pb_utils.Logger.log, "x", 1)[:9], refused(pb_utils.Logger)]

def case_models():
    text = b"import triton_python_backend_utils as pb_utils\\nclass TritonPythonModel:\\n    def execute(self, requests):\\n        return [pb_utils.InferenceResponse(r.inputs()) for r in requests]\\n"
    config = json.dumps({"backend": "python", "input": [{"name": "IN", "data_type": "TYPE_FP32", "dims": [1]}], "output": [{"name": "IN", "data_type": "TYPE_FP32", "dims": [1]}]})
    seen = [pb_utils.is_model_ready("other"), pb_utils.is_model_ready("made"), refused(pb_utils.load_model, "nobody")]
    pb_utils.load_model(model_name="other")
    pb_utils.load_model("made", config, {"file:1/model.py": text})
    seen += [pb_utils.is_model_ready("other"), pb_utils.is_model_ready("made", "1"), pb_utils.is_model_ready("made", "2"), refused(pb_utils.is_model_ready, "made", "x")]
    request = pb_utils.InferenceRequest(model_name="made", inputs=[pb_utils.Tensor("IN", np.ones(1, np.float32))], requested_output_names=["IN"])
    seen.append(request.exec().output_tensors()[0].as_numpy().tolist())
    pb_utils.unload_model("nobody")
    pb_utils.unload_model("other")
    pb_utils.unload_model("made", unload_dependents=True)
    return seen

class TritonPythonModel:
    def initialize(self, args):
        pb_utils.Logger.log_info("it begins")
        self.family = pb_utils.MetricFamily("made_early", "Made before the first request.", pb_utils.MetricFamily.GAUGE)
        self.metric = self.family.Metric(labels={"version": args["model_version"]})
        self.metric.set(1)

    def execute(self, requests):
        responses = []
        for request in requests:
            answer = globals()["case_" + request.inputs()[0].as_numpy().item().decode()]()
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([json.dumps(answer)], object))]))
        return responses

    def finalize(self):
        for number in range(500):
            pb_utils.Logger.log_info("it ends %d" % number)
"""


PROCESS = "Failed to process the request for model 'cases_0', message: "


@pytest.fixture(scope="module")
def server(folder):
    python_model.write(folder, "cases", CASES, TEXT)
    python_model.write(folder, "other", python_model.IDENTITY, ONE)
    with Server(folder, "--model-control-mode=explicit", "--load-model=cases", "--log-verbose=1") as running:
        yield running


def ask(server, case):
    result = connect("http", server).infer("cases", [tensor("http", "IN", np.array([case], object), "BYTES")])
    return json.loads(result.as_numpy("OUT").item())


def page(server, *names):
    """The lines of the metrics page that speak of these families."""
    text = server.request("GET", "/metrics", port=server.metrics)[2].decode()
    return [line for line in text.splitlines() if re.sub(r"^# (HELP|TYPE) ", "", line).startswith(names)]


def test_counters_and_gauges_are_shown_as_they_stand(server):
    monotonic = "TRITONSERVER_METRIC_KIND_COUNTER can only be incremented monotonically by non-negative values."
    assert ask(server, "counts") == [
        3.5,
        0,
        f"TritonModelException: Failed to increment metric value: {PROCESS}{monotonic}",
        f"TritonModelException: Failed to set metric value: {PROCESS}TRITONSERVER_METRIC_KIND_COUNTER does not support Set",
        f"TritonModelException: Failed to observe metric value: {PROCESS}TRITONSERVER_METRIC_KIND_COUNTER does not support Observe",
        3.5,
    ]
    assert ask(server, "gauge") == -2.25
    assert page(server, "seen", "depth", "made_early") == [
        "# HELP depth How deep it is.",
        "# TYPE depth gauge",
        "depth -2.25",
        "# HELP made_early Made before the first request.",
        "# TYPE made_early gauge",
        'made_early{version="1"} 1',
        "# HELP seen What was seen.",
        "# TYPE seen counter",
        'seen{color="blue"} 0',
        'seen{color="red",model="m"} 3.5',
    ]


def test_histograms_are_shown_by_bucket(server):
    assert ask(server, "histogram") == [
        f"TritonModelException: Failed to get metric value: {PROCESS}TRITONSERVER_METRIC_KIND_HISTOGRAM does not support Value",
        f"TritonModelException: Failed to increment metric value: {PROCESS}TRITONSERVER_METRIC_KIND_HISTOGRAM does not support Increment",
        "TritonModelException: Failed to create metric. Missing required buckets.",
    ]

    assert page(server, "took") == [
        "# HELP took How long it took.",
        "# TYPE took histogram",
        'took_count{a="b"} 4',
        'took_sum{a="b"} 55.55',
        'took_bucket{a="b",le="0.1"} 1',
        'took_bucket{a="b",le="1"} 2',
        'took_bucket{a="b",le="10"} 3',
        'took_bucket{a="b",le="+Inf"} 4',
    ]


def test_what_a_request_changed_is_on_the_page_once_it_is_answered(server):
    for count in range(1, 101):
        assert ask(server, "one_more") is None
        assert page(server, "ones", "sizes_count") == ["# HELP ones Calls.", "# TYPE ones counter", f"ones {count}", f"sizes_count {count}"]


def test_families_of_one_name_are_one_and_go_with_their_last_holder(server):
    value, refusal = ask(server, "same_name_other_kind")
    assert value == 3
    assert refusal.startswith(f"TritonModelException: Error when creating MetricFamily: {PROCESS}Family name already exists with different type")
    until(lambda: page(server, "twice"), "a family of metrics on the page")
    assert ask(server, "dropped").startswith(
        "TritonModelException: Failed to increment metric value: Invalid metric operation as the corresponding 'MetricFamily' has been deleted."
    )
    until(lambda: not page(server, "twice", "seen", "depth", "took"), "the metrics of dropped objects to be gone")
    assert page(server, "made_early")


def test_a_model_writes_into_the_log_with_its_place(server):
    assert ask(server, "logs") == ["TypeError", "TypeError", "TypeError: c_python_backend_utils.Logger: No constructor defined!"]
    for letter, text in (
        ("I", "it begins"),
        ("I", "told to everybody"),
        ("W", "a warning"),
        ("E", "an error \u20ac"),
        ("I", "told in detail"),
        ("W", "said with a level"),
        ("I", "said without"),
    ):
        pattern = rf'^{letter}\d{{4}} \S+ {server.process.pid} model\.py:\d+\] "{text}"$'
        until(lambda: re.search(pattern, server.log(), re.MULTILINE), f"a line like {pattern}")  # noqa: B023


def test_a_model_loads_and_unloads_others(server):
    seen = ask(server, "models")
    assert seen[:2] == [False, False]
    assert seen[2].startswith(f"TritonModelException: Failed to load model: {PROCESS}failed to load 'nobody'"), seen[2]
    assert seen[3:6] == [True, True, False]
    assert seen[6].startswith(f"TritonModelException: Failed to check model readiness: {PROCESS}failed to get model version"), seen[6]
    assert seen[7] == [1.0]
    until(lambda: not connect("http", server).is_model_ready("other"), "an unload by a model to end")


def test_what_finalize_logs_is_in_the_log(folder):
    with Server(folder, "--model-control-mode=explicit", "--load-model=cases") as running:
        pass
    ends = re.findall(r'model\.py:\d+\] "it ends (\d+)"', running.log())
    assert [int(number) for number in ends] == list(range(500)), running.log()[-2000:]
