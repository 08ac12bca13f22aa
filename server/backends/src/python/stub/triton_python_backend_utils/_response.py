"""``InferenceResponse``, and how it is written for the server."""

from ._arguments import incompatible_arguments, items_of
from ._errors import TritonError, TritonModelException
from ._parameters import checked_parameters, json_of
from ._segments import Lease, aligned
from ._tensor import INLINE_MAX, Tensor, contiguous_data, lease_of
from ._types import BYTES

# Kinds of results of one request; `wire.rs` names the same.
OUTPUTS, ERROR, NOTHING, RESCHEDULED, RAISED, DROPPED = range(6)

# Where a tensor lies that does not travel inside its message.
IN_INPUT, IN_SEGMENT = 0, 1


class InferenceResponse(object):
    """One response: tensors, or an error.

    Source: Triton Python backend, ``pb_utils.InferenceResponse``.
    """

    __slots__ = ("_tensors", "_error", "_parameters", "__weakref__")

    def __init__(self, output_tensors=(), error=None, parameters=None):
        """``error`` is a ``TritonError``; ``parameters`` a ``dict`` of ``str`` to ``bool``, ``int``, ``float`` or ``str``.

        Raises: ``TritonModelException`` if a tensor is ``None`` or a parameter of another type; ``TypeError`` for anything
        else that is not as said.
        """
        tensors = items_of(output_tensors, Tensor)
        if tensors is None or error is not None and not isinstance(error, TritonError):
            raise incompatible_arguments(
                "InferenceResponse(output_tensors: List[c_python_backend_utils.Tensor] = [], "
                "error: c_python_backend_utils.TritonError = None, parameters: object = None)",
                1,
                ("output_tensors", output_tensors, ()),
                ("error", error, None),
                ("parameters", parameters, None),
            )
        if None in tensors:
            raise TritonModelException("Output tensor for inference response should not be empty.")
        self._tensors = tensors
        self._error = error
        self._parameters = None if parameters is None else checked_parameters(parameters)

    def output_tensors(self):
        """The tensors."""
        return self._tensors[:]

    def has_error(self):
        """Whether it is an error."""
        return self._error is not None

    def error(self):
        """The ``TritonError``, or ``None``."""
        return self._error

    def parameters(self):
        """The parameters as the JSON text of an object."""
        return json_of(self._parameters)


def result_of(response, large):
    """A response as the server reads it. Tensors that are too large for a message are collected by ``large``."""
    error = response._error
    if error is not None:
        return (ERROR, error.message(), int(error.code()))
    return (OUTPUTS, wires_of(response._tensors, large), response._parameters)


def wires_of(tensors, large):
    """Tensors as the server reads them."""
    wires = []
    for tensor in tensors:
        array = tensor._array
        if array is not None and tensor._type != BYTES and array.nbytes <= INLINE_MAX:
            wires.append((tensor._name, tensor._type, array.shape, array))  # as most are
            continue
        data = contiguous_data(tensor)
        if type(data) is Lease:
            data = large.of_lease(data, 0, data.length)
        elif (data.nbytes if type(data) is not bytes else len(data)) > INLINE_MAX:
            data = large.of_data(data)
        wires.append((tensor._name, tensor._type, tuple(tensor._extents()), data))
    return wires


class Large(object):
    """Tensors of one message that are too large to travel inside it: what of them must be written is written together.

    ``channel`` is the one that the message goes through. ``is_answer`` is whether the message ends ``execute``: then a tensor that is
    part of an input is passed by reference. While ``execute`` goes on, or other threads of the model do, it may write into its inputs as
    soon as a message is sent, so others have a copy.
    """

    __slots__ = ("_channel", "_is_answer", "_unplaced", "_bytes", "_writer")

    def __init__(self, channel, is_answer=False):
        self._channel = channel
        self._is_answer = is_answer
        self._unplaced = ()
        self._bytes = 0
        self._writer = None

    def of_lease(self, lease, offset, length):
        """A part of an input: by reference in an answer, else to be written."""
        if not self._is_answer:
            return self._to_write(lease.bytes()[offset : offset + length], length)
        lease.is_in_answer = True
        return (IN_INPUT, lease.handle, offset, length)

    def of_data(self, data):
        """A C-contiguous array, or bytes: by reference if it is part of an input and this is an answer, else to be written."""
        if type(data) is bytes:
            return self._to_write(data, len(data))
        leased = lease_of(data) if self._is_answer else None
        if leased is not None:
            return self.of_lease(leased[0], leased[1], data.nbytes)
        return self._to_write(data, data.nbytes)

    def _to_write(self, data, length):
        place = [IN_SEGMENT]
        if not self._unplaced:
            self._unplaced = []
        self._unplaced.append((place, data))
        self._bytes += aligned(length)
        return place

    def write(self):
        """Writes what was collected."""
        if self._unplaced:
            self._writer = self._channel.segments.writer(self._bytes, self._channel)
            for place, data in self._unplaced:
                place.extend(self._writer.write(data))

    def discard(self):
        """The message is not sent."""
        if self._writer is not None:
            self._writer.discard()
