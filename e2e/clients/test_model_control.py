"""Loading, unloading and replacing models while others serve."""

import json
import re
import shutil
import threading

import graphs
import make
import numpy as np
import onnx
import pytest
from tritonclient.utils import InferenceServerException

from serving import Server, until
from talking import PROTOCOLS, add_one, connect, is_ready
from under_way import under_load


@pytest.fixture
def server(folder):
    with Server(folder, "--model-control-mode=explicit") as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def models(folder):
    make.versions(folder)
    make.broken(folder)
    make.versions(folder, name="growing", numbers=(1,))


def index(server):
    return {(one["name"], one.get("version")): one for one in json.loads(server.request("POST", "/v2/repository/index")[2])}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_model_is_loaded_and_unloaded(server, protocol):
    client = connect(protocol, server)
    assert not is_ready(client, "versions")
    client.load_model("versions")
    assert is_ready(client, "versions") and add_one(protocol, client, "versions") == 3
    client.unload_model("versions")
    until(lambda: index(server)["versions", "3"]["state"] == "UNAVAILABLE", "the model to be unloaded")
    assert index(server)["versions", "3"]["reason"] == "unloaded"
    with pytest.raises(InferenceServerException, match="Request for unknown model: 'versions' has no available versions"):
        add_one(protocol, client, "versions")
    client.load_model("versions")
    assert add_one(protocol, client, "versions") == 3


