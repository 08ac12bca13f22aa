"""Data types: Triton's numbers and names beside NumPy's types, and how strings lie in memory."""

from struct import Struct
from struct import error as StructError

import numpy as np

from ._errors import TritonModelException

BOOL = 1
BYTES = 13
BF16 = 14

_SCALARS = (
    np.bool_,
    np.uint8,
    np.uint16,
    np.uint32,
    np.uint64,
    np.int8,
    np.int16,
    np.int32,
    np.int64,
    np.float16,
    np.float32,
    np.float64,
    np.object_,
)

NUMPY_TYPES = dict(enumerate(_SCALARS, BOOL))
"""NumPy's scalar type of each number of ``TRITONSERVER_DataType``; BF16 has none."""

NUMPY_DTYPES = {kind: np.dtype(scalar) for kind, scalar in NUMPY_TYPES.items()}
"""NumPy's data type of each number."""

TRITON_TYPES = {np.bytes_: BYTES, np.dtype(np.bytes_): BYTES}
"""The number of each of NumPy's scalar types and data types that Triton has."""

for _kind, _scalar in NUMPY_TYPES.items():
    TRITON_TYPES[_scalar] = TRITON_TYPES[np.dtype(_scalar)] = _kind
del _kind, _scalar

TRITON_STRING_TO_NUMPY = {
    "TYPE_BOOL": bool,
    "TYPE_UINT8": np.uint8,
    "TYPE_UINT16": np.uint16,
    "TYPE_UINT32": np.uint32,
    "TYPE_UINT64": np.uint64,
    "TYPE_INT8": np.int8,
    "TYPE_INT16": np.int16,
    "TYPE_INT32": np.int32,
    "TYPE_INT64": np.int64,
    "TYPE_FP16": np.float16,
    "TYPE_FP32": np.float32,
    "TYPE_FP64": np.float64,
    "TYPE_STRING": np.object_,
}


def triton_to_numpy_type(data_type):
    """NumPy's type for a number of ``TRITONSERVER_DataType``; ``None`` if it has none."""
    return NUMPY_TYPES.get(data_type)


def numpy_to_triton_type(data_type):
    """The number in ``TRITONSERVER_DataType`` of a type of NumPy; ``None`` if Triton has no such type."""
    kind = TRITON_TYPES.get(data_type)
    if kind is None and getattr(data_type, "kind", None) == "S":
        return BYTES
    return kind


def triton_string_to_numpy(triton_type_string):
    """NumPy's type for the name of a type in a model's configuration, such as ``TYPE_FP32``.

    Raises: ``KeyError`` if NumPy has no such type.
    """
    return TRITON_STRING_TO_NUMPY[triton_type_string]


# === strings: each is its length in bytes (4 bytes, little-endian), then so many bytes; row-major, without padding ===

_LENGTH = Struct("<I")
_pack_length = _LENGTH.pack
_length_at = _LENGTH.unpack_from


def serialize_byte_tensor(input_tensor):
    """The bytes of an array of strings: an object array, or one of NumPy's own string types.

    Elements are ``bytes``, or ``str`` in UTF-8; any other becomes text first. As in Triton it is ``()`` if there are none, and
    ``None`` if the array holds something else.
    """
    if input_tensor.size == 0:
        return ()
    return bytes_of_strings(input_tensor) if input_tensor.dtype.kind in "OSU" else None


def bytes_of_strings(array):
    """The bytes of an array of strings, also of none."""
    items = array.ravel().tolist()
    if array.dtype.kind != "S":
        items = [item if type(item) is bytes else _as_bytes(item) for item in items]
    pieces = [b""] * (2 * len(items))
    pieces[0::2] = map(_pack_length, map(len, items))
    pieces[1::2] = items
    return b"".join(pieces)


def _as_bytes(item):
    if isinstance(item, bytes):
        return bytes(item)
    return str(item).encode("utf-8")


def deserialize_bytes_tensor(encoded_tensor):
    """The strings in a run of bytes: an object array of ``bytes``, of one dimension.

    Raises: ``TritonModelException`` if the last string is not complete.
    """
    data = encoded_tensor if type(encoded_tensor) is bytes else bytes(encoded_tensor)
    strings = []
    append, length_at = strings.append, _length_at
    position, end = 0, len(data)
    try:
        while position < end:
            start = position + 4
            position = start + length_at(data, position)[0]
            append(data[start:position])
    except StructError:
        raise TritonModelException("Invalid bytes tensor data: incomplete length field") from None
    if position > end:
        raise TritonModelException("Invalid bytes tensor data: string extends beyond buffer")
    array = np.empty(len(strings), np.object_)
    array[:] = strings
    return array


# Both spellings are in use, here and in Triton's clients.
serialize_bytes_tensor = serialize_byte_tensor
deserialize_byte_tensor = deserialize_bytes_tensor
