"""`--backend-config=python,memory-limit-mb=N`: a worker that uses more is killed, with the reason, and replaced."""

import numpy as np
import pytest
import python_model
from tritonclient.utils import InferenceServerException

from serving import Server, until
from talking import connect, is_ready, tensor

NUMBERS = python_model.tensors(["IN INT64 -1"], ["OUT INT64 -1"])

EATS = """
import multiprocessing, os, time

def eat(mebibytes):
    kept = np.ones(mebibytes << 20, np.uint8)
    time.sleep(3600)

class TritonPythonModel:
    def execute(self, requests):
        mebibytes = int(requests[0].inputs()[0].as_numpy()[0])
        if requests[0].request_id() == "child":
            multiprocessing.get_context("fork").Process(target=eat, args=(mebibytes,), daemon=True).start()
        elif mebibytes:
            eat(mebibytes)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([os.getpid()], np.int64))]) for _ in requests]
"""

PROBLEM = r"Stub process 'eats_0' is not healthy. \(it used [23]\d\d MiB of memory and was killed; --backend-config=python,memory-limit-mb allows 200\)"


@pytest.fixture(scope="module")
def server(folder):
    python_model.write(folder, "eats", EATS, NUMBERS)
    with Server(folder, "--backend-config=python,memory-limit-mb=200") as running:
        yield running


def ask(client, mebibytes=0, order=""):
    return int(client.infer("eats", [tensor("http", "IN", np.array([mebibytes], np.int64), "INT64")], request_id=order).as_numpy("OUT")[0])


def test_a_worker_above_its_limit_is_ended_and_replaced(server):
    client = connect("http", server)
    before = ask(client)
    with pytest.raises(InferenceServerException, match=PROBLEM):
        ask(client, 300)
    assert ask(client) != before
    assert is_ready(client, "eats")
    assert "memory-limit-mb allows 200); another is started" in server.log()


def test_processes_of_the_model_count(server):
    client = connect("http", server)
    until(lambda: is_ready(client, "eats"), "a ready model")
    before = ask(client, 300, "child")

    def is_replaced():
        try:
            return ask(client) != before
        except InferenceServerException as error:  # it had this request
            assert "memory-limit-mb allows 200" in error.message()
            return False

    until(is_replaced, "another worker")


def test_below_the_limit_nothing_happens(server):
    client = connect("http", server)
    until(lambda: is_ready(client, "eats"), "a ready model")
    before = ask(client, 20, "child")
    seen = server.log().count("allows 200")
    for _ in range(100):
        assert ask(client) == before
    assert server.log().count("allows 200") == seen


def test_a_limit_that_is_no_number_is_refused(folder):
    with Server(folder, "--backend-config=python,memory-limit-mb=1G", "--exit-on-error=false", wait="live") as server:
        until(lambda: "memory-limit-mb must be a number of mebibytes above 0, not '1G'" in server.log(), "the reason in the log")
