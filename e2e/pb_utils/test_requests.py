"""Requests and responses as a model makes them: what is kept, and what is refused."""

import json

import numpy as np
import pytest
import triton_python_backend_utils as pb_utils
from triton_python_backend_utils import InferenceRequest, InferenceResponse, Tensor, TritonError, TritonModelException

A, B = Tensor("A", np.zeros(1)), Tensor("B", np.zeros(2))
NEEDED = {"inputs": [A], "requested_output_names": ["OUT"], "model_name": "m"}


def request(**more):
    return InferenceRequest(**dict(NEEDED, **more))


def refused(make, error, message):
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value).splitlines()[0] == message


ARGUMENTS = "__init__(): incompatible constructor arguments. The following argument types are supported:"

# === requests ===


def test_a_request_has_defaults():
    made = request()
    assert (made.request_id(), made.correlation_id(), made.flags(), made.timeout(), made.parameters()) == ("", 0, 0, 0, "{}")
    assert made.inputs() == [A] and made.requested_output_names() == {"OUT"} and made.trace().get_context() is None


def test_a_request_keeps_what_it_is_given():
    made = request(
        request_id="id",
        correlation_id="seven",
        inputs=(A, B),
        requested_output_names=["X", b"Y", "X"],
        flags=np.uint32(3),
        timeout=5_000_000,
        parameters={"a": 1, "b": "é", "c": True, "d": 0.5},
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU),
    )
    assert (made.request_id(), made.correlation_id(), made.flags(), made.timeout()) == ("id", "seven", 3, 5_000_000)
    assert made.inputs() == [A, B] and made.requested_output_names() == {"X", "Y"}
    assert made.parameters() == json.dumps({"a": 1, "b": "é", "c": True, "d": 0.5})
    made.set_flags(np.uint8(1))
    assert made.flags() == 1 and type(made.flags()) is int
    for wrong in ("1", None, 1.0, -1, 1 << 32):
        with pytest.raises(TypeError, match="^set_flags"):
            made.set_flags(wrong)
    assert made.flags() == 1


def test_arguments_have_an_order():
    made = InferenceRequest("id", 5, [A], ["OUT"], "m", 2, 1, 9)
    assert (made.request_id(), made.correlation_id(), made.inputs(), made.flags(), made.timeout()) == ("id", 5, [A], 1, 9)


def test_a_list_that_was_handed_out_is_nobody_elses():
    made = request()
    made.inputs().append(B)
    made.requested_output_names().clear()
    assert made.inputs() == [A] and made.requested_output_names() == {"OUT"}
    response = InferenceResponse([A])
    response.output_tensors().append(B)
    assert response.output_tensors() == [A]


@pytest.mark.parametrize("missing", NEEDED)
def test_what_is_needed_has_to_be_given(missing):
    refused(lambda: InferenceRequest(**{name: value for name, value in NEEDED.items() if name != missing}), TypeError, ARGUMENTS)


@pytest.mark.parametrize(
    "wrong",
    (
        {"request_id": 5},
        {"request_id": None},
        {"inputs": A},
        {"inputs": [np.zeros(1)]},
        {"inputs": {"A": A}},
        {"requested_output_names": "OUT"},
        {"requested_output_names": [5]},
        {"requested_output_names": [None]},
        {"model_name": 5},
        {"model_version": "1"},
        {"model_version": 1.0},
        {"flags": -1},
        {"flags": 1 << 32},
        {"timeout": -1},
        {"timeout": "5"},
        {"preferred_memory": 0},
        {"trace": None},
    ),
    ids=str,
)
def test_a_request_of_other_things_is_refused(wrong):
    refused(lambda: request(**wrong), TypeError, ARGUMENTS)


