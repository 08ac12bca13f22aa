"""Python models leak nothing: descriptors, threads, processes and memory are as before after many requests, errors, calls, and deaths."""

import os
import signal
import threading

import numpy as np
import pytest
import python_model
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

from holdings import check_nothing_grows, check_workers_stay, children
from serving import Server, until
from talking import connect, is_ready, tensor

NUMBERS = python_model.tensors(["IN FP32 -1"], ["OUT FP32 -1"])

MIXED = """
class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            order, tensor = request.request_id(), request.inputs()[0]
            if order == "raise":
                raise ValueError("as asked for")
            if order == "error":
                responses.append(pb_utils.InferenceResponse(error=pb_utils.TritonError("as asked for")))
                continue
            if order == "call":
                call = pb_utils.InferenceRequest(model_name="identity", requested_output_names=["OUT"], inputs=[tensor])
                tensor = call.exec().output_tensors()[0]
            if order == "unknown":
                call = pb_utils.InferenceRequest(model_name="nobody", requested_output_names=["OUT"], inputs=[tensor])
                assert call.exec().has_error()
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", tensor.as_numpy())]))
        return responses
"""

ORDERS = ["", "", "", "large", "large call", "call", "raise", "error", "unknown", ""]
SMALL, LARGE = np.arange(8, dtype=np.float32), np.arange(1 << 18, dtype=np.float32)
CALLERS = 8


@pytest.fixture(scope="module")
def server(folder):
    python_model.write(folder, "identity", python_model.IDENTITY, NUMBERS)
    python_model.write(folder, "mixed", MIXED, NUMBERS)
    with Server(folder, "--backend-config=python,shm-idle-seconds=1", "--model-control-mode=explicit", "--load-model=*") as running:
        yield running


def work(server, requests):
    failures = []

    def call(number):
        with httpclient.InferenceServerClient(server.url) as client:
            for index in range(number, requests, CALLERS):
                size, _, order = ORDERS[index % len(ORDERS)].rpartition("large")
                data = LARGE if size or "large" in ORDERS[index % len(ORDERS)] else SMALL
                try:
                    result = client.infer("mixed", [tensor("http", "IN", data, "FP32")], request_id=order.strip())
                    if not np.array_equal(result.as_numpy("OUT"), data):
                        failures.append("other data")
                except InferenceServerException as error:
                    if "as asked for" not in error.message():
                        failures.append(error)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not failures, failures[:3]


def test_ten_thousand_requests_leave_nothing_behind(server):
    check_requests(server, 10_000)


@pytest.mark.soak
def test_a_hundred_thousand_requests_leave_nothing_behind(server):
    check_requests(server, 100_000)


def check_requests(server, requests):
    check_workers_stay(server, lambda: work(server, 1000), requests // 1000)


def test_loads_deaths_and_unloads_leave_nothing_behind(folder):
    python_model.write(folder, "identity", python_model.IDENTITY, NUMBERS)
    with Server(folder, "--model-control-mode=explicit", wait="live") as server:
        client = connect("http", server)

        def live():
            client.load_model("identity")
            for _ in range(3):
                [pid] = children(server)
                os.kill(pid, signal.SIGKILL)
                until(lambda: children(server) not in ([], [pid]) and is_ready(client, "identity"), "another worker")  # noqa: B023 - polled here
            client.unload_model("identity")
            until(lambda: not children(server), "the end of the worker")

        check_nothing_grows(server, live, 10)
