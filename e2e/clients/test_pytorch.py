"""PyTorch models with the real clients: TorchScript files run by libtorch. Expected numbers are worked out by hand or by numpy."""

import os
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch_repository
from tritonclient.utils import InferenceServerException

from serving import Server, until
from talking import PROTOCOLS, connect, is_ready, statistics, tensor

if not torch_repository.SHIM.exists():
    assert os.environ.get("CI") != "true", "e2e/runtimes/pytorch has not made the shim"
    pytest.skip("skipped: e2e/runtimes/pytorch has not made the shim", allow_module_level=True)

WITH_SHIM = {"TORCH_SHIM_PATH": str(torch_repository.SHIM)}
X = [("x", "FP32", [-1])]


@pytest.fixture(scope="module")
def server(folder):
    torch_repository.examples(folder)
    torch_repository.written(folder, "sums", "sums", torch_repository.SUMS)
    torch_repository.written(folder, "segments", "segments", torch_repository.SEGMENTS)
    torch_repository.script(folder, "words", "words", [("words", "STRING", [-1])], [("doubled", "STRING", [-1]), ("lengths", "INT64", [-1])])
    torch_repository.script(folder, "dictionary", "dictionary", [("subtrahend", "FP32", [2]), ("minuend", "FP32", [2])], [("y", "FP32", [2])], 4)
    torch_repository.script(folder, "fails", "fails", [("x", "FP32", [2])], [("y", "FP32", [2])], 4)
    torch_repository.script(folder, "writes", "writes_input", X, [("y", "FP32", [-1])], 4)
    torch_repository.script(folder, "linear", "linear", [("x", "FP32", [1024])], [("y", "FP32", [1024])], 8, "dynamic_batching { }")
    torch_repository.script(folder, "broken", "linear", [("x", "FP32", [1024])], [("y", "FP32", [1024])])
    file = folder / "broken" / "1" / "model.pt"
    file.write_bytes(file.read_bytes()[:2_000_000])
    torch_repository.script(folder, "unnamed", "twice", [], [])
    fail = {"broken", "unnamed"}
    loads = [f"--load-model={path.name}" for path in folder.iterdir() if path.name not in fail]
    with Server(folder, "--model-control-mode=explicit", *loads, env=WITH_SHIM) as running:
        yield running


def ask(server, protocol, model, **arrays):
    """The answer to these arrays: FP32, or bytes."""
    kind = lambda array: "BYTES" if array.dtype == object else "FP32"  # noqa: E731
    inputs = [tensor(protocol, name.replace("_0", "__0"), array, kind(array)) for name, array in arrays.items()]
    return connect(protocol, server).infer(model, inputs)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_classifier_and_the_risk_model_of_the_guides(server, protocol):
    random = np.random.default_rng(1)
    embeddings = random.normal(size=(3, 768)).astype(np.float32)
    answer = ask(server, protocol, "classifier", embeddings=embeddings).as_numpy("probabilities")
    powers = np.exp(embeddings[:, :10])
    assert answer.shape == (3, 10) and np.allclose(answer, powers / powers.sum(1, keepdims=True), atol=1e-6)
    features = random.normal(size=(2, 50)).astype(np.float32)
    answer = ask(server, protocol, "risk_model", features=features).as_numpy("risk")
    assert answer.shape == (2, 1) and np.allclose(answer, 1 / (1 + np.exp(-features.mean(1, keepdims=True))), atol=1e-6)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_ensemble_of_an_encoder_in_onnx_and_the_classifier(server, protocol):
    ids = np.array([[101, 7, 300], [5, 5, 5]], np.int64)
    client = connect(protocol, server)
    vectors = client.infer("text_encoder", [tensor(protocol, "input_ids", ids, "INT64")]).as_numpy("embeddings")
    answer = client.infer("ensemble", [tensor(protocol, "input_ids", ids, "INT64")]).as_numpy("probabilities")
    powers = np.exp(vectors[:, :10])
    assert answer.shape == (2, 10) and np.allclose(answer, powers / powers.sum(1, keepdims=True), atol=1e-6)


