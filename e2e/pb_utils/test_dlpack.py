"""Tensors to and from other libraries, without a copy, and who frees what when."""

import ctypes
import gc
import weakref

import numpy as np
import pytest
from triton_python_backend_utils import _dlpack
from triton_python_backend_utils._errors import TritonModelException
from triton_python_backend_utils._types import NUMPY_DTYPES

NUMBERS = {kind: dtype for kind, dtype in NUMPY_DTYPES.items() if dtype != np.object_}
BITS = {**NUMBERS, 14: np.dtype(np.uint16)}
needs_numpy_dlpack = pytest.mark.skipif(not hasattr(np.ndarray, "__dlpack__"), reason="this NumPy has no DLPack")
needs_from_dlpack = pytest.mark.skipif(not hasattr(np, "from_dlpack"), reason="this NumPy has no from_dlpack")


class Owned(np.ndarray):
    """An array that can be watched."""


class Foreign:
    """A tensor of another library that is a capsule, or raises; on the CPU unless it says otherwise."""

    def __init__(self, capsule, device=(1, 0)):
        self.capsule, self.device = capsule, device

    def __dlpack__(self, stream=None):
        return self.capsule

    def __dlpack_device__(self):
        return self.device


class Made:
    """A capsule written field by field, as a library in C makes it. `freed` counts the calls of its deleter."""

    def __init__(self, array, code=None, bits=None, lanes=1, strides=None, device=1, versioned=None, offset=0):
        self.array, self.freed = array, 0
        code = {"b": 6, "u": 1, "i": 0, "f": 2}[array.dtype.kind] if code is None else code
        self.shape = (ctypes.c_int64 * max(array.ndim, 1))(*array.shape)
        self.strides = None if strides is None else (ctypes.c_int64 * max(array.ndim, 1))(*strides)
        self.deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.free)
        form = _dlpack._Managed if versioned is None else _dlpack._ManagedVersioned
        self.managed = form(deleter=ctypes.cast(self.deleter, ctypes.c_void_p).value)
        if versioned is not None:
            self.managed.major, self.managed.minor, self.managed.flags = versioned
        tensor = self.managed.tensor
        tensor.data, tensor.device_type, tensor.ndim = array.__array_interface__["data"][0] - offset, device, array.ndim
        tensor.type_code, tensor.type_bits, tensor.type_lanes = code, bits or array.dtype.itemsize * 8, lanes
        tensor.shape, tensor.byte_offset = ctypes.cast(self.shape, type(tensor.shape)), offset
        if self.strides is not None:
            tensor.strides = ctypes.cast(self.strides, type(tensor.strides))
        new = ctypes.PyDLL(None).PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        self.name = b"dltensor" if versioned is None else b"dltensor_versioned"
        self.capsule = new(ctypes.addressof(self.managed), self.name, None)

    def free(self, _):
        self.freed += 1


def refused(source, message):
    with pytest.raises(TritonModelException) as caught:
        _dlpack.import_tensor(source)
    assert str(caught.value) == message


# === out and in again ===


@needs_numpy_dlpack
@pytest.mark.parametrize("kind", BITS)
@pytest.mark.parametrize("shape", ((), (1,), (0,), (6,), (2, 3), (1, 3, 1, 2), (2, 0, 3)))
def test_every_type_comes_back_as_it_went_and_shares_its_memory(kind, shape):
    sent = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(BITS[kind])
    got, got_kind = _dlpack.import_tensor(_dlpack.capsule(sent, kind))
    assert (got_kind, got.dtype, got.shape) == (kind, sent.dtype, sent.shape) and (got == sent).all()
    assert np.shares_memory(got, sent) or not sent.size


@needs_from_dlpack
@pytest.mark.parametrize("kind", [kind for kind in NUMBERS if kind != 1 or np.lib.NumpyVersion(np.__version__) >= "1.25.0"])
def test_numpy_takes_every_type_it_has(kind):
    sent = np.array([[0, 1, 1], [1, 0, 0]], NUMBERS[kind])
    got = np.from_dlpack(Foreign(_dlpack.capsule(sent, kind)))
    assert got.dtype == sent.dtype and (got == sent).all() and np.shares_memory(got, sent)


