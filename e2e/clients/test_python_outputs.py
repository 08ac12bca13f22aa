"""Outputs of Python models: the shape that the configuration promises, and memory that a model goes on writing after it has given it away."""

import numpy as np
import pytest
import python_model
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

from serving import Server, scaled
from talking import PROTOCOLS, connect, tensor
from test_decoupled import Stream

FEW, MANY = 3, 300_000
"""Numbers of an input that travels inside a message, and of one that lies in shared memory."""

# Gives OUT, which the configuration reshapes, what the expression makes of IN.
SHAPED = """
class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request.inputs()[0].as_numpy()) for request in requests]

    def answer(self, given):
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", EXPRESSION)])
"""

# Counts its own input up, and sends it each time.
COUNTS = """
class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender, array = request.get_response_sender(), request.inputs()[0].as_numpy()
            for _ in range(6):
                array += 1
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", array)]))
            array[:] = -1
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""

# Sends on what another model answered, and writes to it.
RELAYS = """
class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender, array = request.get_response_sender(), request.inputs()[0].as_numpy()
            for number in range(4):
                call = pb_utils.InferenceRequest(
                    model_name="identity", requested_output_names=["OUT", "OUT"], inputs=[pb_utils.Tensor("IN", array)]
                )
                answer = call.exec().output_tensors()[0].as_numpy()
                answer += number
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", answer)]))
                answer[:] = -1
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""

# Answers once by a sender, and writes to its input then.
ANSWERS_ONCE = """
class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            array = request.inputs()[0].as_numpy()
            response = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", array)])
            request.get_response_sender().send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            array[:] = -1
        return [None for _ in requests]
"""

# Starts a call that is to be awaited, and writes to its input before it is.
CALLS_LATER = """
import asyncio

class TritonPythonModel:
    async def execute(self, requests):
        return [await self.answer(request.inputs()[0].as_numpy()) for request in requests]

    async def answer(self, array):
        call = pb_utils.InferenceRequest(model_name="identity", requested_output_names=["OUT"], inputs=[pb_utils.Tensor("IN", array)])
        answer = call.async_exec()
        array[:] = -1
        return pb_utils.InferenceResponse((await answer).output_tensors())
"""

# Gives its outputs in another order than its configuration.
OTHER_ORDER = """
class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor(name, np.ones(1, np.float32)) for name in "CAB"]) for _ in requests]
"""

NUMBERS = python_model.tensors(["IN FP32 -1"], ["OUT FP32 -1"])
DECOUPLED = "model_transaction_policy { decoupled: true }\n"


def reshaped(dims, reshape, kind="FP32", batch=0):
    return (
        f'max_batch_size: {batch}\ninput [{{ name: "IN" data_type: TYPE_FP32 dims: [-1] }}]\n'
        f'output [{{ name: "OUT" data_type: TYPE_{kind} dims: [{dims}] reshape {{ shape: [{reshape}] }} }}]\n'
    )


# Name: configuration, what the model gives, the input's shape, the shape of the output for its caller.
SHAPES = {
    "flat": (reshaped("6", "2, 3"), "given.reshape(2, 3)", (6,), [6]),
    "rows": (reshaped("2, 3", "6", batch=4), "given", (2, 6), [2, 2, 3]),
    "scalars": (reshaped("1", "", batch=4), "given.sum(axis=1)", (2, 3), [2, 1]),
    "open": (reshaped("-1", "1, -1"), "given.reshape(1, -1)", (5,), [5]),
    "strings": (reshaped("2, 1", "2", "STRING"), "np.array([b'a', b'bc'], object)", (1,), [2, 1]),
}


@pytest.fixture(scope="module")
def server(folder):
    for name, (config, expression, _, _) in SHAPES.items():
        python_model.write(folder, name, SHAPED.replace("EXPRESSION", expression), config)
    python_model.write(folder, "identity", python_model.IDENTITY, NUMBERS)
    python_model.write(folder, "counts", COUNTS, NUMBERS + DECOUPLED)
    python_model.write(folder, "relays", RELAYS, NUMBERS + DECOUPLED)
    python_model.write(folder, "answers_once", ANSWERS_ONCE, NUMBERS)
    python_model.write(folder, "calls_later", CALLS_LATER, NUMBERS)
    python_model.write(folder, "other_order", OTHER_ORDER, python_model.tensors(["IN FP32 -1"], ["A FP32 -1", "B FP32 -1", "A FP32 -1", "C FP32 -1"]))
    with Server(folder) as running:
        yield running


def ask(server, protocol, model, array):
    return connect(protocol, server).infer(model, [tensor(protocol, "IN", array, "FP32")])


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", SHAPES)
def test_an_output_has_the_shape_of_the_configuration(server, protocol, name):
    _, _, given, expected = SHAPES[name]
    answer = ask(server, protocol, name, np.arange(np.prod(given), dtype=np.float32).reshape(given))
    assert list(answer.as_numpy("OUT").shape) == expected


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_output_of_another_size_than_its_reshape_is_an_error(server, protocol):
    with pytest.raises(InferenceServerException, match="output tensor shape does not match size of output for 'OUT'"):
        ask(server, protocol, "rows", np.zeros((2, 5), np.float32))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("wanted", ["", "BC"])
def test_outputs_are_in_the_order_of_the_response_and_may_be_listed_twice(server, protocol, wanted):
    kind = {"grpc": grpcclient, "http": httpclient}[protocol].InferRequestedOutput
    outputs = [kind(name) for name in wanted] or None
    answer = connect(protocol, server).infer("other_order", [tensor(protocol, "IN", np.zeros(1, np.float32), "FP32")], outputs=outputs)
    names = [it.name for it in answer.get_response().outputs] if protocol == "grpc" else [it["name"] for it in answer.get_response()["outputs"]]
    assert names == (["C", "B"] if wanted else ["C", "A", "B"])


def streamed(server, model, size):
    """The numbers of each response, one for each number that it has anywhere."""
    with Stream(server) as stream:
        given = grpcclient.InferInput("IN", [size], "FP32")
        given.set_data_from_numpy(np.full(size, 7, np.float32))
        stream.send(model, [given], enable_empty_final_response=True)
        got = []
        while True:
            answer, error = stream.answers.get(timeout=scaled(30))
            assert error is None, error
            if answer.get_response().parameters["triton_final_response"].bool_param:
                return got
            got.append(np.unique(answer.as_numpy("OUT")).tolist())


@pytest.mark.parametrize("size", [FEW, MANY])
def test_a_response_has_what_was_in_its_array_when_it_was_sent(server, size):
    assert streamed(server, "counts", size) == [[8], [9], [10], [11], [12], [13]]
    assert streamed(server, "relays", size) == [[7], [8], [9], [10]]


@pytest.mark.parametrize("size", [FEW, MANY])
@pytest.mark.parametrize("model", ["answers_once", "calls_later"])
def test_what_is_given_away_before_execute_ends_is_given_as_it_is(server, model, size):
    for _ in range(5):
        answer = ask(server, "grpc", model, np.full(size, 7, np.float32))
        assert np.unique(answer.as_numpy("OUT")).tolist() == [7]
