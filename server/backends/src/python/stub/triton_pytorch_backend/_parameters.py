"""The parameters of the configuration, read and checked."""

import json

from triton_python_backend_utils import TritonModelException

THREADS = "NUM_THREADS"
INTEROP_THREADS = "NUM_INTEROP_THREADS"
COMPILE = "TORCH_COMPILE_OPTIONAL_PARAMETERS"
NOT_OPTIMIZED = "DISABLE_OPTIMIZED_EXECUTION"


def text_of(config, name, default):
    """A parameter as it is written."""
    return config.get("parameters", {}).get(name, {}).get("string_value", default)


def threads(config, name):
    """A number of threads; 1 if the configuration has none.

    Raises: ``TritonModelException`` if it is none.
    """
    text = text_of(config, name, "1")
    if not text.strip().isdigit() or int(text) < 1:
        raise TritonModelException("parameter '%s' must be a number of threads from 1 on, not '%s'" % (name, text))
    return int(text)


def is_set(config, name):
    """A switch; off if the configuration does not have it.

    Raises: ``TritonModelException`` if it is neither true nor false.
    """
    text = text_of(config, name, "false").strip().lower()
    if text not in ("true", "false", "1", "0"):
        raise TritonModelException("parameter '%s' must be 'true' or 'false', not '%s'" % (name, text))
    return text in ("true", "1")


def compile_options(config):
    """The arguments of ``torch.compile`` other than the model, by name.

    Raises: ``TritonModelException`` if it is no JSON object, or has the model among them.
    """
    text = text_of(config, COMPILE, "{}")
    try:
        options = json.loads(text)
    except ValueError as error:
        raise TritonModelException("parameter '%s' is no JSON: %s" % (COMPILE, error)) from None
    if not isinstance(options, dict):
        raise TritonModelException("parameter '%s' must be a JSON object, not '%s'" % (COMPILE, text))
    if "model" in options:
        raise TritonModelException("'model' is not an optional parameter for 'torch.compile'")
    return options
