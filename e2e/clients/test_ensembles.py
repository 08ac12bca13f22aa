"""Ensembles, asked by the real clients: pipelines as people write them, decoupled ones, and parts that come and go under load."""

import asyncio
import json
import queue
import threading
from concurrent.futures import ThreadPoolExecutor

import decoupled
import ensembles
import make
import numpy as np
import pages
import pytest
import tritonclient.grpc.aio as grpcaio
import tritonclient.http.aio as httpaio
from tritonclient.utils import InferenceServerException

from serving import Server, until
from talking import PROTOCOLS, connect, is_ready, statistics, tensor, wanted

WORDS = ["fine", "terrible", "unheard of", "great"]


@pytest.fixture(scope="module")
def server(folder):
    ensembles.pipeline(folder)
    ensembles.detector(folder)
    ensembles.chain(folder)
    ensembles.repeating(folder)
    ensembles.running_sum(folder, "running_sum", "UINT64")
    ensembles.running_sum(folder, "running_sum_named", "STRING")
    with Server(folder) as server:
        yield server


def counter(server, name, **labels):
    """Sum of the samples of a metric that have these labels."""
    page = pages.read(server.request("GET", "/metrics", port=server.metrics)[2].decode())
    return sum(page.find(name, **labels).values())


def texts(words):
    return np.array([[word.encode()] for word in words], dtype=np.object_)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_text_pipeline_answers_as_it_is_written(server, protocol):
    client = connect(protocol, server)
    result = client.infer("ensemble_pipeline", [tensor(protocol, "raw_text", texts(WORDS), "BYTES")], request_id="mine")
    assert np.array_equal(result.as_numpy("logits"), ensembles.logits(WORDS))
    shown = client.get_model_metadata("ensemble_pipeline", **({"as_json": True} if protocol == "grpc" else {}))
    assert (shown["platform"], shown["versions"]) == ("ensemble", ["1"])
    config = client.get_model_config("ensemble_pipeline", **({"as_json": True} if protocol == "grpc" else {}))
    config = config.get("config", config)
    assert not config["model_transaction_policy"].get("decoupled", False) and not config.get("instance_group")


def test_the_asynchronous_clients_run_the_pipeline_side_by_side(server):
    async def ask(module, url):
        async with module.InferenceServerClient(url=url) as client:

            async def one(word):
                given = module.InferInput("raw_text", [1, 1], "BYTES")
                given.set_data_from_numpy(texts([word]))
                result = await client.infer("ensemble_pipeline", [given])
                return result.as_numpy("logits")

            answers = await asyncio.gather(*(one(word) for word in WORDS * 8))
            assert np.array_equal(np.concatenate(answers), ensembles.logits(WORDS * 8))

    asyncio.run(ask(httpaio, server.url))
    asyncio.run(ask(grpcaio, server.grpc_url))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_detector_goes_in_and_out_of_models_without_a_batch(server, protocol):
    picture = np.random.default_rng(4).integers(0, 256, (ensembles.SIDE, ensembles.SIDE, 3), dtype=np.uint8)
    result = connect(protocol, server).infer("detector", [tensor(protocol, "IMAGE", picture, "UINT8")])
    assert np.allclose(result.as_numpy("BEST"), ensembles.best_box(picture))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_labels_are_those_of_the_model_that_gives_the_output(server, protocol):
    given = [tensor(protocol, "raw_text", texts(["great"]), "BYTES")]
    result = connect(protocol, server).infer("ensemble_pipeline", given, outputs=[wanted(protocol, "logits", class_count=1)])
    assert result.as_numpy("logits").flat[0] == b"128.000000:0:good"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_ensemble_and_parts_are_counted_each_for_itself(server, protocol):
    client = connect(protocol, server)
    names = ["chain", "chain_0", "chain_1", "chain_2"]

    def counts():
        return np.array([[statistics(client, name)[0].get(key, 0) for key in ("inference_count", "execution_count")] for name in names])

    before = counts()
    data = np.ones((3, 4), np.float32)
    assert np.array_equal(client.infer("chain", [tensor(protocol, "INPUT0", data, "FP32")]).as_numpy("OUTPUT0"), data)
    assert (counts() - before).tolist() == [[3, 1]] * 4
    stats = statistics(client, "chain")[0]["inference_stats"]
    assert stats["success"]["ns"] > 0 and stats["compute_infer"]["count"] == stats["success"]["count"]


def test_a_response_carries_the_sequence_that_its_last_step_belonged_to(server):
    body = {"inputs": [{"name": "INPUT0", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}], "parameters": {"sequence_id": 5, "sequence_start": True}}
    status, _, answer = server.request("POST", "/v2/models/chain/infer", json.dumps(body))
    answer = json.loads(answer)
    assert (status, answer["model_version"]) == (200, "1")
    assert answer["parameters"] == {"sequence_id": 5, "sequence_start": True, "sequence_end": False}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("identity", (11, "a text"))
