"""Data types: numbers and names of Triton, types of NumPy."""

import numpy as np
import pytest
from triton_python_backend_utils import _types as pb_utils

ALL = {
    "BOOL": (1, np.bool_),
    "UINT8": (2, np.uint8),
    "UINT16": (3, np.uint16),
    "UINT32": (4, np.uint32),
    "UINT64": (5, np.uint64),
    "INT8": (6, np.int8),
    "INT16": (7, np.int16),
    "INT32": (8, np.int32),
    "INT64": (9, np.int64),
    "FP16": (10, np.float16),
    "FP32": (11, np.float32),
    "FP64": (12, np.float64),
    "STRING": (13, np.object_),
}


@pytest.mark.parametrize("name", ALL)
def test_each_type_has_a_number_a_name_and_a_type_of_numpy(name):
    number, scalar = ALL[name]
    assert pb_utils.triton_to_numpy_type(number) is scalar
    assert pb_utils.numpy_to_triton_type(scalar) == number
    assert pb_utils.numpy_to_triton_type(np.dtype(scalar)) == number
    assert np.dtype(pb_utils.triton_string_to_numpy("TYPE_" + name)) == np.dtype(scalar)


def test_bf16_has_no_type_of_numpy():
    assert pb_utils.triton_to_numpy_type(14) is None
    with pytest.raises(KeyError):
        pb_utils.triton_string_to_numpy("TYPE_BF16")


@pytest.mark.parametrize("dtype", ("S", "S7", np.bytes_))
def test_byte_strings_of_numpy_are_strings(dtype):
    assert pb_utils.numpy_to_triton_type(dtype if dtype is np.bytes_ else np.dtype(dtype)) == 13


def test_another_name_of_the_same_type_is_the_same_type():
    assert pb_utils.numpy_to_triton_type(np.dtype(np.longlong)) == 9
    assert pb_utils.numpy_to_triton_type(np.arange(3, dtype="q").dtype) == 9


@pytest.mark.parametrize("dtype", ("complex64", "datetime64[s]", ">i4", "U3", "V4", "float128"))
def test_what_triton_does_not_have_is_none(dtype):
    assert pb_utils.numpy_to_triton_type(np.dtype(dtype)) is None
    assert pb_utils.triton_to_numpy_type(15) is None and pb_utils.triton_to_numpy_type(0) is None
