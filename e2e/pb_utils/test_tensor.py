"""Tensors as a model makes them and hands them to other libraries."""

import gc
import weakref

import numpy as np
import pytest
from triton_python_backend_utils import Tensor, TritonModelException

needs_from_dlpack = pytest.mark.skipif(not hasattr(np, "from_dlpack"), reason="this NumPy has no from_dlpack")
BF16 = 14


def bf16(*bits):
    """A tensor of BF16 made of its bits: NumPy has no such type, so it comes from a capsule."""
    from triton_python_backend_utils import _dlpack

    return Tensor.from_dlpack("B", _dlpack.capsule(np.array(bits, np.uint16), BF16))


class Watched(np.ndarray):
    """An array that can be watched."""


# === made of arrays ===


def test_a_tensor_is_a_name_and_an_array():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensor = Tensor("A", array)
    assert (tensor.name(), tensor.shape(), tensor.triton_dtype(), tensor.is_cpu()) == ("A", [2, 3], 11, True)
    assert tensor.as_numpy() is array
    assert Tensor(b"A", array).name() == "A"


@pytest.mark.parametrize("change", (np.transpose, lambda it: it[:, ::2], lambda it: it[::-1], lambda it: np.broadcast_to(it[:1], (4, 3))))
def test_what_is_not_row_major_is_copied_once(change):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    given = change(array)
    expected = given.tolist()
    tensor = Tensor("A", given)
    array[:] = 0
    assert tensor.as_numpy().flags.c_contiguous and tensor.as_numpy() is tensor.as_numpy()
    assert tensor.as_numpy().tolist() == expected and tensor.shape() == list(given.shape)


@pytest.mark.parametrize("array", (np.array([b"a", b""], object), np.array(["a", "é"], object), np.array(["a"]), np.array([b"a"])))
def test_all_arrays_of_strings_are_strings(array):
    assert Tensor("A", array).triton_dtype() == 13


def test_a_name_is_needed():
    for make in (lambda: Tensor("", np.zeros(1)), lambda: Tensor.from_dlpack("", np.zeros(1))):
        with pytest.raises(TritonModelException, match="^Tensor name cannot be an empty string.$"):
            make()


@pytest.mark.parametrize("dtype", ("complex64", "datetime64[s]", "V4", "longdouble"))
def test_a_type_that_triton_does_not_have_is_refused(dtype):
    with pytest.raises(TritonModelException, match="^NumPy dtype is not supported.$"):
        Tensor("A", np.zeros(1, dtype))


@pytest.mark.parametrize("wrong", ((), ("A",), ("A", [1, 2]), ("A", None), ("A", 1.5), (3, np.zeros(1)), (None, np.zeros(1))))
def test_anything_else_is_no_tensor(wrong):
    with pytest.raises(TypeError):
        Tensor(*wrong)


# === DLPack ===


@needs_from_dlpack
def test_numpy_takes_a_tensor_without_a_copy():
    tensor = Tensor("A", np.arange(6, dtype=np.float32).reshape(2, 3))
    taken = np.from_dlpack(tensor)
    assert np.shares_memory(taken, tensor.as_numpy()) and (taken == tensor.as_numpy()).all()
    assert tensor.__dlpack_device__() == (1, 0)


@needs_from_dlpack
def test_a_tensor_is_made_of_a_capsule_an_array_or_a_tensor():
    array = np.arange(6, dtype=np.int64).reshape(2, 3)
    tensor = Tensor("A", array)
    for source in (array, tensor, tensor.to_dlpack(), tensor.__dlpack__(), tensor.__dlpack__(stream=None)):
        made = Tensor.from_dlpack("B", source)
        assert (made.name(), made.shape(), made.triton_dtype()) == ("B", [2, 3], 9)
        assert np.shares_memory(made.as_numpy(), array) and (made.as_numpy() == array).all()


@needs_from_dlpack
def test_newer_consumers_may_ask_for_more():
    array = np.arange(3, dtype=np.float32)
    tensor = Tensor("A", array)
    for asked in ({"max_version": (1, 0)}, {"dl_device": (1, 0), "copy": False}, {"dl_device": None, "copy": None}):
        assert np.shares_memory(Tensor.from_dlpack("B", tensor.__dlpack__(**asked)).as_numpy(), array)
    copy = Tensor.from_dlpack("B", tensor.__dlpack__(copy=True)).as_numpy()
    assert (copy == array).all() and not np.shares_memory(copy, array)
    with pytest.raises(BufferError, match="memory of the host"):
        tensor.__dlpack__(dl_device=(2, 0))


@needs_from_dlpack
def test_a_capsule_keeps_the_memory_and_not_longer():
    array = np.arange(3, dtype=np.float32).view(Watched)
    watch = weakref.ref(array)
    capsule = Tensor("A", array).to_dlpack()
    del array
    gc.collect()
    assert watch() is not None
    made = Tensor.from_dlpack("B", capsule)
    del capsule
    gc.collect()
    assert watch() is not None and made.as_numpy().tolist() == [0, 1, 2]
    del made
    gc.collect()
    assert watch() is None


@needs_from_dlpack
def test_bf16_passes_by_dlpack_only():
    tensor = bf16(0x3F80, 0xC000, 0x7F80)
    assert (tensor.shape(), tensor.triton_dtype()) == ([3], BF16)
    for source in (tensor, tensor.to_dlpack()):
        again = Tensor.from_dlpack("C", source)
        assert again.triton_dtype() == BF16 and again._data.tolist() == [0x3F80, 0xC000, 0x7F80]
        message = "Tensor dtype is BF16 and cannot be converted to NumPy. Use to_dlpack[(][)] and from_dlpack[(][)] instead."
        with pytest.raises(TritonModelException, match="^" + message + "$"):
            again.as_numpy()


def test_strings_do_not_pass_by_dlpack():
    tensor = Tensor("A", np.array([b"x"], object))
    for export in (tensor.to_dlpack, tensor.__dlpack__, lambda: tensor.__dlpack__(copy=True), lambda: Tensor.from_dlpack("B", tensor)):
        with pytest.raises(TritonModelException, match="^DLPack does not have support for string tensors.$"):
            export()
    assert tensor.__dlpack_device__() == (1, 0)


# === torch, where it is installed ===

TORCH_TYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "bfloat16")


@needs_from_dlpack
@pytest.mark.parametrize("name", TORCH_TYPES)
def test_torch_gives_and_takes_every_type_it_has(name):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    given = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(getattr(torch, name))
    try:
        given.__dlpack__()
    except RuntimeError as error:
        pytest.skip(str(error))  # bool, before 2.0
    for source in (given, torch.utils.dlpack.to_dlpack(given)):
        tensor = Tensor.from_dlpack("A", source)
        assert tensor.shape() == [2, 3]
        for back in (torch.from_dlpack(tensor), torch.utils.dlpack.from_dlpack(tensor.to_dlpack())):
            assert back.dtype == given.dtype and back.data_ptr() == given.data_ptr() and torch.equal(back, given)