def test_a_sequence_goes_on_in_the_steps_of_an_ensemble(server, protocol, identity):
    client = connect(protocol, server)
    model = "running_sum" if isinstance(identity, int) else "running_sum_named"

    def ask(number, start, end):
        given = [tensor(protocol, "INPUT", np.full((1, 1), number, np.int32), "INT32")]
        result = client.infer(model, given, sequence_id=identity, sequence_start=start, sequence_end=end)
        return int(result.as_numpy("OUTPUT").flat[0]), result.get_response()

    sums = [ask(number, number == 1, number == 4) for number in range(1, 5)]
    added = identity if isinstance(identity, int) else 0  # the backend adds a number that identifies a sequence to its last sum
    assert [one for one, _ in sums] == [1, 3, 6, 10 + added]
    last = sums[-1][1]
    if protocol == "http":
        assert last["parameters"] == {"sequence_id": identity, "sequence_start": False, "sequence_end": True}
    else:
        parameters = last.parameters
        assert parameters["sequence_end"].bool_param and not parameters["sequence_start"].bool_param
        assert identity in (parameters["sequence_id"].int64_param, parameters["sequence_id"].string_param)
    with pytest.raises(InferenceServerException) as refused:
        ask(5, False, False)
    assert refused.value.message().startswith(f"in ensemble '{model}', ")


def repeat_inputs(protocol, values, delay=0):
    values = np.array(values, np.int32)
    delays = np.full(len(values), delay, np.uint32)
    given = [("IN", values, "INT32"), ("DELAY", delays, "UINT32"), ("WAIT", np.zeros(1, np.uint32), "UINT32")]
    return [tensor(protocol, *one) for one in given]


def test_a_decoupled_step_streams_through_the_ensemble_in_order(server):
    answers = queue.Queue()
    with connect("grpc", server) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        values = list(range(200))
        client.async_stream_infer("repeating", repeat_inputs("grpc", values), request_id="a", enable_empty_final_response=True)
        client.async_stream_infer("repeating", repeat_inputs("grpc", []), request_id="b", enable_empty_final_response=True)
        got, finals = [], set()
        while len(finals) < 2:
            result, error = answers.get(timeout=20)
            assert error is None, error
            response = result.get_response()
            if result.as_numpy("OUT") is not None:
                got.append((int(result.as_numpy("OUT")[0]), int(result.as_numpy("IDX")[0])))
            if response.parameters["triton_final_response"].bool_param:
                finals.add(response.id)
        client.stop_stream()
    assert got == [(value, value) for value in values] and finals == {"a", "b"}


@pytest.mark.parametrize("model", ["repeat", "around"])
def test_responses_of_a_sequence_come_in_the_order_of_its_requests(tmp_path, model):
    """From the model itself, and through an ensemble around it: the next request runs when the one before has given all of its responses."""
    decoupled.repeat(tmp_path, more="sequence_batching { oldest { max_candidate_sequences: 4 } }\n")
    ins = [("IN", "INT32", [-1]), ("DELAY", "UINT32", [-1]), ("WAIT", "UINT32", [1])]
    outs = [("OUT", "INT32", [1]), ("IDX", "UINT32", [1])]
    step = ensembles.step("repeat", {one[0]: one[0] for one in ins}, {one[0]: one[0] for one in outs})
    ensembles.ensemble(tmp_path, "around", 0, ins, outs, [step])
    requests, values = 60, list(range(5))
    with Server(tmp_path) as server, connect("grpc", server) as client:
        answers = queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)))
        for number in range(requests):
            marks = {"sequence_id": 7, "sequence_start": number == 0, "sequence_end": number == requests - 1}
            client.async_stream_infer(model, repeat_inputs("grpc", values), request_id=str(number), **marks)
        got = []
        for _ in range(requests * len(values)):
            result, error = answers.get(timeout=20)
            assert error is None, error
            got.append((int(result.get_response().id), int(result.as_numpy("OUT")[0])))
        client.stop_stream()
    assert got == [(number, value) for number in range(requests) for value in values]


def test_requests_of_one_stream_run_side_by_side_and_are_answered_in_order(tmp_path):
    ensembles.chain(tmp_path, length=2, execute_delay_ms=100)
    for number in range(2):
        config = tmp_path / f"chain_{number}" / "config.pbtxt"
        config.write_text(config.read_text() + "dynamic_batching { max_queue_delay_microseconds: 50000 }\n")
    with Server(tmp_path) as server, connect("grpc", server) as client:
        answers = queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)))
        for number in range(8):
            client.async_stream_infer("chain", [tensor("grpc", "INPUT0", np.full((1, 4), number, np.float32), "FP32")], request_id=str(number))
        got = [answers.get(timeout=20) for _ in range(8)]
        client.stop_stream()
        assert [(error, result.get_response().id, result.as_numpy("OUTPUT0").flat[0]) for result, error in got] == [(None, str(n), n) for n in range(8)]
        for name in ("chain_0", "chain_1"):
            assert statistics(client, name)[0]["execution_count"] <= 4, "they share batches, so they were inside together"


