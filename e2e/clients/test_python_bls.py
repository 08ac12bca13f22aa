"""Python models that ask other models, and themselves, with the real clients."""

import json
import queue
from pathlib import Path

import decoupled
import numpy as np
import pytest
import python_model
import tritonclient.grpc as grpcclient
from serving import Server, until
from talking import connect, statistics, tensor
from tritonclient.utils import InferenceServerException
from waiting import scaled

ONE = python_model.tensors(["IN FP32 -1"], ["OUT FP32 -1"], batch=64)
TEXT = python_model.tensors(["IN STRING 1"], ["OUT STRING -1"])

ASKS = """
import asyncio, json, os, threading

def ask(name, array, **rest):
    inputs = [pb_utils.Tensor("IN", array)]
    return pb_utils.InferenceRequest(model_name=name, inputs=inputs, requested_output_names=["OUT"], **rest)

def count(numbers, milliseconds=0):
    numbers = np.asarray(numbers, np.int32)
    delays = np.full(len(numbers), milliseconds, np.uint32)
    inputs = [pb_utils.Tensor("IN", numbers), pb_utils.Tensor("DELAY", delays), pb_utils.Tensor("WAIT", np.zeros(1, np.uint32))]
    return pb_utils.InferenceRequest(model_name="repeat", inputs=inputs, requested_output_names=["OUT"])

def told(response):
    if response.has_error():
        error = response.error()
        return {"error": error.message(), "code": error.code().name}
    return {"out": [tensor.as_numpy().tolist() for tensor in response.output_tensors()], "parameters": response.parameters()}
"""

