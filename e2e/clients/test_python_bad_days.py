"""Workers of Python models that die: their requests are answered, others go on, and new workers take their place."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import processes
import pytest
import python_model
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

from serving import Server, until
from talking import PROTOCOLS, connect, is_ready, tensor

NUMBERS = python_model.tensors(["IN INT64 -1"], ["OUT INT64 -1"])

ON_DEMAND = """
import ctypes, os, signal, time

def spoil():
    [place] = [line.split()[0] for line in open("/proc/self/maps") if "memfd:triton_python_backend_rings" in line]
    begin, end = (int(address, 16) for address in place.split("-"))
    ctypes.memset(begin, 0xff, end - begin)

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            order = request.request_id()
            if order.startswith("exit "):
                os._exit(int(order[5:]))
            if order == "abort":
                os.abort()
            if order == "spoil":
                spoil()
                os.kill(os.getpid(), signal.SIGKILL)
            if order.startswith("wait"):
                if order[5:]:
                    open(order[5:], "w").close()
                time.sleep(60)
            pid = np.array([os.getpid()], np.int64)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", pid)]))
        return responses
"""

FORKS = """
import os, sys

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            value = request.inputs()[0].as_numpy()
            if request.request_id() == "return":
                os.fork()
            elif request.request_id() == "exit":
                if os.fork() == 0:
                    sys.exit()
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", value)]))
        return responses
"""

DIES_AT_ONCE = """
import os

class TritonPythonModel:
    def initialize(self, args):
        marker = os.path.join(args["model_repository"], "serves")
        if os.path.exists(marker):
            os._exit(7)
        open(marker, "w").close()

    def execute(self, requests):
        os._exit(8)
"""


CALLS = """
import os

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            call = pb_utils.InferenceRequest(
                model_name="called", request_id=request.request_id(), requested_output_names=["OUT"], inputs=request.inputs()
            )
            response = call.exec()
            if response.has_error():
                responses.append(pb_utils.InferenceResponse(error=response.error()))
                continue
            pids = [os.getpid(), response.output_tensors()[0].as_numpy()[0]]
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array(pids, np.int64))]))
        return responses
"""

@pytest.fixture(scope="module", params=python_model.CHANNELS)
def server(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("models")
    python_model.write(folder, "calls", CALLS, NUMBERS)
    python_model.write(folder, "called", ON_DEMAND, NUMBERS)
    python_model.write(folder, "alone", ON_DEMAND, NUMBERS)
    python_model.write(folder, "two", ON_DEMAND, NUMBERS + "instance_group [{ count: 2 }]")
    python_model.write(folder, "loop", DIES_AT_ONCE, NUMBERS)
    python_model.write(folder, "forks", FORKS, NUMBERS)
    with Server(folder, *python_model.CHANNELS[request.param]) as running:
        running.channel = request.param
        yield running


def ask(client, model, order="", protocol="http"):
    """The id of the worker's process."""
    return int(client.infer(model, [tensor(protocol, "IN", np.zeros(1, np.int64), "INT64")], request_id=order).as_numpy("OUT")[0])


def restarts(server, model):
    for line in server.request("GET", "/metrics", port=server.metrics)[2].decode().splitlines():
        if line.startswith("tritonserver_python_worker_restarts{") and f'model="{model}"' in line:
            return int(line.rsplit(" ", 1)[1])
    raise AssertionError("no such metric")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("order, how", [("exit 3", "exit code 3"), ("abort", "killed by signal 6 (SIGABRT)")])
def test_a_worker_that_dies_answers_its_request_and_is_replaced(server, protocol, order, how):
    client = connect(protocol, server)
    before = ask(client, "alone", protocol=protocol)
    count = restarts(server, "alone")
    with pytest.raises(InferenceServerException) as raised:
        ask(client, "alone", order, protocol)
    assert raised.value.message() == f"Stub process 'alone_0' is not healthy. ({how})"
    assert ask(client, "alone", protocol=protocol) != before  # it waits for the next one
    assert restarts(server, "alone") == count + 1
    assert is_ready(client, "alone")
    assert not Path("/proc", str(before)).exists()


def test_a_worker_that_spoils_the_memory_of_its_channel_is_replaced(server):
    if server.channel != "rings":
        pytest.skip("skipped: there is no such memory")
    client = connect("http", server)
    before = ask(client, "alone")
    with pytest.raises(InferenceServerException, match="what a Python worker has written into the memory that it shares with the server cannot be read"):
        ask(client, "alone", "spoil")
    assert ask(client, "alone") != before


