"""What a Python model imports as ``pb_utils``.

Source: Triton Python backend, "triton_python_backend_utils".
"""

# Models take some modules from here that Triton's own imports.
import json
import struct
import sys

import numpy as np

from ._constants import (
    TRITONSERVER_MEMORY_CPU,
    TRITONSERVER_MEMORY_GPU,
    TRITONSERVER_REQUEST_FLAG_SEQUENCE_END,
    TRITONSERVER_REQUEST_FLAG_SEQUENCE_START,
    TRITONSERVER_REQUEST_RELEASE_ALL,
    TRITONSERVER_REQUEST_RELEASE_RESCHEDULE,
    TRITONSERVER_RESPONSE_COMPLETE_FINAL,
    MemoryType,
    PreferredMemory,
)
from ._errors import TritonError, TritonModelException
from ._helpers import (
    get_input_config_by_name,
    get_input_tensor_by_name,
    get_output_config_by_name,
    get_output_tensor_by_name,
    using_decoupled_model_transaction_policy,
)
from ._log import Logger
from ._metrics import Metric, MetricFamily, MetricKind
from ._model import get_model_dir
from ._model_config import ModelConfig
from ._models import is_model_ready, load_model, unload_model
from ._request import InferenceRequest, InferenceTrace
from ._response import InferenceResponse
from ._sender import InferenceResponseSender
from ._tensor import Tensor
from ._types import (
    TRITON_STRING_TO_NUMPY,
    deserialize_byte_tensor,
    deserialize_bytes_tensor,
    numpy_to_triton_type,
    serialize_byte_tensor,
    serialize_bytes_tensor,
    triton_string_to_numpy,
    triton_to_numpy_type,
)

sys.modules.setdefault("c_python_backend_utils", sys.modules[__name__])  # models import some names from there

# Objects show themselves, and are pickled, as what they are called in Triton.
for _value in list(globals().values()):
    if isinstance(_value, type) and _value.__module__.startswith(__name__ + "._"):
        _value.__module__ = "c_python_backend_utils"
ModelConfig.__module__ = __name__
del _value


def __getattr__(name):
    """What only few models name: found when they do."""
    if name == "ResponseIterator":
        from ._bls import ResponseIterator

        return ResponseIterator
    raise AttributeError("module '%s' has no attribute '%s'" % (__name__, name))