# Answers what it is asked for in words: the case's name comes in, JSON goes out.
CASES = ASKS + """
def case_identity():
    return told(ask("identity", np.ones((1, 3), np.float32)).exec())

def case_large():
    array = np.arange(300_000, dtype=np.float32).reshape(1, -1)
    response = ask("identity", array).exec()
    back = response.output_tensors()[0].as_numpy()
    again = ask("identity", back[:, :200_000]).exec().output_tensors()[0].as_numpy()
    return [bool((back == array).all()), bool((again == array[:, :200_000]).all()), back.flags.writeable]

def case_unknown():
    return told(ask("nobody", np.ones((1, 1), np.float32)).exec())

def case_version():
    return told(ask("identity", np.ones((1, 1), np.float32), model_version=7).exec())

def case_wrong_input():
    request = pb_utils.InferenceRequest(model_name="identity", inputs=[pb_utils.Tensor("XX", np.ones((1, 1), np.float32))], requested_output_names=["OUT"])
    return told(request.exec())

def case_wrong_output():
    request = pb_utils.InferenceRequest(model_name="identity", inputs=[pb_utils.Tensor("IN", np.ones((1, 1), np.float32))], requested_output_names=["XX"])
    return told(request.exec())

def case_fails():
    return told(ask("fails", np.ones((1, 1), np.float32)).exec())

def case_attributes():
    request = ask("attributes", np.ones((1, 1), np.float32), request_id="mine", correlation_id=0, timeout=5000, parameters={"a": 1, "b": "two", "c": True, "d": 1.5})
    return json.loads(request.exec().output_tensors()[0].as_numpy().item())

def case_decoupled_without_flag():
    return told(count([5, 6, 7]).exec())

def case_decoupled():
    responses = count([5, 6, 7]).exec(decoupled=True)
    first = [told(response) for response in responses]
    return [first == [told(response) for response in responses], first]

def case_iterator_of_one():
    return [told(response) for response in ask("identity", np.ones((1, 1), np.float32)).exec(decoupled=True)]

def case_iterator_of_none():
    return [told(response) for response in ask("nobody", np.ones((1, 1), np.float32)).exec(decoupled=True)]

def case_cancel():
    responses = count(range(1000), 100).exec(decoupled=True)
    next(responses)
    responses.cancel()
    return [told(response) for response in responses]

def case_threads():
    seen = []
    def run(number):
        response = ask("identity", np.full((1, 1), number, np.float32)).exec()
        seen.append(response.output_tensors()[0].as_numpy().item())
    threads = [threading.Thread(target=run, args=(number,)) for number in range(80)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return sorted(seen) == list(range(80))

def case_asyncio():
    async def run():
        requests = [ask("identity", np.full((1, 1), number, np.float32)) for number in range(300)]
        responses = await asyncio.gather(*[request.async_exec() for request in requests])
        return [response.output_tensors()[0].as_numpy().item() for response in responses] == list(range(300))
    return asyncio.run(run())

def case_asyncio_decoupled():
    async def run():
        responses = await count([5, 6, 7]).async_exec(decoupled=True)
        return [told(response)["out"] async for response in responses]
    return asyncio.run(run())

def case_asyncio_given_up():
    async def run():
        future = ask("slow", np.ones((1, 1), np.float32)).async_exec()
        try:
            await asyncio.wait_for(future, 0.2)
        except asyncio.TimeoutError:
            pass
        return told(await ask("identity", np.ones((1, 1), np.float32)).async_exec())
    return asyncio.run(run())

def case_no_loop():
    try:
        ask("identity", np.ones((1, 1), np.float32)).async_exec()
    except RuntimeError as error:
        return str(error)

def case_left_early():
    for round in range(100):
        next(count(range(100), 10).exec(decoupled=True))
        family = pb_utils.MetricFamily("again", "Again.", pb_utils.MetricFamily.COUNTER)
        family.Metric(labels={"round": str(round)}).increment(1)

def case_many_iterators():
    opened = [count([number, number + 1]).exec(decoupled=True) for number in range(100)]
    single = ask("identity", np.ones((1, 1), np.float32)).exec()
    outs = [[t["out"][0] for t in map(told, responses) if t["out"]] for responses in opened]
    return [told(single)["out"], outs == [[[number], [number + 1]] for number in range(100)]]

def case_many_async_iterators():
    async def run():
        opened = await asyncio.gather(*[count([number, number + 1]).async_exec(decoupled=True) for number in range(100)])
        return [[t["out"][0] async for t in map_async(responses) if t["out"]] for responses in opened]
    async def map_async(responses):
        async for response in responses:
            yield told(response)
    return asyncio.run(run()) == [[[number], [number + 1]] for number in range(100)]

def case_too_many_iterators():
    opened = []
    try:
        for number in range(2000):
            opened.append(count([1, 2], 0).exec(decoupled=True))
    except pb_utils.TritonModelException as error:
        count_of, text = len(opened), str(error)
    opened.clear()
    return [count_of, text, told(ask("identity", np.ones((1, 1), np.float32)).exec())["out"]]

def case_many():
    array = np.zeros((1, 50_000), np.float32)
    for round in range(500):
        assert not ask("identity", array).exec().has_error()

def case_dies():
    threading.Timer(0.3, os._exit, (3,)).start()
    [told(response) for response in count(range(1000), 1000).exec(decoupled=True)]

class TritonPythonModel:
    def initialize(self, args):
        try:
            ask("identity", np.ones((1, 1), np.float32)).exec()
        except pb_utils.TritonModelException as error:
            self.early = str(error)

    def execute(self, requests):
        responses = []
        for request in requests:
            name = request.inputs()[0].as_numpy().item().decode()
            answer = self.early if name == "early" else globals()["case_" + name]()
            text = np.array([json.dumps(answer)], object)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", text)]))
        return responses
"""

ATTRIBUTES = """
import json

class TritonPythonModel:
    def execute(self, requests):
        out = []
        for r in requests:
            seen = [r.request_id(), r.correlation_id(), r.flags(), r.timeout(), json.loads(r.parameters()), sorted(r.requested_output_names())]
            out.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([json.dumps(seen)], object))]))
        return out
"""

FAILS = """
class TritonPythonModel:
    def execute(self, requests):
        error = pb_utils.TritonError("not today", pb_utils.TritonError.UNAVAILABLE)
        return [pb_utils.InferenceResponse(error=error) for request in requests]
"""

