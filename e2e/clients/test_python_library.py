"""NVIDIA's own Python backend, an unmodified library with its own stub, in our server: `e2e/golden/install` fetches both."""

import os
import subprocess
import threading

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

import real
from pages import read
from serving import Server, program, until

STUB = real.HOME / "backends" / "python" / "triton_python_backend_stub"
CANNOT_BE_RUN = 127  # what the loader says where a library is missing


def why_not():
    if not STUB.exists():
        return "skipped: e2e/golden/install has not fetched NVIDIA's Python backend"
    ran = subprocess.run([STUB], env={**os.environ, **real.command()[1]}, capture_output=True, text=True)
    return f"skipped: NVIDIA's stub cannot be run: {ran.stderr.strip()}" if ran.returncode == CANNOT_BE_RUN else ""


REASON = why_not()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

ADD = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        config.set_max_batch_size(8)
        for name in ("A", "B"):
            config.add_input({"name": name, "data_type": "TYPE_FP32", "dims": [-1]})
        config.add_output({"name": "SUM", "data_type": "TYPE_FP32", "dims": [-1]})
        config.set_dynamic_batching()
        return config

    def initialize(self, args):
        self.family = pb_utils.MetricFamily(name="rows_added", description="rows that were added", kind=pb_utils.MetricFamily.COUNTER)
        self.rows = self.family.Metric(labels={"model": args["model_name"]})

    def execute(self, requests):
        responses = []
        for request in requests:
            a, b = (pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("A", "B"))
            if (a < 0).any():
                responses.append(pb_utils.InferenceResponse(error=pb_utils.TritonError("no negative numbers", pb_utils.TritonError.INVALID_ARG)))
                continue
            self.rows.increment(len(a))
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("SUM", a + b)]))
        return responses

    def finalize(self):
        print("the model was finalized", flush=True)
"""

COUNT = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for number in range(int(pb_utils.get_input_tensor_by_name(request, "N").as_numpy()[0])):
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("NUMBER", np.array([number], np.int32))]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
COUNT_CONFIG = """
backend: 'python'
model_transaction_policy { decoupled: true }
input { name: 'N' data_type: TYPE_INT32 dims: [1] }
output { name: 'NUMBER' data_type: TYPE_INT32 dims: [1] }
"""

ASK = """
import asyncio
import numpy as np
import triton_python_backend_utils as pb_utils


def add(a, b):
    tensors = [pb_utils.Tensor("A", a.reshape(1, -1)), pb_utils.Tensor("B", b.reshape(1, -1))]
    return pb_utils.InferenceRequest(model_name="add", requested_output_names=["SUM"], inputs=tensors)


def sum_of(response):
    if response.has_error():
        raise pb_utils.TritonModelException(response.error().message())
    return pb_utils.get_output_tensor_by_name(response, "SUM").as_numpy()[0]


class TritonPythonModel:
    async def execute(self, requests):
        responses = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
            doubled = sum_of(add(x, x).exec())
            both = await asyncio.gather(add(doubled, x).async_exec(), add(x, x).async_exec())
            tripled = sum_of(both[0])
            number = pb_utils.Tensor("N", np.array([3], np.int32))
            counted = pb_utils.InferenceRequest(model_name="count", requested_output_names=["NUMBER"], inputs=[number])
            total = 0
            for response in counted.exec(decoupled=True):
                if len(response.output_tensors()):
                    total += int(pb_utils.get_output_tensor_by_name(response, "NUMBER").as_numpy()[0])
            outputs = [pb_utils.Tensor("TRIPLED", tripled), pb_utils.Tensor("TOTAL", np.array([total], np.int32))]
            responses.append(pb_utils.InferenceResponse(outputs))
        return responses
"""
ASK_CONFIG = """
backend: 'python'
input { name: 'X' data_type: TYPE_FP32 dims: [-1] }
output [ { name: 'TRIPLED' data_type: TYPE_FP32 dims: [-1] }, { name: 'TOTAL' data_type: TYPE_INT32 dims: [1] } ]
"""

BROKEN = """
class TritonPythonModel:
    def initialize(self, args):
        raise RuntimeError("there is no such weight")

    def execute(self, requests):
        return []
