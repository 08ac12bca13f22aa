"""The type stubs: a model type-checks against them, mistakes are found, and they list what the package has."""

import subprocess
import sys

import pytest
from conftest import STUB

pytest.importorskip("mypy", reason="mypy is installed where editors and CI are, not beside every interpreter")

MODEL = '''
import asyncio
import json
from typing import Any, Dict, List, Optional

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config: pb_utils.ModelConfig) -> pb_utils.ModelConfig:
        config.set_max_batch_size(8)
        config.set_dynamic_batching()
        config.add_input({"name": "IN", "data_type": "TYPE_FP32", "dims": [-1], "optional": True})
        config.add_output({"name": "OUT", "data_type": "TYPE_STRING", "dims": [-1]})
        config.set_model_transaction_policy({"decoupled": False})
        return config

    def initialize(self, args: Dict[str, str]) -> None:
        self.config = json.loads(args["model_config"])
        output = pb_utils.get_output_config_by_name(self.config, "OUT")
        assert output is not None
        self.dtype = pb_utils.triton_string_to_numpy(output["data_type"])
        family = pb_utils.MetricFamily(name="seen", description="Requests seen.", kind=pb_utils.MetricFamily.COUNTER)
        self.seen: pb_utils.Metric = family.Metric(labels={"model": "m"})
        pb_utils.Logger.log("ready", pb_utils.Logger.INFO)
        pb_utils.load_model(model_name="other", config="{}", files={"file:1/model.py": b""})
        ready: bool = pb_utils.is_model_ready("other", "1")

    async def execute(self, requests: List[pb_utils.InferenceRequest]) -> List[Optional[pb_utils.InferenceResponse]]:
        responses: List[Optional[pb_utils.InferenceResponse]] = []
        for request in requests:
            self.seen.increment(1)
            tensor = pb_utils.get_input_tensor_by_name(request, "IN")
            if tensor is None:
                error = pb_utils.TritonError("IN is missing", pb_utils.TritonError.INVALID_ARG)
                responses.append(pb_utils.InferenceResponse(error=error))
                continue
            array = tensor.as_numpy()
            call = pb_utils.InferenceRequest(
                model_name="other",
                requested_output_names=["OUT"],
                inputs=[pb_utils.Tensor("IN", array.astype(np.float32)), pb_utils.Tensor.from_dlpack("B", tensor.to_dlpack())],
                parameters={"a": 1, "b": "two", "c": True},
                preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
                trace=request.trace(),
            )
            first, second = await asyncio.gather(call.async_exec(), call.async_exec())
            for response in call.exec(decoupled=True):
                if response.has_error():
                    raise pb_utils.TritonModelException("it failed")
            out = pb_utils.get_output_tensor_by_name(first, "OUT")
            responses.append(pb_utils.InferenceResponse(output_tensors=[out] if out else [], parameters={"n": 1.5}))
            sender = request.get_response_sender()
            sender.send(second, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
        return responses

    def finalize(self) -> None:
        pb_utils.unload_model("other", unload_dependents=True)
'''

MISTAKES = {
    "pb_utils.Tensor(np.zeros(1), 'OUT')": 'Argument 1 to "Tensor" has incompatible type',
    "pb_utils.Tensor(name='OUT', numpy_array=np.zeros(1))": 'Unexpected keyword argument "name" for "Tensor"',
    "pb_utils.get_input_tensor_by_name(request, 'IN').as_numpy()": 'Item "None" of "Tensor | None" has no attribute "as_numpy"',
    "pb_utils.InferenceResponse([np.zeros(1)])": "List item 0 has incompatible type",
    "pb_utils.InferenceResponse(error='no')": 'Argument "error" to "InferenceResponse" has incompatible type "str"',
    "pb_utils.TritonError('no', 3)": 'Argument 2 to "TritonError" has incompatible type "int"',
    "request.exec().cancel()": '"InferenceResponse" has no attribute "cancel"',
    "request.parameters()['key']": 'Invalid index type "str" for "str"',
    "pb_utils.Logger.log_warning('no')": 'has no attribute "log_warning"',
    "pb_utils.get_input_tensor('IN')": 'Module has no attribute "get_input_tensor"',
}


@pytest.fixture(scope="module")
def mypy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")

    def run(text):
        (folder / "model.py").write_text(text)
        command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(STUB.parents[4] / "target/mypy"), "--no-error-summary", "model.py"]
        done = subprocess.run(command, cwd=folder, env={"MYPYPATH": str(STUB)}, capture_output=True, text=True, timeout=300)
        assert not done.stderr and done.returncode in (0, 1), done
        return done.stdout

    return run


def test_a_model_type_checks(mypy):
    assert mypy(MODEL) == ""


def test_mistakes_are_found(mypy):
    lines = ["import numpy as np", "import triton_python_backend_utils as pb_utils", "request: pb_utils.InferenceRequest", *MISTAKES]
    found = mypy("\n".join(lines))
    for number, (line, message) in enumerate(MISTAKES.items(), 4):
        assert any(one.startswith(f"model.py:{number}: ") and message in one for one in found.splitlines()), (line, found)


# === the stubs beside the package ===

# Written otherwise on purpose.
OTHERWISE = r"""
triton_python_backend_utils\.TRITONSERVER_MEMORY_[CG]PU  # a member of an enumeration in both
triton_python_backend_utils\.Logger\.(INFO|WARNING|ERROR|VERBOSE|log)
triton_python_backend_utils\.MetricFamily\.(COUNTER|GAUGE|HISTOGRAM)
triton_python_backend_utils\.Logger\.__init__  # has none for models
triton_python_backend_utils\.Tensor\.__init__  # by position only, as in Triton; ours takes names as well
triton_python_backend_utils\.Tensor\.from_dlpack
triton_python_backend_utils\.(InferenceRequest|MetricFamily)\.__init__  # what has to be given has defaults here
triton_python_backend_utils\.(is_model_ready|load_model|unload_model)  # the same
triton_python_backend_utils\.InferenceTrace\.__init__  # not for models
triton_python_backend_utils\.InferenceResponseSender\.__init__  # not for models
triton_python_backend_utils\.ResponseIterator\.__init__  # not for models
triton_python_backend_utils\.Metric\.__init__  # not for models
"""
INTERNAL = "[mypy]\nignore_missing_imports = True\n[mypy-triton_python_backend_utils.*]\nignore_errors = True\n"


def test_the_stubs_say_what_the_package_does(tmp_path):
    (tmp_path / "mypy.ini").write_text(INTERNAL)
    (tmp_path / "otherwise").write_text(OTHERWISE)
    options = ["--concise", "--ignore-missing-stub", "--ignore-unused-allowlist", "--allowlist", "otherwise", "--mypy-config-file", "mypy.ini"]
    command = [sys.executable, "-m", "mypy.stubtest", "triton_python_backend_utils", *options]
    env = {"MYPYPATH": str(STUB), "PYTHONPATH": str(STUB), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    lines = [line for line in done.stdout.splitlines() if not line.startswith("triton_python_backend_utils._")]
    assert not done.stderr and lines == []


def test_the_stubs_lack_nothing_public():
    import ast
    import types

    import triton_python_backend_utils as pb_utils

    found = {name for name, value in vars(pb_utils).items() if name[0] != "_" and not isinstance(value, types.ModuleType)}
    described = set()
    for node in ast.parse((STUB / "triton_python_backend_utils/__init__.pyi").read_text()).body:
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        described |= {getattr(node, "name", None), *(getattr(target, "id", None) for target in targets)}
    assert found - described == set()