@pytest.mark.parametrize(
    "wrong, message",
    (
        ({"inputs": [A, None]}, "Input tensor for request with id 'i' and model name 'm' should not be empty."),
        ({"requested_output_names": [""]}, "Requested output name for request with id 'i' and model name 'm' should not be empty."),
        ({"correlation_id": 1.5}, "Correlation ID must be integer or string"),
        ({"correlation_id": None}, "Correlation ID must be integer or string"),
        ({"correlation_id": -1}, "Correlation ID must be integer or string"),
        ({"parameters": {1: 2}}, "Expect parameters keys to have type str, found type <class 'int'>"),
        ({"parameters": {"a": None}}, "Expect parameters values to have type bool/int/float/str, found type <class 'NoneType'>"),
        ({"parameters": {"a": [1]}}, "Expect parameters values to have type bool/int/float/str, found type <class 'list'>"),
    ),
    ids=str,
)
def test_a_request_that_makes_no_sense_is_refused(wrong, message):
    refused(lambda: request(request_id="i", **wrong), TritonModelException, message)


def test_nothing_can_be_hung_on_a_request():
    with pytest.raises(AttributeError):
        request().mine = 5


# === responses ===


def test_a_response_is_tensors_or_an_error():
    error = TritonError("no")
    for made, tensors, has_error in (
        (InferenceResponse(), [], False),
        (InferenceResponse([A, B]), [A, B], False),
        (InferenceResponse((A,)), [A], False),
        (InferenceResponse([A], error), [A], True),
        (InferenceResponse(output_tensors=[], error=error), [], True),
    ):
        assert made.output_tensors() == tensors and made.has_error() is has_error
        assert made.error() is (error if has_error else None) and made.parameters() == "{}"


def test_a_response_has_parameters():
    given = {"a": 1, "b": True, "c": "x", "d": np.float64(0.5)}
    made = InferenceResponse(parameters=given)
    given.clear()
    assert made.parameters() == '{"a": 1, "b": true, "c": "x", "d": 0.5}'
    assert [type(value) for value in made._parameters.values()] == [int, bool, str, float]  # as they are written to the server
    assert InferenceResponse(parameters={}).parameters() == "{}"


@pytest.mark.parametrize("wrong", (([1],), (A,), (None,), ({"A": A},), ("A",), ([A], "text"), ([A], ValueError("x"))), ids=str)
def test_a_response_of_other_things_is_refused(wrong):
    refused(lambda: InferenceResponse(*wrong), TypeError, ARGUMENTS)


def test_a_response_that_makes_no_sense_is_refused():
    refused(lambda: InferenceResponse([A, None]), TritonModelException, "Output tensor for inference response should not be empty.")
    message = "Expect parameters values to have type bool/int/float/str, found type <class 'NoneType'>"
    refused(lambda: InferenceResponse(parameters={"a": None}), TritonModelException, message)
    refused(lambda: InferenceResponse(parameters="text"), TypeError, "parameters have to be a dict, found type <class 'str'>")


# === all of them ===


@pytest.mark.parametrize("made", (A, request(), InferenceResponse(), request().trace()), ids=lambda it: type(it).__name__)
def test_objects_show_themselves_as_what_they_are_in_triton(made):
    assert repr(made).startswith("<c_python_backend_utils." + type(made).__name__ + " object at 0x")


def test_what_is_refused_is_shown():
    with pytest.raises(TypeError) as caught:
        Tensor("A", [1, 2])
    assert str(caught.value).splitlines()[1:] == ["    1. c_python_backend_utils.Tensor(arg0: str, arg1: numpy.ndarray)", "", "Invoked with: 'A', [1, 2]"]


@pytest.mark.parametrize(
    "make, given",
    [
        (lambda: InferenceResponse(error="text"), "kwargs: error='text'"),
        (lambda: InferenceResponse([1]), "[1]"),
        (lambda: InferenceResponse([1], parameters={"a": 1}), "[1]; kwargs: parameters={'a': 1}"),
        (lambda: TritonError(3), "3"),
        (lambda: TritonError("no", 3), "'no', 3"),
        (lambda: InferenceRequest(model_name="m", inputs=[], timeout=9), "kwargs: inputs=[], model_name='m', timeout=9"),
        (lambda: InferenceRequest(), ""),
    ],
)
def test_what_is_refused_is_shown_as_it_was_given(make, given):
    with pytest.raises(TypeError) as caught:
        make()
    assert str(caught.value).splitlines()[-1] == "Invoked with: " + given
