"""What versions hold in memory, as the index says it where it is asked: weights of ONNX models, and what Python models have allocated."""

import json

import graphs
import make
import pytest
import python_model

from serving import Server

MIB = 1 << 20
HOLDING = f"""
class TritonPythonModel:
    def initialize(self, args):
        self.held = np.ones({64 * MIB}, np.uint8)

    def execute(self, requests):
        return [pb_utils.InferenceResponse(request.inputs()) for request in requests]
"""
SAME = python_model.tensors(["SAME FP32 -1"], ["SAME FP32 -1"])


@pytest.fixture(scope="module")
def server(folder):
    python_model.write(folder, "holding", HOLDING, SAME + 'instance_group [{ count: 2 kind: KIND_CPU }]\n')
    weights = graphs.mlp(4, 2048, 2048, 4)  # 16 MiB and a little
    make.write(folder, "weights", 'backend: "onnxruntime" max_batch_size: 8\n', {1: weights})
    make.identity(folder, "nothing")
    with Server(folder) as running:
        yield running


def index(server, question):
    status, _, body = server.request("POST", "/v2/repository/index", json.dumps(question))
    assert status == 200, body
    return {one["name"]: one for one in json.loads(body)}


def test_the_index_says_what_versions_hold_where_it_is_asked(server):
    asked = index(server, {"memory": True})
    [of_python], [of_onnx] = asked["holding"]["memory"], asked["weights"]["memory"]
    assert (of_python["type"], of_onnx["type"]) == ("CPU", "CPU")
    assert 2 * 64 * MIB < of_python["byte_size"] < 1024 * MIB, "two workers, each with an array and an interpreter"
    assert 16 * MIB < of_onnx["byte_size"] < 128 * MIB, "the weights, and what ONNX Runtime makes of them"
    assert "memory" not in asked["nothing"]
    assert all("memory" not in one for one in index(server, {}).values())


@pytest.mark.parametrize("junk", ["yes", 1, None, [], {}])
def test_a_question_that_is_no_boolean_is_the_callers_mistake(server, junk):
    status, _, body = server.request("POST", "/v2/repository/index", json.dumps({"memory": junk}))
    assert (status, json.loads(body)) == (400, {"error": "Invalid value for 'memory': expected a boolean"})
