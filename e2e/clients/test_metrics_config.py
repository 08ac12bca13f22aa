"""Distributions of latencies on the metrics page: Triton's summaries and histogram, the server's own histograms, and every form that
the page is written in, read by Prometheus' own parsers and by a real Prometheus."""

import re

import decoupled
import make
import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from serving import Server, until
from talking import connect, tensor
from test_prometheus import Prometheus, pytestmark as with_prometheus

IO = 'input { name: "INPUT0" data_type: TYPE_INT32 dims: -1 } output { name: "OUTPUT0" data_type: TYPE_INT32 dims: -1 }'
DELAY = 'parameters { key: "execute_delay_ms" value { string_value: "20" } } instance_group { count: 1 kind: KIND_CPU }'
CONTROL = 'model_metrics {{ metric_control {{ metric_identifier {{ family: "{}" }} histogram_options {{ buckets: [ {} ] }} }} }}'
FIRST_RESPONSE = "nv_inference_first_response_histogram_ms"
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
PROTOBUF = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
ALL = [f"--metrics-config={name}=true" for name in ("summary_latencies", "histogram_latencies", "latency_histograms")]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    config = f'backend: "identity" max_batch_size: 0 {IO} {DELAY}'
    make.write(folder, "usual", config, {1: None})
    make.write(folder, "own", config + CONTROL.format(FIRST_RESPONSE, "-1, 0.0, 1, 2.5"), {1: None})
    decoupled.square(folder, "fails", fail_count=1)
    make.write(folder, "fixed", config + CONTROL.format("nv_inference_count", "1"), {1: None})
    return folder


@pytest.fixture(scope="module")
def server(models):
    with Server(models, *ALL) as server:
        client = connect("http", server)
        for model in ("usual", "own", "usual"):
            client.infer(model, [tensor("http", "INPUT0", np.array([1], np.int32), "INT32")])
        client.close()
        server.request("POST", "/v2/models/fails/generate_stream", '{"IN": 1}')
        yield server


def page(server, accept=None):
    status, headers, body = server.request("GET", "/metrics", headers={"Accept": accept} if accept else {}, port=server.metrics)
    assert status == 200
    return headers["Content-Type"], body


def samples(families):
    return {(it.name, *sorted(it.labels.items())): it.value for family in families for it in family.samples}


def test_summaries_and_the_histogram_are_those_of_triton(server):
    kind, body = page(server)
    assert kind == "text/plain; charset=utf-8"
    text = body.decode()
    found = samples(read_text(text))
    of = lambda name, model, *more: found[(name, *sorted([("model", model), ("version", "1"), *more]))]  # noqa: E731
    for what in ("request", "queue", "compute_input", "compute_infer", "compute_output"):
        name = f"nv_inference_{what}_summary_us"
        assert of(f"{name}_count", "usual") == 2 and of(f"{name}_count", "own") == 1 and of(f"{name}_count", "fixed") == 0
        quantiles = [of(name, "usual", ("quantile", it)) for it in ("0.5", "0.9", "0.95", "0.99", "0.999")]
        assert quantiles == sorted(quantiles)
        assert of(name, "fixed", ("quantile", "0.5")) != of(name, "fixed", ("quantile", "0.5")), "nothing was observed: no number"
    assert 20_000 <= of("nv_inference_request_summary_us", "usual", ("quantile", "0.5")) < 20_000_000
    assert of(f"{FIRST_RESPONSE}_count", "usual") == 2 and of(f"{FIRST_RESPONSE}_sum", "usual") >= 40
    limits = lambda model: re.findall(rf'{FIRST_RESPONSE}_bucket{{model="{model}",version="1",le="([^"]+)"}}', text)  # noqa: E731
    assert limits("usual") == ["100", "500", "2000", "5000", "+Inf"]
    assert limits("own") == ["-1", "0", "1", "2.5", "+Inf"]
    assert of(f"{FIRST_RESPONSE}_bucket", "own", ("le", "2.5")) == 0
    assert of(f"{FIRST_RESPONSE}_count", "fails") == 1, "an error is a response"
    assert "Metric family 'nv_inference_count' in 'metric_identifier' is not a customizable metric in Triton core." in server.log()


def test_every_form_says_the_same(server):
    text = samples(read_text(page(server)[1].decode()))
    kind, body = page(server, OPENMETRICS)
    assert kind == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    strict = samples(read_openmetrics(body.decode()))
    counted = {key: value for key, value in text.items() if key[0].startswith(("nv_inference", "tritonserver_request")) and key[0][-7:] != "_bucket"}
    # where buckets lie below zero, OpenMetrics has no sum, and no count without one
    counted = {key: value for key, value in counted.items() if not (key[0].startswith(FIRST_RESPONSE) and ("model", "own") in key)}
    assert len(counted) > 50
    for key, value in counted.items():
        if value == value:
            name, *labels = key
            assert strict.get(key, strict.get((name.removesuffix("_total"), *labels))) == value, key
    kind, body = page(server, PROTOBUF)
    assert kind == PROTOBUF.replace(";", "; ")
    names = {family.name for family in read_text(page(server)[1].decode())}
    for name in names:
        assert name.encode() in body, name


