"""Requests that name no version, split between versions by weights, marked for a canary, copied to a shadow: with the real clients, and
changed while it serves. Every version adds its own number, so each answer says which one made it."""

import asyncio
import concurrent.futures
import queue
import re
from collections import Counter

import make
import numpy as np
import pytest
import tritonclient.grpc.aio
import tritonclient.http.aio

import pages
from serving import Server, until
from talking import PROTOCOLS, add_one, connect, statistics, tensor
from under_way import under_load

WEIGHTED = {"version_weights": "1:70,2:20,3:10"}
MARKED = {"canary_version": "3", "canary_key": "x-group", "canary_value": "beta"}
SHADOWED = {"shadow_versions": "3:100,2:25"}


def parameters(routing):
    """Routing as parameters of a config.pbtxt, with every version served."""
    one = 'parameters {{ key: "{}" value {{ string_value: "{}" }} }}\n'
    return "version_policy { all { } }\n" + "".join(one.format(key, value) for key, value in routing.items())


def write(folder, name, routing):
    """The model `name` with the versions 1, 2 and 3; what serves already keeps its files."""
    if (folder / name).exists():
        text = (folder / name / "config.pbtxt").read_text()
        (folder / name / "config.pbtxt").write_text(text.split("version_policy")[0] + parameters(routing))
    else:
        make.versions(folder, parameters(routing), name=name)


@pytest.fixture
def serving(tmp_path):
    for name, routing in {"weighted": WEIGHTED, "marked": MARKED, "shadowed": SHADOWED}.items():
        write(tmp_path, name, routing)
    with Server(tmp_path, "--model-control-mode=explicit", "--load-model=*") as server:
        yield tmp_path, server


def counts(client, model):
    """Requests answered by each version since that version was loaded."""
    return {one["version"]: one["inference_stats"]["success"].get("count", 0) for one in statistics(client, model)}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_requests_are_split_by_weights_exactly(serving, protocol):
    client = connect(protocol, serving[1])
    seen = Counter()
    for number in range(1, 101):
        seen[add_one(protocol, client, "weighted")] += 1
        for version, weight in ((1, 70), (2, 20), (3, 10)):
            assert abs(seen[version] - number * weight / 100) <= 1, f"after {number} requests: {seen}"
    assert seen == {1: 70, 2: 20, 3: 10}
    assert counts(client, "weighted") == {1: 70, 2: 20, 3: 10}


def test_the_split_is_exact_over_many_callers_and_both_protocols(serving):
    server = serving[1]

    def call(number):
        protocol = PROTOCOLS[number % 2]
        client = connect(protocol, server)
        return Counter(add_one(protocol, client, "weighted") for _ in range(25))

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        seen = sum(pool.map(call, range(16)), Counter())
    assert seen == {1: 280, 2: 80, 3: 40}
    assert counts(connect("http", server), "weighted") == seen
    page = pages.read(server.request("GET", "/metrics", port=server.metrics)[2].decode())
    by_version = {version: page.value("nv_inference_request_success", model="weighted", version=str(version)) for version in (1, 2, 3)}
    assert by_version == seen


def test_weights_change_under_load_without_a_reload_and_nobody_notices(serving):
    folder, server = serving
    client = connect("grpc", server)
    with under_load(server, "weighted", {1, 2, 3}), under_load(server, "weighted", {1, 2, 3}, protocol="grpc"):
        before = counts(client, "weighted")
        for weights in ("1:50,2:50", "1:0,2:1,3:1", "3:1", "2:1,3:3"):
            write(folder, "weighted", {"version_weights": weights})
            client.load_model("weighted")
    after = counts(client, "weighted")
    assert all(after[version] >= before[version] > 0 for version in (1, 2, 3)), f"{before} {after}: a version was loaded anew"
    seen = Counter(add_one("grpc", client, "weighted") for _ in range(40))
    assert seen == {2: 10, 3: 30}


def test_a_split_that_cannot_be_is_refused_and_the_former_one_goes_on(serving):
    folder, server = serving
    client = connect("http", server)
    for weights, reason in {
        "1:90,7:10": "parameter 'version_weights' of model 'weighted' names version 7, which has no folder: add '7' to the model's folder",
        "1:ninety": "parameter 'version_weights' of model 'weighted' is '1:ninety': write VERSION:NUMBER pairs",
    }.items():
        write(folder, "weighted", {"version_weights": weights})
        with pytest.raises(Exception, match=re.escape(f"failed to load 'weighted', failed to poll from model repository: {reason}")):
            client.load_model("weighted")
        reasons = [one.get("reason", "") for one in client.get_model_repository_index() if one["name"] == "weighted"]
        assert any(reason in text for text in reasons), reasons
    assert Counter(add_one("http", client, "weighted") for _ in range(10)) == {1: 7, 2: 2, 3: 1}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_mark_beside_or_in_the_request_takes_it_to_the_canary(serving, protocol):
    client = connect(protocol, serving[1])

    def ask(**options):
        return add_one(protocol, client, "marked", **options)

    assert ask() == 2, "the highest version that is not the canary"
    assert ask(headers={"x-group": "beta"}) == 3
    assert ask(headers={"x-group": "alpha"}) == 2
    assert ask(parameters={"x-group": "beta"}) == 3
    assert ask(parameters={"x-group": "none"}, headers={"x-group": "beta"}) == 2, "what the request itself says counts more"
    assert ask(headers={"x-group": "beta"}, model_version="1") == 1, "a request that names its version is not routed"


