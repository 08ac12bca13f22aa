"""Warm-up: models run the samples of their configuration before they serve, here Python and ONNX models, as the real clients see it."""

import json

import graphs
import make
import numpy as np
import python_model
import pytest
import sequences
from tritonclient.utils import InferenceServerException

from serving import Server, until
from talking import add_one, connect, is_ready, statistics, tensor

RECORDING = """
import json, os, threading, time

class TritonPythonModel:
    def initialize(self, args):
        self.log, self.name = os.path.join(args["model_repository"], ".seen"), args["model_instance_name"]

    def execute(self, requests):
        seen = [{tensor.name(): [list(tensor.as_numpy().shape), repr(tensor.as_numpy().reshape(-1).tolist())] for tensor in one.inputs()} for one in requests]
        with open(self.log, "a") as file:
            file.write(json.dumps([self.name, seen]) + "\\n")
        for request in requests:
            word = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy().reshape(-1)[0]
            if word == b"hang":
                time.sleep(3600)
            if word == b"fail":
                raise ValueError("as it was told")
            if word == b"die":
                os._exit(3)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", request.inputs()[0].as_numpy())]) for request in requests]
"""
WORDS = python_model.tensors(["IN STRING 1"], ["OUT STRING 1"], batch=4)


def recording(folder, name, sample, more=""):
    """A model that notes what it is asked. `sample` is a list of (batch size, count, word), of which each becomes a file; None is zeros."""
    config = WORDS + more
    for number, (batch, count, word) in enumerate(sample):
        source = "zero_data: true" if word is None else f'input_data_file: "{word}"'
        config += f'model_warmup {{ name: "sample {number}" batch_size: {batch} count: {count} '
        config += f'inputs {{ key: "IN" value {{ data_type: TYPE_STRING dims: 1 {source} }} }} }}\n'
        if word is not None:
            (folder / name / "warmup").mkdir(parents=True, exist_ok=True)
            (folder / name / "warmup" / word).write_bytes(len(word).to_bytes(4, "little") + word.encode())
    python_model.write(folder, name, RECORDING, config)


def seen(folder, name):
    """What its instances were asked, by instance, one list per execution."""
    by_instance = {}
    for line in (folder / name / ".seen").read_text().splitlines():
        instance, requests = json.loads(line)
        by_instance.setdefault(instance, []).append(requests)
    return by_instance


def state(server, name):
    index = json.loads(server.request("POST", "/v2/repository/index")[2])
    return next((one.get("state"), one.get("reason", "")) for one in index if one["name"] == name)


def successes(server, name):
    one = statistics(connect("http", server), name)[0]
    return one["inference_stats"]["success"]["count"], one["execution_count"]


def group(count):
    return f"instance_group [ {{ count: {count} kind: KIND_CPU }} ]\n"


def test_instances_are_warm_before_the_model_serves(tmp_path):
    recording(tmp_path, "words", [(3, 2, "hello"), (0, 5, None), (1, 0, None)], group(2))
    with Server(tmp_path, "--model-control-mode=explicit", "--log-verbose=1") as server:
        client = connect("http", server)
        client.load_model("words")
        hello, nothing = {"IN": [[1, 1], "[b'hello']"]}, {"IN": [[1, 1], "[b'']"]}
        each = [[hello] * 3, [hello] * 3, [nothing]]
        assert seen(tmp_path, "words") == {"words_0_0": each, "words_0_1": each}
        assert successes(server, "words") == (14, 6)
        assert "model 'words' instance words_0_1 is running warmup sample 'sample 0' for iteration 2" in server.log()
        config = client.get_model_config("words")
        assert [one["batch_size"] for one in config["model_warmup"]] == [3, 0, 1]

        # an instance that is added is warmed up; those that serve are left alone
        config = tmp_path / "words/config.pbtxt"
        config.write_text(config.read_text().replace(group(2), group(3)))
        client.load_model("words")
        assert seen(tmp_path, "words") == {f"words_0_{number}": each for number in range(3)}
        assert successes(server, "words") == (21, 9)


def test_a_sample_that_fails_fails_the_load_and_nothing_else(tmp_path):
    recording(tmp_path, "fails", [(1, 1, None), (2, 1, "fail")])
    recording(tmp_path, "dies", [(1, 1, "die")])
    recording(tmp_path, "serves", [(1, 1, None)])
    with Server(tmp_path, "--model-control-mode=explicit") as server:
        client = connect("http", server)
        client.load_model("serves")
        for name, text in (("fails", "ValueError: as it was told"), ("dies", "is not healthy")):
            with pytest.raises(InferenceServerException) as caught:
                client.load_model(name)
            reason = caught.value.message()
            assert "Invalid argument: failed to run warmup sample 'sample " in reason and text in reason, reason
            assert state(server, name)[0] == "UNAVAILABLE" and text in state(server, name)[1]
        assert is_ready(client, "serves")

        # what serves goes on when its successor cannot be warmed up
        recording(tmp_path, "serves", [(1, 1, "fail")])
        with pytest.raises(InferenceServerException, match="as it was told"):
            client.load_model("serves")
        assert is_ready(client, "serves") and successes(server, "serves") == (1, 1)


