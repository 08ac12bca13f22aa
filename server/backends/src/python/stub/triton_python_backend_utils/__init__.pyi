"""What a ``model.py`` imports: tensors, requests, responses, and the server that runs the model.

Usually as ``import triton_python_backend_utils as pb_utils``; it can be imported in a process of the server only.
"""

from asyncio import Future
from enum import IntEnum
from typing import Any, AsyncIterator, Dict, Final, Iterable, Iterator, List, Literal, Mapping, Optional, Sequence, Set, Tuple, Type, Union, overload

import numpy as np
import numpy.typing as npt

TRITONSERVER_REQUEST_FLAG_SEQUENCE_START: Final = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END: Final = 2
TRITONSERVER_RESPONSE_COMPLETE_FINAL: Final = 1
TRITONSERVER_REQUEST_RELEASE_ALL: Final = 1
TRITONSERVER_REQUEST_RELEASE_RESCHEDULE: Final = 2
TRITON_STRING_TO_NUMPY: Dict[str, Type[Any]]

_Parameters = Mapping[str, Union[bool, int, float, str]]

# === errors ===

class _ErrorCode(IntEnum):
    """The kind of an error; each is an attribute of :class:`TritonError`."""

    UNKNOWN = 0
    INTERNAL = 1
    NOT_FOUND = 2
    INVALID_ARG = 3
    UNAVAILABLE = 4
    UNSUPPORTED = 5
    ALREADY_EXISTS = 6
    CANCELLED = 7

class TritonError:
    """The error of one response: a message and a code such as ``TritonError.NOT_FOUND``."""

    UNKNOWN: Final = _ErrorCode.UNKNOWN
    INTERNAL: Final = _ErrorCode.INTERNAL
    NOT_FOUND: Final = _ErrorCode.NOT_FOUND
    INVALID_ARG: Final = _ErrorCode.INVALID_ARG
    UNAVAILABLE: Final = _ErrorCode.UNAVAILABLE
    UNSUPPORTED: Final = _ErrorCode.UNSUPPORTED
    ALREADY_EXISTS: Final = _ErrorCode.ALREADY_EXISTS
    CANCELLED: Final = _ErrorCode.CANCELLED

    def __init__(self, message: str, code: _ErrorCode = ...) -> None: ...
    def message(self) -> str:
        """What went wrong."""

    def code(self) -> _ErrorCode:
        """Its kind."""

class TritonModelException(Exception):
    """Raised by everything in this package, and by models that want to fail in the same way."""

    def message(self) -> str:
        """The text it was raised with."""

# === tensors ===

class Tensor:
    """A named tensor: an input, or an output made of a NumPy array.

    Strings are object arrays of ``bytes`` or ``str``, or arrays of NumPy's own string types.
    """

    def __init__(self, name: str, numpy_array: npt.NDArray[Any], /) -> None: ...
    def name(self) -> str:
        """Its name in the model's configuration."""

    def as_numpy(self) -> npt.NDArray[Any]:
        """The array, without a copy of what lies in shared memory. Strings are an object array of ``bytes``.

        Raises ``TritonModelException`` for BF16, which NumPy does not have.
        """

    def triton_dtype(self) -> int:
        """The number of its type in ``TRITONSERVER_DataType``."""

    def shape(self) -> List[int]:
        """Its extents, the batch dimension included."""

    def is_cpu(self) -> bool:
        """Whether its bytes lie in the memory of the host."""

    def to_dlpack(self) -> Any:
        """A DLPack capsule of it, without a copy."""

    @staticmethod
    def from_dlpack(name: str, tensor: Any, /) -> Tensor:
        """A tensor of another library: a DLPack capsule, or an object with ``__dlpack__``. Nothing is copied."""

    def __dlpack__(
        self,
        stream: Optional[int] = None,
        max_version: Optional[Tuple[int, int]] = None,
        dl_device: Optional[Tuple[int, int]] = None,
        copy: Optional[bool] = None,
    ) -> Any: ...
    def __dlpack_device__(self) -> Tuple[int, int]: ...

class MemoryType(IntEnum):
    """Where the outputs of a model should lie that another model calls."""

    TRITONSERVER_MEMORY_GPU = 0
    TRITONSERVER_MEMORY_CPU = 1

TRITONSERVER_MEMORY_GPU: Final = MemoryType.TRITONSERVER_MEMORY_GPU
TRITONSERVER_MEMORY_CPU: Final = MemoryType.TRITONSERVER_MEMORY_CPU

class PreferredMemory:
    """A wish where the outputs of a called model should lie."""

    def __init__(self, preferred_memory_type: MemoryType, preferred_device_id: int = 0) -> None: ...

# === requests and responses ===

class InferenceTrace:
    """The trace that a request belongs to."""

    def get_context(self) -> Optional[str]:
        """The context of the trace as JSON text, or ``None``."""