def test_what_a_configuration_says_is_what_metadata_show(server):
    metadata = connect("http", server).get_model_metadata("classifier")
    assert metadata["platform"] == "pytorch_libtorch"
    assert metadata["inputs"] == [{"name": "embeddings", "datatype": "FP32", "shape": [-1, 768]}]
    config = connect("http", server).get_model_config("classifier")
    assert (config["backend"], config["default_model_filename"]) == ("pytorch", "model.pt")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_strings_are_lists(server, protocol):
    answer = ask(server, protocol, "words", words=np.array([b"ab", b"", "ü".encode()], object))
    assert answer.as_numpy("doubled").tolist() == [b"abab", b"", "üü".encode()]
    assert answer.as_numpy("lengths").tolist() == [2, 0, 2]  # TorchScript counts bytes


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_dictionary_gets_its_inputs_by_name(server, protocol):
    answer = ask(server, protocol, "dictionary", minuend=np.array([[5, 7]], np.float32), subtrahend=np.array([[1, 2]], np.float32))
    assert answer.as_numpy("y").tolist() == [[4, 5]]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_requests_of_different_lengths_run_together(server, protocol):
    requests = [np.array([row], np.float32) for row in ([1, 2, 3], [10], [4, 5])]
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda rows: ask(server, protocol, "segments", X=rows), requests))
    assert [answer.as_numpy("SUM__0").tolist() for answer in answers] == [[[6]], [[10]], [[9]]]
    assert all(np.array_equal(answer.as_numpy("DOUBLED__1"), 2 * request) for answer, request in zip(answers, requests))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_sequences_have_states_of_their_own(server, protocol):
    client = connect(protocol, server)
    first = 10 * (1 + PROTOCOLS.index(protocol))

    def add(sequence, number, start=False, end=False):
        inputs = [tensor(protocol, "INPUT__0", np.array([[number]], np.float32), "FP32")]
        return client.infer("sums", inputs, sequence_id=sequence, sequence_start=start, sequence_end=end).as_numpy("OUTPUT__0").item()

    assert [add(first, 1, start=True), add(first + 1, 100, start=True)] == [1, 100]
    assert [add(first, 2), add(first + 1, 200), add(first, 3, end=True), add(first + 1, 300, end=True)] == [3, 300, 6, 600]
    assert add(first, 7, start=True, end=True) == 7


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_error_of_the_script_comes_with_its_traceback(server, protocol):
    with pytest.raises(InferenceServerException, match="(?s)PyTorch execute failure: .*Traceback of TorchScript.*a number is negative"):
        ask(server, protocol, "fails", x=np.array([[-1, 0]], np.float32))
    assert ask(server, protocol, "fails", x=np.array([[1, 0]], np.float32)).as_numpy("y").tolist() == [[1, 0]]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_model_that_writes_to_its_input_changes_nobody_elses(server, protocol):
    rows = np.arange(20_000, dtype=np.float32)[None]
    for _ in range(3):
        assert np.array_equal(ask(server, protocol, "writes", x=rows).as_numpy("y"), rows + 1)


def test_models_that_cannot_be_loaded_say_why(server):
    client = connect("http", server)
    with pytest.raises(InferenceServerException, match="failed to load model 'broken': .*PytorchStreamReader"):
        client.load_model("broken")
    with pytest.raises(InferenceServerException, match="unable to load model .unnamed., configuration expects 0 inputs, model provides 1"):
        client.load_model("unnamed")
    assert "skipping model configuration auto-complete for 'unnamed': not supported for pytorch backend" in server.log()
    assert is_ready(client, "classifier")


def test_many_clients_at_once_get_their_own_answers(server):
    def run(number):
        for step in range(20):
            value = number * 100 + step
            answer = ask(server, PROTOCOLS[number % 2], "linear", x=np.full((1, 1024), value, np.float32)).as_numpy("y")
            assert np.array_equal(answer, np.full((1, 1024), 3 * value + 1, np.float32)), value

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(8)))
    counted = statistics(connect("http", server), "linear")[0]
    assert counted["inference_count"] >= 160 and counted["inference_stats"].get("fail", {}).get("count", 0) == 0


