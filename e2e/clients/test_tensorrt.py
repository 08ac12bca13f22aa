"""TensorRT plans on a machine without a GPU: each is refused with the reason and what to do, by name, and other models go on."""

import struct

import make
import pytest
from conftest import gpu_is_here
from runtimes import runtime
from tritonclient.utils import InferenceServerException

from serving import Server
from talking import PROTOCOLS, connect, is_ready

OTHER = (10, 3, 0, 26)
THIS = (10, 15, 1, 29)
PLANS = {
    "other_version": b"ftrt" + bytes(20) + struct.pack("4B", *OTHER) + bytes(100),
    "this_version": b"ftrt" + bytes(20) + struct.pack("4B", *THIS) + bytes(100),
    "empty": b"",
    "onnx": b"\x08\x08\x12\x07pytorch and the rest of the file",
    "truncated": b"ftrt" + bytes(8),
}
CURE = "build it again on this kind of GPU with the TensorRT that the server uses"


def repository(folder):
    make.identity(folder, "neighbour")
    for name, plan in PLANS.items():
        version = folder / name / "1"
        version.mkdir(parents=True)
        (version / "model.plan").write_bytes(plan)
        (version.parent / "config.pbtxt").write_text('platform: "tensorrt_plan"\n')
    return folder


@pytest.fixture(scope="module")
def models(folder):
    return repository(folder)


@pytest.fixture(scope="module")
def server(models):
    library = runtime("tensorrt", "libnvinfer.so.10")
    flags = ["--model-control-mode=explicit", "--load-model=neighbour", f"--backend-config=tensorrt,library={library}"]
    with Server(models, *flags) as running:
        yield running


def refusal(client, model):
    with pytest.raises(InferenceServerException) as refused:
        client.load_model(model)
    assert is_ready(client, "neighbour") and not is_ready(client, model)
    return refused.value.message()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plans_that_this_library_cannot_read_are_refused_with_the_cure(server, protocol):
    client = connect(protocol, server)
    assert f"was made by TensorRT 10.3.0.26, and this is 10.15.1.29; {CURE}" in refusal(client, "other_version")
    assert f"model.plan' is empty; {CURE}" in refusal(client, "empty")
    assert "is no TensorRT plan" in refusal(client, "onnx")
    assert "is truncated" in refusal(client, "truncated")


@pytest.mark.skipif(gpu_is_here(), reason="skipped: this machine has a GPU")
def test_without_a_gpu_the_reason_is_told(server):
    refused = refusal(connect("http", server), "this_version")
    assert "TensorRT backend supports only GPU device: run the server where it can see an NVIDIA GPU" in refused


def test_a_missing_library_is_named_and_costs_its_own_models_alone(models):
    flags = ["--model-control-mode=explicit", "--load-model=neighbour", "--backend-config=tensorrt,library=/nowhere"]
    with Server(models, *flags) as running:
        refused = refusal(connect("http", running), "this_version")
    assert "unable to find backend library for backend 'tensorrt': library libnvinfer.so not found, searched: /nowhere; install NVIDIA TensorRT" in refused
