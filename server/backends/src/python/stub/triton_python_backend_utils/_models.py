"""Models loaded and unloaded by a model, and what they are asked.

Source: Triton Python backend, "Model Loading API".
"""

from ._arguments import incompatible_function
from ._calls import IS_READY, LOAD_MODEL, UNLOAD_MODEL, call
from ._errors import TritonModelException


def load_model(model_name=None, config="", files=None):
    """Loads or reloads a model. ``config`` is the JSON text of another configuration; ``files`` make up the model in place of
    its own: a ``dict`` of names such as ``file:1/model.py`` to ``bytes``.

    Raises: ``TritonModelException`` if it cannot be loaded.
    """
    if not isinstance(model_name, str) or not isinstance(config, str) or not (files is None or isinstance(files, dict)):
        signature = "(model_name: str, config: str = '', files: object = None) -> None"
        raise incompatible_function("load_model", signature, model_name, config, files)
    contents = {}
    for name, content in (files or {}).items():
        if not isinstance(name, str) or not isinstance(content, (bytes, bytearray, memoryview)):
            raise TritonModelException("Failed to load model: files must be a dict of str to bytes, found %r" % (name,))
        contents[name] = bytes(content)
    ask("Failed to load model: ", LOAD_MODEL, model_name, config, contents)


def unload_model(model_name=None, unload_dependents=False):
    """Takes a model out of service; returns before its last request has ended. A model that is not there is none to unload.

    Raises: ``TritonModelException`` if the server does not allow it.
    """
    if not isinstance(model_name, str):
        signature = "(model_name: str, unload_dependents: bool = False) -> None"
        raise incompatible_function("unload_model", signature, model_name, unload_dependents)
    ask("Failed to unload model: ", UNLOAD_MODEL, model_name, bool(unload_dependents))


def is_model_ready(model_name=None, model_version=""):
    """Whether a model can serve; without a version, whether its latest can.

    Raises: ``TritonModelException`` if the version is no number.
    """
    if not isinstance(model_name, str) or not isinstance(model_version, str):
        signature = "(model_name: str, model_version: str = '') -> bool"
        raise incompatible_function("is_model_ready", signature, model_name, model_version)
    return ask("Failed to check model readiness: ", IS_READY, model_name, model_version)


def ask(failed, *message):
    try:
        return call(*message)
    except TritonModelException as error:
        raise TritonModelException("%s%s" % (failed, error)) from None