"""


def put(folder, name, code, config=None):
    (folder / name / "1").mkdir(parents=True)
    (folder / name / "1" / "model.py").write_text(code)
    if config is not None:
        (folder / name / "config.pbtxt").write_text(config)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    put(models, "add", ADD, "backend: 'python'\n")
    put(models, "count", COUNT, COUNT_CONFIG)
    put(models, "ask", ASK, ASK_CONFIG)
    put(models, "broken", BROKEN, ASK_CONFIG)
    backends = tmp_path_factory.mktemp("root") / "backends"
    backends.symlink_to(STUB.parents[1])  # the library compares the path of its folder with that of the directory
    argv = [program("tritonserver"), f"--backend-directory={backends}", "--backend-config=python,library=libtriton_python.so"]
    flags = ["--model-control-mode=explicit", "--load-model=add", "--load-model=count", "--load-model=ask", "--log-verbose=0"]
    _, env = real.command()
    with Server(models, *flags, argv=argv, env={**os.environ, **env}) as running:
        yield running


@pytest.fixture
def client(server):
    with httpclient.InferenceServerClient(server.url, concurrency=8) as client:
        yield client


def floats(**tensors):
    inputs = []
    for name, values in tensors.items():
        array = np.array(values, np.float32)
        inputs.append(httpclient.InferInput(name, array.shape, "FP32"))
        inputs[-1].set_data_from_numpy(array)
    return inputs


def test_models_answer(client):
    result = client.infer("add", floats(A=[[1, 2], [3, 4]], B=[[10, 20], [30, 40]]))
    assert result.as_numpy("SUM").tolist() == [[11, 22], [33, 44]]


def test_configurations_are_completed(client):
    config = client.get_model_config("add")
    assert config["max_batch_size"] == 8
    assert [tensor["name"] for tensor in config["input"]] == ["A", "B"]
    assert "dynamic_batching" in config


def test_requests_side_by_side_keep_their_answers(client):
    handles = [client.async_infer("add", floats(A=[[number]], B=[[1]])) for number in range(32)]
    assert [handle.get_result().as_numpy("SUM").tolist() for handle in handles] == [[[number + 1]] for number in range(32)]


def test_errors_reach_the_caller(client):
    with pytest.raises(InferenceServerException, match="no negative numbers"):
        client.infer("add", floats(A=[[-1]], B=[[1]]))
    assert client.infer("add", floats(A=[[1]], B=[[1]])).as_numpy("SUM").tolist() == [[2]]


def test_a_decoupled_model_answers_many_times(server):
    answers, is_done = [], threading.Event()

    def heard(result, error):
        assert error is None, error
        if result.as_numpy("NUMBER") is not None:
            answers.append(int(result.as_numpy("NUMBER")[0]))
        if result.get_response().parameters["triton_final_response"].bool_param:
            is_done.set()

    number = grpcclient.InferInput("N", [1], "INT32")
    number.set_data_from_numpy(np.array([5], np.int32))
    with grpcclient.InferenceServerClient(server.grpc_url) as client:
        client.start_stream(heard)
        client.async_stream_infer("count", [number], enable_empty_final_response=True)
        assert is_done.wait(30)
        client.stop_stream()
    assert answers == [0, 1, 2, 3, 4]


def test_a_model_asks_others(client):
    result = client.infer("ask", floats(X=[1, 2, 3]))
    assert result.as_numpy("TRIPLED").tolist() == [3, 6, 9]
    assert result.as_numpy("TOTAL").tolist() == [3]


def test_errors_of_a_model_that_was_asked_are_told(client):
    with pytest.raises(InferenceServerException, match="no negative numbers"):
        client.infer("ask", floats(X=[-1]))


def test_metrics_of_models_are_on_the_page(server, client):
    client.infer("add", floats(A=[[1]], B=[[1]]))
    text = server.request("GET", "/metrics", port=server.metrics)[2].decode()
    assert read(text).value("rows_added", model="add") >= 1


def test_a_model_that_does_not_start_is_told(client):
    with pytest.raises(InferenceServerException, match="there is no such weight"):
        client.load_model("broken")
    assert client.is_server_ready()


def test_a_model_is_unloaded_and_loaded_again(server, client):
    client.unload_model("add")
    until(lambda: not client.is_model_ready("add"), "the model goes")
    until(lambda: "the model was finalized" in server.log(), "its finalize was called")
    client.load_model("add")
    assert client.infer("add", floats(A=[[2]], B=[[2]])).as_numpy("SUM").tolist() == [[4]]


def test_statistics_count_what_was_run(client):
    def counts():
        statistics = client.get_inference_statistics("add")["model_stats"][0]
        return statistics["inference_count"], statistics["execution_count"]

    before = counts()
    client.infer("add", floats(A=[[1], [2], [3]], B=[[1], [2], [3]]))
    # the library reports them after it has answered
    until(lambda: counts() == (before[0] + 3, before[1] + 1), "three inferences in one execution")