class InferenceResponse:
    """One response: tensors, or an error."""

    def __init__(
        self,
        output_tensors: Sequence[Tensor] = ...,
        error: Optional[TritonError] = None,
        parameters: Optional[_Parameters] = None,
    ) -> None: ...
    def output_tensors(self) -> List[Tensor]:
        """The tensors."""

    def has_error(self) -> bool:
        """Whether it is an error."""

    def error(self) -> Optional[TritonError]:
        """The error, or ``None``."""

    def parameters(self) -> str:
        """The parameters as the JSON text of an object."""

class InferenceResponseSender:
    """Sends the responses of one request, from any thread, also after ``execute`` has returned."""

    def send(self, response: Optional[InferenceResponse] = None, flags: int = 0) -> None:
        """Sends a response; the last one, or its absence, with ``TRITONSERVER_RESPONSE_COMPLETE_FINAL``."""

    def is_cancelled(self) -> bool:
        """Whether the caller has given up."""

class ResponseIterator(Iterator[InferenceResponse], AsyncIterator[InferenceResponse]):
    """The responses of a decoupled model that was called, as they come; in a coroutine with ``async for``."""

    def __iter__(self) -> ResponseIterator: ...
    def __next__(self) -> InferenceResponse: ...
    def __aiter__(self) -> ResponseIterator: ...
    async def __anext__(self) -> InferenceResponse: ...
    def cancel(self) -> None:
        """Tells the model that no more responses are wanted."""

class InferenceRequest:
    """One request: from a caller, or made to call another model with :meth:`exec`."""

    def __init__(
        self,
        request_id: str = "",
        correlation_id: Union[int, str] = 0,
        inputs: Sequence[Tensor] = ...,
        requested_output_names: Iterable[str] = ...,
        model_name: str = ...,
        model_version: int = -1,
        flags: int = 0,
        timeout: int = 0,
        preferred_memory: PreferredMemory = ...,
        trace: InferenceTrace = ...,
        parameters: Optional[_Parameters] = None,
    ) -> None:
        """``inputs``, ``requested_output_names`` and ``model_name`` have to be given. ``model_version`` -1 is the latest;
        ``timeout`` is in microseconds, 0 for none."""

    def inputs(self) -> List[Tensor]:
        """The input tensors."""

    def request_id(self) -> str:
        """The caller's own id; empty if it gave none."""

    def correlation_id(self) -> Union[int, str]:
        """The id of its sequence; 0 if there is none."""

    def flags(self) -> int:
        """Where in its sequence it stands: ``TRITONSERVER_REQUEST_FLAG_SEQUENCE_START`` and ``..._END``."""

    def set_flags(self, flags: int) -> None:
        """Says where in its sequence it stands."""

    def timeout(self) -> int:
        """How long it may wait in the queue, in microseconds; 0 for no limit of its own."""

    def parameters(self) -> str:
        """The caller's own parameters, as the JSON text of an object."""

    def requested_output_names(self) -> Set[str]:
        """The names of the outputs that the caller wants."""

    def preferred_memory(self) -> PreferredMemory:
        """Where the outputs should lie."""

    def trace(self) -> InferenceTrace:
        """The trace it belongs to."""

    def get_response_sender(self) -> InferenceResponseSender:
        """What sends its responses; of requests that came from a caller."""

    def is_cancelled(self) -> bool:
        """Whether the caller has given up; of requests that came from a caller."""

    def set_release_flags(self, flags: int) -> None:
        """Whether the request is over after ``execute``, or comes back: ``TRITONSERVER_REQUEST_RELEASE_RESCHEDULE``."""

    @overload
    def exec(self, decoupled: Literal[False] = False) -> InferenceResponse:
        """Calls the model and waits for its response."""

    @overload
    def exec(self, decoupled: Literal[True]) -> ResponseIterator: ...
    @overload
    def exec(self, decoupled: bool) -> Union[InferenceResponse, ResponseIterator]: ...
    @overload
    def async_exec(self, decoupled: Literal[False] = False) -> Future[InferenceResponse]:
        """Calls the model; to be awaited in an ``async def execute``."""

    @overload
    def async_exec(self, decoupled: Literal[True]) -> Future[ResponseIterator]: ...
    @overload
    def async_exec(self, decoupled: bool) -> Future[Union[InferenceResponse, ResponseIterator]]: ...

# === the configuration ===

class ModelConfig:
    """A model's configuration as ``auto_complete_config`` may complete it."""

    def __init__(self, model_config: str) -> None: ...
    def as_dict(self) -> Dict[str, Any]:
        """The configuration as a dictionary, to look at."""

    def set_max_batch_size(self, max_batch_size: int) -> None:
        """Raises the largest batch the model takes."""

    def set_dynamic_batching(self) -> None:
        """Turns the dynamic batcher on, where the configuration has no settings for it."""

    def add_input(self, input: Dict[str, Any]) -> None:
        """Adds or completes an input: a dictionary of ``name``, ``data_type``, ``dims``, and possibly ``optional``."""

    def add_output(self, output: Dict[str, Any]) -> None:
        """Adds or completes an output: a dictionary of ``name``, ``data_type`` and ``dims``."""

    def set_model_transaction_policy(self, transaction_policy_dict: Dict[str, bool]) -> None:
        """Says whether the model is decoupled: a dictionary of ``decoupled``."""

