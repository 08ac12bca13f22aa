"""`is_ready` of Python models: their own word on whether they can serve, asked for at any time."""

import time

import numpy as np
import pytest
import python_model

from serving import Server, until
from talking import PROTOCOLS, connect, is_ready, tensor

NUMBERS = python_model.tensors(["IN INT64 -1"], ["OUT INT64 -1"])

SAYS = """
import os, time

class TritonPythonModel:
    def initialize(self, args):
        self.folder = args["model_repository"]

    def answer(self):
        with open(os.path.join(self.folder, "answer")) as file:
            return file.read()

    def is_ready(self):
        while self.answer() == "hang":
            time.sleep(0.01)
        return eval(self.answer())

    def execute(self, requests):
        open(os.path.join(self.folder, "running"), "w").close()
        while not os.path.exists(os.path.join(self.folder, "go")):
            time.sleep(0.01)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", r.inputs()[0].as_numpy())]) for r in requests]
"""


# The same as a coroutine, of a model that blocks while it runs a batch.
SAYS_ASYNC = SAYS.replace("import os", "import asyncio, os").replace("def is_ready", "async def is_ready").replace(
    "== \"hang\":\n            time.sleep", "== \"hang\":\n            await asyncio.sleep"
)


@pytest.fixture(params=[SAYS, SAYS_ASYNC], ids=["function", "coroutine"])
def model(tmp_path, request):
    python_model.write(tmp_path, "says", request.param, NUMBERS + "instance_group [{ count: 2 }]")
    return tmp_path / "says"


def say(model, answer):
    (model / "answer.new").write_text(answer)
    (model / "answer.new").rename(model / "answer")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_model_says_itself_whether_it_is_ready(model, protocol):
    say(model, "True")
    with Server(model.parent) as server:
        client = connect(protocol, server)
        assert is_ready(client, "says") and client.is_server_ready()
        say(model, "False")
        assert not is_ready(client, "says") and not client.is_server_ready()
        say(model, "True")
        assert is_ready(client, "says") and client.is_server_ready()


def test_an_exception_or_another_type_is_a_no_and_in_the_log(model):
    say(model, "True")
    with Server(model.parent) as server:
        client = connect("http", server)
        for answer, reason in (("1", "is_ready() must return a boolean value"), ("{}['nothing']", "KeyError: 'nothing'")):
            say(model, answer)
            assert not is_ready(client, "says")
            assert reason in server.log()
        say(model, "True")
        assert is_ready(client, "says")


def test_a_model_is_asked_while_it_runs(model):
    say(model, "True")
    with Server(model.parent) as server:
        client = connect("http", server, concurrency=2)
        waiting = client.async_infer("says", [tensor("http", "IN", np.arange(2), "INT64")])
        until((model / "running").exists, "a running batch")
        assert is_ready(client, "says")
        say(model, "False")
        assert not is_ready(client, "says")
        (model / "go").touch()
        assert list(waiting.get_result(timeout=60).as_numpy("OUT")) == [0, 1]


def test_no_answer_in_five_seconds_is_a_no_and_the_next_question_is_answered(model):
    say(model, "True")
    with Server(model.parent) as server:
        client = connect("http", server)
        say(model, "hang")
        began = time.monotonic()
        assert not is_ready(client, "says")
        assert 4 < time.monotonic() - began < 20
        say(model, "True")  # the one that hangs goes on, and answers late
        until(lambda: is_ready(client, "says"), "a yes")
