"""A repository full of what is no model: it takes down no model that is one, keeps nobody waiting and fills no memory."""

import json
import os
from pathlib import Path

import graphs
import make
import pytest
from tritonclient.utils import InferenceServerException

from serving import Server, until
from talking import add_one, connect

CONFIG = make.onnx_config(8, [("INPUT0", "FP32", [4])], [("OUTPUT0", "FP32", [4])])
LABELLED = CONFIG.replace('"OUTPUT0" ', '"OUTPUT0" label_filename: "labels" ')
GOOD = graphs.add(1).SerializeToString()
NO_FILE = "it is not a regular file"

# name -> files of the folder, and what the index says of it. A text is a file's content, a function makes something else at the place.
FOLDERS = {
    "config_is_a_pipe": ({"config.pbtxt": os.mkfifo, "1/x": ""}, NO_FILE),
    "config_is_endless": ({"config.pbtxt": lambda place: os.symlink("/dev/zero", place), "1/x": ""}, NO_FILE),
    "config_is_a_folder": ({"config.pbtxt/x": "", "1/x": ""}, NO_FILE),
    "config_is_binary": ({"config.pbtxt": bytes(range(256)), "1/x": ""}, "invalid token"),
    "config_has_a_zero": ({"config.pbtxt": CONFIG + "\0", "1/x": ""}, "invalid token"),
    "config_of_another_width": ({"config.pbtxt": CONFIG.encode("utf-16"), "1/x": ""}, "invalid token"),
    "config_without_end": ({"config.pbtxt": CONFIG + "parameters { " * 5000, "1/x": ""}, "failed to read text proto"),
    "model_is_a_pipe": ({"config.pbtxt": CONFIG, "1/model.onnx": os.mkfifo}, "is not a regular file"),
    "model_is_endless": ({"config.pbtxt": CONFIG, "1/model.onnx": lambda place: os.symlink("/dev/zero", place)}, "is not a regular file"),
    "model_is_empty": ({"config.pbtxt": CONFIG, "1/model.onnx": ""}, "Load model from"),
    "labels_are_endless": ({"config.pbtxt": LABELLED, "labels": lambda place: os.symlink("/dev/zero", place), "1/model.onnx": GOOD}, NO_FILE),
    "version_is_a_file": ({"config.pbtxt": CONFIG, "1": "x"}, "at least one version must be available"),
    "nothing": ({"x/y": ""}, "Could not determine backend"),
    "with space": ({"config.pbtxt": "{", "1/x": ""}, "failed to read text proto"),
    "ünïcode": ({"config.pbtxt": "{", "1/x": ""}, "failed to read text proto"),
    "new\nline": ({"config.pbtxt": "{", "1/x": ""}, "failed to read text proto"),
}


def resident_bytes(process):
    line = next(line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def write(place, content):
    place.parent.mkdir(parents=True, exist_ok=True)
    if callable(content):
        content(place)
    else:
        place.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.fixture(scope="module")
def junk(folder):
    for name, (files, _) in FOLDERS.items():
        for path, content in files.items():
            (folder / name).mkdir(exist_ok=True)
            write(folder / name / path, content)
    make.versions(folder)
    (folder / "readme.txt").write_text("x")
    (folder / ".hidden").mkdir()
    os.symlink("/nowhere", folder / "dangling")
    os.symlink("around", folder / "around")
    return folder


@pytest.mark.parametrize("flags", ((), ("--model-control-mode=poll", "--repository-poll-secs=1")), ids=("none", "poll"))
def test_one_good_model_among_junk_serves(junk, flags):
    with Server(junk, "--exit-on-error=false", *flags, wait="live") as server:
        until(lambda: "Started Metrics Service" in server.log(), "all that can be loaded to be loaded", process=server.process)
        index = {line["name"]: line for line in json.loads(server.request("POST", "/v2/repository/index")[2])}
        for name, (_, reason) in FOLDERS.items():
            assert index[name].get("state") == "UNAVAILABLE" and reason in index[name]["reason"], index[name]
        assert not {"readme.txt", ".hidden", "around"} & set(index)
        assert add_one("http", connect("http", server), "versions") > 0
        assert resident_bytes(server.process) < 1 << 30


def test_loads_of_junk_are_answered(junk):
    with Server(junk, "--model-control-mode=explicit") as server, connect("grpc", server) as client:
        for name in FOLDERS:
            with pytest.raises(InferenceServerException, match="failed"):
                client.load_model(name)
        client.load_model("versions")
        assert add_one("grpc", client, "versions") > 0