def get_input_tensor_by_name(inference_request: InferenceRequest, name: str) -> Optional[Tensor]:
    """The input of a request with that name; ``None`` if it has none."""

def get_output_tensor_by_name(inference_response: InferenceResponse, name: str) -> Optional[Tensor]:
    """The output of a response with that name; ``None`` if it has none."""

def get_input_config_by_name(model_config: Dict[str, Any], name: str) -> Optional[Dict[str, Any]]:
    """The entry of an input in a model's configuration; ``None`` if there is none."""

def get_output_config_by_name(model_config: Dict[str, Any], name: str) -> Optional[Dict[str, Any]]:
    """The entry of an output in a model's configuration; ``None`` if there is none."""

def using_decoupled_model_transaction_policy(model_config: Dict[str, Any]) -> bool:
    """Whether a model's configuration says that it is decoupled."""

def triton_to_numpy_type(data_type: int) -> Optional[Type[Any]]:
    """NumPy's type for a number of ``TRITONSERVER_DataType``; ``None`` if it has none."""

def numpy_to_triton_type(data_type: Union[Type[Any], np.dtype[Any]]) -> Optional[int]:
    """The number in ``TRITONSERVER_DataType`` of a type of NumPy; ``None`` if Triton has no such type."""

def triton_string_to_numpy(triton_type_string: str) -> Type[Any]:
    """NumPy's type for the name of a type in a model's configuration, such as ``TYPE_FP32``."""

def serialize_byte_tensor(input_tensor: npt.NDArray[Any]) -> Union[bytes, Tuple[()], None]:
    """The bytes of an array of strings: of each its length in 4 bytes, little-endian, and itself.

    ``()`` if there are none, ``None`` if the array holds something else.
    """

def deserialize_bytes_tensor(encoded_tensor: Any) -> npt.NDArray[np.object_]:
    """The strings in a run of bytes: an object array of ``bytes``, of one dimension."""

# Both spellings are in use.
serialize_bytes_tensor = serialize_byte_tensor
deserialize_byte_tensor = deserialize_bytes_tensor

# === the server ===

def load_model(model_name: str, config: str = "", files: Optional[Mapping[str, bytes]] = None) -> None:
    """Loads a model, with another configuration (JSON) or other files (``"file:1/model.py"``: its bytes) if given."""

def unload_model(model_name: str, unload_dependents: bool = False) -> None:
    """Unloads a model, and the models only it uses if wanted."""

def is_model_ready(model_name: str, model_version: str = "") -> bool:
    """Whether a model is ready for requests; of all its versions unless one is named."""

def get_model_dir() -> str:
    """The folder of the version of the model that runs here."""

class Logger:
    """The server's log."""

    class LogLevel(IntEnum):
        """How important a line of the log is."""

        INFO = ...
        WARNING = ...
        ERROR = ...
        VERBOSE = ...

    INFO: Final = LogLevel.INFO
    WARNING: Final = LogLevel.WARNING
    ERROR: Final = LogLevel.ERROR
    VERBOSE: Final = LogLevel.VERBOSE

    @staticmethod
    def log(message: str, level: LogLevel = ...) -> None:
        """Writes a line with the model's name."""

    @staticmethod
    def log_info(message: str) -> None: ...
    @staticmethod
    def log_warn(message: str) -> None: ...
    @staticmethod
    def log_error(message: str) -> None: ...
    @staticmethod
    def log_verbose(message: str) -> None: ...

class MetricKind(IntEnum):
    """What a metric is; each is an attribute of :class:`MetricFamily`."""

    COUNTER = ...
    GAUGE = ...
    HISTOGRAM = ...

class Metric:
    """One line of a family on the metrics page, told apart by its labels."""

    def increment(self, value: float) -> None:
        """Adds to a counter or gauge."""

    def set(self, value: float) -> None:
        """Sets a gauge."""

    def observe(self, value: float) -> None:
        """Counts a value in a histogram."""

    def value(self) -> float:
        """The value of a counter or gauge."""

class MetricFamily:
    """Metrics of one name."""

    COUNTER: Final = MetricKind.COUNTER
    GAUGE: Final = MetricKind.GAUGE
    HISTOGRAM: Final = MetricKind.HISTOGRAM

    def __init__(self, name: str, description: str, kind: MetricKind) -> None: ...
    def Metric(self, labels: Optional[Mapping[str, str]] = None, buckets: Optional[Sequence[float]] = None) -> Metric:
        """One metric of the family; ``buckets`` are the upper bounds of a histogram, ascending."""
