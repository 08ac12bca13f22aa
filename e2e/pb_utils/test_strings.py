"""Tensors of strings, to bytes and back."""

import struct

import numpy as np
import pytest
from triton_python_backend_utils import _types as pb_utils
from triton_python_backend_utils._errors import TritonModelException


def encoded(*items):
    return b"".join(struct.pack("<I", len(item)) + item for item in items)


def check(array, *items):
    """`array` becomes these strings, and these strings come back."""
    data = pb_utils.bytes_of_strings(array)
    assert type(data) is bytes and data == encoded(*items)
    assert pb_utils.serialize_byte_tensor(array) == (data or ())
    for form in (data, bytearray(data), memoryview(data), np.frombuffer(data, np.uint8)):
        back = pb_utils.deserialize_bytes_tensor(form)
        assert back.dtype == np.object_ and back.shape == (len(items),)
        assert back.tolist() == list(items) and all(type(item) is bytes for item in back)


def test_bytes_stay_as_they_are():
    check(np.array([b"", b"\x00\xff\x00", b"a" * 300], np.object_), b"", b"\x00\xff\x00", b"a" * 300)


def test_strings_of_one_length_stay_one_dimension():
    check(np.array([b"ab", b"cd", b"ef"], np.object_), b"ab", b"cd", b"ef")


def test_text_goes_out_as_utf8():
    check(np.array(["wörld", "日本", ""], np.object_), "wörld".encode(), "日本".encode(), b"")


def test_text_and_bytes_may_be_mixed():
    check(np.array([b"\xfe", "é"], np.object_), b"\xfe", "é".encode())


def test_anything_else_becomes_text():
    check(np.array([1, 2.5, None, True], np.object_), b"1", b"2.5", b"None", b"True")


def test_numpys_own_strings_are_strings():
    check(np.array(["a", "lönger"]), b"a", "lönger".encode())
    check(np.array([b"a", b"longer"]), b"a", b"longer")
    check(np.array([np.str_("é"), np.bytes_(b"\xff")], np.object_), "é".encode(), b"\xff")


def test_order_is_row_major_whatever_the_memory_is():
    array = np.array([[b"a", b"b", b"c"], [b"d", b"e", b"f"]], np.object_)
    check(array, b"a", b"b", b"c", b"d", b"e", b"f")
    check(array.T, b"a", b"d", b"b", b"e", b"c", b"f")
    check(np.asfortranarray(array), b"a", b"b", b"c", b"d", b"e", b"f")
    check(array[:, ::2], b"a", b"c", b"d", b"f")


def test_one_and_none():
    check(np.array(b"one", np.object_), b"one")
    check(np.array([], np.object_))
    check(np.empty((2, 0), np.object_))


def test_both_spellings_are_there():
    assert pb_utils.serialize_bytes_tensor(np.array([b"x"], np.object_)) == encoded(b"x")
    assert pb_utils.deserialize_byte_tensor(encoded(b"x")).tolist() == [b"x"]


def test_numbers_are_no_strings():
    assert pb_utils.serialize_byte_tensor(np.array([1, 2])) is None


@pytest.mark.parametrize(
    "data, message",
    (
        (b"\x01\x00", "incomplete length field"),
        (encoded(b"abc") + b"\x00", "incomplete length field"),
        (encoded(b"abc")[:-1], "string extends beyond buffer"),
        (b"\xff\xff\xff\xff", "string extends beyond buffer"),
    ),
)
def test_what_is_cut_off_is_refused(data, message):
    with pytest.raises(TritonModelException, match="^Invalid bytes tensor data: " + message + "$"):
        pb_utils.deserialize_bytes_tensor(data)
