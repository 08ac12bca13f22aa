"""What every native runtime has in common, asked of each format of model files by the real clients: the same requests, the same answers."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import formats
import numpy as np
import pytest
import tritonclient.utils.shared_memory as shared_memory
from formats import FORMATS
from tritonclient.utils import InferenceServerException

from serving import Server, until
from talking import PROTOCOLS, add_one, connect, is_ready, statistics, tensor, wanted

KINDS = sorted({kind for form in FORMATS for kind in form.types})
TOGETHER = "dynamic_batching { preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 60000000 }\n"  # at four rows, or when a test has failed
ONE = "instance_group [ { kind: KIND_CPU count: 1 } ]\n"
THREE = "instance_group [ { kind: KIND_CPU count: 3 } ]\n"
LABELS = "zero\none\ntwo\nthree\n"
WARM = "".join(
    f'model_warmup {{ name: "{name}" batch_size: {batch} count: 2 inputs {{ key: "INPUT0" value {{ data_type: TYPE_FP32 dims: 4 {source} }} }} }}\n'
    for name, batch, source in (("zeros", 1, "zero_data: true"), ("random", 3, "random_data: true"), ("file", 2, 'input_data_file: "rows"'))
)
LONG = "max_sequence_idle_microseconds: 600000000\n"


@pytest.fixture(scope="module", params=FORMATS, ids=lambda form: form.name)
def form(request):
    return request.param


@pytest.fixture(scope="module")
def server(form, tmp_path_factory):
    folder = tmp_path_factory.mktemp(form.name)
    flags = form.library()
    for kind in form.types:
        formats.sums(folder, form, kind, 0, [-1, -1])
        formats.sums(folder, form, kind, 8, [-1], "dynamic_batching { }\n")
    formats.sums(folder, form, "FP32", 8, [2], name="two")
    formats.sums(folder, form, "FP32", 4, [2], TOGETHER + ONE, name="together")
    formats.sums(folder, form, "INT32", 8, [4], "response_cache { enable: true }\n", name="cached")
    labels = formats.plus(folder, form, "labels")
    (labels / "config.pbtxt").write_text((labels / "config.pbtxt").read_text().replace("output [ { ", 'output [ { label_filename: "labels.txt" '))
    (labels / "labels.txt").write_text(LABELS)
    formats.plus(folder, form, "warm", WARM + ONE)
    (folder / "warm" / "warmup").mkdir()
    (folder / "warm" / "warmup" / "rows").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    formats.plus(folder, form, "three", THREE + "dynamic_batching { }\n")
    formats.plus(folder, form, "second", versions={2: 2})
    formats.plus(folder, form, "all", "version_policy { all { } }\n", {1: 1, 2: 2, 3: 3})
    formats.plus(folder, form, "latest", "", {1: 1, 3: 3})
    formats.plus(folder, form, "specific", "version_policy { specific { versions: [ 2 ] } }\n", {1: 1, 2: 2, 3: 3})
    formats.plus(folder, form, "goes", ONE)
    formats.controls(folder, form, "direct", f"direct {{ }} {LONG}", more=ONE)
    formats.controls(folder, form, "oldest", f"oldest {{ max_candidate_sequences: 4 }} {LONG}", more=ONE)
    formats.write(folder, form, "bare", "plus", {1: 1}, None)
    (folder / "chain" / "1").mkdir(parents=True)
    (folder / "chain" / "config.pbtxt").write_text(CHAIN)
    flags += ["--model-control-mode=explicit", "--cache-config=local,size=1048576", "--allow-client-shm=true"]
    flags += [f"--load-model={path.name}" for path in folder.iterdir() if form.completes or path.name != "bare"]
    with Server(folder, *flags, deadline=120) as running:
        running.folder = folder
        yield running


CHAIN = """
platform: "ensemble"
max_batch_size: 8
input [ { name: "IN" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "OUT" data_type: TYPE_FP32 dims: [ 4 ] } ]
ensemble_scheduling {
  step [
    { model_name: "three" model_version: -1 input_map { key: "INPUT0" value: "IN" } output_map { key: "OUTPUT0" value: "once" } },
    { model_name: "second" model_version: -1 input_map { key: "INPUT0" value: "once" } output_map { key: "OUTPUT0" value: "OUT" } }
  ]
}
"""


def ask(protocol, server, model, options=None, outputs=None, **arrays):
    """The answer to arrays, of which each is of the type that its name in `kinds` has, FP32 without."""
    inputs = [tensor(protocol, name, array, kind) for name, (array, kind) in arrays.items()]
    return connect(protocol, server).infer(model, inputs, outputs=outputs and [wanted(protocol, name) for name in outputs], **(options or {}))


def reals(*rows):
    return np.array(rows, np.float32), "FP32"


def refusal(*arguments, **options):
    with pytest.raises(InferenceServerException) as refused:
        ask(*arguments, **options)
    return refused.value.message()


# === tensors ===


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("batch", (0, 8))
def test_sums_and_differences_of_every_type(server, form, protocol, kind, batch):
    if kind not in form.types:
        pytest.skip(f"skipped: {form.name} does not add up {kind}")
    for shape in ((2, 3), (1, 1), (8, 100)):
        random = np.random.default_rng(sum(shape))
        one = random.integers(50, 100, shape).astype(formats.dtype(kind))
        other = random.integers(0, 28, shape).astype(formats.dtype(kind))
        answer = ask(protocol, server, f"sums_{kind.lower()}_{batch}", INPUT0=(one, kind), INPUT1=(other, kind))
        for name, expect in (("OUTPUT0", one + other), ("OUTPUT1", one - other)):
            assert np.array_equal(answer.as_numpy(name).astype(expect.dtype), expect), (shape, name)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("batch, shapes", ((0, ((0, 3), (3, 0), (0, 0))), (8, ((1, 0), (5, 0)))))
def test_tensors_without_elements(server, protocol, batch, shapes):
    for shape in shapes:
        nothing = np.zeros(shape, np.float32), "FP32"
        answer = ask(protocol, server, f"sums_fp32_{batch}", INPUT0=nothing, INPUT1=nothing)
        assert answer.as_numpy("OUTPUT0").shape == answer.as_numpy("OUTPUT1").shape == shape


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_only_what_is_asked_for_is_answered(server, protocol):
    one, other = reals([5, 7]), reals([1, 2])
    answer = ask(protocol, server, "two", outputs=["OUTPUT1"], INPUT1=other, INPUT0=one)
    assert answer.as_numpy("OUTPUT1").tolist() == [[4, 5]] and answer.as_numpy("OUTPUT0") is None
    answer = ask(protocol, server, "two", outputs=["OUTPUT1", "OUTPUT0"], INPUT0=one, INPUT1=other)
    assert answer.as_numpy("OUTPUT0").tolist() == [[6, 9]] and answer.as_numpy("OUTPUT1").tolist() == [[4, 5]]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_requests_that_do_not_fit_the_configuration_are_refused(server, protocol):
    two, three = reals([1, 2]), reals([1, 2, 3])
    say = lambda **arrays: refusal(protocol, server, "two", **arrays)  # noqa: E731
    kind = "inference input 'INPUT1' data-type is 'INT32', but model 'two' expects 'FP32'"
    assert kind in say(INPUT0=two, INPUT1=(two[0].astype(np.int32), "INT32"))
    assert "unexpected shape for input 'INPUT1' for model 'two'. Expected [-1,2], got [1,3]" in say(INPUT0=two, INPUT1=three)
    assert "batch-size must be <= 8 for 'two'" in say(INPUT0=reals(*[[1, 2]] * 9), INPUT1=reals(*[[1, 2]] * 9))
    assert "expected 2 inputs but got 1 inputs for model 'two'" in say(INPUT0=two)
    assert "unexpected inference input 'INPUT2' for model 'two'" in say(INPUT0=two, INPUT2=two)
    assert "unexpected inference output 'NONE' for model 'two'" in say(INPUT0=two, INPUT1=two, outputs=["NONE"])
    assert ask(protocol, server, "two", INPUT0=two, INPUT1=two).as_numpy("OUTPUT0").tolist() == [[2, 4]]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_answers_may_be_classes(server, protocol):
    given = tensor(protocol, "INPUT0", np.array([[3, 9, 1, 5], [0, 1, 2, 3]], np.float32), "FP32")
    answer = connect(protocol, server).infer("labels", [given], outputs=[wanted(protocol, "OUTPUT0", class_count=2)])
    assert answer.as_numpy("OUTPUT0").tolist() == [[b"10.000000:1:one", b"6.000000:3:three"], [b"4.000000:3:three", b"3.000000:2:two"]]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tensors_lie_in_shared_memory_on_either_side(server, form, protocol):
    client, name = connect(protocol, server), f"{form.name}_{protocol}"
    one, other = np.arange(2000, dtype=np.float32).reshape(4, 500), np.ones((4, 500), np.float32)
    region = shared_memory.create_shared_memory_region(name, f"/{name}", 4 * one.nbytes)
    try:
        shared_memory.set_shared_memory_region(region, [one, other])
        client.register_system_shared_memory(name, f"/{name}", 4 * one.nbytes)
        inputs = [tensor(protocol, f"INPUT{k}", array, "FP32") for k, array in enumerate((one, other))]
        outputs = [wanted(protocol, f"OUTPUT{k}") for k in (0, 1)]
        for place, either in enumerate(inputs + outputs):
            either.set_shared_memory(name, one.nbytes, offset=place * one.nbytes)
        client.infer("sums_fp32_8", inputs, outputs=outputs)
        got = [shared_memory.get_contents_as_numpy(region, np.float32, [4, 500], offset=place * one.nbytes) for place in (2, 3)]
        assert np.array_equal(got[0], one + 1) and np.array_equal(got[1], one - 1)
        client.unregister_system_shared_memory(name)
    finally:
        shared_memory.destroy_shared_memory_region(region)


# === scheduling ===


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_requests_that_wait_run_as_one_batch(server, protocol):
    def batches():
        found = statistics(connect("http", server), "together")[0].get("batch_stats", [])
        return {one["batch_size"]: one["compute_infer"]["count"] for one in found}

    def run(number):
        rows = reals(*[[number, number]] * (2 if number == 3 else 1))
        return ask(protocol, server, "together", INPUT0=rows, INPUT1=rows).as_numpy("OUTPUT0").tolist()

    before = batches().get(4, 0)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(run, (1, 2, 3))) == [[[2, 2]], [[4, 4]], [[6, 6]] * 2]
    assert batches() == {4: before + 1}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_instances_answer_many_clients_with_their_own(server, protocol):
    def run(number):
        for step in range(12):
            value = 100 * number + step
            assert ask(protocol, server, "three", INPUT0=reals([value] * 4)).as_numpy("OUTPUT0").tolist() == [[value + 1] * 4]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(8)))
    config = connect("http", server).get_model_config("three")
    assert [(one["kind"], one["count"]) for one in config["instance_group"]] == [("KIND_CPU", 3)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_second_answer_comes_out_of_the_cache(server, protocol):
    numbers = np.full((1, 4), 10 + PROTOCOLS.index(protocol), np.int32), "INT32"

    def once():
        before = statistics(connect("http", server), "cached")[0]["inference_stats"]["cache_hit"]["count"]
        answer = ask(protocol, server, "cached", INPUT0=numbers, INPUT1=numbers).as_numpy("OUTPUT0")
        assert np.array_equal(answer, 2 * numbers[0])
        return statistics(connect("http", server), "cached")[0]["inference_stats"]["cache_hit"]["count"] - before

    assert [once(), once()] == [0, 1]


def test_models_are_warm_before_they_serve(server):
    counted = statistics(connect("http", server), "warm")[0]
    assert (counted["inference_stats"]["success"]["count"], counted["execution_count"]) == (12, 6)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("model", ("direct", "oldest"))
def test_models_are_told_what_their_sequences_are(server, form, protocol, model):
    """SEEN is the number, START, READY, END and the identity."""
    name = "INPUT__0" if form.numbers_controls else "INPUT"
    first = 100 * (1 + PROTOCOLS.index(protocol)) + (0 if model == "direct" else 50)

    def send(sequence, number, start=False, end=False):
        options = {"sequence_id": sequence, "sequence_start": start, "sequence_end": end}
        answer = ask(protocol, server, model, options, **{name: reals([number])})
        return answer.as_numpy("SEEN__0" if form.numbers_controls else "SEEN").tolist()[0]

    assert send(first, 1, start=True) == [1, 1, 1, 0, first]
    assert send(first + 1, 2, start=True) == [2, 1, 1, 0, first + 1]
    assert send(first, 3) == [3, 0, 1, 0, first]
    assert send(first + 1, 4, end=True) == [4, 0, 1, 1, first + 1]
    assert send(first, 5, end=True) == [5, 0, 1, 1, first]
    assert send(first, 6, start=True, end=True) == [6, 1, 1, 1, first]

    def sequence(number):
        told = [send(number, step, start=step == 0, end=step == 5) for step in range(6)]
        assert told == [[step, int(step == 0), 1, int(step == 5), number] for step in range(6)]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(sequence, range(first + 10, first + 18)))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_steps_of_an_ensemble(server, protocol):
    rows = reals([1, 2, 3, 4], [5, 6, 7, 8])
    assert np.array_equal(ask(protocol, server, "chain", IN=rows).as_numpy("OUT"), rows[0] + 3)


# === loading ===


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_versions_are_served_as_the_policy_says(server, protocol):
    client = connect(protocol, server)

    def adds(model, version=""):
        return add_one(protocol, client, model, model_version=version)

    assert [adds("all", version) for version in ("1", "2", "3", "")] == [1, 2, 3, 3]
    assert [adds("latest"), adds("latest", "3"), adds("specific"), adds("specific", "2")] == [3, 3, 2, 2]
    for model, version in (("latest", "1"), ("specific", "3")):
        assert not is_ready(client, model, version)
        with pytest.raises(InferenceServerException, match=f"Request for unknown model: '{model}' version {version} is not found"):
            adds(model, version)


def test_a_model_without_a_configuration(server, form):
    client = connect("http", server)
    if not form.completes:
        with pytest.raises(InferenceServerException, match="failed for model 'bare'|failed to load 'bare'"):
            client.load_model("bare")
        assert not is_ready(client, "bare")
        return
    config = client.get_model_config("bare")
    described = [[(one["name"], one["data_type"], one["dims"]) for one in config[side]] for side in ("input", "output")]
    assert described == [[("INPUT0", "TYPE_FP32", [4])], [("OUTPUT0", "TYPE_FP32", [4])]]
    assert (config["max_batch_size"], "dynamic_batching" in config) == (4, True)
    assert add_one("http", client, "bare", rows=3) == 1


def test_files_may_come_with_a_load_request(server, form):
    client = connect("http", server)
    source = server.folder / "latest" / "3"
    files = {f"file:1/{path.relative_to(source)}": path.read_bytes() for path in source.rglob("*") if path.is_file()}
    config = client.get_model_config("latest")
    sent = {key: config[key] for key in ("platform", "backend", "default_model_filename", "max_batch_size")}
    for side in ("input", "output"):
        sent[side] = [{key: one[key] for key in ("name", "data_type", "dims")} for one in config[side]]
    client.load_model("sent", config=json.dumps(sent), files=files)
    assert add_one("http", client, "sent") == 3
    client.unload_model("sent")


def test_models_come_and_go_under_traffic(server):
    stop, answered, failed = threading.Event(), [], []

    def serve():
        while not stop.is_set() and not failed:
            try:
                answered.append(ask("grpc", server, "second", INPUT0=reals([0] * 4)).as_numpy("OUTPUT0")[0, 0])
            except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
                failed.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    client = connect("http", server)
    try:
        until(lambda: answered or failed, "the other model answers")
        for _ in range(5):
            client.load_model("second")  # the same again, in use
            client.unload_model("goes")
            until(lambda: not is_ready(client, "goes"), "the model goes")
            client.load_model("goes")
            assert add_one("http", client, "goes") == 1
    finally:
        stop.set()
        thread.join()
    assert not failed and set(answered) == {2}


def test_a_damaged_file_fails_its_model_and_leaves_what_serves(server, form):
    client = connect("http", server)
    folder = formats.plus(server.folder, form, "damaged", ONE)
    file = max((path for path in (folder / "1").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    whole = file.read_bytes()
    for content in (b"", b"no model", whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(InferenceServerException):
            client.load_model("damaged")
        assert not is_ready(client, "damaged") and add_one("http", client, "goes") == 1
    file.write_bytes(whole)
    client.load_model("damaged")
    file.write_bytes(whole[: len(whole) // 2])
    (folder / "config.pbtxt").touch()
    with pytest.raises(InferenceServerException):
        client.load_model("damaged")
    assert add_one("http", client, "damaged") == 1
    client.unload_model("damaged")