SLOW = """
import time

class TritonPythonModel:
    def execute(self, requests):
        time.sleep(1)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", r.inputs()[0].as_numpy())]) for r in requests]
"""

# Asks another model, or itself, with one less, until nothing is left; answers how deep it was.
COUNT_DOWN = ASKS + """
class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        number = request.inputs()[0].as_numpy()
        if number.item() > 0:
            response = ask("OTHER", number - 1).exec()
            if response.has_error():
                return pb_utils.InferenceResponse(error=response.error())
            number = pb_utils.get_output_tensor_by_name(response, "OUT").as_numpy() + 1
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", number)])
"""

# The same as a coroutine; asks twice at once, so that the answer is how many were asked.
COUNT_ASYNC = ASKS + """
class TritonPythonModel:
    async def execute(self, requests):
        return await asyncio.gather(*[self.answer(request) for request in requests])

    async def answer(self, request):
        number = request.inputs()[0].as_numpy()
        count = np.ones_like(number)
        if number.item() > 0:
            for response in await asyncio.gather(*[ask("OTHER", number - 1).async_exec() for _ in range(WIDTH)]):
                if response.has_error():
                    return pb_utils.InferenceResponse(error=response.error())
                count = count + response.output_tensors()[0].as_numpy()
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", count)])
"""

# A coroutine that asks itself and blocks its loop.
COUNT_BLOCKING = COUNT_DOWN.replace("def execute", "async def execute")

# The same, which does so every other time.
COUNT_BOTH_WAYS = COUNT_ASYNC.replace("            for", "            asks = [ask('OTHER', number - 1).exec()] if number.item() % 2 else None\n            for").replace(
    "in await asyncio", "in asks or await asyncio"
)

# Answers from a thread of its own, after execute has returned, with what another model says.
LATER = ASKS + """
class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            threading.Thread(target=self.answer, args=(request.inputs()[0].as_numpy(), request.get_response_sender())).start()

    def answer(self, array, sender):
        for number in range(3):
            response = ask("OTHER", array + number).exec(OTHER_IS_DECOUPLED)
            for one in response if OTHER_IS_DECOUPLED else [response]:
                if one.output_tensors():
                    sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", one.output_tensors()[0].as_numpy())]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""

# Has two requests to a model open that asks this one between its responses; reads them in the order that the input says.
HOLDS_TWO = ASKS + """
class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", self.answer(r.inputs()[0].as_numpy()))]) for r in requests]

    def answer(self, number):
        if number.item() == 0:
            return number + 100
        opened = [ask("asks_back", np.zeros((1, 1), np.float32)).exec(decoupled=True) for _ in range(2)]
        total = np.zeros_like(number)
        for responses in opened[:: int(number.item())]:
            for response in responses:
                for tensor in response.output_tensors():
                    total += tensor.as_numpy()
        return total
"""

ASKS_BACK = ASKS + """
class TritonPythonModel:
    def execute(self, requests):
        sender = requests[0].get_response_sender()
        sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.ones((1, 1), np.float32))]))
        answer = ask("holds_two", np.zeros((1, 1), np.float32)).exec()
        sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", answer.output_tensors()[0].as_numpy())]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


