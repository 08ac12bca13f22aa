"""Requests that models make leave nothing behind: rings of C and Python models, calls of ensembles, and ensembles with steps in Python and in C."""

import threading

import numpy as np
import pytest
import tritonclient.http as httpclient
from test_c_backends import ASKS_IN_PYTHON, INPUTS, ONE_INSTANCE, compile_library, model, numbers
from tritonclient.utils import InferenceServerException

from holdings import check_workers_stay
from serving import Server

CALLERS = 8
SMALL, LARGE = np.arange(2, 10, dtype=np.int32), np.arange(2, 2 + (1 << 16), dtype=np.int32)

ADDS = '''
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()) for request in requests]

    def answer(self, numbers):
        if numbers.flat[0] < 0:
            raise ValueError("as asked for")
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", numbers + 1)])
'''


def ensemble(*steps):
    tensors = ["INPUT0", *(f"between_{number}" for number in range(1, len(steps))), "OUTPUT0"]
    lines = [
        f"step {{ model_name: '{name}' model_version: -1 input_map {{ key: 'INPUT0' value: '{given}' }} output_map {{ key: 'OUTPUT0' value: '{made}' }} }}"
        for name, given, made in zip(steps, tensors, tensors[1:])
    ]
    return f"platform: 'ensemble'\n{INPUTS}ensemble_scheduling {{ {' '.join(lines)} }}"


def asking(name):
    return f"backend: 'c_asks'\n{INPUTS}{ONE_INSTANCE}parameters {{ key: 'asked' value {{ string_value: '{name}' }} }}"


# What each model makes of SMALL and LARGE; an error for what begins with a negative number.
ANSWERS = {
    "python": lambda data: data * 0 + 11,  # asks C, which asks it again: that runs in the middle of the first call
    "asks_steps": lambda data: data + 2,
    "steps": lambda data: data + 2,
    "asks_plain": lambda data: data,
}
FAILING = {"steps", "asks_steps"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    backends, models = tmp_path_factory.mktemp("backends"), tmp_path_factory.mktemp("models")
    for name in ("identity", "asks"):
        compile_library(name, backends / f"c_{name}" / f"libtriton_c_{name}.so")
    model(models, "plain", f"backend: 'c_identity'\n{INPUTS}")
    model(models, "asks_plain", asking("plain"))
    model(models, "asks_python", asking("python"))
    model(models, "asks_steps", asking("steps"))
    model(models, "steps", ensemble("adds", "plain", "adds"))
    for name, code in {"python": ASKS_IN_PYTHON, "adds": ADDS}.items():
        model(models, name, f"backend: 'python'\n{INPUTS}{ONE_INSTANCE}")
        (models / name / "1" / "model.py").write_text(code)
    with Server(models, f"--backend-directory={backends}", "--backend-config=python,shm-idle-seconds=1") as running:
        yield running


def work(server, requests):
    """So many requests to all of them by turns, from several callers; every tenth is large, some are answered with an error."""
    faults, names = [], list(ANSWERS)

    def call(caller):
        with httpclient.InferenceServerClient(server.url) as client:
            for index in range(caller, requests, CALLERS):
                name, data = names[index // CALLERS % len(names)], LARGE if index % 10 == 3 else SMALL
                is_wrong = name in FAILING and index % 7 == 0
                try:
                    answer = client.infer(name, numbers(-data if is_wrong else data)).as_numpy("OUTPUT0")
                    if is_wrong or not np.array_equal(answer, ANSWERS[name](data)):
                        faults.append((name, answer[:4]))
                except InferenceServerException as error:
                    if not is_wrong or "as asked for" not in error.message():
                        faults.append((name, error))

    callers = [threading.Thread(target=call, args=(number,)) for number in range(CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not faults, faults[:3]


def check_requests(server, requests):
    check_workers_stay(server, lambda: work(server, 1000), requests // 1000)


def test_two_thousand_requests_leave_nothing_behind(server):
    check_requests(server, 2000)


@pytest.mark.soak
def test_a_hundred_thousand_requests_leave_nothing_behind(server):
    check_requests(server, 100_000)
