"""Backends in C, compiled against our headers and served from a backend directory: answers, statistics, sequences, batches, faults."""

import os
import subprocess
import threading

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

from serving import ROOT, Server, until

LIBRARIES = ROOT / "server" / "capi" / "tests" / "libraries"
INPUTS = "input { name: 'INPUT0' data_type: TYPE_INT32 dims: [-1] }\noutput { name: 'OUTPUT0' data_type: TYPE_INT32 dims: [-1] }\n"
DECOUPLED = "model_transaction_policy { decoupled: true }\n"
SUMS = (
    "sequence_batching { state { input_name: 'SUM_IN' output_name: 'SUM_OUT' data_type: TYPE_INT32 dims: [1]"
    " initial_state { name: 'none' data_type: TYPE_INT32 dims: [1] zero_data: true } } }\n"
)
ONE_INSTANCE = "instance_group { count: 1 kind: KIND_CPU }\n"
ASKS_IN_PYTHON = '''
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        numbers = pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
        if numbers[0] == 1:
            return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", numbers + 10)])
        inputs = [pb_utils.Tensor("INPUT0", numbers * 0 + 1)]
        return pb_utils.InferenceRequest(model_name="asks_python", requested_output_names=["OUTPUT0"], inputs=inputs).exec()
'''
BATCHES = "max_batch_size: 8\ndynamic_batching { max_queue_delay_microseconds: 300000 }\nparameters { key: 'MOST' value { string_value: '6' } }\n"


def compile_library(source, path, *flags):
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [os.environ.get("CC", "cc"), "-O1", "-shared", "-fPIC", "-pthread", *flags, "-o", path, "-I", LIBRARIES.parents[1] / "include"]
    subprocess.run([*command, LIBRARIES / f"{source}.c"], check=True)


def model(folder, name, config):
    (folder / name / "1").mkdir(parents=True)
    (folder / name / "config.pbtxt").write_text(config)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    backends, models = tmp_path_factory.mktemp("backends"), tmp_path_factory.mktemp("models")
    of_c = [("identity", "of_c"), *((name, name) for name in ("accumulate", "asks", "iterative", "late", "wrong"))]
    for source, name in of_c:
        compile_library(source, backends / name / f"libtriton_{name}.so")
    compile_library("identity", backends / "other" / "libtriton_renamed.so", "-DONE_INSTANCE_AT_A_TIME")
    model(models, "plain", f"backend: 'of_c'\n{INPUTS}instance_group {{ count: 2 kind: KIND_CPU }}")
    model(models, "completed", "backend: 'of_c'")
    model(models, "renamed", f"backend: 'other'\nruntime: 'libtriton_renamed.so'\n{INPUTS}instance_group {{ count: 3 kind: KIND_CPU }}")
    model(models, "own", f"backend: 'own'\n{INPUTS}")
    compile_library("identity", models / "own" / "1" / "libtriton_own.so")
    model(models, "limited", f"backend: 'of_c'\n{INPUTS}{BATCHES}")
    compile_library("strategy", models / "limited" / "batchstrategy.so")
    model(models, "late", f"backend: 'late'\n{INPUTS}")
    model(models, "many", f"backend: 'late'\n{INPUTS}{DECOUPLED}")
    model(models, "sums", f"backend: 'accumulate'\n{INPUTS}{SUMS}")
    model(models, "iterative", f"backend: 'iterative'\n{INPUTS}{DECOUPLED}sequence_batching {{ iterative_sequence: true }}")
    for fault in ["none", "execute", "no_answer", "model_initialize", "never_releases"]:
        fault_parameter = f"parameters {{ key: 'fault' value {{ string_value: '{fault}' }} }}"
        model(models, f"wrong_{fault}", f"backend: 'wrong'\n{INPUTS}{fault_parameter}")
    for name, asked in [("asks_plain", "plain"), ("asks_nobody", "nobody"), ("asks_cached", "cached"), ("circle_a", "circle_b"), ("circle_b", "circle_a"), ("asks_python", "python")]:
        model(models, name, f"backend: 'asks'\n{INPUTS}{ONE_INSTANCE}parameters {{ key: 'asked' value {{ string_value: '{asked}' }} }}")
    model(models, "python", f"backend: 'python'\n{INPUTS}{ONE_INSTANCE}")
    (models / "python" / "1" / "model.py").write_text(ASKS_IN_PYTHON)
    model(models, "cached", f"backend: 'identity'\n{INPUTS}response_cache {{ enable: true }}")
    model(models, "missing", "backend: 'nosuchbackend'")
    fail = {"missing", "wrong_model_initialize"}
    loads = [f"--load-model={path.name}" for path in models.iterdir() if path.name not in fail]
    flags = [f"--backend-directory={backends}", "--backend-config=own,run-inline=true", "--cache-config=local,size=1048576", "--model-control-mode=explicit", *loads]
    with Server(models, *flags) as running:
        yield running


