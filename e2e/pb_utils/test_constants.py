"""Constants, the error of a response and the exception of the package."""

import pickle
import sys

import pytest
from triton_python_backend_utils import _constants, _errors
from triton_python_backend_utils._constants import MemoryType, PreferredMemory
from triton_python_backend_utils._errors import TritonError, TritonModelException

CODES = "UNKNOWN INTERNAL NOT_FOUND INVALID_ARG UNAVAILABLE UNSUPPORTED ALREADY_EXISTS CANCELLED".split()


def test_flags_have_the_numbers_of_triton():
    assert (_constants.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START, _constants.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END) == (1, 2)
    assert _constants.TRITONSERVER_RESPONSE_COMPLETE_FINAL == 1
    assert (_constants.TRITONSERVER_REQUEST_RELEASE_ALL, _constants.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE) == (1, 2)


def test_a_constant_is_a_number_with_a_name():
    gpu = _constants.TRITONSERVER_MEMORY_GPU
    assert gpu is MemoryType.TRITONSERVER_MEMORY_GPU and gpu == 0 and int(_constants.TRITONSERVER_MEMORY_CPU) == 1
    assert (repr(gpu), str(gpu), gpu.name) == ("<MemoryType.TRITONSERVER_MEMORY_GPU: 0>", "MemoryType.TRITONSERVER_MEMORY_GPU", gpu.name)
    assert "{}".format(gpu) == str(gpu)
    assert MemoryType(1) is _constants.TRITONSERVER_MEMORY_CPU


def test_preferred_memory_takes_a_kind_of_memory_and_a_device():
    wish = PreferredMemory(_constants.TRITONSERVER_MEMORY_GPU, 3)
    assert (wish.preferred_memory_type, wish.preferred_device_id) == (0, 3)
    wish = PreferredMemory(preferred_memory_type=_constants.TRITONSERVER_MEMORY_CPU)
    assert (wish.preferred_memory_type, wish.preferred_device_id) == (1, 0)
    for wrong in ((), (0,), (MemoryType.TRITONSERVER_MEMORY_CPU, "0")):
        with pytest.raises(TypeError):
            PreferredMemory(*wrong)


@pytest.mark.parametrize("number, name", list(enumerate(CODES)))
def test_each_code_is_an_attribute_of_the_error(number, name):
    code = getattr(TritonError, name)
    error = TritonError("it is late", code)
    assert error.code() == code == number and error.message() == "it is late"
    assert str(code) == "__ErrorCode." + name and repr(code) == "<__ErrorCode.{}: {}>".format(name, number)


def test_an_error_is_internal_unless_it_says_otherwise():
    assert TritonError("x").code() is TritonError.INTERNAL
    error = TritonError(message="wörld", code=TritonError.NOT_FOUND)
    assert (str(error), repr(error)) == ("wörld", "TritonError('wörld', TritonError.NOT_FOUND)")
    assert TritonError(b"bytes too").message() == "bytes too"


@pytest.mark.parametrize("wrong", ((), (None,), (5,), ("x", 3), ("x", None), ("x", MemoryType.TRITONSERVER_MEMORY_CPU)))
def test_an_error_without_message_or_with_another_code_is_refused(wrong):
    with pytest.raises(TypeError):
        TritonError(*wrong)


def test_the_exception_is_raised_and_caught_like_any_other():
    with pytest.raises(Exception, match="^out of luck$") as caught:
        raise TritonModelException("out of luck")
    assert caught.value.message() == "out of luck"
    assert TritonModelException.__mro__[1] is Exception


def test_the_exception_has_the_name_it_has_in_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "c_python_backend_utils", _errors)
    assert (TritonModelException.__module__, TritonModelException.__qualname__) == ("c_python_backend_utils", "TritonModelException")
    assert pickle.loads(pickle.dumps(TritonModelException("x"))).args == ("x",)