@needs_numpy_dlpack
def test_what_is_not_row_major_goes_out_as_a_copy():
    sent = np.arange(6, dtype=np.float32).reshape(2, 3).T
    got, _ = _dlpack.import_tensor(_dlpack.capsule(sent, 11))
    assert got.flags.c_contiguous and (got == sent).all()


@needs_numpy_dlpack
def test_read_only_memory_goes_out_without_a_copy():
    sent = np.arange(6, dtype=np.float32)
    sent.flags.writeable = False
    got, _ = _dlpack.import_tensor(_dlpack.capsule(sent, 11))
    assert (got == sent).all() and np.shares_memory(got, sent)


def test_strings_are_refused():
    with pytest.raises(TritonModelException, match="^DLPack does not have support for string tensors.$"):
        _dlpack.capsule(np.array([b"x"], np.object_), 13)


@pytest.mark.skipif(hasattr(np.ndarray, "__dlpack__"), reason="this NumPy has DLPack")
def test_a_numpy_that_is_too_old_says_so():
    with pytest.raises(TritonModelException, match="^DLPack needs NumPy 1.22 or newer, and this is NumPy 1"):
        _dlpack.capsule(np.zeros(1), 12)


def test_the_device_is_the_cpu():
    assert _dlpack.DEVICE == (1, 0)


# === who keeps what ===


@needs_numpy_dlpack
@pytest.mark.parametrize("kind", (3, 14))
@pytest.mark.parametrize("end", ("unused", "taken", "taken by numpy", "used twice"))
def test_memory_is_kept_until_the_last_one_looks_away(kind, end):
    sent = np.arange(6, dtype=np.uint16).view(Owned)
    watch = weakref.ref(sent)
    capsule = _dlpack.capsule(sent, kind)
    del sent
    gc.collect()
    assert watch() is not None
    if end == "unused":
        del capsule
    elif end == "taken by numpy":
        if not hasattr(np, "from_dlpack"):
            pytest.skip("this NumPy has no from_dlpack")
        if kind == 3:
            got = np.from_dlpack(Foreign(capsule))
            assert got.tolist() == list(range(6))
            del got
        else:
            # NumPy lets go of the capsule while the exception is on its way.
            with pytest.raises((RuntimeError, BufferError)):
                np.from_dlpack(Foreign(capsule))
        del capsule
    else:
        got, _ = _dlpack.import_tensor(capsule)
        if end == "used twice":
            refused(capsule, "The capsule holds no DLPack tensor, or one that was taken before.")
        del capsule
        gc.collect()
        assert watch() is not None and got.tolist() == list(range(6))
        part = got[2:4]
        del got
        gc.collect()
        assert watch() is not None and part.tolist() == [2, 3]
        del part
    gc.collect()
    assert watch() is None


@pytest.mark.parametrize("versioned", (None, (1, 0, 0), (1, 3, 0)))
def test_the_deleter_of_a_foreign_tensor_is_called_once_after_the_last_look(versioned):
    made = Made(np.arange(6, dtype=np.int32), versioned=versioned)
    got, kind = _dlpack.import_tensor(made.capsule)
    assert kind == 8 and np.shares_memory(got, made.array) and got.tolist() == list(range(6)) and got.flags.writeable
    made.capsule = None
    part = got[1:]
    del got
    assert made.freed == 0 and part.tolist() == list(range(1, 6))
    del part
    assert made.freed == 1


def test_an_empty_foreign_tensor_is_freed_at_once():
    made = Made(np.empty((2, 0), np.int32), strides=(0, 1))
    got, _ = _dlpack.import_tensor(made.capsule)
    assert got.shape == (2, 0) and made.freed == 1


def test_a_refused_capsule_still_belongs_to_its_maker():
    made = Made(np.arange(3, dtype=np.int32), lanes=2)
    refused(made.capsule, "Dtype is invalid.")
    made.managed.tensor.type_lanes = 1
    assert _dlpack.import_tensor(made.capsule)[0].tolist() == [0, 1, 2]


