"""What is too large is refused with its numbers; what is merely large goes through."""

import gzip
import json

import make
import numpy as np
import pytest
import requests
from tritonclient.utils import InferenceServerException

from serving import Server
from talking import connect, tensor

LIMIT = 1000


@pytest.fixture(scope="module")
def server(folder):
    make.types(folder)
    with Server(folder, f"--http-max-input-size={LIMIT}") as running:
        yield running


def post(server, body, **headers):
    answer = requests.post(f"http://{server.url}/v2/models/onnx_fp64/infer", data=body, headers=headers)
    return answer.status_code, answer.json().get("error")


def ask(count, data):
    return {"inputs": [{"name": "INPUT0", "shape": [count], "datatype": "FP64", "data": data}]}


def test_json_beyond_the_limit(server):
    body = json.dumps(ask(1, [1]) | {"padding": "x" * LIMIT})
    said = f"request JSON size of {len(body)} bytes exceeds the maximum allowed input size of {LIMIT} bytes. Use --http-max-input-size to increase the limit."
    assert post(server, body) == (400, said)


def test_json_that_grows_beyond_the_limit(server):
    body = json.dumps(ask(200, [1] * 200), separators=(",", ":"))
    assert len(body) < LIMIT
    said = f"JSON input 'INPUT0' has a byte_size (1600 bytes) that exceeds the maximum allowed value of {LIMIT} bytes. Use --http-max-input-size to increase the limit."
    assert post(server, body) == (400, said)


def test_a_raw_request_beyond_the_limit(server):
    said = f"Raw input has a byte_size (1600 bytes) that exceeds the maximum allowed value of {LIMIT} bytes. Use --http-max-input-size to increase the limit."
    assert post(server, bytes(1600), **{"Inference-Header-Content-Length": "0"}) == (400, said)


def test_a_compressed_body_that_bursts(server):
    body = gzip.compress(json.dumps(ask(1, [1]) | {"padding": "x" * LIMIT}).encode())
    assert len(body) < LIMIT
    said = f"Decompressed data size exceeds the maximum allowed value of {LIMIT} bytes. Use --http-max-input-size to increase the limit."
    assert post(server, body, **{"Content-Encoding": "gzip"}) == (400, said)


@pytest.mark.parametrize("protocol", ("http", "grpc"))
def test_binary_data_is_not_limited(server, protocol):
    sent = np.random.default_rng(1).random(3_000_000)  # 24 MB: also far beyond gRPC's usual 4 MB
    result = connect(protocol, server).infer("onnx_fp64", [tensor(protocol, "INPUT0", sent, "FP64")])
    assert np.array_equal(result.as_numpy("OUTPUT0"), sent)


def test_compression_both_ways_with_the_client(server):
    sent = np.arange(100, dtype=np.float64)
    for algorithm in ("gzip", "deflate"):
        result = connect("http", server).infer(
            "onnx_fp64", [tensor("http", "INPUT0", sent, "FP64")], request_compression_algorithm=algorithm, response_compression_algorithm=algorithm
        )
        assert np.array_equal(result.as_numpy("OUTPUT0"), sent)
    for algorithm in ("gzip", "deflate"):
        result = connect("grpc", server).infer("onnx_fp64", [tensor("grpc", "INPUT0", sent, "FP64")], compression_algorithm=algorithm)
        assert np.array_equal(result.as_numpy("OUTPUT0"), sent)


def test_an_error_too_long_for_a_header_arrives_cut_short(server):
    one = tensor("grpc", "INPUT0", np.zeros(1), "FP64")
    one.set_shape([1] * 10_000)
    with pytest.raises(InferenceServerException, match="unexpected shape for input 'INPUT0'") as caught:
        connect("grpc", server).infer("onnx_fp64", [one])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT" and caught.value.message().endswith("(cut short)")