def test_generate_stream_gives_one_event_for_each_iteration(server):
    body = {"IN": [4, 5, 6], "DELAY": [0, 0, 0], "WAIT": [0]}
    status, headers, answer = server.request("POST", "/v2/models/repeating/generate_stream", json.dumps(body))
    events = [json.loads(line[len("data: ") :]) for line in answer.decode().splitlines() if line.startswith("data: ")]
    assert (status, [event["OUT"] for event in events]) == (200, [4, 5, 6])
    assert (events[0]["sequence_id"], events[0]["sequence_start"], events[0]["sequence_end"]) == (0, False, False)
    status, _, answer = server.request("POST", "/v2/models/repeating/infer", json.dumps({"inputs": []}))
    assert (status, json.loads(answer)["error"]) == (501, "HTTP end point doesn't support models with decoupled transaction policy")


def test_a_stream_that_is_cancelled_ends_the_steps_of_its_request(server):
    client = connect("grpc", server)
    before = statistics(client, "repeating")[0]["inference_stats"].get("fail", {}).get("count", 0)
    passed = counter(server, "nv_inference_request_success", model="pass")
    client.start_stream(lambda result, error: None)
    client.async_stream_infer("repeating", repeat_inputs("grpc", range(1000), delay=50))
    until(lambda: counter(server, "nv_inference_request_success", model="pass") > passed, "the first answers")
    client.stop_stream(cancel_requests=True)
    other = connect("grpc", server)
    until(lambda: statistics(other, "repeating")[0]["inference_stats"]["fail"].get("count", 0) == before + 1, "the ensemble's request to end")
    until(lambda: counter(server, "nv_inference_request_failure", model="repeat_int32", reason="CANCELED") >= 1, "its step to end")


# === parts that come and go ===


@pytest.fixture
def controlled(tmp_path):
    ensembles.chain(tmp_path, execute_delay_ms=1)
    with Server(tmp_path, "--model-control-mode=explicit", "--load-model=chain") as server:
        yield tmp_path, server


def unload(server, name, dependents):
    body = json.dumps({"parameters": {"unload_dependents": dependents}})
    return server.request("POST", f"/v2/repository/models/{name}/unload", body)[0]


def states(server):
    index = json.loads(server.request("POST", "/v2/repository/index")[2])
    return {one["name"]: (one.get("state"), one.get("reason", "")) for one in index}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_parts_are_loaded_with_the_ensemble_and_unloaded_with_it_on_demand(controlled, protocol):
    _, server = controlled
    client = connect(protocol, server)
    parts = [f"chain_{number}" for number in range(3)]
    assert all(is_ready(client, name) for name in [*parts, "chain"])
    client.unload_model("chain")
    assert all(is_ready(client, name) for name in parts) and not is_ready(client, "chain")
    client.load_model("chain")
    assert is_ready(client, "chain")
    client.unload_model("chain_1")
    until(lambda: not is_ready(client, "chain"), "the ensemble to leave with its part")
    assert states(server)["chain"][1] == "ensemble chain contains models that are not available or ambiguous: chain_1"
    client.load_model("chain_1")
    assert is_ready(client, "chain"), "it comes back with its part"
    if protocol == "http":
        assert unload(server, "chain", True) == 200
    else:
        client.unload_model("chain", unload_dependents=True)
    gone = {"chain_0", "chain_2", "chain"}  # chain_1 was asked for by its own name
    until(lambda: all(states(server)[name] == ("UNAVAILABLE", "unloaded") for name in gone), "the parts to be unloaded")
    assert is_ready(client, "chain_1")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_an_ensemble_lacks_is_said_to_whoever_loads_it(controlled, protocol):
    folder, server = controlled
    client = connect(protocol, server)
    io = [("IN", "FP32", [4])], [("OUT", "FP32", [4])]

    def refusal(name, model, more="", batch=8, inputs=None, outputs=None, version=-1):
        steps = [ensembles.step(model, inputs or {"INPUT0": "IN"}, outputs or {"OUTPUT0": "OUT"}, version)]
        ensembles.ensemble(folder, name, batch, *io, steps, more)
        with pytest.raises(InferenceServerException) as refused:
            client.load_model(name)
        return refused.value.message().removeprefix(f"load failed for model '{name}': ").rstrip("\n")

    assert refusal("lost", "nowhere") == "ensemble lost contains models that are not available or ambiguous: nowhere"
    assert refusal("wide", "chain_0", batch=64) == (
        "ensemble wide allows maximum batch size 64, but it contains model chain_0 which only allows maximum batch size to be 8"
    )
    assert refusal("other", "chain_0", inputs={"NONE": "IN"}) == "in ensemble other, ensemble tensor IN is mapping to non-existing input NONE in model chain_0"
    assert refusal("old", "chain_0", version=7) == "ensemble 'old' depends on 'chain_0' whose required version 7 is not loaded."
    assert refusal("itself", "itself", inputs={"IN": "IN"}, outputs={"OUT": "OUT"}) == "circular dependency between ensembles: itself -> ... -> itself -> itself"
    make.write(folder, "typed", make.onnx_config(8, [("INPUT0", "INT32", [4])], [("OUTPUT0", "INT32", [4])]).replace("onnxruntime", "identity"), {1: None})
    assert refusal("mixed", "typed") == (
        "in ensemble mixed, ensemble tensor IN: inconsistent data type: TYPE_FP32 is inferred from model mixed while TYPE_INT32 is inferred from model typed"
    )
    assert states(server)["mixed"][0] == "UNAVAILABLE" and is_ready(client, "chain")


