"""Tensors between a model and torch, by DLPack. Runs where the interpreter of the models has torch; E2E_PYTHON names one."""

import os
import subprocess
import sys

import pytest
import python_model
from test_python_tensors import SHAPES, sample
from test_tensor_types import same

from serving import Server
from talking import PROTOCOLS, connect, tensor

PYTHON = os.environ.get("E2E_PYTHON", sys.executable)
KINDS = ("UINT8", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16")

MODEL = """
import torch
from torch.utils.dlpack import from_dlpack, to_dlpack


class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([output for given in request.inputs() for output in self.outputs(given)]) for request in requests]

    def outputs(self, given):
        name, seen = given.name()[3:], torch.from_dlpack(given)
        assert seen.data_ptr() == from_dlpack(given.to_dlpack()).data_ptr()
        yield pb_utils.Tensor.from_dlpack("VIEW_" + name, seen)
        yield pb_utils.Tensor.from_dlpack("COPY_" + name, to_dlpack(seen.clone()))
"""


@pytest.fixture(scope="module")
def server(folder):
    if subprocess.run([PYTHON, "-c", "import torch"], capture_output=True, timeout=120).returncode != 0:
        pytest.skip(f"skipped: {PYTHON} has no torch")
    outputs = [f"{what}_{kind} {kind} -1,-1" for kind in KINDS for what in ("VIEW", "COPY")]
    python_model.write(folder, "torches", MODEL, python_model.tensors([f"IN_{kind} {kind} -1,-1" for kind in KINDS], outputs))
    with Server(folder) as running:
        yield running


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("size", SHAPES)
def test_torch_gives_and_takes_every_type_it_has(server, protocol, size):
    sent = {kind: sample(kind, SHAPES[size]) for kind in KINDS}
    for _ in range(3):
        result = connect(protocol, server).infer("torches", [tensor(protocol, f"IN_{kind}", array, kind) for kind, array in sent.items()])
        for kind, array in sent.items():
            same(result.as_numpy(f"VIEW_{kind}"), array)
            same(result.as_numpy(f"COPY_{kind}"), array)
