"""A module and what ``torch.compile`` makes of it."""

import torch
import triton_python_backend_utils as pb_utils


class Compiled(object):
    """Calls the compiled module; the module itself, from then on, where it cannot be compiled, as on a machine without a C++ compiler."""

    def __init__(self, module, options):
        self._module = module
        self._call = torch.compile(module, **options)

    def __call__(self, *arguments):
        """What the module returns.

        Raises: whatever the module raises.
        """
        try:
            return self._call(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            if self._call is self._module:
                raise
            pb_utils.Logger.log_warn(
                "'%s' is run as it is, for torch.compile fails: %s" % (type(self._module).__name__, str(error).strip())
            )
            self._call = self._module
            return self._call(*arguments)
