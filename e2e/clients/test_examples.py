"""The client programs people write after reading about Triton, run as they are against models of those names and shapes."""

import json
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
