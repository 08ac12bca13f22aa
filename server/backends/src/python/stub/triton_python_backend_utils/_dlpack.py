"""Tensors to and from other libraries by DLPack, on the CPU. Imported when the first tensor takes this way.

Capsules are made by NumPy, which frees them in C, whatever state the interpreter is in. Those of others are read here: a type
that NumPy lacks passes as numbers of the same width.
Source: DLPack's C API (``dlpack.h``), and the Python specification of DLPack.
"""

import ctypes
from datetime import datetime_CAPI

import numpy as np

from ._errors import TritonModelException
from ._types import BF16, BOOL, BYTES, NUMPY_DTYPES

DEVICE = (1, 0)
"""What ``__dlpack_device__`` answers: the CPU."""

_CPU, _CUDA, _CUDA_HOST = 1, 2, 3
_INT, _UINT, _FLOAT, _BFLOAT, _BOOL = 0, 1, 2, 4, 6
_READ_ONLY = 1
_MAJOR_VERSION = 1

_TYPE_CODES = {BF16: _BFLOAT, BOOL: _BOOL}
"""Of the types that go out as unsigned numbers: what they really are."""

_BITS_OF = {BF16: np.dtype(np.uint16), BOOL: np.dtype(np.uint8)}

_TRITON_TYPES = {
    (_BOOL, 8): BOOL,
    (_UINT, 8): 2,
    (_UINT, 16): 3,
    (_UINT, 32): 4,
    (_UINT, 64): 5,
    (_INT, 8): 6,
    (_INT, 16): 7,
    (_INT, 32): 8,
    (_INT, 64): 9,
    (_FLOAT, 16): 10,
    (_FLOAT, 32): 11,
    (_FLOAT, 64): 12,
    (_BFLOAT, 16): BF16,
}


class _Tensor(ctypes.Structure):
    """``DLTensor``"""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("type_code", ctypes.c_uint8),
        ("type_bits", ctypes.c_uint8),
        ("type_lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):
    """``DLManagedTensor``"""

    _fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class _ManagedVersioned(ctypes.Structure):
    """``DLManagedTensorVersioned``"""

    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    ]


_FORMS = ((b"dltensor", b"used_dltensor", _Managed), (b"dltensor_versioned", b"used_dltensor_versioned", _ManagedVersioned))
"""Names of a capsule before and after it was taken, and what it points to."""

_Deleter = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)

# An object of its own, so that the argument types set here are nobody else's.
_python = ctypes.PyDLL(None)
_python.PyCapsule_IsValid.argtypes = [ctypes.py_object, ctypes.c_char_p]
_python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_python.PyCapsule_GetPointer.restype = ctypes.c_void_p
_python.PyCapsule_SetName.argtypes = [ctypes.py_object, ctypes.c_char_p]
_python.Py_IncRef.argtypes = [ctypes.py_object]

for _form in _FORMS:
    # A capsule keeps a pointer to its name and may outlive this module.
    _python.Py_IncRef(_form[1])
del _form

_Capsule = type(datetime_CAPI)


class _Memory(object):
    """Memory in the form of an array, with what keeps it alive."""

    def __init__(self, address, dtype, shape, read_only, owner):
        self.__array_interface__ = {"version": 3, "data": (address, read_only), "typestr": dtype.str, "shape": shape}
        self._owner = owner


class _Taken(object):
    """A tensor taken from its capsule: its maker hears when nobody looks at it any more."""

    def __init__(self, pointer, deleter):
        self._pointer = pointer
        self._deleter = _Deleter(deleter) if deleter else None

    def __del__(self):
        if self._deleter is not None:
            self._deleter(self._pointer)


# === out ===