def test_metadata_of_a_stream_marks_its_requests(serving):
    answers = queue.Queue()
    data = np.zeros((1, 4), np.float32)
    for headers, version in (({"x-group": "beta"}, "3"), (None, "2")):
        client = connect("grpc", serving[1])
        client.start_stream(lambda result, error: answers.put(error or result.get_response().model_version), headers=headers)
        for _ in range(3):
            client.async_stream_infer("marked", [tensor("grpc", "INPUT0", data, "FP32")])
        assert [answers.get(timeout=30) for _ in range(3)] == [version] * 3
        client.stop_stream()


def test_the_generate_extension_is_routed_too(serving):
    server = serving[1]
    body = b'{"INPUT0": [1, 2, 3, 4]}'
    versions = Counter()
    for _ in range(10):
        status, _, answer = server.request("POST", "/v2/models/weighted/generate", body)
        assert status == 200, answer
        versions[answer.split(b'"model_version":"')[1][:1]] += 1
    assert versions == {b"1": 7, b"2": 2, b"3": 1}
    _, _, answer = server.request("POST", "/v2/models/marked/generate", body, {"x-group": "beta"})
    assert b'"model_version":"3"' in answer
    _, _, answer = server.request("POST", "/v2/models/marked/versions/1/generate", body, {"x-group": "beta"})
    assert b'"model_version":"1"' in answer


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_sequence_stays_on_the_version_it_began_on(serving, protocol):
    folder, server = serving
    client = connect(protocol, server)
    write(folder, "weighted", {"version_weights": "1:1,2:1"})
    client.load_model("weighted")

    def ask(sequence, start=False, end=False):
        return add_one(protocol, client, "weighted", sequence_id=sequence, sequence_start=start, sequence_end=end)

    begun = {sequence: ask(sequence, start=True) for sequence in (11, 12, "text")}
    assert list(begun.values()) == [1, 2, 1]
    for weights in ("1:1,2:1", "1:1", "2:1"):
        write(folder, "weighted", {"version_weights": weights})
        client.load_model("weighted")
        assert {sequence: ask(sequence) for sequence in begun} == begun
    assert {sequence: ask(sequence, end=True) for sequence in begun} == begun
    assert {ask(sequence, start=True, end=True) for sequence in begun} == {2}


SUMS = """
backend: "sequence"
max_batch_size: 2
input { name: "INPUT" data_type: TYPE_INT32 dims: [ 1 ] }
output { name: "OUTPUT" data_type: TYPE_INT32 dims: [ 1 ] }
sequence_batching {
  max_sequence_idle_microseconds: 60000000
  control_input { name: "START" control { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } }
  control_input { name: "READY" control { kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] } }
}
instance_group { count: 1 kind: KIND_CPU }
"""


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_a_sequence_has_summed_up_outlives_a_change_of_weights(tmp_path, protocol):
    for version in ("1", "2"):
        (tmp_path / "sums" / version).mkdir(parents=True)

    def give(weights):
        (tmp_path / "sums" / "config.pbtxt").write_text(SUMS + parameters({"version_weights": weights}))

    give("1:1,2:1")
    with Server(tmp_path, "--model-control-mode=explicit", "--load-model=sums") as server:
        client = connect(protocol, server)

        def add(sequence, value, **flags):
            sent = [tensor(protocol, "INPUT", np.array([[value]], np.int32), "INT32")]
            result = client.infer("sums", sent, sequence_id=sequence, **flags)
            version = result.get_response()["model_version"] if protocol == "http" else result.get_response().model_version
            return int(result.as_numpy("OUTPUT").flat[0]), version

        assert [add(7, 1, sequence_start=True), add(8, 10, sequence_start=True)] == [(1, "1"), (10, "2")]
        for weights, sums in (("1:1", (3, 30)), ("2:1", (5, 50))):
            give(weights)
            client.load_model("sums")
            assert [add(7, 2), add(8, 20)] == [(sums[0], "1"), (sums[1], "2")], "each goes on where it is"
        assert [add(7, 5, sequence_end=True), add(8, 50, sequence_end=True)] == [(10, "1"), (100, "2")]
        assert add(9, 4, sequence_start=True, sequence_end=True) == (4, "2"), "a new one by the weights of now"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_shadow_gets_copies_and_no_say(serving, protocol):
    server = serving[1]
    client = connect(protocol, server)
    assert {add_one(protocol, client, "shadowed") for _ in range(40)} == {1}
    until(lambda: counts(client, "shadowed") == {1: 40, 2: 10, 3: 40}, "the copies to be answered")
    page = pages.read(server.request("GET", "/metrics", port=server.metrics)[2].decode())
    for version, copies in (("2", 10), ("3", 40)):
        assert page.value("tritonserver_shadow_copies", model="shadowed", version=version) == copies
        assert page.value("tritonserver_shadow_copies_refused", model="shadowed", version=version) == 0


def test_asynchronous_clients_are_split_alike(serving):
    server = serving[1]
    data = np.zeros((1, 4), np.float32)

    async def ask(client, protocol, count):
        inputs = [tensor(protocol, "INPUT0", data, "FP32")]
        results = await asyncio.gather(*(client.infer("weighted", inputs) for _ in range(count)))
        return Counter(int(result.as_numpy("OUTPUT0").flat[0]) for result in results)

    async def both():
        async with tritonclient.http.aio.InferenceServerClient(server.url) as http, tritonclient.grpc.aio.InferenceServerClient(server.grpc_url) as grpc:
            return await asyncio.gather(ask(http, "http", 60), ask(grpc, "grpc", 40))

    assert sum(asyncio.run(both()), Counter()) == {1: 70, 2: 20, 3: 10}
