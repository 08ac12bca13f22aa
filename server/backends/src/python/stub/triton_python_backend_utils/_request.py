"""``InferenceRequest``: one that came from a caller, or one that the model makes to ask another model."""

from . import _sender
from ._arguments import incompatible_arguments, incompatible_function, is_integer, items_of, text_of
from ._constants import NO_PREFERRED_MEMORY, TRITONSERVER_REQUEST_FLAG_SEQUENCE_START, PreferredMemory
from ._errors import TritonModelException
from ._parameters import NO_PARAMETERS, checked_parameters, json_of
from ._sender import CANCELLED, between_turns, sender_of, sender_of_next_turn
from ._tensor import Tensor, tensor_of_wire


class InferenceTrace(object):
    """The trace that a request belongs to."""

    __slots__ = ("_context", "_number")

    def __init__(self):
        self._context = self._number = None

    def get_context(self):
        """The context of the trace as JSON text, or ``None``."""
        return self._context


NO_TRACE = InferenceTrace()


def trace_of_wire(wire):
    """The trace of a request from a caller."""
    if wire is None:
        return NO_TRACE
    trace = InferenceTrace()
    trace._number, trace._context = wire
    return trace

RELEASE_RESCHEDULE = 2


class InferenceRequest(object):
    """One request.

    Source: Triton Python backend, ``pb_utils.InferenceRequest``.
    """

    __slots__ = (
        "_id",
        "_correlation_id",
        "_inputs",
        "_outputs",
        "_model_name",
        "_model_version",
        "_flags",
        "_timeout",
        "_parameters",
        "_preferred_memory",
        "_trace",
        "_slot",
        "_is_decoupled",
        "_sender",
        "_release_flags",
        "__weakref__",
    )

    def __init__(
        self,
        request_id="",
        correlation_id=0,
        inputs=None,
        requested_output_names=None,
        model_name=None,
        model_version=-1,
        flags=0,
        timeout=0,
        preferred_memory=NO_PREFERRED_MEMORY,
        trace=NO_TRACE,
        parameters=None,
    ):
        """A request to another model, for :meth:`exec`.

        ``inputs``, ``requested_output_names`` and ``model_name`` have to be given. ``model_version`` -1 is the latest.
        ``timeout`` is in microseconds. ``parameters`` is a ``dict`` of ``str`` to ``bool``, ``int``, ``float`` or ``str``.

        Raises: ``TritonModelException`` if an input is ``None``, a name empty or a parameter of another type; ``TypeError``
        for anything else that is not as said.
        """
        request_name, model = text_of(request_id), text_of(model_name)
        tensors, outputs = items_of(inputs, Tensor), items_of(requested_output_names, (str, bytes))
        if (
            request_name is None
            or model is None
            or tensors is None
            or outputs is None
            or None in outputs
            or not is_integer(model_version, -(1 << 63), (1 << 63) - 1)
            or not is_integer(flags, 0, (1 << 32) - 1)
            or not is_integer(timeout, 0, (1 << 64) - 1)
            or not isinstance(preferred_memory, PreferredMemory)
            or not isinstance(trace, InferenceTrace)
        ):
            raise incompatible_arguments(
                "InferenceRequest(request_id: str = '', correlation_id: object = 0, "
                "inputs: List[c_python_backend_utils.Tensor], requested_output_names: List[str], model_name: str, "
                "model_version: int = -1, flags: int = 0, timeout: int = 0, preferred_memory: PreferredMemory, "
                "trace: InferenceTrace, parameters: object = None)",
                0,
                ("request_id", request_id, ""),
                ("correlation_id", correlation_id, 0),
                ("inputs", inputs, None),
                ("requested_output_names", requested_output_names, None),
                ("model_name", model_name, None),
                ("model_version", model_version, -1),
                ("flags", flags, 0),
                ("timeout", timeout, 0),
                ("preferred_memory", preferred_memory, NO_PREFERRED_MEMORY),
                ("trace", trace, NO_TRACE),
                ("parameters", parameters, None)
            )
        checked = checked_parameters(parameters)
        if not isinstance(correlation_id, str) and not is_integer(correlation_id, 0, (1 << 64) - 1):
            raise TritonModelException("Correlation ID must be integer or string")
        outputs = list(dict.fromkeys(map(text_of, outputs)))  # one that is named twice is wanted once
        for missing, what in ((None in tensors, "Input tensor"), ("" in outputs, "Requested output name")):
            if missing:
                raise TritonModelException(
                    "%s for request with id '%s' and model name '%s' should not be empty." % (what, request_name, model)
                )
        self._id = request_name
        self._correlation_id = correlation_id if isinstance(correlation_id, str) else int(correlation_id)
        self._inputs = tensors
        self._outputs = outputs
        self._model_name = model
        self._model_version = int(model_version)
        self._flags = int(flags)
        self._timeout = int(timeout)
        self._preferred_memory = preferred_memory
        self._trace = trace
        self._parameters = json_of(checked)
        self._slot = self._is_decoupled = self._sender = None
        self._release_flags = 0

    def inputs(self):
        """The input tensors."""
        return self._inputs[:]

    def request_id(self):
        """The caller's own id; empty if it gave none."""
        return self._id

    def correlation_id(self):
        """The id of its sequence, a number or a text; 0 if there is none."""
        return self._correlation_id

    def flags(self):
        """Where in its sequence it stands: ``TRITONSERVER_REQUEST_FLAG_SEQUENCE_START`` and ``..._END``."""
        return self._flags

    def set_flags(self, flags):
        """Says where in its sequence it stands.

        Raises: ``TypeError`` if it is no number of 32 bits.
        """
        if not is_integer(flags, 0, (1 << 32) - 1):
            raise TypeError("set_flags(): incompatible function arguments. The flags have to be an int, found %r" % (flags,))
        self._flags = int(flags)

    def timeout(self):
        """How long it may wait in the queue, in microseconds; 0 for no limit of its own."""
        return self._timeout

    def parameters(self):
        """The caller's own parameters, as the JSON text of an object."""
        return self._parameters

    def requested_output_names(self):
        """The names of the outputs that the caller wants, a set."""
        return set(self._outputs)

    def preferred_memory(self):
        """Where the responses of this request should lie."""
        return self._preferred_memory

    def exec(self, decoupled=False):
        """Asks the model, and returns its response; with ``decoupled`` an iterator over its responses. Blocks until the first
        is there. What goes wrong is the response's error.

        Raises: ``TritonModelException`` outside ``execute`` and what it started.
        """
        from ._bls import execute

        return execute(self, decoupled)

    def async_exec(self, decoupled=False):
        """As :meth:`exec`, as a future to be awaited. The request is on its way when this returns.

        Raises: as :meth:`exec`; ``RuntimeError`` where no event loop runs.
        """
        from ._bls import execute_async

        return execute_async(self, decoupled)

    def trace(self):
        """The trace it belongs to."""
        return self._trace

    # === of requests that came from a caller ===

    def get_response_sender(self):
        """What sends its responses, at any time and from any thread."""
        sender = self._sender
        if sender is None:
            sender = self._sender = sender_of(self._slot, self._is_decoupled)
        return sender

    def is_cancelled(self):
        """Whether its caller has left, so that nobody reads a response."""
        if self._sender is not None:
            return self._sender.is_cancelled()
        return self._slot is not None and _sender.status_of(self._slot) & CANCELLED != 0

    def set_release_flags(self, flags):
        """What becomes of it when ``execute`` returns: with ``TRITONSERVER_REQUEST_RELEASE_RESCHEDULE`` it gets another turn,
        if its model is configured for iterative sequences.
        """
        if not is_integer(flags, 0, (1 << 32) - 1):
            raise incompatible_function(
                "set_release_flags", "(self: c_python_backend_utils.InferenceRequest, flags: int) -> None", flags
            )
        self._release_flags = flags

    def _is_rescheduled(self):
        return self._release_flags == RELEASE_RESCHEDULE

    def _is_answered(self):
        """Whether responses were sent, so that its end has to follow them on the same way."""
        return self._sender is not None and self._sender._is_used

    def _leave_open(self):
        """``execute`` is over for it, not the request: whoever lets go of it last without a response is noticed."""
        self.get_response_sender()

    def _close(self):
        """The request ends with ``execute``."""
        self._slot = None
        if self._sender is not None:
            self._sender._close()