def capsule(array, triton_dtype):
    """A capsule of an array that holds a tensor of that type: BF16 as ``uint16``. It shares the array's memory and keeps it.

    Raises: ``TritonModelException`` for strings, and where NumPy is older than 1.22.
    """
    if triton_dtype == BYTES:
        raise TritonModelException("DLPack does not have support for string tensors.")
    if not hasattr(array, "__dlpack__"):
        raise TritonModelException("DLPack needs NumPy 1.22 or newer, and this is NumPy %s." % np.__version__)
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    bits = _BITS_OF.get(triton_dtype)
    if bits is not None:
        array = array.view(bits)
    if not array.flags.writeable:
        # DLPack cannot say that memory is read-only, so NumPy refuses; Triton trusts whoever takes it.
        array = np.asarray(_Memory(_address(array), array.dtype, array.shape, False, array))
    made = array.__dlpack__()
    if bits is not None:
        pointer = _python.PyCapsule_GetPointer(made, b"dltensor")
        _Managed.from_address(pointer).tensor.type_code = _TYPE_CODES[triton_dtype]
    return made


def _address(array):
    return array.__array_interface__["data"][0]


# === in ===


def import_tensor(source):
    """The array and the type of a tensor of another library: a capsule, or an object with ``__dlpack__``. BF16 is ``uint16``.

    Nothing is copied: the array keeps the tensor alive. A capsule that is refused stays as it was.
    Raises: ``TritonModelException`` if it does not lie in the memory of the host, row-major and without gaps, or if Triton
    has no such type.
    """
    if type(source) is not _Capsule:
        if not (hasattr(source, "__dlpack__") and hasattr(source, "__dlpack_device__")):
            # Triton's message has these spaces too.
            raise TritonModelException(
                "Provided tensor is not supported. Tensor must be a DLPack capsule         or have `__dlpack__` and "
                "`__dlpack_device__` attributes"
            )
        _check_device(int(source.__dlpack_device__()[0]))
        source = source.__dlpack__(stream=None)
    for name, name_when_taken, form in _FORMS:
        if _python.PyCapsule_IsValid(source, name):
            break
    else:
        raise TritonModelException("The capsule holds no DLPack tensor, or one that was taken before.")

    pointer = _python.PyCapsule_GetPointer(source, name)
    managed = form.from_address(pointer)
    read_only = False
    if form is _ManagedVersioned:
        if managed.major != _MAJOR_VERSION:
            raise TritonModelException(
                "The tensor is in version %d.%d of DLPack. Versions %d.x are supported."
                % (managed.major, managed.minor, _MAJOR_VERSION)
            )
        read_only = bool(managed.flags & _READ_ONLY)
    tensor = managed.tensor
    shape = tuple(tensor.shape[: tensor.ndim])
    _check_strides(tensor, shape)
    _check_device(tensor.device_type)
    triton_dtype = _triton_type(tensor)
    dtype = _BITS_OF[BF16] if triton_dtype == BF16 else NUMPY_DTYPES[triton_dtype]

    _python.PyCapsule_SetName(source, name_when_taken)
    owner = _Taken(pointer, managed.deleter)
    if 0 in shape:
        return np.empty(shape, dtype), triton_dtype
    return np.asarray(_Memory(tensor.data + tensor.byte_offset, dtype, shape, read_only, owner)), triton_dtype


def _check_strides(tensor, shape):
    """Strides are in elements; those of an extent of 1 do not matter, and where there are no elements none does."""
    if not tensor.strides or 0 in shape:
        return
    expected = 1
    for extent, stride in zip(reversed(shape), reversed(tensor.strides[: tensor.ndim])):
        if extent != 1:
            if stride != expected:
                raise TritonModelException(
                    "DLPack tensor is not contiguous. Only contiguous DLPack tensors that are stored in C-Order are supported."
                )
            expected *= extent


def _check_device(kind):
    if kind == _CUDA:
        # Triton's message has these spaces too.
        raise TritonModelException(
            "DLPack capsule passed pointer to memory allocated on GPU device,           when GPU is not available"
        )
    if kind not in (_CPU, _CUDA_HOST):
        raise TritonModelException("DLDevice type %d is not support by Python backend." % kind)


def _triton_type(tensor):
    code, bits = tensor.type_code, tensor.type_bits
    if code == _BFLOAT and bits != 16:
        raise TritonModelException("Expected BF16 tensor to have 16 bits, but had: %d" % bits)
    triton_dtype = _TRITON_TYPES.get((code, bits)) if tensor.type_lanes == 1 else None
    if triton_dtype is None:
        raise TritonModelException("Dtype is invalid.")
    return triton_dtype
