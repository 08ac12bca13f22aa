"""The client programs people write after reading about Triton, run as they are against models of those names and shapes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import make
import numpy as np
import onnxruntime
import pytest
from PIL import Image

from conftest import gpu_is_here
from serving import Server, scaled, until
from talking import PROTOCOLS, connect, tensor

PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture(scope="module")
def server(folder):
    make.examples(folder)
    with Server(folder) as running:
        yield running


def run(program, *arguments):
    done = subprocess.run([sys.executable, PROGRAMS / program, *map(str, arguments)], capture_output=True, text=True, timeout=scaled(120))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_embedding_over_grpc(server, folder):
    said = run("text_encoder_grpc.py", server.grpc_url)
    ids = np.array([[101, 2023] + list(range(3, 128)) + [102]], dtype=np.int64)
    expected = onnxruntime.InferenceSession(folder / "text_encoder/1/model.onnx").run(None, {"input_ids": ids})[0]
    assert said == f"Embeddings: (1, 768) float32 {expected.ravel()[:3].tolist()}\n"


def test_a_text_classified_with_plain_requests(server):
    said = run("text_classifier_http.py", server.url)
    assert said.startswith("Server ready: True\nOutput: [") and said.count(",") == 1


def test_a_batch_classified_over_grpc(server):
    assert run("text_classifier_grpc.py", server.grpc_url) == "Server live: True\nModel ready: True\nBatch output shape: (4, 2)\n"


def test_a_prediction_of_the_newest_version(server):
    assert run("alpha_model_http.py", server.url) == "Prediction: (1, 1) of version 2\n"


def test_a_picture_over_both_protocols(server, tmp_path):
    Image.effect_noise((800, 600), 64).convert("RGB").save(tmp_path / "test.jpg")
    said = run("pcb_detector_http.py", server.url, server.grpc_url, tmp_path / "test.jpg")
    assert said == "(1, 25200, 85)\nthe same over gRPC: True\nthe picture came through: True\n"


PREPROCESS = """
backend: "python"
max_batch_size: 0
input [ { name: "raw_text" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "input_ids" data_type: TYPE_INT64 dims: [ 1, 128 ] } ]
"""

PIPELINE = """
platform: "ensemble"
max_batch_size: 0
input [ { name: "raw_text" data_type: TYPE_STRING dims: [ 1 ] }, { name: "attention_mask" data_type: TYPE_INT64 dims: [ 1, 128 ] } ]
output [ { name: "logits" data_type: TYPE_FP32 dims: [ 1, 2 ] } ]
ensemble_scheduling {
  step [
    {
      model_name: "preprocess"
      model_version: -1
      input_map { key: "raw_text" value: "raw_text" }
      output_map { key: "input_ids" value: "preprocessed_ids" }
    },
    {
      model_name: "text_classifier"
      model_version: -1
      input_map { key: "input_ids" value: "preprocessed_ids" }
      input_map { key: "attention_mask" value: "attention_mask" }
      output_map { key: "logits" value: "logits" }
    }
  ]
}
"""


def test_a_pipeline_with_a_python_step(tmp_path):
    make.examples(tmp_path)
    for name in ("text_encoder", "alpha_model", "pcb_detector"):
        shutil.rmtree(tmp_path / name)
    make.write(tmp_path, "preprocess", PREPROCESS, {1: (PROGRAMS / "preprocess_model.py").read_bytes()}, filename="model.py")
    make.write(tmp_path, "ensemble_pipeline", PIPELINE, {1: None})
    text = "Triton läuft überall"
    ids = np.array([[ord(char) for char in text] + [0] * (128 - len(text))], np.int64)
    mask = np.ones((1, 128), np.int64)
    expected = onnxruntime.InferenceSession(tmp_path / "text_classifier/1/model.onnx").run(None, {"input_ids": ids, "attention_mask": mask})[0]
    with Server(tmp_path) as server:
        for protocol in PROTOCOLS:
            client = connect(protocol, server)
            raw_text = tensor(protocol, "raw_text", np.array([text.encode()], np.object_), "BYTES")
            np.testing.assert_array_equal(client.infer("preprocess", [raw_text]).as_numpy("input_ids"), ids)
            logits = client.infer("ensemble_pipeline", [raw_text, tensor(protocol, "attention_mask", mask, "INT64")]).as_numpy("logits")
            np.testing.assert_allclose(logits, expected, rtol=1e-5)


def test_a_gpu_group_without_a_gpu_says_what_is_wrong(tmp_path):
    if gpu_is_here():
        pytest.skip("this machine has a GPU")
    make.examples_gpu(tmp_path)
    with Server(tmp_path, "--exit-on-error=false", wait="live") as server:
        index = {m["name"]: m for m in index_of(server)}
        assert index["pcb_detector"]["state"] == "READY", "the model without a GPU group is not disturbed"
        for name in ("text_encoder", "text_classifier", "alpha_model"):
            assert index[name]["state"] == "UNAVAILABLE"
            reason = index[name]["reason"]
            assert f"instance group {name}_0 of model {name}" in reason and "gpu" in reason.lower(), reason


def index_of(server):
    def settled():
        index = json.loads(server.request("POST", "/v2/repository/index")[2])
        return index if all(one.get("state", "LOADING") != "LOADING" for one in index) else None

    return until(settled, "every model to be loaded or refused")
