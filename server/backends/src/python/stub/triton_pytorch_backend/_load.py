"""From the files of a version to a module that can be called."""

import importlib.util
import inspect
import os
import sys

import torch
import triton_python_backend_utils as pb_utils

from . import _parameters
from ._compiled import Compiled

FILES = ("model.py", "model.pt")
"""Where a model lies, unless its configuration names a file."""


def load(name, folder, config, device):
    """The module, ready to be called, and the device its inputs have to lie on. ``device`` is ``None`` for a module that chooses its own.

    Raises: ``TritonModelException`` if there is no file, no class or no weights that fit; whatever the model's own code raises.
    """
    path = _find(folder, config.get("default_model_filename", ""))
    if not path.endswith(".py"):
        module = torch.jit.load(path, map_location=device)
        return module.eval(), device or _device_of(module)
    module = _make(name, path)
    weights = os.path.splitext(path)[0] + ".pt"
    if os.path.exists(weights):
        _read_weights(module, weights, device)
    if device is not None:
        module.to(device)
    module.eval()
    return _compiled(module, config), device or _device_of(module)


def _find(folder, configured):
    names = ([configured] if configured else []) + list(FILES)
    for name in names:
        path = os.path.join(folder, name)
        if os.path.exists(path):
            return path
    raise pb_utils.TritonModelException("No model found in %s/%s" % (folder, names))


def _make(name, path):
    """An object of the class in that file: of several, the first by name that can be made without arguments."""
    name = "triton_pytorch_model_" + name  # what a model imports may be called as it is
    spec = importlib.util.spec_from_file_location(name, path)
    source = importlib.util.module_from_spec(spec)
    sys.modules[name] = source  # what looks for the module of its class has to find it
    spec.loader.exec_module(source)
    classes = _classes(source)
    if not classes:
        raise pb_utils.TritonModelException("Cannot find a subclass of torch.nn.Module in %s" % path)
    for found in classes:
        if _needs_nothing(found):
            return found()
    raise pb_utils.TritonModelException(
        "no class of %s can be made without arguments: give those of %s defaults"
        % (path, " or ".join(found.__name__ for found in classes))
    )


def _classes(source):
    """The modules that a file has, in the order of their names: its own, else those that it imports."""
    found = [value for _, value in sorted(vars(source).items()) if _is_module_class(value)]
    return [one for one in found if one.__module__ == source.__name__] or found


def _is_module_class(value):
    return inspect.isclass(value) and issubclass(value, torch.nn.Module) and value is not torch.nn.Module


def _needs_nothing(found):
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(found).parameters.values()
    return all(one.default is not inspect.Parameter.empty or one.kind in variable for one in parameters)


def _read_weights(module, path, device):
    try:
        state = torch.load(path, map_location=device or "cpu")
        module.load_state_dict(state)
    except Exception as error:
        raise pb_utils.TritonModelException(
            "%s is no state dictionary of %s: %s" % (path, type(module).__name__, error)
        ) from error


def _compiled(module, config):
    options = _parameters.compile_options(config)
    if _parameters.is_set(config, _parameters.NOT_OPTIMIZED):
        return module
    if not hasattr(torch, "compile"):
        if options:
            pb_utils.Logger.log_warn(
                "PyTorch %s has no torch.compile: %s has no effect" % (torch.__version__, _parameters.COMPILE)
            )
        return module
    return Compiled(module, options)


def _device_of(module):
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
