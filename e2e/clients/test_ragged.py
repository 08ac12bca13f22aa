"""Ragged batches: requests of different lengths run together, and models learn where each lies. Expected numbers are worked out by hand."""

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import python_model
import pytest
import ragged
from tritonclient.utils import InferenceServerException

from serving import Server
from talking import PROTOCOLS, connect, statistics, tensor

PYTHON = """
class TritonPythonModel:
    def execute(self, requests):
        lengths = [request.inputs()[0].as_numpy().shape[1] for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("LENGTHS", np.array([lengths], np.int64))]) for request in requests]
"""


@pytest.fixture(scope="module")
def server(folder):
    ragged.segments(folder)
    ragged.described(folder)
    ragged.lookup(folder)
    config = python_model.tensors(["X FP32 -1"], ["LENGTHS INT64 -1"], batch=3).replace("dims: [-1] }]\noutput", "dims: [-1] allow_ragged_batch: true }]\noutput")
    python_model.write(folder, "lengths", PYTHON, config + ragged.THREE)
    with Server(folder) as server:
        yield server


def together(server, protocol, model, requests):
    """The answers to requests that run in one batch, in the order of the requests."""

    def ask(rows):
        return connect(protocol, server).infer(model, [tensor(protocol, "X", rows, "FP32")])

    batches_before = batches(server, model)
    with ThreadPoolExecutor(len(requests)) as pool:
        answers = list(pool.map(ask, requests))
    assert batches(server, model) == {**batches_before, 3: batches_before.get(3, 0) + 1}, "they did not run together"
    return answers


def batches(server, model):
    found = statistics(connect("http", server), model)[0]["batch_stats"]
    return {one["batch_size"]: one["compute_infer"]["count"] for one in found}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_each_request_gets_what_is_its_own(server, protocol):
    requests = [np.array([row], np.float32) for row in ([1, 2, 3], [10], [4, 5])]
    answers = together(server, protocol, "segments", requests)
    assert [answer.as_numpy("SUM").tolist() for answer in answers] == [[[6]], [[10]], [[9]]]
    for answer, request in zip(answers, requests):
        assert np.array_equal(answer.as_numpy("DOUBLED"), 2 * request)


def test_an_empty_request_is_one_of_them(server):
    requests = [np.array([row], np.float32).reshape(1, -1) for row in ([1, 2], [], [7])]
    answers = together(server, "http", "segments", requests)
    assert [answer.as_numpy("SUM").tolist() for answer in answers] == [[[3]], [[0]], [[7]]]
    assert [answer.as_numpy("DOUBLED").shape for answer in answers] == [(1, 2), (1, 0), (1, 1)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_request_that_the_model_fails_on_fails_alone(server, protocol):
    def ask(row):
        try:
            return connect(protocol, server).infer("lookup", [tensor(protocol, "X", np.array([row], np.float32), "FP32")])
        except InferenceServerException as error:
            return error

    with ThreadPoolExecutor(3) as pool:  # a batch leaves at three
        first, bad, last = pool.map(ask, ([0, 1, 2], [1, 9], [2]))
    assert first.as_numpy("VALUE").tolist() == [[10, 20, 30]] and first.as_numpy("COUNT_OUT").tolist() == [[3]]
    assert last.as_numpy("VALUE").tolist() == [[30]] and last.as_numpy("COUNT_OUT").tolist() == [[1]]
    assert isinstance(bad, InferenceServerException) and "indices element out of data bounds, idx=9" in bad.message(), bad


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_kind_of_input_describes_the_batch(server, protocol):
    shapes = [(1, 2, 3), (1, 1, 4), (1, 5, 1)]
    answers = together(server, protocol, "described", [np.full(shape, 1, np.float32) for shape in shapes])
    seen = {}
    for shape, answer in zip(shapes, answers):
        count = shape[1] * shape[2]
        assert answer.as_numpy("COUNT_OUT").tolist() == answer.as_numpy("COUNT_AGAIN_OUT").tolist() == [[count]]
        assert answer.as_numpy("MOST_OUT").tolist() == [[6]] and answer.as_numpy("WHOLE_OUT").tolist() == [[15]]
        assert answer.as_numpy("ITEM_OUT").tolist() == answer.as_numpy("FLAT_OUT").tolist() == [list(shape[1:])]
        seen[answer.as_numpy("END_OUT").item()] = count
    # Whatever their order in the batch was, each one ends where it and those before it do.
    ends = sorted(seen)
    assert [seen[end] for end in ends] == [end - before for before, end in zip([0, *ends], ends)]


def test_a_python_model_gets_requests_of_different_lengths_at_once(server):
    answers = together(server, "http", "lengths", [np.zeros((1, length), np.float32) for length in (3, 1, 2)])
    seen = [answer.as_numpy("LENGTHS")[0].tolist() for answer in answers]
    assert sorted(seen[0]) == [1, 2, 3] and seen[1] == seen[2] == seen[0]


def test_what_does_not_fit_the_model_is_said(tmp_path):
    reasons = ragged.broken(tmp_path)
    with Server(tmp_path, "--model-control-mode=explicit") as server:
        client = connect("http", server)
        for name, reason in reasons.items():
            with pytest.raises(InferenceServerException, match=re.escape(reason)):
                client.load_model(name)