def test_a_sample_that_hangs_keeps_its_own_model_from_serving(tmp_path):
    recording(tmp_path, "hangs", [(1, 1, "hang")])
    recording(tmp_path, "serves", [(1, 1, None)])
    with Server(tmp_path, "--exit-on-error=false", "--backend-config=python,stub-timeout-seconds=4", wait="live") as server:
        client = connect("http", server)
        until(lambda: (tmp_path / "hangs/.seen").exists() and is_ready(client, "serves"), "the other model to serve")
        assert state(server, "hangs")[0] == "LOADING" and not is_ready(client, "hangs")
        until(lambda: state(server, "hangs")[0] == "UNAVAILABLE", "the limit")
        assert "failed to run warmup sample 'sample 0': " in state(server, "hangs")[1]


def test_onnx_models_are_warmed_up_with_every_kind_of_data(tmp_path):
    dims = [("INPUT0", "FP32", [4])], [("OUTPUT0", "FP32", [4])]

    def model(name, batch, source, more=""):
        sample = f'inputs {{ key: "INPUT0" value {{ data_type: TYPE_FP32 dims: 4 {source} }} }}'
        config = make.onnx_config(8, *dims, f'{group(2)}{more}model_warmup {{ name: "{name}" batch_size: {batch} {sample} }}\n')
        make.write(tmp_path, name, config, {1: graphs.add(1)})

    model("zeros", 8, "zero_data: true", "dynamic_batching { }\n")
    model("random", 1, "random_data: true")
    model("file", 2, 'input_data_file: "folder/data"')
    (tmp_path / "file/warmup/folder").mkdir(parents=True)
    (tmp_path / "file/warmup/folder/data").write_bytes(np.arange(5, dtype=np.float32).tobytes())
    model("too_many", 9, "zero_data: true")
    model("no_file", 1, 'input_data_file: "data"')
    with Server(tmp_path, "--model-control-mode=explicit") as server:
        client = connect("http", server)
        for name, batch in (("zeros", 8), ("random", 1), ("file", 2)):
            client.load_model(name)
            assert successes(server, name) == (2 * batch, 2)
            assert add_one("http", client, name) == 1
        for name, text in (
            ("too_many", "batch size 9 for 'too_many_0_"),
            ("no_file", f"Internal: failed to open text file for read {tmp_path}/no_file/warmup/data: No such file or directory"),
        ):
            with pytest.raises(InferenceServerException) as caught:
                client.load_model(name)
            assert text in caught.value.message(), caught.value.message()
        page = server.request("GET", "/metrics", port=server.metrics)[2].decode()
        assert 'nv_inference_count{model="zeros",version="1"} 17' in page


def test_models_with_sequences_get_their_controls(tmp_path):
    controls = """sequence_batching { control_input [
      { name: "START" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] },
      { name: "ID" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } ] } ] }\n"""
    recording(tmp_path, "words", [(2, 1, "hello")], controls)
    with Server(tmp_path) as server:
        assert is_ready(connect("http", server), "words")
        asked = seen(tmp_path, "words")["words_0"]
    assert asked == [[{"IN": [[1, 1], "[b'hello']"], "START": [[1, 1], "[1]"], "ID": [[1, 1], "[1]"]}] * 2]


def test_models_with_implicit_state_are_warmed_up_with_their_initial_states(tmp_path):
    sequences.stateful(tmp_path, "sums", "direct { }")
    config = tmp_path / "sums/config.pbtxt"
    sample = 'inputs { key: "INPUT" value { data_type: TYPE_INT32 dims: 1 input_data_file: "five" } }'
    config.write_text(config.read_text() + f'model_warmup {{ name: "s" batch_size: 3 count: 2 {sample} }}\n')
    (tmp_path / "sums/warmup").mkdir()
    (tmp_path / "sums/warmup/five").write_bytes(np.array([5], np.int32).tobytes())
    with Server(tmp_path) as server:
        client = connect("http", server)
        assert successes(server, "sums") == (6, 2)
        # a sequence starts as if nothing had run before
        answer = client.infer("sums", [tensor("http", "INPUT", np.array([[1]], np.int32), "INT32")], sequence_id=7, sequence_start=True)
        assert answer.as_numpy("OUTPUT").tolist() == [[1]]


def test_samples_and_their_files_may_come_with_a_load_request(tmp_path):
    make.write(tmp_path, "mine", make.onnx_config(8, [("INPUT0", "FP32", [4])], [("OUTPUT0", "FP32", [4])]), {1: graphs.add(1)})
    config = {"backend": "onnxruntime", "max_batch_size": 8, "instance_group": [{"count": 1, "kind": "KIND_CPU"}]}
    for side in ("input", "output"):
        config[side] = [{"name": f"{side.upper()}0", "data_type": "TYPE_FP32", "dims": [4]}]
    data = {"data_type": "TYPE_FP32", "dims": [4], "input_data_file": "data"}
    config["model_warmup"] = [{"name": "s", "batch_size": 2, "inputs": {"INPUT0": data}}]
    with Server(tmp_path, "--model-control-mode=explicit") as server:
        client = connect("http", server)
        files = {"file:1/model.onnx": graphs.add(5).SerializeToString(), "file:warmup/data": bytes(16)}
        client.load_model("mine", config=json.dumps(config), files=files)
        assert successes(server, "mine") == (2, 1) and add_one("http", client, "mine") == 5
        del files["file:warmup/data"]
        with pytest.raises(InferenceServerException, match="failed to open text file for read .*/warmup/data: No such file or directory"):
            client.load_model("mine", config=json.dumps(config), files=files)
        assert add_one("http", client, "mine") == 5