@pytest.fixture
def client(server):
    with httpclient.InferenceServerClient(server.url, concurrency=8) as client:
        yield client


def numbers(values, rows=None, module=httpclient):
    array = np.array(values, dtype=np.int32).reshape(([rows] if rows else []) + [-1])
    made = module.InferInput("INPUT0", list(array.shape), "INT32")
    made.set_data_from_numpy(array)
    return [made]


def ask(client, name, values, **more):
    return client.infer(name, numbers(values), **more).as_numpy("OUTPUT0").tolist()


@pytest.mark.parametrize("name", ["plain", "renamed", "own", "late"])
def test_a_library_answers(client, name):
    assert ask(client, name, [1, 2, 3]) == [1, 2, 3]


def test_parameters_come_and_go(client):
    given = {"text": "a", "number": -7, "truth": True, "half": 0.5}
    response = client.infer("plain", numbers([1]), parameters=given).get_response()
    assert response["parameters"] == given


def test_a_library_completes_a_configuration(client):
    config = client.get_model_config("completed")
    assert config["max_batch_size"] == 4 and config["input"][0]["name"] == "INPUT0" and "dynamic_batching" in config
    assert config["instance_group"][0]["count"] == 2, "as the library prefers"


def test_statistics_are_those_that_the_library_reports(server, client):
    before = client.get_inference_statistics("plain")["model_stats"][0]
    ask(client, "plain", [5])

    def counted():
        after = client.get_inference_statistics("plain")["model_stats"][0]
        return [int(after.get(key, 0)) - int(before.get(key, 0)) for key in ("inference_count", "execution_count")] == [1, 1]

    until(counted, "one inference, one execution")


def test_a_library_answers_many_times(server):
    values, done = [], threading.Event()

    def heard(result, error):
        assert error is None, error
        response = result.get_response()
        if result.as_numpy("OUTPUT0") is not None and result.as_numpy("OUTPUT0").size:
            values.append(int(result.as_numpy("OUTPUT0")[0]))
        if response.parameters["triton_final_response"].bool_param:
            done.set()

    with grpcclient.InferenceServerClient(server.grpc_url) as client:
        client.start_stream(heard)
        client.async_stream_infer("many", numbers([300], module=grpcclient), enable_empty_final_response=True)
        assert done.wait(30)
        assert values == list(range(300))
        done.clear()
        values.clear()
        client.async_stream_infer("iterative", numbers([4], module=grpcclient), enable_empty_final_response=True)
        assert done.wait(30)
        assert values == [4, 3, 2, 1]


def test_the_server_keeps_the_states_of_a_library(client):
    for sequence, expected in [(7, [1, 3, 6]), ("named", [1, 3, 6])]:
        for value in (1, 2, 3):
            got = ask(client, "sums", [value], sequence_id=sequence, sequence_start=value == 1, sequence_end=value == 3)
            assert got == [expected[value - 1]]


def test_a_strategy_limits_batches(client):
    """Of three requests of three elements two run together, for six are the most."""
    requests = [client.async_infer("limited", numbers([index] * 3, rows=1)) for index in range(3)]
    assert [request.get_result().as_numpy("OUTPUT0").tolist() for request in requests] == [[[index] * 3] for index in range(3)]

    def sizes():
        return {int(size["batch_size"]) for size in client.get_inference_statistics("limited")["model_stats"][0]["batch_stats"]}

    until(lambda: 2 in sizes() and 3 not in sizes(), "a batch of two")


def test_errors_are_those_of_the_library(client):
    for name, expected in [("wrong_execute", "execute"), ("wrong_no_answer", "the request was dropped without a response")]:
        with pytest.raises(InferenceServerException, match=expected):
            ask(client, name, [1])
    assert ask(client, "wrong_none", [1]) == [1], "what it does twice harms nobody"


