"""Models of OpenVINO with the real clients: configurations read from files, batches, every tensor type, shared memory, files that are damaged,
and memory that comes back when a model is unloaded."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino_repository
import pytest
import tritonclient.utils.shared_memory as shared_memory
from test_tensor_types import EDGES, same
from tritonclient.utils import InferenceServerException

from runtimes import runtime
from serving import Server, until
from talking import PROTOCOLS, connect, is_ready, statistics, tensor, wanted

SENT = {**EDGES, "INT64": np.array([2**31 - 1, -(2**31), 0, 1], np.int64)}  # OpenVINO computes these in 32 bits on the CPU
del SENT["BYTES"]
BAD = ("same_string", "on_npu", "truncated", "without_weights")


@pytest.fixture(scope="module")
def server(folder):
    openvino_repository.repository(folder)
    library = runtime("openvino", "openvino/libs/libopenvino_c.so.*")
    good = [f"--load-model={path.name}" for path in Path(folder).iterdir() if path.name not in BAD]
    flags = ["--model-control-mode=explicit", *good, f"--backend-config=openvino,library={library}", "--allow-client-shm=true"]
    with Server(folder, *flags) as running:
        yield running


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_model_without_a_configuration_is_described_by_its_file(server, protocol):
    client = connect(protocol, server)
    options = {"as_json": True} if protocol == "grpc" else {}
    config = client.get_model_config("scale", **options)
    config = config.get("config", config)
    assert (config["backend"], config["max_batch_size"]) == ("openvino", 4)
    assert [(one["name"], one["data_type"], [int(dim) for dim in one["dims"]]) for one in config["input"]] == [("X", "TYPE_FP32", [4])]
    assert [(one["kind"], one["count"]) for one in config["instance_group"]] == [("KIND_CPU", 1)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("model", ("scale", "scale_one_row"))
def test_requests_of_several_sizes_are_answered_row_by_row(server, protocol, model):
    def ask(rows):
        sent = np.random.default_rng(rows).random((rows, 4), np.float32)
        answer = connect(protocol, server).infer(model, [tensor(protocol, "X", sent, "FP32")])
        return np.array_equal(answer.as_numpy("Y"), 3 * sent)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, [1, 2, 3, 4] * 10))
    counted = statistics(connect(protocol, server), model)[0]
    assert counted["inference_stats"]["success"]["count"] >= 40 and not counted["inference_stats"].get("fail", {}).get("count")


@pytest.mark.parametrize("kind", SENT)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_type_comes_back_as_it_went(server, protocol, kind):
    sent = SENT[kind].reshape(2, 2)
    answer = connect(protocol, server).infer(f"same_{kind.lower()}", [tensor(protocol, "INPUT0", sent, kind)], outputs=[wanted(protocol, "OUTPUT0")])
    same(answer.as_numpy("OUTPUT0"), sent)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_large_answers_are_those_of_their_own_request(server, protocol):
    def ask(number):
        sent = np.full((1, 100_000 + number), number, np.float32)
        answer = connect(protocol, server).infer("large", [tensor(protocol, "INPUT0", sent, "FP32")])
        return np.array_equal(answer.as_numpy("OUTPUT0"), sent + 1)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(ask, range(48)))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_inputs_and_outputs_may_lie_in_shared_memory(server, protocol):
    client = connect(protocol, server)
    sent = np.arange(8, dtype=np.float32).reshape(2, 4)
    name = f"openvino_{protocol}"
    region = shared_memory.create_shared_memory_region(name, f"/{name}", 2 * sent.nbytes)
    try:
        shared_memory.set_shared_memory_region(region, [sent])
        client.register_system_shared_memory(name, f"/{name}", 2 * sent.nbytes)
        given = tensor(protocol, "X", sent, "FP32")
        given.set_shared_memory(name, sent.nbytes)
        asked = wanted(protocol, "Y")
        asked.set_shared_memory(name, sent.nbytes, offset=sent.nbytes)
        client.infer("scale", [given], outputs=[asked])
        assert np.array_equal(shared_memory.get_contents_as_numpy(region, np.float32, [2, 4], offset=sent.nbytes), 3 * sent)
        client.unregister_system_shared_memory(name)
    finally:
        shared_memory.destroy_shared_memory_region(region)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_sequences_keep_their_states(server, protocol):
    client = connect(protocol, server)

    def ask(sequence, value, **flags):
        sent = tensor(protocol, "INPUT", np.array([[value]], np.int32), "INT32")
        answer = client.infer("accumulate", [sent], sequence_id=sequence, **flags)
        return answer.as_numpy("OUTPUT").tolist()[0], answer.as_numpy("SEEN_OUT").tolist()[0]

    first, second = (1, 2) if protocol == "http" else (3, 4)
    assert ask(first, 1, sequence_start=True)[0] == [1]
    assert ask(second, 10, sequence_start=True)[0] == [10]
    assert ask(first, 2) == ([3], [1, 2])
    assert ask(second, 20, sequence_end=True) == ([30], [10, 20])
    assert ask(first, 3, sequence_end=True) == ([6], [1, 2, 3])
    assert ask(first, 5, sequence_start=True, sequence_end=True) == ([5], [5])


@pytest.mark.parametrize(
    "model, error",
    [
        ("on_npu", "unable to load model 'on_npu', TARGET_DEVICE 'NPU' is not a device that OpenVINO has here: CPU"),
        ("same_string", "unable to load model 'same_string', unsupported datatype string for tensor 'INPUT0'"),
        ("truncated", "openvino error in reading model : "),
        ("without_weights", "openvino error in reading model : "),
    ],
)
def test_a_model_that_cannot_be_loaded_says_why(server, model, error):
    client = connect("http", server)
    with pytest.raises(InferenceServerException) as refused:
        client.load_model(model)
    assert error in refused.value.message()
    assert not is_ready(client, model) and is_ready(client, "scale")


def test_memory_comes_back_when_models_are_unloaded(server):
    client = connect("http", server)

    sent = np.arange(openvino_repository.WIDE, dtype=np.float32)[None]

    def once():
        client.load_model("heavy")
        answer = client.infer("heavy", [tensor("http", "X", sent, "FP32")])
        assert np.array_equal(answer.as_numpy("Y"), sent)
        client.unload_model("heavy")
        until(lambda: not is_ready(client, "heavy"), "the model to be gone")

    for _ in range(5):
        once()
    before, threads = resident(server), len(list(Path(f"/proc/{server.process.pid}/task").iterdir()))
    for _ in range(20):
        once()
    # Weights that stay are 8 MB each time.
    until(lambda: resident(server) - before < 24 << 20, "the memory of twenty loads to come back")
    until(lambda: len(list(Path(f"/proc/{server.process.pid}/task").iterdir())) <= threads + 4, "the threads of twenty loads to end")
    client.load_model("heavy")


def resident(server):
    """Bytes."""
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * 4096