REASONS = {
    "corrupt": "",
    "cut_off": "",
    "missing_file": "model.onnx",
    "other_type": "unable to load model 'other_type', configuration expects datatype TYPE_INT32 for input 'INPUT0', model provides TYPE_FP32",
    "other_dims": "model 'other_dims', tensor 'INPUT0': the model expects 2 dimensions (shape [-1,4]) but the model configuration specifies 2 dimensions "
    "(an initial batch dimension because max_batch_size > 0 followed by the explicit tensor shape, making complete shape [-1,5])",
    "other_rank": "model 'other_rank', tensor 'INPUT0': the model expects 2 dimensions (shape [-1,4]) but the model configuration specifies 3 dimensions "
    "(an initial batch dimension because max_batch_size > 0 followed by the explicit tensor shape, making complete shape [-1,4,4])",
    "other_name": "unexpected inference input 'WRONG', allowed inputs are: INPUT0",
    "other_count": "unable to load model 'other_count', configuration expects 2 inputs, model provides 1",
    "cannot_batch": "model 'cannot_batch', tensor 'INPUT0': for the model to support batching the shape should have at least 1 dimension and the "
    "first dimension must be -1; but shape expected by the model is [2,3]",
    "no_such_backend": "unable to find backend library for backend 'nosuchbackend', try specifying runtime on the model configuration.",
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", [*REASONS, "unknown_field", "two_mistakes"])
def test_a_broken_model_says_why_and_its_neighbour_goes_on(folder, protocol, name):
    with Server(folder, "--model-control-mode=explicit", "--load-model=versions") as server:
        client = connect(protocol, server)
        with under_load(server, "versions", {3}, protocol):
            with pytest.raises(InferenceServerException) as refused:
                client.load_model(name)
        said = refused.value.message()
        assert REASONS.get(name, name) in said, said
        if name == "two_mistakes":
            for mistake in ("preferred size must be <= max batch size", "default priority level must be in range"):
                assert mistake in server.log(), "every mistake of a configuration at once"
        assert not is_ready(client, name)
        assert client.is_server_live()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_new_version_replaces_the_old_without_a_gap(folder, protocol):
    name = f"growing_{protocol}"
    make.versions(folder, name=name, numbers=(1,))
    with Server(folder, "--model-control-mode=explicit", f"--load-model={name}") as server:
        client = connect(protocol, server)
        assert add_one(protocol, client, name) == 1
        (folder / name / "2").mkdir()
        onnx.save(graphs.add(2), folder / name / "2" / "model.onnx")
        assert add_one(protocol, client, name) == 1, "nothing changes before it is asked for"
        with under_load(server, name, {1, 2}):
            client.load_model(name)
            assert add_one(protocol, client, name) == 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_broken_new_version_leaves_the_old_one_serving(folder, protocol):
    name = f"mended_{protocol}"
    make.versions(folder, name=name, numbers=(1,))
    with Server(folder, "--model-control-mode=explicit", f"--load-model={name}") as server:
        client = connect(protocol, server)
        make.write(folder, name, None, {2: b"broken"})
        with under_load(server, name, {1}, protocol):
            with pytest.raises(InferenceServerException, match=f"load failed for model '{name}'"):
                client.load_model(name)
            assert add_one(protocol, client, name) == 1, "the old version goes on"
        lines = index(server)
        assert lines[name, "1"]["state"] == "READY"
        assert lines[name, "2"]["state"] == "UNAVAILABLE" and lines[name, "2"]["reason"]
        onnx.save(graphs.add(2), folder / name / "2" / "model.onnx")
        client.load_model(name)
        assert add_one(protocol, client, name) == 2


def test_a_removed_folder_is_an_unknown_model(folder):
    make.versions(folder, name="going", numbers=(1,))
    with Server(folder, "--model-control-mode=explicit", "--load-model=going") as server:
        client = connect("http", server)
        shutil.rmtree(folder / "going")
        assert add_one("http", client, "going") == 1, "what is loaded goes on serving"
        client.unload_model("going")
        with pytest.raises(InferenceServerException, match="failed to load 'going', failed to poll from model repository"):
            client.load_model("going")


@pytest.mark.parametrize(
    ("policy", "served"),
    [("", [3]), ("latest { num_versions: 2 }", [2, 3]), ("all { }", [1, 2, 3]), ("specific { versions: [ 1, 3 ] }", [1, 3])],
)
def test_version_policies(tmp_path, policy, served):
    make.versions(tmp_path, f"version_policy: {{ {policy} }}\n" if policy else "")
    with Server(tmp_path) as server:
        client = connect("grpc", server)
        assert [int(v) for v in client.get_model_metadata("versions", as_json=True)["versions"]] == served
        for version in (1, 2, 3):
            assert is_ready(client, "versions", str(version)) == (version in served)
            if version in served:
                assert add_one("grpc", client, "versions", model_version=str(version)) == version
        assert add_one("grpc", client, "versions") == max(served)


def test_two_repositories_are_one_index(tmp_path):
    make.versions(tmp_path / "a", name="first", numbers=(1,))
    make.versions(tmp_path / "b", name="second", numbers=(2,))
    with Server([tmp_path / "a", tmp_path / "b"]) as server:
        client = connect("http", server)
        assert (add_one("http", client, "first"), add_one("http", client, "second")) == (1, 2)


def test_files_given_with_the_load_are_the_whole_model(server):
    client = connect("grpc", server)
    config = '{"backend":"onnxruntime","max_batch_size":8}'
    client.load_model("from_memory", config=config, files={"file:1/model.onnx": graphs.add(40).SerializeToString()})
    assert add_one("grpc", client, "from_memory") == 40


def test_many_models_load_side_by_side(tmp_path):
    for number in range(20):
        make.versions(tmp_path, name=f"model_{number:02}", numbers=(number + 1,))
    with Server(tmp_path) as server:
        client = connect("http", server)
        assert [add_one("http", client, f"model_{number:02}") for number in range(20)] == list(range(1, 21))
        assert np.all([one["state"] == "READY" for one in client.get_model_repository_index()])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_request_that_races_an_unload_is_answered_or_finds_no_model(folder, protocol):
    gone = re.compile(r"Request for unknown model: 'racing' (has no available versions|is not found)")
    make.versions(folder, name="racing", numbers=(1,))
    with Server(folder, "--model-control-mode=explicit") as server:
        over, wrong, counts = threading.Event(), [], {"answered": 0, "gone": 0}

        def call():
            client = connect(protocol, server)
            while not over.is_set():
                try:
                    assert add_one(protocol, client, "racing") == 1
                    counts["answered"] += 1
                except InferenceServerException as error:
                    if not gone.search(error.message()):
                        wrong.append(error)
                    counts["gone"] += 1
                except Exception as error:  # noqa: BLE001
                    wrong.append(error)

        callers = [threading.Thread(target=call) for _ in range(4)]
        for caller in callers:
            caller.start()
        try:
            control = connect("http", server)
            for _ in range(30):
                for change, kind in ((control.load_model, "answered"), (control.unload_model, "gone")):
                    before = counts[kind]
                    change("racing")
                    until(lambda: wrong or counts[kind] > before, f"a request to be {kind}", process=server.process)
        finally:
            over.set()
            for caller in callers:
                caller.join()
        assert not wrong, wrong[:3]