def test_everybody_is_answered_while_parts_are_reloaded_and_unloaded(controlled):
    folder, server = controlled
    is_over, served, refused = threading.Event(), [], []

    async def ask_on():
        given = httpaio.InferInput("INPUT0", [1, 4], "FP32")
        given.set_data_from_numpy(np.ones((1, 4), np.float32))
        async with httpaio.InferenceServerClient(url=server.url, conn_limit=16, conn_timeout=20) as client:

            async def one():
                while not is_over.is_set():
                    try:
                        result = await client.infer("chain", [given])
                        served.append(float(result.as_numpy("OUTPUT0").sum()))
                    except InferenceServerException as error:
                        refused.append(error.message())

            await asyncio.gather(*(one() for _ in range(16)))

    callers = threading.Thread(target=lambda: asyncio.run(ask_on()))
    callers.start()
    control = connect("http", server)
    try:
        until(lambda: len(served) > 50, "the first answers")
        for turn in range(8):
            config = folder / "chain_1" / "config.pbtxt"
            config.write_text(config.read_text() + f'metric_tags {{ key: "turn_{turn}" value: "x" }}\n')
            control.load_model("chain_1")
        assert refused == [], "a part that is replaced fails nobody"
        for _ in range(4):
            control.unload_model("chain_1")
            control.load_model("chain_1")
        before = len(served)
        until(lambda: len(served) > before + 50, "answers after the last load")
    finally:
        is_over.set()
        callers.join(60)
    assert not callers.is_alive() and set(served) == {4.0}
    assert all("Request for unknown model" in text or "is not available" in text for text in refused), set(refused)


def test_memory_stays_flat_over_many_requests(controlled):
    _, server = controlled
    body = json.dumps({"inputs": [{"name": "INPUT0", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]})

    def ask(times):
        import http.client

        connection = http.client.HTTPConnection("127.0.0.1", server.http, timeout=30)
        for _ in range(times):
            connection.request("POST", "/v2/models/chain/infer", body)
            assert connection.getresponse().read()

    def ask_together(times, callers=8):
        threads = [threading.Thread(target=ask, args=(times // callers,)) for _ in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def resident():
        fields = open(f"/proc/{server.process.pid}/statm").read().split()
        return int(fields[1]) * 4096

    ask_together(1600)
    before = resident()
    ask_together(4800)
    assert resident() - before < 6 << 20
    assert counter(server, "nv_inference_request_success", model="chain") >= 6400


def test_the_limit_of_requests_in_flight_keeps_every_answer(tmp_path):
    ensembles.repeating(tmp_path, limit=2)
    with Server(tmp_path) as server:
        answers = queue.Queue()
        clients = [connect("grpc", server) for _ in range(3)]
        for client in clients:
            client.start_stream(lambda result, error: answers.put((result, error)))
            client.async_stream_infer("repeating", repeat_inputs("grpc", range(100)))
        got = [answers.get(timeout=20) for _ in range(300)]
        assert all(error is None for _, error in got)
        for client in clients:
            client.stop_stream()


def test_a_running_request_is_finished_when_the_server_stops(tmp_path):
    ensembles.chain(tmp_path, execute_delay_ms=300)
    ones = np.ones((1, 4), np.float32)
    with Server(tmp_path) as server, connect("http", server) as client, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.infer, "chain", [tensor("http", "INPUT0", ones, "FP32")])
        until(lambda: counter(server, "nv_inference_request_success", model="chain_0") >= 1, "the first step to end")
        server.process.terminate()
        assert np.array_equal(asked.result(timeout=20).as_numpy("OUTPUT0"), ones)
