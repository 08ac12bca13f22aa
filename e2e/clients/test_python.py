"""Models of the Python backend with the real clients: what goes in comes out, what fails says why."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import processes
import pytest
import python_model
from tritonclient.utils import InferenceServerException

from serving import Server, until
from talking import PROTOCOLS, connect, tensor

ONE_IN_ONE_OUT = python_model.tensors(["IN FP32 -1"], ["OUT FP32 -1"], batch=64)

WIDE = """
class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(tensor.name().replace("IN", "OUT"), tensor.as_numpy()) for tensor in request.inputs()])
            for request in requests
        ]
"""

FAILING = """
def inner(word):
    raise ValueError("the word is " + word)

class TritonPythonModel:
    def execute(self, requests):
        inner(requests[0].request_id())
"""

COMPLETED = """
class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        config.add_input({"name": "IN", "data_type": "TYPE_STRING", "dims": [-1]})
        config.add_output({"name": "OUT", "data_type": "TYPE_STRING", "dims": [-1]})
        config.set_max_batch_size(0)
        return config

    def initialize(self, args):
        print("initialized as", args["model_instance_name"])

    def execute(self, requests):
        upper = [np.array([text.upper() for text in request.inputs()[0].as_numpy()], object) for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", array)]) for array in upper]

    def finalize(self):
        print("finalized")
"""


@pytest.fixture(scope="module", params=python_model.CHANNELS)
def server(folder, request):
    python_model.write(folder, "identity", python_model.IDENTITY, ONE_IN_ONE_OUT + "instance_group [{ count: 2 }]")
    python_model.write(folder, "wide", WIDE, python_model.tensors([f"IN{n} FP32 -1" for n in range(8)], [f"OUT{n} FP32 -1" for n in range(8)]))
    python_model.write(folder, "failing", FAILING, ONE_IN_ONE_OUT)
    python_model.write(folder, "completed", COMPLETED)
    with Server(folder, *python_model.CHANNELS[request.param]) as running:
        running.channel = request.param
        yield running


def test_workers_exchange_messages_as_the_server_is_told(server):
    workers = processes.children(server.process.pid)
    assert {python_model.uses_rings(pid) for pid in workers} == {server.channel == "rings"}


def test_a_worker_sleeps_when_nobody_asks(server):
    asked = connect("http", server)
    for _ in range(200):
        asked.infer("identity", [tensor("http", "IN", np.zeros((1, 1), np.float32), "FP32")])
    for pid in processes.children(server.process.pid):
        stat = Path(f"/proc/{pid}/stat")
        until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "S", "a sleeping worker")  # noqa: B023 - polled here


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("count", [0, 1, 4096, 4097, 20_000, 1_500_000])
def test_tensors_of_any_size_come_back(server, protocol, count):
    data = np.random.default_rng(count).random((1, count), np.float32)
    result = connect(protocol, server).infer("identity", [tensor(protocol, "IN", data, "FP32")])
    np.testing.assert_array_equal(result.as_numpy("OUT"), data)


def test_messages_that_have_no_room_in_a_ring_come_in_their_turn(server):
    """Eight tensors each: together some fit into a ring, some into a message on the socket, and some need memory of their own."""

    def call(seed):
        client, random = connect("http", server), np.random.default_rng(seed)
        for count in random.choice([1, 500, 1000, 1900, 2040, 3000, 5000], 60):
            arrays = random.random((8, count), np.float32)
            result = client.infer("wide", [tensor("http", f"IN{n}", array, "FP32") for n, array in enumerate(arrays)])
            np.testing.assert_array_equal([result.as_numpy(f"OUT{n}") for n in range(8)], arrays)

    with ThreadPoolExecutor(12) as callers:
        list(callers.map(call, range(12)))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_exception_comes_with_its_place(server, protocol):
    with pytest.raises(InferenceServerException) as raised:
        connect(protocol, server).infer("failing", [tensor(protocol, "IN", np.zeros((1, 1), np.float32), "FP32")], request_id="no")
    file = Path(server.argv[3].split("=", 1)[1], "failing", "1", "model.py")
    assert raised.value.message() == (
        f"Failed to process the request(s) for model 'failing_0', message: ValueError: the word is no\n\n"
        f"At:\n  {file}(6): inner\n  {file}(10): execute\n"
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_model_may_complete_its_configuration(server, protocol):
    data = np.array(["one", "zwei", "drei\u00df"], object)
    result = connect(protocol, server).infer("completed", [tensor(protocol, "IN", data, "BYTES")])
    assert [text.decode() for text in result.as_numpy("OUT")] == ["ONE", "ZWEI", "DREI\u00df"]


def test_what_a_model_prints_is_in_the_log_and_workers_end_with_the_server(folder):
    with Server(folder, "--model-control-mode=explicit", "--load-model=completed", "--load-model=identity") as running:
        until(lambda: "initialized as completed_0" in running.log(), "what the model prints")
        workers = processes.children(running.process.pid)
        assert len(workers) == 3, workers
        assert all(os.getpgid(pid) == pid for pid in workers)
    assert "finalized" in running.log()
    assert not [pid for pid in workers if Path("/proc", str(pid)).exists()]
