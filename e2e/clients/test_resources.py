"""What a server reports about itself and its models: the same over HTTP, gRPC and the metrics page."""

import json
import urllib.request

import make
import numpy as np
import pytest
import requests
from tritonclient.utils import InferenceServerException

import pages
from serving import Server
from talking import PROTOCOLS, add_one, connect, is_ready, statistics, tensor

EXTENSIONS = [
    "classification", "sequence", "model_repository", "model_repository(unload_dependents)", "schedule_policy", "model_configuration",
    "system_shared_memory", "cuda_shared_memory", "binary_tensor_data", "parameters", "statistics", "trace", "logging",
]  # fmt: skip


@pytest.fixture(scope="module")
def server(folder):
    make.shapes(folder)
    make.examples(folder)
    make.versions(folder, "version_policy: { specific { versions: [ 1, 3 ] } }\n")
    with Server(folder, "--id=night-shift") as running:
        yield running


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_health_and_metadata(server, protocol):
    client = connect(protocol, server)
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("auto")
    assert not is_ready(client, "versions", "2")
    metadata = client.get_server_metadata(**({"as_json": True} if protocol == "grpc" else {}))
    assert metadata["name"] == "night-shift" and metadata["extensions"] == EXTENSIONS and metadata["version"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_metadata_of_a_model_shows_the_batch_dimension(server, protocol):
    options = {"as_json": True} if protocol == "grpc" else {}
    got = connect(protocol, server).get_model_metadata("text_classifier", **options)
    as_numbers = lambda tensors: [(t["name"], t["datatype"], [int(d) for d in t["shape"]]) for t in tensors]  # noqa: E731
    assert got["platform"] == "onnxruntime_onnx" and got["versions"] == ["1"]
    assert as_numbers(got["inputs"]) == [("input_ids", "INT64", [-1, 128]), ("attention_mask", "INT64", [-1, 128])]
    assert as_numbers(got["outputs"]) == [("logits", "FP32", [-1, 2])]


def test_a_config_is_completed_from_the_model(server):
    config = connect("http", server).get_model_config("auto")
    assert (config["backend"], config["platform"], config["default_model_filename"]) == ("onnxruntime", "onnxruntime_onnx", "model.onnx")
    assert config["max_batch_size"] == 4, "every first dimension is variable: batching is switched on"
    assert [(i["name"], i["data_type"], i["dims"]) for i in config["input"]] == [("INPUT0", "TYPE_FP32", [4]), ("INPUT1", "TYPE_FP32", [4])]
    assert [o["name"] for o in config["output"]] == ["OUTPUT0", "OUTPUT1"]
    assert "dynamic_batching" in config

    fixed = connect("http", server).get_model_config("auto_fixed")
    assert fixed["max_batch_size"] == 0 and fixed["input"][0]["dims"] == [2, 3] and "dynamic_batching" not in fixed


def test_both_protocols_give_the_same_config(server):
    from google.protobuf import json_format
    from tritonclient.grpc import model_config_pb2

    for name in ("auto", "text_encoder", "versions", "scalar"):
        over_http = json_format.ParseDict(connect("http", server).get_model_config(name), model_config_pb2.ModelConfig())
        assert over_http == connect("grpc", server).get_model_config(name).config


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_versions_are_those_of_the_policy(server, protocol):
    client = connect(protocol, server)
    assert add_one(protocol, client, "versions") == 3, "no version asked for: the highest"
    assert add_one(protocol, client, "versions", model_version="1") == 1
    with pytest.raises(InferenceServerException, match="Request for unknown model: 'versions' version 2 is not found"):
        add_one(protocol, client, "versions", model_version="2")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_scalars_and_strings(server, protocol):
    client = connect(protocol, server)
    shape = client.get_model_metadata("scalar", **({"as_json": True} if protocol == "grpc" else {}))["inputs"][0].get("shape", [])
    given = np.full([int(d) for d in shape], 21, np.float32)
    assert client.infer("scalar", [tensor(protocol, "x", given, "FP32")]).as_numpy("y").ravel().tolist() == [42]
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert client.infer("total", [tensor(protocol, "INPUT0", matrix, "FP32")]).as_numpy("SUM").ravel().tolist() == [15]
    words = np.array([b"hello", b"", b"wide world"], object)
    assert client.infer("upper", [tensor(protocol, "TEXT", words, "BYTES")]).as_numpy("UPPER").tolist() == [b"HELLO", b"", b"WIDE WORLD"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_two_inputs_and_two_outputs_in_any_order(server, protocol):
    one, two = np.arange(8, dtype=np.float32).reshape(2, 4), np.full((2, 4), 3, np.float32)
    inputs = [tensor(protocol, "INPUT1", two, "FP32"), tensor(protocol, "INPUT0", one, "FP32")]
    result = connect(protocol, server).infer("add_sub", inputs, request_id="a-7")
    assert (result.as_numpy("OUTPUT0") == one + two).all() and (result.as_numpy("OUTPUT1") == one - two).all()
    response = result.get_response()
    assert (response["id"] if protocol == "http" else response.id) == "a-7"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_statistics_count_requests_and_rows(server, protocol):
    client = connect(protocol, server)
    before = statistics(client, "versions", "1")[0]
    for rows in (1, 3, 3):
        add_one(protocol, client, "versions", rows, model_version="1")
    after = statistics(client, "versions", "1")[0]

    def grown(*path):
        at = [before, after]
        for step in path:
            at = [one.get(step, {} if step != path[-1] else 0) for one in at]
        return at[1] - at[0]

    assert grown("inference_count") == 7 and grown("execution_count") == 3
    for part in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert grown("inference_stats", part, "count") == 3
    assert grown("inference_stats", "fail", "count") == 0
    assert grown("inference_stats", "success", "ns") >= grown("inference_stats", "compute_infer", "ns") > 0
    sizes = {one["batch_size"]: one["compute_infer"]["count"] for one in after["batch_stats"]}
    assert sizes.get(3, 0) >= 2 and sizes.get(1, 0) >= 1
    assert after["last_inference"] > 1_600_000_000_000, "milliseconds since 1970"


def test_the_index_names_every_version(server):
    index = connect("http", server).get_model_repository_index()
    assert [one["version"] for one in index if one["name"] == "versions"] == ["1", "3"]
    assert {one["state"] for one in index} == {"READY"}
    assert [one["name"] for one in index] == sorted(one["name"] for one in index)
    over_grpc = connect("grpc", server).get_model_repository_index(as_json=True)["models"]
    assert [(one["name"], one["version"]) for one in over_grpc] == [(one["name"], one["version"]) for one in index]


def test_the_metrics_page_counts_what_happened(server):
    def page():
        with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics}/metrics") as answer:
            assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
            return pages.read(answer.read().decode())

    client, labels = connect("http", server), {"model": "add_sub", "version": "1"}
    before = page()
    inputs = [tensor("http", f"INPUT{k}", np.ones((5, 4), np.float32), "FP32") for k in range(2)]
    client.infer("add_sub", inputs)
    after = page()

    def grown(name, **more):
        return after.value(name, **labels, **more) - before.value(name, **labels, **more)

    assert (grown("nv_inference_request_success"), grown("nv_inference_count"), grown("nv_inference_exec_count")) == (1, 5, 1)
    parts = [grown(f"nv_inference_{part}_duration_us") for part in ("queue", "compute_input", "compute_infer", "compute_output")]
    assert parts[2] > 0, "the model itself takes some microseconds"
    assert grown("nv_inference_request_duration_us") + len(parts) + 1 >= sum(parts), "whole microseconds, each rounded"
    for reason in ("REJECTED", "CANCELED", "BACKEND", "OTHER"):
        assert after.value("nv_inference_request_failure", **labels, reason=reason) == 0
    assert after.value("nv_inference_pending_request_count", **labels) == 0
    assert after.value("nv_model_load_duration_secs", **labels) > 0
    for name, kind in (("nv_inference_request_success", "counter"), ("nv_inference_pending_request_count", "gauge")):
        assert after.types[name] == kind and after.help[name]
    assert after.value("nv_cpu_memory_total_bytes") > 0 and 0 <= after.value("nv_cpu_utilization") <= 1


def test_the_metrics_port_answers_nothing_but_metrics(server):
    other = requests.get(f"http://127.0.0.1:{server.metrics}/v2/health/live")
    assert (other.status_code, other.content) == (200, b"")
    assert requests.post(f"http://127.0.0.1:{server.metrics}/metrics").status_code == 405


def test_plain_json_of_an_inference_reads_as_documented(server):
    body = {"inputs": [{"name": f"INPUT{k}", "shape": [1, 4], "datatype": "FP32", "data": [[1, 2, 3, 4]]} for k in range(2)]}
    answer = requests.post(f"http://{server.url}/v2/models/add_sub/infer", json=body)
    assert answer.headers["Content-Type"] == "application/json"
    assert json.loads(answer.text) == {
        "model_name": "add_sub",
        "model_version": "1",
        "outputs": [
            {"name": "OUTPUT0", "datatype": "FP32", "shape": [1, 4], "data": [2.0, 4.0, 6.0, 8.0]},
            {"name": "OUTPUT1", "datatype": "FP32", "shape": [1, 4], "data": [0.0, 0.0, 0.0, 0.0]},
        ],
    }