def test_a_client_that_asks_for_nothing_known_gets_text(server):
    for accept in ("text/html", "junk;;=,", "application/openmetrics-text;version=7", "*/*", "x" * 4000):
        assert page(server, accept)[0] == "text/plain; charset=utf-8"


@with_prometheus
def test_prometheus_reads_every_form(server, tmp_path_factory):
    for name, flags in (("openmetrics", []), ("protobuf", ["--enable-feature=native-histograms"])):
        prometheus = Prometheus(tmp_path_factory.mktemp(name), [f"127.0.0.1:{server.metrics}"])
        prometheus.argv += flags
        with prometheus:
            until(lambda: prometheus.query("up == 1"), "the page to be read", 60)
            until(lambda: prometheus.query('nv_inference_request_success{model="usual"} == 2'), "a counter", 60)
            until(lambda: prometheus.query('nv_inference_request_summary_us_count{model="usual"} == 2'), "a summary", 60)
            if flags:
                quantile = 'histogram_quantile(0.5, tritonserver_request_duration_seconds{model="usual"})'
            else:
                quantile = 'histogram_quantile(0.5, tritonserver_request_duration_seconds_bucket{model="usual"})'
            ((_, median),) = until(lambda: prometheus.query(quantile), "a histogram", 60)
            assert 0.01 < median < 20


def test_nothing_is_kept_unless_it_is_asked_for(models):
    with Server(models) as server:
        text = page(server)[1].decode()
    assert "summary" not in text and "histogram" not in text and "_bucket" not in text


def test_counters_can_be_stopped(models):
    with Server(models, "--metrics-config=counter_latencies=false") as server:
        client = connect("http", server)
        client.infer("usual", [tensor("http", "INPUT0", np.array([1], np.int32), "INT32")])
        found = samples(read_text(page(server)[1].decode()))
        client.close()
    labels = (("model", "usual"), ("version", "1"))
    assert found[("nv_inference_count_total", *labels)] == 0 and found[("nv_inference_request_success_total", *labels)] == 0
    assert ("nv_inference_pending_request_count", *labels) in found
    assert not [name for name, *_ in found if "duration_us" in name]


def test_a_setting_that_is_none_ends_the_start_with_its_text(models):
    for setting, text in (
        ("x", "--metrics-config option format is <setting>=<value>. Got x"),
        ("summary_latencies=maybe", "--metrics-config summary_latencies: expected true or false, got 'maybe'"),
        ("summary_quantiles=0.5", "expected <quantile>:<error> pairs"),
    ):
        with Server(models, f"--metrics-config={setting}", wait=None, expect_exit=1) as server:
            server.process.wait(60)
        assert text in server.log(), server.log()


def test_buckets_that_do_not_ascend_are_refused(models, tmp_path):
    make.write(tmp_path, "bad", f'backend: "identity" {IO} {CONTROL.format(FIRST_RESPONSE, "2, 1")}', {1: None})
    with Server(tmp_path, "--exit-on-error=false", wait="live") as server:
        until(lambda: "Bucket Boundaries must be strictly sorted" in server.log(), "the refusal", 60)


def test_an_exemplar_names_the_trace_of_a_request(models):
    traced = [f"--trace-config={it}" for it in ("mode=opentelemetry", "rate=1", "level=TIMESTAMPS", "opentelemetry,url=http://127.0.0.1:9/v1/traces")]
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    with Server(models, "--metrics-config=latency_histograms=true", *traced) as server:
        client = connect("http", server)
        headers = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
        client.infer("usual", [tensor("http", "INPUT0", np.array([1], np.int32), "INT32")], headers=headers)
        client.close()
        families = {family.name: family for family in read_openmetrics(page(server, OPENMETRICS)[1].decode())}
        assert trace_id.encode() in page(server, PROTOBUF)[1]
        assert trace_id.encode() not in page(server)[1], "the other text has no exemplars"
    for what in ("request", "queue", "compute"):
        samples = families[f"tritonserver_{what}_duration_seconds"].samples
        (exemplar,) = [it.exemplar for it in samples if it.exemplar and it.labels["model"] == "usual"]
        assert exemplar.labels == {"trace_id": trace_id} and exemplar.value > 0
