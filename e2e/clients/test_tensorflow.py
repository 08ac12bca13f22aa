"""TensorFlow models behind real clients: SavedModels and GraphDefs on the library of the package."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tensorflow_repository as models
from tritonclient.utils import InferenceServerException

from runtimes import runtime
from serving import Server, until
from talking import MODULES, PROTOCOLS, connect, is_ready, statistics, tensor


@pytest.fixture(scope="module")
def library():
    return runtime("tensorflow", "lib/libtensorflow_cc.so.2")


@pytest.fixture(scope="module")
def server(folder, library):
    models.repository(folder)
    with Server(folder, f"--backend-config=tensorflow,library={library}", "--model-control-mode=explicit", "--load-model=*") as server:
        yield server


def infer(protocol, server, model, inputs, **options):
    """`inputs`: arrays by name, or arrays with their data type."""
    typed = {name: value if isinstance(value, tuple) else (value, "FP32") for name, value in inputs.items()}
    return connect(protocol, server).infer(model, [tensor(protocol, name, *value) for name, value in typed.items()], **options)


# === what models are, completed from their files ===


def test_models_without_a_configuration_describe_themselves(server):
    client = connect("http", server)
    config = client.get_model_config("add_sub")
    assert (config["platform"], config["backend"], config["max_batch_size"]) == ("tensorflow_savedmodel", "tensorflow", 4)
    assert [(one["name"], one["data_type"], one["dims"]) for one in config["input"]] == [("INPUT0", "TYPE_FP32", [16]), ("INPUT1", "TYPE_FP32", [16])]
    assert config["instance_group"][0]["count"] == 2 and "dynamic_batching" in config
    assert client.get_model_metadata("add_sub")["outputs"][1] == {"name": "OUTPUT1", "datatype": "FP32", "shape": [-1, 16]}
    assert client.get_model_metadata("shapes")["inputs"][0] == {"name": "ANY", "datatype": "FP32", "shape": [-1]}


# === tensors ===


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("model", ["add_sub", "xla"])
def test_sums_and_differences(server, protocol, model):
    first, second = (np.random.default_rng(seed).random((3, 16), np.float32) for seed in (1, 2))
    answer = infer(protocol, server, model, {"INPUT0": first, "INPUT1": second})
    assert np.array_equal(answer.as_numpy("OUTPUT0"), first + second)
    assert np.array_equal(answer.as_numpy("OUTPUT1"), first - second)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_type_comes_back(server, protocol):
    words = {"BOOL": np.bool_, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64}
    words |= {f"{sign}INT{bits}": np.dtype(f"{sign.lower()}int{bits}") for sign in ("U", "") for bits in (8, 16, 32, 64)}
    sent = {f"IN_{word}": (np.array([[0, 1, 100]]).astype(dtype), word) for word, dtype in words.items()}
    sent["IN_BF16"] = (np.array([[0, 1, 100]], ml_dtypes.bfloat16), "BF16")
    sent["IN_STRING"] = (np.array([[b"", b"\xff\0", b"x" * 1000]], object), "BYTES")
    answer = infer(protocol, server, "types", sent)
    for name, (array, _) in sent.items():
        assert np.array_equal(answer.as_numpy(name.replace("IN", "OUT")), array), name


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_strings(server, protocol):
    answer = infer(protocol, server, "words", {"WORDS": (np.array([["grüße", "aus"], ["a", ""]], object), "BYTES")})
    assert answer.as_numpy("JOINED").tolist() == [["grüße aus".encode()], [b"a "]]
    assert answer.as_numpy("LENGTHS").tolist() == [[7, 3], [1, 0]]
    answer = infer(protocol, server, "table", {"WORD": (np.array([["one", "no"]], object), "BYTES")})
    assert answer.as_numpy("NUMBER").tolist() == [[1, -1]]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_scalars_any_rank_and_lengths_that_depend_on_values(server, protocol):
    any_rank = np.arange(8, dtype=np.float32).reshape(2, 1, 4)
    sent = {"SCALE": np.array([2], np.float32), "ANY": any_rank, "COUNT": (np.array([3], np.int32), "INT32")}
    answer = infer(protocol, server, "shapes", sent)
    assert np.array_equal(answer.as_numpy("SCALED"), 2 * any_rank)
    assert answer.as_numpy("TWICE").tolist() == [4] and answer.as_numpy("RANGE").tolist() == [0, 1, 2]
    empty = infer(protocol, server, "shapes", {**sent, "ANY": np.zeros((3, 0, 2), np.float32), "COUNT": (np.array([0], np.int32), "INT32")})
    assert empty.as_numpy("SCALED").shape == (3, 0, 2) and empty.as_numpy("RANGE").shape == (0,)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_graphs_and_signatures_that_configurations_choose(server, protocol):
    assert infer(protocol, server, "square", {"X": np.array([[3]], np.float32)}).as_numpy("Z").tolist() == [[9]]
    assert infer(protocol, server, "other_tag", {"X": np.array([1, 2], np.float32)}).as_numpy("Y").tolist() == [3, 6]
    ints = {name: (np.array([[4, 5, 6, 7]], np.int32), "INT32") for name in ("INPUT0", "INPUT1")}
    assert infer(protocol, server, "graph", ints).as_numpy("OUTPUT0").tolist() == [[8, 10, 12, 14]]


def test_a_variable_is_set_by_the_initial_operations(server):
    totals = [infer("http", server, "variable", {"X": np.array([2], np.float32)}).as_numpy("SUM")[0] for _ in range(3)]
    assert totals == [102, 104, 106]


def test_what_a_model_prints_is_in_the_log(server):
    infer("http", server, "prints", {"X": np.array([[37]], np.float32)})
    until(lambda: "asked for [[37]]" in server.log(), "the print of the model")


@pytest.mark.parametrize("model", ("scaled", "scaled_too"))
def test_operations_come_from_libraries_that_models_bring(server, model):
    assert infer("http", server, model, {"X": np.array([[1, 2]], np.float32)}).as_numpy("Y").tolist() == [[3, 6]]


# === batches and sequences ===


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_bad_request_fails_alone_and_in_the_words_of_tensorflow(server, protocol):
    def ask(index):
        try:
            return infer(protocol, server, "gather", {"INDEX": (np.array([[index]], np.int32), "INT32")}).as_numpy("VALUE").item()
        except InferenceServerException as error:
            return error.message()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, [0, 1, 2, 9] * 8))
    assert answers[:3] == [10, 20, 30] and all("9 is not in [0, 3)" in answer for answer in answers[3::4]), answers
    assert answers[:3] * 8 == [answer for answer in answers if isinstance(answer, float)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_server_keeps_the_state_of_sequences(server, protocol):
    with MODULES[protocol].InferenceServerClient(server.url if protocol == "http" else server.grpc_url) as client:
        sums = {}
        for number in range(1, 5):
            for sequence in (11, 12):
                options = {"sequence_id": sequence, "sequence_start": number == 1, "sequence_end": number == 4}
                value = np.array([[number * sequence]], np.float32)
                answer = client.infer("accumulate", [tensor(protocol, "INPUT", value, "FP32")], **options)
                sums.setdefault(sequence, []).append(answer.as_numpy("OUTPUT").item())
    assert sums == {11: [11, 33, 66, 110], 12: [12, 36, 72, 120]}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_rows_of_different_lengths_run_together(server, protocol):
    def ask(row):
        return infer(protocol, server, "segments", {"X": np.array([row], np.float32)}).as_numpy("SUM").item()

    def batches():
        found = statistics(connect("http", server), "segments")[0]["batch_stats"]
        return sum(one["compute_infer"]["count"] for one in found if one["batch_size"] == 3)

    before = batches()
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(ask, ([1, 2, 3], [10], [4, 5]))) == [6, 10, 9]
    assert batches() == before + 1


# === bad days ===


def test_what_cannot_load_says_why_and_hurts_nobody_else(server, folder):
    client = connect("http", server)
    broken = models.write(folder, "broken", made="counter")
    data = broken / "1" / "model.savedmodel" / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:10])
    models.write(folder, "no_such_tag", models.parameter("TF_GRAPH_TAG", "nothing"), made="tags")
    models.write(folder, "no_such_input", models.GRAPH.replace('"INPUT1"', '"INPUT9"'), made="graph_add_sub")
    models.write(folder, "complex", made="foreign")
    expected = {
        "broken": "unable to load model 'broken': ",
        "no_such_tag": "expected 'nothing' tag, the SavedModel has: {serve}, {other}",
        "no_such_input": "unexpected inference input 'INPUT9', allowed inputs are: INPUT0, INPUT1",
        "complex": "unable to process input 'X' for 'complex', unsupported datatype 'DT_COMPLEX64'",
    }
    for name, text in expected.items():
        with pytest.raises(InferenceServerException) as refused:
            client.load_model(name)
        assert text in refused.value.message(), refused.value.message()
        assert not is_ready(client, name)
        shutil.rmtree(folder / name)
    test_sums_and_differences(server, "http", "add_sub")


def test_models_come_and_go_under_traffic(server):
    client = connect("http", server)
    rows = {"INPUT0": np.ones((1, 16), np.float32), "INPUT1": np.ones((1, 16), np.float32)}

    def ask(_):
        try:
            return infer("grpc", server, "add_sub", rows).as_numpy("OUTPUT0")[0, 0] == 2
        except InferenceServerException as error:
            return "not ready" in error.message() or "unavailable" in error.message() or error.message()

    with ThreadPoolExecutor(4) as pool:
        asked = pool.map(ask, range(200))
        for _ in range(3):
            client.load_model("add_sub")
        assert set(asked) == {True}
    client.unload_model("add_sub")
    assert not is_ready(client, "add_sub")
    client.load_model("add_sub")
    test_sums_and_differences(server, "http", "add_sub")


def test_memory_comes_back_when_models_go(folder, library):
    """With the C library's heap, as on processors for which TensorFlow does not choose oneDNN: that has an allocator of its own, which keeps the most
    memory that tensors ever had."""

    def resident():
        return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * 4096

    def load_and_unload(name):
        client = connect("http", server)
        client.load_model(name)
        client.unload_model(name)
        until(lambda: not is_ready(client, name), "the model to go")

    names = [f"large_{number}" for number in range(8)]
    for name in names:
        models.write(folder, name, made="large")
    flags = [f"--backend-config=tensorflow,library={library}", "--model-control-mode=explicit"]
    with Server(folder, *flags, env={"TF_ENABLE_ONEDNN_OPTS": "0"}) as server, ThreadPoolExecutor(len(names)) as pool:
        for _ in range(3):
            load_and_unload(names[0])
        before = resident()
        for _ in range(5):
            list(pool.map(load_and_unload, names))  # each has its weights twice, once per instance, read by threads of its own
        until(lambda: resident() < before + (64 << 20), f"no more than {before} bytes and 64 MiB")


def test_without_the_library_only_its_models_fail(tmp_path, library):
    models.write(tmp_path, "add_sub")
    flags = [f"--backend-config=tensorflow,library={tmp_path}/nothing", "--model-control-mode=explicit", "--load-model=*", "--exit-on-error=false"]
    with Server(tmp_path, *flags, wait="live") as server:
        with pytest.raises(InferenceServerException) as refused:
            connect("http", server).load_model("add_sub")
        message = refused.value.message()
        assert "unable to find backend library for backend 'tensorflow'" in message and f"{tmp_path}/nothing" in message, message
        assert "TENSORFLOW_DYLIB_PATH" in message
        (tmp_path / "nothing").symlink_to(Path(library).parent)
        connect("http", server).load_model("add_sub")
        assert is_ready(connect("http", server), "add_sub")