def request_of_wire(wire, model, leases):
    """A request from a caller, of the message EXECUTE; ``model`` is what all requests of the worker have in common."""
    slot, request_id, inputs, outputs, rest = wire
    request = InferenceRequest.__new__(InferenceRequest)
    request._id = request_id
    request._inputs = [
        tensor_of_wire(name, kind, shape, data if type(data) is bytes else leases.lease(data))
        for name, kind, shape, data in inputs
    ]
    request._outputs = model.output_names if outputs is None else outputs
    request._model_name = model.name
    request._model_version = model.version
    if rest is None:
        request._correlation_id = request._flags = request._timeout = 0
        request._parameters = NO_PARAMETERS
        request._trace = NO_TRACE
    else:
        request._correlation_id, request._flags, request._timeout, parameters, trace = rest
        request._parameters = NO_PARAMETERS if parameters is None else parameters
        request._trace = trace_of_wire(trace)
    request._preferred_memory = NO_PREFERRED_MEMORY
    request._slot = slot
    request._is_decoupled = model.is_decoupled
    is_next_turn = between_turns and model.is_iterative and not request._flags & TRITONSERVER_REQUEST_FLAG_SEQUENCE_START
    request._sender = sender_of_next_turn(request._correlation_id, slot) if is_next_turn else None
    request._release_flags = 0
    return request