@pytest.mark.parametrize("order", ["return", "exit"])
def test_a_forked_process_does_not_answer_for_the_worker(server, order):
    client = connect("http", server)
    for number in range(20):
        sent = np.array([number], np.int64)
        result = client.infer("forks", [tensor("http", "IN", sent, "INT64")], request_id=order if number % 5 == 0 else "")
        assert result.as_numpy("OUT") == sent


def test_a_worker_that_is_killed_while_idle_is_replaced_unasked(server):
    client = connect("http", server)
    before = ask(client, "alone")
    count = restarts(server, "alone")
    os.kill(before, signal.SIGKILL)
    until(lambda: restarts(server, "alone") == count + 1, "a new worker")
    assert ask(client, "alone") != before


def test_a_busy_worker_that_is_killed_is_noticed_at_once_and_the_other_goes_on(server):
    client = connect("http", server, concurrency=4)
    waiting = client.async_infer("two", [tensor("http", "IN", np.zeros(1, np.int64), "INT64")], request_id="wait")
    idle = ask(client, "two")  # the other is taken
    busy = [pid for pid in workers_of(server, "two") if pid != idle]
    assert len(busy) == 1
    os.kill(busy[0], signal.SIGKILL)
    with pytest.raises(InferenceServerException, match=r"Stub process 'two_0(_\d)?' is not healthy. \(killed by signal 9 \(SIGKILL\)\)"):
        waiting.get_result(timeout=30)
    assert ask(client, "two") > 0


def test_a_worker_that_dies_again_and_again_is_told_and_asks_nobody_to_wait(server):
    client = connect("http", server)
    with pytest.raises(InferenceServerException, match=r"exit code 8"):
        ask(client, "loop")
    until(lambda: "exit code 7" in str(client.get_model_repository_index()), "the reason in the index")
    assert not is_ready(client, "loop")
    began = time.monotonic()
    with pytest.raises(InferenceServerException, match=r"exit code 7"):
        ask(client, "loop")
    assert time.monotonic() - began < 30
    counts = client.get_inference_statistics("loop")["model_stats"][0]
    assert (counts["execution_count"], counts["inference_stats"]["fail"]["count"]) == (1, 2), "nobody was there for the second"
    assert ask(client, "alone") > 0


def workers_of(server, model):
    return processes.workers(server.process.pid, model)


def test_the_death_of_a_called_model_is_an_error_of_the_call_alone(server):
    client = connect("http", server)
    [caller] = workers_of(server, "calls")
    with pytest.raises(InferenceServerException, match=r"Stub process 'called_0(_0)?' is not healthy. \(exit code 9\)"):
        ask(client, "calls", "exit 9")
    assert ask(client, "calls") == caller


def test_a_model_that_dies_in_the_middle_of_a_call_is_replaced_while_the_called_one_goes_on(server, tmp_path):
    client = connect("http", server, concurrency=2)
    until(lambda: is_ready(client, "called"), "the called model")
    caller = ask(client, "calls")
    [called] = workers_of(server, "called")
    waiting = client.async_infer("calls", [tensor("http", "IN", np.zeros(1, np.int64), "INT64")], request_id=f"wait {tmp_path / 'waits'}")
    until((tmp_path / "waits").exists, "the call")
    os.kill(caller, signal.SIGKILL)
    with pytest.raises(InferenceServerException, match=r"Stub process 'calls_0(_0)?' is not healthy. \(killed by signal 9 \(SIGKILL\)\)"):
        waiting.get_result(timeout=30)
    until(lambda: is_ready(client, "calls"), "another worker")
    os.kill(called, signal.SIGKILL)  # it still sleeps
    until(lambda: is_ready(client, "called") and workers_of(server, "called") != [called], "another worker of the called model")
    assert ask(client, "calls") != caller


def test_no_request_is_lost_while_workers_are_killed(server):
    answers, stop = [], threading.Event()

    def call():
        client = httpclient.InferenceServerClient(server.url)
        while not stop.is_set():
            try:
                answers.append(ask(client, "two"))
            except InferenceServerException as error:
                assert "is not healthy" in error.message(), error
                answers.append(None)

    callers = [threading.Thread(target=call) for _ in range(64)]
    for caller in callers:
        caller.start()
    client = connect("http", server)
    killed = set()
    for _ in range(6):
        victim = ask(client, "two")
        os.kill(victim, signal.SIGKILL)
        killed.add(victim)
        seen = len(answers)
        until(lambda: len(answers) > seen + 50, "more answers")  # noqa: B023 - polled here
    stop.set()
    for caller in callers:
        caller.join(60)
        assert not caller.is_alive()
    until(lambda: is_ready(client, "two"), "a ready model")
    assert ask(client, "two") not in killed
    assert sum(answer is None for answer in answers) < len(answers) / 2
    assert not [pid for pid in killed if Path("/proc", str(pid)).exists()]
