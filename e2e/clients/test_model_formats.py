"""Models as people keep them: bare files, folders, folders of versions and archives of every format, each brought up by `triton-operator up`
from a folder that stands for a claim. What is not ours to make here is skipped: a runtime that this machine lacks."""

import json
import os
import subprocess
import sys
import tarfile

import graphs
import numpy as np
import pytest
from onnx import save
from test_c_backends import compile_library

from bringing_up import Up
from serving import until
from talking import PROTOCOLS, add_one, connect, is_ready, tensor

SERVER = (
    "apiVersion: triton-operator.dev/v1alpha1\nkind: TritonServer\nmetadata: {{name: test}}\n"
    "spec: {{server: {{exitTimeout: 20s, drainDelay: 0s, extraArgs: ['--backend-config=python,executable={python}']}}}}\n"
)
PYTHON_MODEL = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", r.inputs()[0].as_numpy() + 5)]) for r in requests]
"""
TORCH_MODEL = "import torch\n\n\nclass Add(torch.nn.Module):\n    def forward(self, x):\n        return x + 6\n"
PORTS = {
    "maxBatchSize": 8,
    "inputs": [{"name": "INPUT0", "dataType": "TYPE_FP32", "dims": [4]}],
    "outputs": [{"name": "OUTPUT0", "dataType": "TYPE_FP32", "dims": [4]}],
}
TORCH_PYTHON = os.environ.get("E2E_TORCH_PYTHON", "/usr/bin/python3")


def has_torch():
    return subprocess.run([TORCH_PYTHON, "-c", "import torch, numpy"], capture_output=True, timeout=120).returncode == 0


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def adder(number):
    return graphs.add(number).SerializeToString()


def onnx_file(claim):
    put(claim / "resnet50.onnx", adder(1))
    return "resnet50.onnx", {}, 1


def onnx_with_weights_beside_it(claim):
    (claim / "large").mkdir()
    graph = graphs.add(0)
    number = np.full(4, 2, np.float32)
    graph.graph.initializer[0].CopyFrom(graphs.numpy_helper.from_array(number, "number"))
    save(graph, claim / "large" / "net.onnx", save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    assert (claim / "large" / "net.onnx.data").stat().st_size >= number.nbytes
    return "large", {}, 2


def onnx_versions(claim):
    put(claim / "versions" / "1" / "net.onnx", adder(1))
    put(claim / "versions" / "3" / "net.onnx", adder(3))
    return "versions", {}, 3


def onnx_archive(claim):
    put(claim / "unpacked" / "some-net" / "4" / "export.onnx", adder(4))
    with tarfile.open(claim / "net.tar.gz", "w:gz") as archive:
        archive.add(claim / "unpacked" / "some-net", "some-net")
    return "net.tar.gz", {"format": "onnx"}, 4


def python_file(claim):
    put(claim / "echo.py", PYTHON_MODEL)
    return "echo.py", {"config": PORTS}, 5


def pytorch_in_python(claim):
    put(claim / "module" / "model.py", TORCH_MODEL)
    parameters = {} if TORCH_PYTHON == sys.executable else {"EXECUTION_ENV_PATH": str(environment_of(TORCH_PYTHON, claim / "torch"))}
    return "module", {"format": "pytorch", "config": {**PORTS, "runtime": "model.py", "parameters": parameters}}, 6


def environment_of(python, folder):
    """A folder that is an environment whose interpreter is `python`, as EXECUTION_ENV_PATH wants it."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python3").write_text(f'#!/bin/sh\nexec {python} "$@"\n')
    (folder / "bin" / "python3").chmod(0o755)
    return folder


def library_of_c(claim):
    compile_library("identity", claim / "of_c" / "libtriton_of_c.so")
    return "of_c", {"config": {**PORTS, "backend": "of_c"}}, 0


LAYOUTS = [onnx_file, onnx_with_weights_beside_it, onnx_versions, onnx_archive, python_file, pytorch_in_python, library_of_c]


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats")
    claim = folder / "claim"
    claim.mkdir()
    text, numbers = SERVER.format(python=sys.executable), {}
    for layout in LAYOUTS:
        if layout is pytorch_in_python and not has_torch():
            continue
        path, spec, number = layout(claim)
        name = layout.__name__.replace("_", "-")
        spec = {"serverRef": {"name": "test"}, "source": {"pvc": {"claimName": "models", "path": path}}, **spec}
        text += "---\n" + json.dumps({"apiVersion": "triton-operator.dev/v1alpha1", "kind": "TritonModel", "metadata": {"name": name}, "spec": spec})
        text += "\n"
        numbers[name] = number
    put(folder / "all.yaml", text)
    with Up(folder / "all.yaml", flags=[f"--volume=models={claim}"]) as running:
        running.numbers = numbers
        yield running


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_model_is_served_however_its_files_lie(up, protocol, layout):
    name = layout.__name__.replace("_", "-")
    if name not in up.numbers:
        assert os.environ.get("CI") != "true", f"{TORCH_PYTHON} has no torch"
        pytest.skip(f"skipped: {TORCH_PYTHON} has no torch (Debian: apt-get install python3-torch python3-numpy)")
    with connect(protocol, up) as client:
        until(lambda: is_up(client, name), f"{name} to be ready", 120, up.process)
        if layout is library_of_c:
            data = np.arange(4, dtype=np.float32).reshape(1, 4)
            assert (client.infer(name, [tensor(protocol, "INPUT0", data, "FP32")]).as_numpy("OUTPUT0") == data).all()
        else:
            assert add_one(protocol, client, name) == up.numbers[name]


def is_up(client, name):
    try:
        return is_ready(client, name)
    except Exception:  # noqa: BLE001 - the server is not up yet
        return False
