"""The user's class ``TritonPythonModel``: found, made and called."""

import sys
from types import CoroutineType

from ._errors import ReturnError


directory = ""
"""The folder of the version of the model that this worker runs."""


def get_model_dir():
    """The folder of the version of this model: where its ``model.py`` lies, unless its backend brings one."""
    return directory


COMPLETED = ("max_batch_size", "input", "output", "dynamic_batching", "model_transaction_policy")
"""What ``auto_complete_config`` may change of a configuration."""


class Model(object):
    """One model of this worker."""

    def __init__(self, settings):
        """Imports the model; ``settings`` says where it lies (message LOAD).

        Raises: whatever the import raises; ``AttributeError`` if there is no ``TritonPythonModel``.
        """
        self.name = settings["name"]
        self.version = settings["version"]
        self.folder = settings["folder"]
        global directory
        directory = "%s/%s" % (self.folder, self.version)
        self.is_decoupled = self.is_iterative = False
        self.output_names = ()
        self._instance = None
        sys.path.extend(folder for folder in settings["path"] if folder not in sys.path)
        module = __import__(settings["module"], fromlist=["TritonPythonModel"])
        self._class = module.TritonPythonModel
        self._file = module.__file__

    def complete(self, config, normalised):
        """The configuration as the model completes it; ``None`` if it has nothing to say. All are JSON. The model sees the
        configuration with defaults filled in; what it leaves as it is stays unsaid.

        Raises: what ``auto_complete_config`` raises; ``ReturnError`` if it returns anything else.
        """
        import json

        from ._model_config import ModelConfig

        function = getattr(self._class, "auto_complete_config", None)
        if function is None:
            return None
        completed = function(ModelConfig(normalised))
        if not isinstance(completed, ModelConfig):
            raise ReturnError(
                "auto_complete_config function in model '%s' must return a valid pb.ModelConfig object." % self.name
            )
        # As in Triton, nothing else counts of what a model writes into the dictionary.
        said = json.loads(json.dumps(completed._model_config))
        seen = json.loads(normalised)
        configuration = json.loads(config)
        configuration.update((name, said[name]) for name in COMPLETED if name in said and said[name] != seen.get(name))
        return json.dumps(configuration)

    def initialize(self, args, settings):
        """Makes the instance; returns whether it has ``is_ready``. ``settings``: names of all outputs, whether the model is
        decoupled, and whether its requests get another turn when it asks for it.

        Raises: whatever the model raises; ``ReturnError`` if it has no ``execute``.
        """
        self.output_names = settings["outputs"]
        self.is_decoupled = settings["decoupled"]
        self.is_iterative = settings["iterative"]
        self._instance = self._class()
        initialize = getattr(self._instance, "initialize", None)
        if initialize is not None:
            initialize(args)
        self.execute = getattr(self._instance, "execute", None)
        if self.execute is None:
            raise ReturnError("Python model %s does not implement `execute` method." % self._file)
        return hasattr(self._instance, "is_ready")

    def is_ready(self):
        """Whether the model says that it can serve; one that says nothing can. A coroutine runs on the worker's event loop.

        Raises: ``ReturnError`` if it answers anything but a ``bool``.
        """
        function = getattr(self._instance, "is_ready", None)
        if function is None:
            return True
        answer = function()
        if type(answer) is CoroutineType:
            from . import _async

            answer = _async.loop().wait_for(answer)
        if not isinstance(answer, bool):
            raise ReturnError("is_ready() must return a boolean value")
        return answer

    def decoupled_return(self):
        """The error of a decoupled model that returned anything from ``execute``."""
        return ReturnError(
            "Python model '%s' is using the decoupled mode and the execute function must return None." % self.name
        )

    def finalize(self):
        """Ends the instance. What it left on the event loop ends before."""
        asynchronous = sys.modules.get(__package__ + "._async")
        if asynchronous is not None:
            asynchronous.stop()
        instance, self._instance = self._instance, None
        if instance is not None and hasattr(instance, "finalize"):
            instance.finalize()