@pytest.fixture(scope="module")
def server(folder):
    for name, width in (("coroutine", 1), ("tree", 2)):
        code = COUNT_ASYNC.replace("OTHER", name).replace("WIDTH", str(width))
        python_model.write(folder, name, code, ONE)
    python_model.write(folder, "both_ways", COUNT_BOTH_WAYS.replace("OTHER", "both_ways").replace("WIDTH", "2"), ONE)
    python_model.write(folder, "blocking", COUNT_BLOCKING.replace("OTHER", "blocking"), ONE)
    decoupled_one = python_model.tensors(["IN FP32 -1,-1"], ["OUT FP32 -1,-1"]) + "model_transaction_policy { decoupled: true }\n"
    for name, other, is_decoupled in (("later", "identity", False), ("still_later", "later", True)):
        code = LATER.replace("OTHER_IS_DECOUPLED", str(is_decoupled)).replace("OTHER", other)
        python_model.write(folder, name, code, decoupled_one)
    python_model.write(folder, "holds_two", HOLDS_TWO, ONE)
    python_model.write(folder, "asks_back", ASKS_BACK, decoupled_one + "instance_group [{ count: 2 }]")
    python_model.write(folder, "identity", python_model.IDENTITY, ONE + "instance_group [{ count: 2 }]")
    python_model.write(folder, "cases", CASES, TEXT)
    python_model.write(folder, "fails", FAILS, ONE)
    python_model.write(folder, "slow", SLOW, ONE)
    python_model.write(folder, "attributes", ATTRIBUTES, python_model.tensors(["IN FP32 -1"], ["OUT STRING -1"], batch=8))
    decoupled.repeat(folder)
    for name, other in (("itself", "itself"), ("ping", "pong"), ("pong", "ping")):
        python_model.write(folder, name, COUNT_DOWN.replace("OTHER", other), ONE)
    python_model.write(folder, "dying", CASES, TEXT)
    with Server(folder) as running:
        yield running


def ask(server, case, model="cases"):
    result = connect("http", server).infer(model, [tensor("http", "IN", np.array([case], object), "BYTES")])
    return json.loads(result.as_numpy("OUT").item())



FAILED = "Model {} - Error when running inference: "
NO_FLAG = (
    "Model repeat is using the decoupled. The current BLS request call doesn't support models using the decoupled transaction policy. "
    "Please use 'decoupled=True' argument to the 'exec' or 'async_exec' calls for decoupled models.'"
)
UNKNOWN = {"error": FAILED.format("nobody") + "Request for unknown model: 'nobody' is not found", "code": "INTERNAL"}
CANCELLED = {"error": "the request was cancelled by the model that made it", "code": "CANCELLED"}


def out(*values):
    return {"out": list(values), "parameters": "{}"}


COUNTED = [out([5]), out([6]), out([7])]


@pytest.mark.parametrize(
    "case, expect",
    [
        ("identity", out([[1.0] * 3])),
        ("large", [True, True, True]),
        ("unknown", UNKNOWN),
        ("fails", {"error": "not today", "code": "UNAVAILABLE"}),
        ("attributes", ["mine", 0, 0, 5000, {"a": 1, "b": "two", "c": True, "d": 1.5}, ["OUT"]]),
        ("decoupled_without_flag", {"error": FAILED.format("repeat") + NO_FLAG, "code": "INTERNAL"}),
        ("iterator_of_one", [out([[1.0]])]),
        ("iterator_of_none", [UNKNOWN]),
        ("threads", True),
        ("many_iterators", [[[[1.0]]], True]),
        ("many_async_iterators", True),
        ("asyncio", True),
        ("asyncio_given_up", out([[1.0]])),
        ("no_loop", "no running event loop"),
        ("early", "BLS is only supported during the 'execute' function."),
    ],
)
def test_a_call_answers(server, case, expect):
    assert ask(server, case) == expect


@pytest.mark.parametrize("case, word", [("version", "is not ready"), ("wrong_input", "XX"), ("wrong_output", "XX")])
def test_a_call_that_no_model_takes_says_why(server, case, word):
    answer = ask(server, case)
    assert answer["error"].startswith(FAILED.format("identity")) and word in answer["error"], answer
    assert answer["code"] == "INTERNAL"


def test_responses_of_a_decoupled_model_come_one_by_one(server):
    is_same_again, responses = ask(server, "decoupled")
    assert is_same_again
    assert responses[:3] == COUNTED
    assert responses[3:] in ([], [{"out": [], "parameters": "{}"}])
    assert ask(server, "asyncio_decoupled")[:3] == [[[5]], [[6]], [[7]]]


def test_iterators_that_are_too_many_are_an_error_until_they_are_dropped(server):
    for _ in range(3):
        opened, text, out = ask(server, "too_many_iterators")
        assert 400 <= opened <= 512 and text.startswith("too many requests to other models: 512 are under way"), (opened, text)
        assert out == [[[1.0]]]