# === what others make ===


def test_an_offset_in_bytes_is_followed():
    made = Made(np.arange(6, dtype=np.int32)[2:], offset=8)
    assert _dlpack.import_tensor(made.capsule)[0].tolist() == [2, 3, 4, 5]


def test_read_only_tensors_stay_so():
    made = Made(np.arange(3, dtype=np.int32), versioned=(1, 0, 1))
    assert not _dlpack.import_tensor(made.capsule)[0].flags.writeable


@pytest.mark.parametrize("shape, strides", (((2, 3), (3, 1)), ((2, 1, 3), (3, 77, 1)), ((1, 6), (1, 1)), ((), ())))
def test_row_major_strides_are_taken(shape, strides):
    made = Made(np.arange(np.prod(shape, dtype=int), dtype=np.int32).reshape(shape), strides=strides)
    assert (_dlpack.import_tensor(made.capsule)[0] == made.array).all()


@pytest.mark.parametrize("shape, strides", (((2, 3), (1, 2)), ((2, 3), (4, 1)), ((3,), (2,)), ((3,), (0,)), ((3,), (-1,))))
def test_other_strides_are_refused(shape, strides):
    message = "DLPack tensor is not contiguous. Only contiguous DLPack tensors that are stored in C-Order are supported."
    refused(Made(np.zeros(shape, np.int32), strides=strides).capsule, message)


@needs_numpy_dlpack
def test_arrays_of_numpy_are_taken():
    sent = np.arange(6).reshape(2, 3)
    got, kind = _dlpack.import_tensor(sent)
    assert kind == 9 and (got == sent).all() and np.shares_memory(got, sent)
    message = "DLPack tensor is not contiguous. Only contiguous DLPack tensors that are stored in C-Order are supported."
    refused(sent.T, message)
    refused(sent[:, ::2], message)


def test_pinned_memory_of_the_host_is_taken():
    made = Made(np.arange(3, dtype=np.int32), device=3)
    assert _dlpack.import_tensor(Foreign(made.capsule, (3, 0)))[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("wrap", (lambda made, kind: made.capsule, lambda made, kind: Foreign(None, (kind, 0))))
def test_other_devices_are_refused(wrap):
    made = Made(np.zeros(3, np.int32), device=10)
    refused(wrap(made, 10), "DLDevice type 10 is not support by Python backend.")
    made = Made(np.zeros(3, np.int32), device=2)
    refused(wrap(made, 2), "DLPack capsule passed pointer to memory allocated on GPU device,           when GPU is not available")


@pytest.mark.parametrize("code, bits, lanes", ((5, 64, 1), (2, 8, 1), (2, 128, 1), (0, 32, 4), (3, 64, 1), (7, 8, 1), (6, 32, 1)))
def test_types_that_triton_does_not_have_are_refused(code, bits, lanes):
    refused(Made(np.zeros(3, np.int32), code, bits, lanes).capsule, "Dtype is invalid.")


def test_bf16_has_16_bits():
    assert _dlpack.import_tensor(Made(np.arange(3, dtype=np.uint16), 4).capsule)[1] == 14
    refused(Made(np.zeros(3, np.uint32), 4).capsule, "Expected BF16 tensor to have 16 bits, but had: 32")


def test_a_newer_dlpack_is_refused():
    made = Made(np.zeros(3, np.int32), versioned=(2, 1, 0))
    refused(made.capsule, "The tensor is in version 2.1 of DLPack. Versions 1.x are supported.")


@pytest.mark.parametrize("other", (None, 5, "text", [1.0, 2.0], b"dltensor"))
def test_anything_else_is_refused(other):
    message = "Provided tensor is not supported. Tensor must be a DLPack capsule         or have `__dlpack__` and `__dlpack_device__` attributes"
    refused(other, message)


def test_another_capsule_is_refused():
    import datetime

    refused(datetime.datetime_CAPI, "The capsule holds no DLPack tensor, or one that was taken before.")