def resident(server):
    """MiB of memory that the server holds."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{server.process.pid}/status").read_text())[1]) // 1024


def test_the_memory_of_a_model_that_goes_is_given_back(server):
    client = connect("http", server)
    rows = np.ones((1, 1024), np.float32)

    def again():
        client.unload_model("linear")
        until(lambda: not is_ready(client, "linear"), "the model is gone")
        client.load_model("linear")
        assert ask(server, "http", "linear", x=rows).as_numpy("y")[0, 0] == 4

    for _ in range(3):
        again()
    before, threads_before = resident(server), len(os.listdir(f"/proc/{server.process.pid}/task"))
    for _ in range(20):
        again()
    # Each copy has 4 MiB: 20 of them would be 80.
    until(lambda: resident(server) < before + 30, lambda: f"{before} MiB have become {resident(server)}")
    until(lambda: len(os.listdir(f"/proc/{server.process.pid}/task")) <= threads_before + 2, "threads of models that are gone end")


def test_models_load_and_unload_while_others_serve(server):
    stop, answered, failed = threading.Event(), [], []

    def serve():
        rows = np.zeros((1, 50), np.float32)
        while not stop.is_set() and not failed:
            try:
                answered.append(ask(server, "http", "risk_model", features=rows).as_numpy("risk").item())
            except Exception as error:
                failed.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    client = connect("http", server)
    try:
        until(lambda: answered or failed, "the other model answers")
        for _ in range(5):
            client.unload_model("fails")
            client.load_model("fails")
    finally:
        stop.set()
        thread.join()
    assert not failed and set(answered) == {0.5}


def test_operations_come_from_libraries_that_models_bring(tmp_path):
    def model(name, library=True):
        named = 'model_operations { op_library_filename: "libe2e_operations.so" }\n' if library else ""
        folder = torch_repository.script(tmp_path, name, "scaled", [("x", "FP32", [2])], [("y", "FP32", [2])], 4, named)
        if library:
            shutil.copy(torch_repository.OPERATIONS, folder)

    def ask_both(*models):
        for name in models:
            assert ask(server, "http", name, x=np.array([[1, 2]], np.float32)).as_numpy("y").tolist() == [[3, 6]]

    model("alone", library=False)
    model("first")
    model("second")
    with Server(tmp_path, "--model-control-mode=explicit", env=WITH_SHIM) as server:
        client = connect("http", server)
        with pytest.raises(InferenceServerException, match="Unknown builtin op: e2e::scaled"):
            client.load_model("alone")
        client.load_model("first")
        client.load_model("second")
        ask_both("first", "second")
    # Or the loader has it before the server begins.
    with Server(tmp_path, "--model-control-mode=explicit", "--load-model=alone", env={**WITH_SHIM, "LD_PRELOAD": str(torch_repository.OPERATIONS)}) as server:
        ask_both("alone")


def test_the_first_model_that_names_a_number_of_threads_decides(tmp_path):
    def threads(intra, inter):
        return "".join(f'parameters {{ key: "{key}_OP_THREAD_COUNT" value {{ string_value: "{count}" }} }}\n' for key, count in (("INTRA", intra), ("INTER", inter)))

    def running():
        return len(os.listdir(f"/proc/{server.process.pid}/task"))

    for name, intra, inter in (("first", 3, 2), ("second", 5, 2)):
        torch_repository.script(tmp_path, name, "linear", [("x", "FP32", [1024])], [("y", "FP32", [1024])], 64, threads(intra, inter))
    with Server(tmp_path, "--model-control-mode=explicit", "--load-model=first", env=WITH_SHIM) as server:
        client = connect("http", server)
        assert "Intra op thread count is set to 3 for model instance 'first'" in server.log()
        assert "Inter op thread count is set to 2 for model instance 'first'" in server.log()
        before = running()
        rows = np.ones((64, 1024), np.float32)
        assert ask(server, "http", "first", x=rows).as_numpy("y").tolist() == [[4] * 1024] * 64
        assert running() >= before + 2  # the team of the instance
        client.load_model("second")
        until(lambda: "Intra op thread count is 3 for all models, because a model before said so; model 'second' asks for 5" in server.log(), "the warning")
        assert "Inter op thread count is set to 2 for model instance 'second'" in server.log()
        assert ask(server, "http", "second", x=rows).as_numpy("y").tolist() == [[4] * 1024] * 64


def test_without_the_shim_only_its_models_fail(tmp_path):
    torch_repository.examples(tmp_path)
    (tmp_path / "echo" / "1").mkdir(parents=True)
    (tmp_path / "echo" / "config.pbtxt").write_text(
        'backend: "identity"\ninput { name: "INPUT0" data_type: TYPE_FP32 dims: [ 1 ] }\noutput { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 1 ] }\n'
    )
    nowhere = tmp_path / "nowhere"
    flags = ["--exit-on-error=false", "--model-control-mode=explicit", "--load-model=*", f"--backend-config=pytorch,library={nowhere}"]
    with Server(tmp_path, *flags, wait="live") as server:
        client = connect("http", server)
        until(lambda: is_ready(client, "echo"), "the other model serves")
        said = f"library libtriton_torch_shim.so not found, searched: {nowhere}; compile it for the libtorch of this machine with deploy/shims/build torch"
        until(lambda: said in server.log(), "the cure is in the log")
        assert not is_ready(client, "classifier")
        # It is looked for again at the next load.
        nowhere.symlink_to(torch_repository.SHIM)
        client.load_model("classifier")
        assert is_ready(client, "classifier")
