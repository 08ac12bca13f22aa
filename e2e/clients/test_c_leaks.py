"""Backends in C leak nothing: descriptors, threads and memory are as before after many requests, errors, calls, streams and loads."""

import threading

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from test_c_backends import DECOUPLED, INPUTS, SUMS, compile_library, model, numbers
from tritonclient.utils import InferenceServerException

from holdings import check_nothing_grows
from serving import Server
from talking import connect

CALLERS = 8
SMALL, LARGE = np.arange(8, dtype=np.int32), np.arange(1 << 16, dtype=np.int32)
# by turns: what answers at once, from a thread of its own, with a request of its own, by a state, with an error, not at all
MODELS = ["plain", "plain", "late", "asks", "sums", "plain", "fails", "late", "forgets", "plain"]
FAILING = {"fails": "execute", "forgets": "no_answer"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    backends, models = tmp_path_factory.mktemp("backends"), tmp_path_factory.mktemp("models")
    for name in ("identity", "late", "asks", "accumulate", "wrong"):
        compile_library(name, backends / f"c_{name}" / f"libtriton_c_{name}.so")
    model(models, "plain", f"backend: 'c_identity'\n{INPUTS}")
    model(models, "late", f"backend: 'c_late'\n{INPUTS}")
    model(models, "many", f"backend: 'c_late'\n{INPUTS}{DECOUPLED}")
    model(models, "asks", f"backend: 'c_asks'\n{INPUTS}parameters {{ key: 'asked' value {{ string_value: 'plain' }} }}")
    model(models, "sums", f"backend: 'c_accumulate'\n{INPUTS}{SUMS}")
    for name, fault in FAILING.items():
        model(models, name, f"backend: 'c_wrong'\n{INPUTS}parameters {{ key: 'fault' value {{ string_value: '{fault}' }} }}")
    with Server(models, f"--backend-directory={backends}", "--model-control-mode=explicit", "--load-model=*") as running:
        yield running


def work(server, requests):
    """So many requests of all kinds, from several callers; then a stream."""
    faults = []

    def call(caller):
        with httpclient.InferenceServerClient(server.url) as client:
            for index in range(caller, requests, CALLERS):
                name = MODELS[index % len(MODELS)]
                data = LARGE if index % 7 == 0 and name in ("plain", "late") else SMALL[:1] if name == "sums" else SMALL
                sequence = {"sequence_id": index + 1, "sequence_start": True, "sequence_end": True} if name == "sums" else {}
                try:
                    answer = client.infer(name, numbers(data), **sequence).as_numpy("OUTPUT0")
                    if name in FAILING or answer[-1] != data[-1]:
                        faults.append((name, answer[:4]))
                except InferenceServerException as error:
                    if name not in FAILING:
                        faults.append((name, error))

    callers = [threading.Thread(target=call, args=(number,)) for number in range(CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not faults, faults[:3]
    stream(server)


def stream(server):
    """A hundred responses to one request."""
    got, is_over = [], threading.Event()

    def heard(result, error):
        got.append(error)
        if error or result.get_response().parameters["triton_final_response"].bool_param:
            is_over.set()

    with grpcclient.InferenceServerClient(server.grpc_url) as client:
        client.start_stream(heard)
        client.async_stream_infer("many", numbers([100], module=grpcclient), enable_empty_final_response=True)
        assert is_over.wait(60)
    assert len(got) >= 100 and not any(got), got[-1]


def test_three_thousand_requests_leave_nothing_behind(server):
    check_nothing_grows(server, lambda: work(server, 1000), 3)


@pytest.mark.soak
def test_a_hundred_thousand_requests_leave_nothing_behind(server):
    check_nothing_grows(server, lambda: work(server, 5000), 20)


def test_loads_leave_nothing_behind(server):
    client = connect("http", server)

    def live():
        for name in ("plain", "late", "many", "sums"):
            client.unload_model(name)
            client.load_model(name)
        work(server, 50)

    check_nothing_grows(server, live, 20)
