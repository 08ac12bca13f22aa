"""A module and what ``torch.compile`` makes of it."""

import getpass
import os

import torch
import triton_python_backend_utils as pb_utils


class Compiled(object):
    """Calls the compiled module; the module itself, from then on, where it cannot be compiled, as on a machine without a C++ compiler."""

    def __init__(self, module, options):
        self._module = module
        _name_the_user()
        try:
            self._call = torch.compile(module, **options)
        except Exception as error:
            if options:  # which may be what is wrong
                raise
            self._give_up(error)

    def __call__(self, *arguments):
        """What the module returns.

        Raises: whatever the module raises.
        """
        if self._call is self._module:
            return self._module(*arguments)
        try:
            return self._call(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            self._give_up(error)
            return self._call(*arguments)

    def _give_up(self, error):
        text = "%s: %s" % (type(error).__name__, str(error).strip())
        pb_utils.Logger.log_warn("'%s' is run as it is, for torch.compile fails: %s" % (type(self._module).__name__, text))
        self._call = self._module


def _name_the_user():
    """PyTorch calls its cache after the user, and the user of a container may have no name."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = str(os.getuid())
