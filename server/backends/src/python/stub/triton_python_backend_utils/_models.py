"""Models loaded and unloaded by a model, and what they are asked.

Source: Triton Python backend, "Model Loading API".
"""

from ._calls import IS_READY, LOAD_MODEL, UNLOAD_MODEL, call


def load_model(model_name, config="", files=None):
    """Loads or reloads a model. ``config`` is the JSON text of another configuration; ``files`` make up the model in place of
    its own: a ``dict`` of names such as ``file:1/model.py`` to ``bytes``.

    Raises: ``TritonModelException`` if it cannot be loaded.
    """
    texts(model_name=model_name, config=config)
    files = {} if files is None else dict(files)
    for name, content in files.items():
        texts(name=name)
        if not isinstance(content, (bytes, bytearray, memoryview)):
            raise TypeError("files: expected a dict of str to bytes, found '%s'" % type(content).__name__)
    call(LOAD_MODEL, model_name, config, {name: bytes(content) for name, content in files.items()})


def unload_model(model_name, unload_dependents=False):
    """Takes a model out of service; returns before its last request has ended.

    Raises: ``TritonModelException`` if there is no such model, or the server does not allow it.
    """
    texts(model_name=model_name)
    call(UNLOAD_MODEL, model_name, bool(unload_dependents))


def is_model_ready(model_name, model_version=""):
    """Whether a model can serve; without a version, whether its latest can.

    Raises: ``TritonModelException`` if the version is no number.
    """
    texts(model_name=model_name, model_version=model_version)
    return call(IS_READY, model_name, model_version)


def texts(**arguments):
    for name, value in arguments.items():
        if not isinstance(value, str):
            raise TypeError("%s: expected a str, found '%s'" % (name, type(value).__name__))