def test_a_library_asks_other_models_and_the_server(client):
    assert ask(client, "asks_plain", [4, 5]) == [4, 5]
    assert [ask(client, "asks_cached", [6, 7]) for _ in range(2)] == [[6, 7], [6, 7]], "the cache keeps none of the library's memory"
    assert ask(client, "asks_plain", [0, 1]) == [0, 1], "what the server says of itself is as the library expects"
    with pytest.raises(InferenceServerException, match="unknown model: 'nobody'"):
        ask(client, "asks_nobody", [1])


def test_a_library_may_ask_a_python_model_that_waits_for_it(client):
    assert ask(client, "python", [7]) == [11]


def test_libraries_that_ask_each_other_in_a_circle_hear_so(client):
    with pytest.raises(InferenceServerException, match=r"waited for the answer for 1\d s \(circle_a -> circle_b -> circle_a\)"):
        ask(client, "circle_a", [1])
    assert ask(client, "circle_a", [0]) == [0], "both serve again"
    assert ask(client, "circle_b", [0]) == [0]


def test_requests_that_a_library_keeps_are_named_when_the_server_ends(tmp_path):
    backends, models = tmp_path / "backends", tmp_path / "models"
    compile_library("wrong", backends / "wrong" / "libtriton_wrong.so")
    model(models, "keeps", f"backend: 'wrong'\n{INPUTS}parameters {{ key: 'fault' value {{ string_value: 'never_releases' }} }}")
    running = Server(models, f"--backend-directory={backends}", "--exit-timeout-secs=1", expect_exit=None)
    with running as server, httpclient.InferenceServerClient(server.url) as client:
        assert ask(client, "keeps", [1]) == [1]
    assert "model 'keeps' version 1 cannot be unloaded yet: requests not released by its backend 'wrong': 1" in running.log()


def test_loads_that_fail_say_why(client):
    with pytest.raises(InferenceServerException, match="model_initialize"):
        client.load_model("wrong_model_initialize")
    with pytest.raises(InferenceServerException, match="unable to find backend library for backend 'nosuchbackend'"):
        client.load_model("missing")


def test_what_a_library_does_wrong_is_in_the_log(server, client):
    ask(client, "wrong_none", [1])
    until(lambda: "a library called TRITONBACKEND_RequestRelease wrongly" in server.log(), "the log says so")


def test_an_unload_waits_for_what_the_library_keeps(server, client):
    assert ask(client, "late", [1]) == [1]
    client.unload_model("late")
    until(lambda: not client.is_model_ready("late"), "it is gone")
    client.load_model("late")
    assert ask(client, "late", [2]) == [2]


def test_instances_of_one_device_run_one_after_the_other(client):
    answers = [client.async_infer("renamed", numbers([index])) for index in range(24)]
    assert [answer.get_result().as_numpy("OUTPUT0").tolist() for answer in answers] == [[index] for index in range(24)]


def test_a_setting_chooses_a_library_over_what_is_built_in(tmp_path):
    backends, models = tmp_path / "backends", tmp_path / "models"
    compile_library("identity", backends / "identity" / "libtriton_identity.so")
    model(models, "echo", f"backend: 'identity'\n{INPUTS}")
    for chosen, is_built_in in [([], True), (["--backend-config=identity,library=libtriton_identity.so"], False)]:
        with Server(models, f"--backend-directory={backends}", *chosen) as server, httpclient.InferenceServerClient(server.url) as client:
            response = client.infer("echo", numbers([1])).get_response()
            assert ("param0" in response.get("parameters", {})) == is_built_in  # the one that is built in sets parameters
        calls = backends / "identity" / "calls.txt"
        assert calls.exists() != is_built_in
    assert calls.read_text().splitlines()[-2:] == ["ModelFinalize echo", "Finalize identity"], "also when the server ends"


def test_models_come_and_go_while_they_serve(server, client):
    """Whoever asks meanwhile gets an answer or hears that the model is not there; nothing is left of the old one."""
    stop, faults = threading.Event(), []

    def ask_on():
        with httpclient.InferenceServerClient(server.url) as own:
            while not stop.is_set():
                try:
                    assert ask(own, "late", [3]) == [3]
                except InferenceServerException as error:
                    if "not ready" not in str(error) and "unknown model" not in str(error) and "not found" not in str(error):
                        faults.append(error)

    threads = [threading.Thread(target=ask_on) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        client.unload_model("late")
        client.load_model("late")
    stop.set()
    for thread in threads:
        thread.join()
    assert not faults, faults[0]
    assert ask(client, "late", [4]) == [4]
