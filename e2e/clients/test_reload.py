"""What a load leaves alone: versions that did not change, an override that nobody replaced, whatever served before a load that fails."""

import json
import os
import shutil

import graphs
import make
import onnx
import pytest
from tritonclient.utils import InferenceServerException

from serving import Server, until
from talking import PROTOCOLS, add_one, connect, is_ready, statistics
from under_way import under_load

ALL = "version_policy { all { } }\n"


def counts(client, model):
    """Requests answered by each version since that version was loaded."""
    return {one["version"]: one.get("inference_count", 0) for one in statistics(client, model)}


def add(folder, model, version, number):
    """A version folder that adds `number`. A model file that was there is replaced."""
    (folder / model / str(version)).mkdir(exist_ok=True)
    onnx.save(graphs.add(number), folder / model / str(version) / "model.onnx")


@pytest.fixture
def serving(tmp_path):
    """Versions 1 and 2 of the model `m` serve: version 1 has answered once, version 2 twice."""
    make.versions(tmp_path, ALL, name="m", numbers=(1, 2))
    with Server(tmp_path, "--model-control-mode=explicit", "--load-model=m") as server:
        client = connect("http", server)
        for version in ("1", "2", "2"):
            assert add_one("http", client, "m", model_version=version) == int(version)
        yield tmp_path, server


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_version_added_rewritten_or_removed_leaves_the_others_as_they_are(serving, protocol):
    folder, server = serving
    client = connect(protocol, server)
    add(folder, "m", 3, 3)
    client.load_model("m")
    assert counts(client, "m") == {1: 1, 2: 2, 3: 0}
    assert add_one(protocol, client, "m", model_version="3") == 3

    add(folder, "m", 3, 30)
    client.load_model("m")
    assert counts(client, "m") == {1: 1, 2: 2, 3: 0}, "only the rewritten version starts at nothing"
    assert add_one(protocol, client, "m", model_version="3") == 30

    shutil.rmtree(folder / "m" / "1")
    client.load_model("m")
    until(lambda: not is_ready(client, "m", "1"), "version 1 to be unloaded")
    assert {version: count for version, count in counts(client, "m").items() if version != 1} == {2: 2, 3: 1}


def test_a_narrower_policy_leaves_what_it_still_covers_as_it_is(serving):
    folder, server = serving
    client = connect("http", server)
    config = folder / "m" / "config.pbtxt"
    config.write_text(config.read_text().replace(ALL, "version_policy { specific { versions: [ 2 ] } }\n"))
    client.load_model("m")
    until(lambda: not is_ready(client, "m", "1"), "version 1 to be unloaded")
    assert counts(client, "m")[2] == 2


def test_a_load_without_a_change_changes_nothing(serving):
    folder, server = serving
    client = connect("http", server)
    client.load_model("m")
    assert counts(client, "m") == {1: 1, 2: 2}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_version_without_a_model_file_fails_the_whole_load(tmp_path, protocol):
    make.versions(tmp_path, ALL, name="m", numbers=(1,))
    (tmp_path / "m" / "2").mkdir()
    with Server(tmp_path, "--model-control-mode=explicit") as server:
        client = connect(protocol, server)
        with pytest.raises(InferenceServerException, match="load failed for model 'm': version 2 "):
            client.load_model("m")
        assert not is_ready(client, "m", "1") and not is_ready(client, "m")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_served_before_a_failed_load_goes_on_and_keeps_its_counts(serving, protocol):
    folder, server = serving
    client = connect(protocol, server)
    (folder / "m" / "3").mkdir()
    with pytest.raises(InferenceServerException, match="load failed for model 'm': version 3 "):
        client.load_model("m")
    assert {version: count for version, count in counts(client, "m").items() if version != 3} == {1: 1, 2: 2}
    assert add_one(protocol, client, "m", model_version="2") == 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_wrong_configuration_is_named_before_missing_versions(tmp_path, protocol):
    config = make.onnx_config(4, [("INPUT0", "FP32", [4])], [("OUTPUT0", "FP32", [4])], "dynamic_batching { preferred_batch_size: [ 8 ] }\n")
    make.write(tmp_path, "m", config, {})
    with Server(tmp_path, "--model-control-mode=explicit") as server:
        with pytest.raises(InferenceServerException, match="failed to load 'm', failed to poll from model repository"):
            connect(protocol, server).load_model("m")
        said = server.log()
    assert "dynamic batching preferred size must be <= max batch size" in said and "at least one version" not in said, said


OVERRIDE = {
    "backend": "onnxruntime",
    "max_batch_size": 2,
    "input": [{"name": "INPUT0", "data_type": "TYPE_FP32", "dims": [4]}],
    "output": [{"name": "OUTPUT0", "data_type": "TYPE_FP32", "dims": [4]}],
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_override_is_kept_until_another_comes_or_the_folder_changes(tmp_path, protocol):
    config = make.versions(tmp_path, name="m", numbers=(1,)) / "config.pbtxt"
    with Server(tmp_path, "--model-control-mode=explicit") as server:
        client, other = connect(protocol, server), connect("http", server)
        rows = lambda: other.get_model_config("m")["max_batch_size"]  # noqa: E731
        client.load_model("m")
        assert rows() == 8
        client.load_model("m", config=json.dumps(OVERRIDE))
        assert rows() == 2
        with pytest.raises(InferenceServerException, match="inference request batch-size must be <= 2 for 'm'"):
            add_one(protocol, client, "m", rows=3)
        client.load_model("m")
        assert rows() == 2, "a plain load keeps it"
        client.load_model("m", config=json.dumps(OVERRIDE | {"max_batch_size": 3}))
        assert rows() == 3, "another one replaces it"
        config.write_text(config.read_text().replace("max_batch_size: 8", "max_batch_size: 6"))
        os.utime(config)
        client.load_model("m")
        assert rows() == 6, "a changed folder replaces it"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_instances_come_and_go_under_load_and_nobody_notices(tmp_path, protocol):
    config = make.versions(tmp_path, name="m", numbers=(1,)) / "config.pbtxt"
    before = config.read_text()
    with Server(tmp_path, "--model-control-mode=explicit", "--load-model=m") as server:
        client = connect(protocol, server)
        with under_load(server, "m", {1}, protocol):
            for count in (4, 1, 3, 2):
                answered = counts(client, "m")[1]
                config.write_text(before + f"instance_group {{ count: {count} kind: KIND_CPU }}\n")
                client.load_model("m")
                assert counts(client, "m")[1] >= answered, "the counts go on"
                shown = client.get_model_config("m", **({"as_json": True} if protocol == "grpc" else {}))
                assert shown.get("config", shown)["instance_group"][0]["count"] == count
        assert "loading: m:1" not in server.log().split("successfully loaded 'm'", 1)[1], "the model was not opened again"
