"""PyTorch models that are written in Python: what runs a model with ``backend: "pytorch"`` and ``runtime: "model.py"``.

The model's version folder has a ``model.py`` with a class that extends ``torch.nn.Module`` and, if it has weights, its state dictionary
as ``model.pt``; or a ``model.pt`` alone, a TorchScript module. Inputs are the arguments of ``forward`` in the order of the
configuration, outputs what it returns in the same way.

Source: Triton PyTorch backend, "PyTorch 2.0 Backend".
"""

import sys

try:
    import torch  # noqa: F401
except ImportError as error:
    raise RuntimeError(
        "the Python interpreter '%s' (%s) has no torch, which a PyTorch model in Python needs (%s): install it there, or name another "
        "interpreter with --backend-config=python,executable=PATH or the model's parameter EXECUTION_ENV_PATH"
        % (sys.executable, sys.version.split()[0], error)
    ) from None

from ._model import TritonPythonModel

__all__ = ["TritonPythonModel"]