def test_a_call_that_is_cancelled_says_so_and_ends(server):
    def cancelled():
        entry = statistics(connect("http", server), "repeat")[0]["response_stats"]
        return sum(stat["cancel"]["count"] for stat in entry.values())

    before = cancelled()
    assert ask(server, "cancel") == [CANCELLED]
    until(lambda: cancelled() > before, "the request of a model that gave it up to be cancelled")


def all_responses(server, model, inputs):
    """The responses of a decoupled model to one request."""
    answers = queue.Queue()
    with grpcclient.InferenceServerClient(server.grpc_url) as client:
        client.start_stream(callback=lambda result, error: answers.put(error or result))
        client.async_stream_infer(model, inputs, enable_empty_final_response=True)
        results = []
        while True:
            answer = answers.get(timeout=scaled(30))
            if isinstance(answer, Exception):
                raise answer
            if answer.get_response().outputs:
                results.append(answer)
            if answer.get_response().parameters["triton_final_response"].bool_param:
                return results


@pytest.mark.parametrize("model, depth, count", [("coroutine", 40, 41), ("tree", 6, 127), ("both_ways", 5, 14)])
def test_coroutines_may_ask_themselves(server, model, depth, count):
    data = np.full((1, 1), depth, np.float32)
    result = connect("http", server).infer(model, [tensor("http", "IN", data, "FP32")])
    assert result.as_numpy("OUT").item() == count


@pytest.mark.parametrize("model, expect", [("later", [5, 6, 7]), ("still_later", [5, 6, 7, 6, 7, 8, 7, 8, 9])])
def test_threads_of_a_model_may_ask_after_execute(server, model, expect):
    data = np.full((1, 1), 5, np.float32)
    assert [result.as_numpy("OUT").item() for result in all_responses(server, model, [tensor("grpc", "IN", data, "FP32")])] == expect


@pytest.mark.parametrize("order", [1, -1])
def test_a_model_may_be_asked_by_those_whose_responses_it_reads(server, order):
    data = np.full((1, 1), order, np.float32)
    result = connect("http", server).infer("holds_two", [tensor("http", "IN", data, "FP32")])
    assert result.as_numpy("OUT").item() == 202


def test_a_circle_without_an_end_is_an_error(server):
    data = np.full((1, 1), 150, np.float32)
    with pytest.raises(InferenceServerException, match="101 models wait for each other already"):
        connect("http", server).infer("itself", [tensor("http", "IN", data, "FP32")])


def test_calls_leave_nothing_behind(server):
    def held():
        place = Path("/proc", str(server.process.pid))
        return len(list((place / "fd").iterdir())), len(list((place / "task").iterdir()))

    [ask(server, case) for case in ("identity", "threads", "left_early", "many")]
    before = held()
    for _ in range(3):
        [ask(server, case) for case in ("threads", "left_early", "many")]
    until(lambda: max(np.subtract(held(), before)) <= 4, f"no more descriptors and threads than {before}")


def test_the_calls_of_a_worker_that_dies_are_cancelled(server):
    def running():
        entry = statistics(connect("http", server), "repeat")[0]["response_stats"]
        return sum(stat["cancel"]["count"] for stat in entry.values())

    before = running()
    with pytest.raises(InferenceServerException, match="not healthy"):
        ask(server, "dies", "dying")
    until(lambda: running() > before, "the call of a worker that died to be cancelled")
    assert ask(server, "identity") == out([[1.0] * 3])


@pytest.mark.parametrize("model, depth", [("itself", 1), ("itself", 60), ("ping", 2), ("ping", 61), ("blocking", 3)])
def test_models_may_ask_each_other_and_themselves(server, model, depth):
    data = np.full((1, 1), depth, np.float32)
    result = connect("http", server).infer(model, [tensor("http", "IN", data, "FP32")])
    assert result.as_numpy("OUT").item() == depth
