"""``Tensor``: a name and an array, made by the model, or an input that becomes an array when it is asked for."""

import numpy as np

from ._arguments import incompatible_arguments, text_of
from ._errors import TritonModelException
from ._segments import Lease
from ._types import BF16, BYTES, NUMPY_DTYPES, TRITON_TYPES, bytes_of_strings, deserialize_bytes_tensor

INLINE_MAX = 16 << 10
"""Bytes of the largest tensor that travels inside a message; a larger one lies in a segment."""

BF16_BITS = np.dtype(np.uint16)

ndarray = np.ndarray


class Tensor(object):
    """A named tensor.

    Source: Triton Python backend, ``pb_utils.Tensor``.
    """

    __slots__ = ("_name", "_type", "_shape", "_data", "_array", "__weakref__")

    def __init__(self, name, data):
        """A tensor of that NumPy array, without a copy if it is row-major and without gaps.

        Strings are object arrays of ``bytes`` or ``str``, or arrays of NumPy's own string types.

        Raises: ``TritonModelException`` if the name is empty or Triton has no such type.
        """
        if type(name) is not str or not name or not isinstance(data, ndarray):
            name = _name_of(name, data, isinstance(data, ndarray))
        kind = TRITON_TYPES.get(data.dtype)
        if kind is None:
            kind = _other_type(data.dtype)
            if kind != BYTES:
                data = data.astype(data.dtype.newbyteorder("="))
        if not data.flags.c_contiguous:
            data = np.ascontiguousarray(data)
        self._name = name
        self._type = kind
        self._shape = None
        self._data = None
        self._array = data

    def name(self):
        """Its name in the model's configuration."""
        return self._name

    def triton_dtype(self):
        """The number of its type in Triton's ``TRITONSERVER_DataType``."""
        return self._type

    def shape(self):
        """Its extents, the batch dimension included."""
        return list(self._extents())

    def is_cpu(self):
        """Whether its bytes lie in the memory of the host."""
        return True

    def as_numpy(self):
        """The array, without a copy of what lies in shared memory. Strings are an object array of ``bytes``.

        Raises: ``TritonModelException`` for BF16, which NumPy does not have.
        """
        array = self._array
        if array is None:
            array = self._array = self._make_array()
        return array

    def to_dlpack(self):
        """A DLPack capsule of it, without a copy.

        Raises: ``TritonModelException`` for strings.
        """
        from ._dlpack import capsule

        return capsule(self._numbers(), self._type)

    @staticmethod
    def from_dlpack(name, tensor):
        """A tensor of another library: a DLPack capsule, or an object with ``__dlpack__``. Nothing is copied.

        Raises: ``TritonModelException`` if the name is empty, if it does not lie in the memory of the host, row-major and
        without gaps, or if Triton has no such type.
        """
        from ._dlpack import import_tensor

        name = _name_of(name, tensor)
        array, kind = import_tensor(tensor)
        made = Tensor(name, array)
        if kind == BF16:
            made._type, made._shape, made._data, made._array = BF16, array.shape, array, None
        return made

    def __dlpack__(self, stream=None, max_version=None, dl_device=None, copy=None):
        """A DLPack capsule of it, as other libraries ask for it. ``stream`` has no meaning on a CPU."""
        from ._dlpack import DEVICE, capsule

        if dl_device is not None and tuple(dl_device) != DEVICE:
            raise BufferError("the tensor lies in the memory of the host and can only be had there, not on device %s" % (dl_device,))
        numbers = self._numbers()
        return capsule(numbers.copy() if copy and numbers is not None else numbers, self._type)

    def __dlpack_device__(self):
        """The kind and the number of the device it lies on: always (1, 0), the memory of the host."""
        from ._dlpack import DEVICE

        return DEVICE

    def _extents(self):
        return self._array.shape if self._shape is None else self._shape

    def _make_array(self):
        kind, data, shape = self._type, self._data, self._shape
        if kind == BYTES:
            data = data.bytes() if type(data) is Lease else data
            return deserialize_bytes_tensor(data).reshape(shape)
        if kind == BF16:
            raise TritonModelException(
                "Tensor dtype is BF16 and cannot be converted to NumPy. Use to_dlpack() and from_dlpack() instead."
            )
        return _array_of(data, NUMPY_DTYPES[kind], shape)

    def _numbers(self):
        """The array of it, of BF16 its bits as ``uint16``; ``None`` for strings."""
        if self._type == BYTES:
            return None
        if self._type != BF16:
            return self.as_numpy()
        if type(self._data) is not ndarray:
            self._data = _array_of(self._data, BF16_BITS, self._shape)
        return self._data


def _name_of(name, data, is_data=True):
    """The name of a tensor that a model makes of some data, and whether it can be made of it."""
    text = text_of(name)
    if text is None or not is_data:
        raise incompatible_arguments("Tensor(arg0: str, arg1: numpy.ndarray)", 2, ("arg0", name), ("arg1", data))
    if not text:
        raise TritonModelException("Tensor name cannot be an empty string.")
    return text


def _array_of(data, dtype, shape):
    """An array that may be written to: of an input's memory, or of a copy of what travelled inside the message."""
    return data.array(dtype, shape) if type(data) is Lease else ndarray(shape, dtype, bytearray(data))


def _other_type(dtype):
    """The type of an array whose type is not Triton's own by name: strings, and foreign byte orders."""
    if dtype.kind in "SU":
        return BYTES
    kind = TRITON_TYPES.get(dtype.newbyteorder("="))
    if kind is None:
        raise TritonModelException("NumPy dtype is not supported.")
    return kind


# === between messages and tensors ===


def tensor_of_wire(name, kind, shape, data):
    """An input. ``data`` is its bytes, or a :class:`Lease`."""
    tensor = Tensor.__new__(Tensor)
    tensor._name = name
    tensor._type = kind
    tensor._shape = shape
    tensor._data = data
    tensor._array = None
    return tensor


def contiguous_data(tensor):
    """What goes out of a tensor: bytes, a C-contiguous array, or the :class:`Lease` of an input that it lies in."""
    array = tensor._array
    if array is None:
        return tensor._data
    if tensor._type == BYTES:
        return bytes_of_strings(array)
    return array


def lease_of(array):
    """The lease and the offset in it, if all of a C-contiguous array lies in the memory of an input; else ``None``."""
    base = array.base
    while type(base) is ndarray:
        base = base.base
    if type(base) is not Lease:
        return None
    offset = array.__array_interface__["data"][0] - base.address
    if offset < 0 or offset + array.nbytes > base.length:
        return None
    return base, offset
