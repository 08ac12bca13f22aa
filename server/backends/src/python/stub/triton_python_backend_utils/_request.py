"""``InferenceRequest``: one that came from a caller, or one that the model makes to ask another model."""

import json

from ._tensor import tensor_of_wire

NO_PARAMETERS = "{}"


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
        "_incoming",
        "_release_flags",
        "__weakref__",
    )

    def __init__(
        self,
        request_id="",
        correlation_id=0,
        inputs=(),
        requested_output_names=(),
        model_name="",
        model_version=-1,
        flags=0,
        timeout=0,
        preferred_memory=None,
        trace=None,
        parameters=None,
    ):
        """A request to another model, for :meth:`exec`.

        ``model_version`` -1 is the latest. ``timeout`` is in microseconds. ``parameters`` is a ``dict`` of ``str`` to
        ``bool``, ``int``, ``float`` or ``str``.
        """
        self._id = request_id
        self._correlation_id = correlation_id
        self._inputs = list(inputs)
        self._outputs = list(requested_output_names)
        self._model_name = model_name
        self._model_version = model_version
        self._flags = flags
        self._timeout = timeout
        self._preferred_memory = preferred_memory
        self._trace = trace or InferenceTrace()
        self._parameters = NO_PARAMETERS if parameters is None else json.dumps(parameters)
        self._incoming = None
        self._release_flags = 0

    def inputs(self):
        """The input tensors."""
        return self._inputs

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
        """Says where in its sequence it stands."""
        self._flags = flags

    def timeout(self):
        """How long it may wait in the queue, in microseconds; 0 for no limit of its own."""
        return self._timeout

    def parameters(self):
        """The caller's own parameters, as the JSON text of an object."""
        return self._parameters

    def requested_output_names(self):
        """The outputs that the caller wants."""
        return self._outputs

    def preferred_memory(self):
        """Where the responses of this request should lie."""
        return self._preferred_memory

    def trace(self):
        """The trace it belongs to."""
        return self._trace


class InferenceTrace(object):
    """The trace that a request belongs to."""

    __slots__ = ("_context",)

    def __init__(self, context=None):
        self._context = context

    def get_context(self):
        """The context of the trace as JSON text, or ``None``."""
        return self._context


class Incoming(object):
    """What only a request from a caller has: its slot in the server, until it is over."""

    __slots__ = ("slot", "is_over", "sender")

    def __init__(self, slot):
        self.slot = slot
        self.is_over = False
        self.sender = None


def request_of_wire(wire, model, leases):
    """A request from a caller, of the message EXECUTE; ``model`` is what all requests of the worker have in common."""
    slot, request_id, inputs, outputs, rest = wire
    request = InferenceRequest.__new__(InferenceRequest)
    request._id = request_id
    request._inputs = [
        tensor_of_wire(name, kind, shape, data if type(data) is bytes else leases.lease(data))
        for name, kind, shape, data in inputs
    ]
    request._outputs = list(model.output_names if outputs is None else outputs)
    request._model_name = model.name
    request._model_version = model.version
    if rest is None:
        request._correlation_id = request._flags = request._timeout = 0
        request._parameters = NO_PARAMETERS
        request._trace = None
    else:
        request._correlation_id, request._flags, request._timeout, parameters, context = rest
        request._parameters = NO_PARAMETERS if parameters is None else parameters
        request._trace = InferenceTrace(context)
    request._preferred_memory = None
    request._incoming = Incoming(slot)
    request._release_flags = 0
    return request

