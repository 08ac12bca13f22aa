"""Models of the Python backend, written into a repository."""

import textwrap
from pathlib import Path

CHANNELS = {"rings": (), "sockets": ("--backend-config=python,extension=false",)}
"""How servers and workers exchange messages: as they do by themselves, and without the extension module. Flags of the server."""


def uses_rings(pid):
    """Whether that worker exchanges messages in shared memory."""
    return "memfd:triton_python_backend_rings" in Path(f"/proc/{pid}/maps").read_text()


def write(folder, name, code, config="", version=1):
    """A model of that code: the body of a module, which may be indented. `config` is added to the name and the backend."""
    place = Path(folder, name, str(version))
    place.mkdir(parents=True, exist_ok=True)
    place.with_name("config.pbtxt").write_text(f'name: "{name}"\nbackend: "python"\n{config}')
    (place / "model.py").write_text("import numpy as np\nimport triton_python_backend_utils as pb_utils\n\n" + textwrap.dedent(code))
    return place


def tensors(inputs, outputs, batch=0):
    """Configuration text of tensors, each as `NAME TYPE DIMS`, such as `IN FP32 -1,4`."""
    text = f"max_batch_size: {batch}\n"
    for side, entries in (("input", inputs), ("output", outputs)):
        for name, kind, dims in (entry.split() for entry in entries):
            text += f'{side} [{{ name: "{name}" data_type: TYPE_{kind} dims: [{dims}] }}]\n'
    return text


IDENTITY = """
class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", request.inputs()[0].as_numpy())]) for request in requests]
"""
