"""`triton-operator up`: resources in files become a server on this machine, and what is edited, broken and mended in them is followed."""

import base64
import hashlib
import http.server
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import textwrap
import threading
from collections import Counter
from pathlib import Path

import graphs
import pytest

from bringing_up import Up, alive, write
from serving import ROOT, scaled, until
from talking import add_one, connect, is_ready, statistics
from under_way import two_under_way, under_load

SAMPLE = ROOT / "deploy/samples/digits"
SERVER = "apiVersion: triton-operator.dev/v1alpha1\nkind: TritonServer\nmetadata: {name: test}\nspec: {server: {exitTimeout: 10s, drainDelay: 0s}}\n"


def config_map(name, content):
    """A ConfigMap that holds one ONNX file."""
    data = base64.b64encode(content if isinstance(content, bytes) else content.SerializeToString()).decode()
    return f"---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\nbinaryData: {{model.onnx: {data}}}\n"


def model(name, source, more=""):
    """A TritonModel on the test server."""
    head = f"---\napiVersion: triton-operator.dev/v1alpha1\nkind: TritonModel\nmetadata: {{name: {name}}}\nspec:\n  serverRef: {{name: test}}\n"
    return head + f"  format: onnx\n  source: {{{source}}}\n" + textwrap.indent(more, "  ")


def adder(name, number, more="", content=None):
    """A ConfigMap and the model that serves it: it adds a number to its input."""
    content = graphs.add(number) if content is None else content
    return config_map(f"{name}-files", content) + model(name, f"configMap: {{name: {name}-files}}", more)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "all.yaml"


def test_the_digits_sample_recognises_a_digit():
    with Up(SAMPLE) as up:
        up.wait_for("Ready: ")
        asked = subprocess.run([sys.executable, SAMPLE / "ask.py", up.url], capture_output=True, text=True, timeout=scaled(60))
        assert asked.returncode == 0, asked.stdout + asked.stderr
        assert "the server says   9" in asked.stdout and "356 right" in asked.stdout


def test_the_sample_holds_the_model_that_is_committed():
    text = (SAMPLE / "configmap.yaml").read_text()
    assert base64.b64decode(text.split("model.onnx: ", 1)[1]) == (SAMPLE / "model.onnx").read_bytes()


def test_a_folder_made_for_a_cluster_is_brought_up_as_it_is(tmp_path):
    meta = {"resourceVersion": "7", "uid": "3a", "managedFields": [{"manager": "kubectl"}]}
    files = {
        "model.onnx": base64.b64encode(graphs.add(1).SerializeToString()).decode(),
        "config.pbtxt": base64.b64encode(b"instance_group { kind: KIND_GPU }").decode(),
    }
    server = {"apiVersion": "triton-operator.dev/v1alpha1", "kind": "TritonServer", "metadata": {"name": "test", **meta}, "spec": {"server": {"exitTimeout": "10s", "drainDelay": "0s"}, "nodeSelector": None}}
    maps = {"apiVersion": "v1", "kind": "ConfigMapList", "items": [{"metadata": {"name": "files", **meta}, "binaryData": files}]}
    listed = {"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": [server, maps]}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "token"}, "stringData": {"token": "sesame"}}
    (tmp_path / "all.json").write_text(json.dumps(listed, indent="\t") + json.dumps(secret))
    (tmp_path / "kustomization.yaml").write_text("resources: [all.json]\n")
    (tmp_path / "ml.yaml").write_text("apiVersion: v1\nkind: Namespace\nmetadata: {name: ml}\n" + model("plus", "configMap: {name: files}", "versions:\npriority: ~\n"))
    with Up(tmp_path) as up:
        up.wait_for("Namespace ml")
        assert "Kustomization" in up.said()
        up.wait_for("Ready: ")
        client = connect("http", up)
        assert add_one("http", client, "plus") == 1
        kinds = {group["kind"] for group in client.get_model_config("plus")["instance_group"]}
        assert kinds == {"KIND_GPU" if Path("/dev/nvidia0").exists() else "KIND_CPU"}


def test_an_edited_file_is_applied(file):
    write(file, SERVER, adder("plus", 1))
    with Up(file) as up:
        up.wait_for("Ready: ")
        client = connect("http", up)
        assert add_one("http", client, "plus") == 1
        assert client.get_model_config("plus")["max_batch_size"] == 4, "completed from the model"
        write(file, SERVER, adder("plus", 1, "config: {maxBatchSize: 16}\n"))
        until(lambda: client.get_model_config("plus")["max_batch_size"] == 16, "the new batch size", process=up.process)
        write(file, SERVER, adder("plus", 5, "config: {maxBatchSize: 16}\n"))
        until(lambda: add_one("http", client, "plus") == 5, "the new content", process=up.process)


def test_models_come_and_go_with_their_resources(file):
    write(file, SERVER, adder("one", 1))
    with Up(file) as up:
        up.wait_for("Ready: ")
        client = connect("grpc", up)
        write(file, SERVER, adder("one", 1), adder("two", 2))
        until(lambda: is_ready(client, "two"), "the second model", process=up.process)
        assert add_one("grpc", client, "two") == 2
        write(file, SERVER, adder("two", 2))
        until(lambda: not is_ready(client, "one"), "the first to be gone", process=up.process)
        assert add_one("grpc", client, "two") == 2


PIPELINE = """
max_batch_size: 4
input [ { name: "INPUT0" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 4 ] } ]
ensemble_scheduling {
  step [
    { model_name: "one" model_version: -1 input_map { key: "INPUT0" value: "INPUT0" } output_map { key: "OUTPUT0" value: "between" } },
    { model_name: "two" model_version: -1 input_map { key: "INPUT0" value: "between" } output_map { key: "OUTPUT0" value: "OUTPUT0" } }
  ]
}
"""


def pipeline(name):
    """A TritonModel that chains the models one and two."""
    inline = textwrap.indent("inline:\n  files:\n    config.pbtxt: |\n" + textwrap.indent(PIPELINE, "      "), "    ")
    head = f"---\napiVersion: triton-operator.dev/v1alpha1\nkind: TritonModel\nmetadata: {{name: {name}}}\nspec:\n  serverRef: {{name: test}}\n"
    return f"{head}  format: ensemble\n  source:\n{inline}\n"


def test_an_ensemble_comes_when_its_parts_do_and_goes_on_as_they_change(file):
    write(file, SERVER, pipeline("chain"), adder("two", 2))
    with Up(file) as up:
        up.wait_for("chain")
        client = connect("http", up)
        write(file, SERVER, pipeline("chain"), adder("two", 2), adder("one", 1))
        until(lambda: is_ready(client, "chain"), "the ensemble", process=up.process)
        assert add_one("http", client, "chain") == 3
        write(file, SERVER, pipeline("chain"), adder("two", 20), adder("one", 1))
        until(lambda: is_ready(client, "chain") and add_one("http", client, "chain") == 21, "the changed part", process=up.process)


def test_a_mistake_is_told_with_its_line_and_the_last_good_state_goes_on(file):
    write(file, SERVER, adder("plus", 1))
    with Up(file) as up:
        up.wait_for("Ready: ")
        with under_load(up, "plus", {1}):
            write(file, SERVER, adder("plus", 2), "---\n{ this is: no, yaml\n")
            up.wait_for("all.yaml")
            up.wait_for("the files are not applied: what runs stays as it is")
        with under_load(up, "plus", {1, 2}):
            write(file, SERVER, adder("plus", 2))
            client = connect("http", up)
            until(lambda: add_one("http", client, "plus") == 2, "the mended file", process=up.process)


def test_a_wrong_field_is_told_with_line_and_path(file):
    write(file, SERVER, adder("plus", 1))
    with Up(file) as up:
        up.wait_for("Ready: ")
        text = SERVER + adder("plus", 2, "config:\n  maxBatchSize: many\n  dynamicBatchin: {}\n")
        write(file, text)
        lines = text.splitlines()
        up.wait_for("what runs stays as it is")
        said = up.said()
        for word in ("maxBatchSize", "dynamicBatchin"):
            number = next(number for number, line in enumerate(lines, 1) if word in line)
            assert f"all.yaml:{number}: TritonModel plus: spec.config.{word}: " in said, said
        assert add_one("http", connect("http", up), "plus") == 1


def test_a_broken_new_model_leaves_the_old_one_serving_and_says_why(file):
    write(file, SERVER, adder("plus", 1), adder("neighbour", 7))
    with Up(file) as up:
        up.wait_for("Ready: ")
        with under_load(up, "plus", {1}), under_load(up, "neighbour", {7}):
            write(file, SERVER, adder("plus", 1, content=b"no graph"), adder("neighbour", 7))
            up.wait_for("plus: failed, LoadFailed")
            up.wait_for("goes on serving")
        write(file, SERVER, adder("plus", 3), adder("neighbour", 7))
        client = connect("http", up)
        until(lambda: add_one("http", client, "plus") == 3, "the mended model", process=up.process)


def test_a_broken_model_does_not_keep_its_neighbour_from_serving(file):
    write(file, SERVER, adder("good", 1), adder("bad", 1, content=b"no graph"))
    with Up(file) as up:
        up.wait_for("bad: failed, LoadFailed")
        client = connect("http", up)
        until(lambda: client_answers(client), "the server", process=up.process)
        until(lambda: is_ready(client, "good"), "the good model", process=up.process)
        assert add_one("http", client, "good") == 1


def client_answers(client):
    try:
        return client.is_server_live()
    except ConnectionRefusedError:
        return False


def test_mistakes_at_the_start_are_all_told_and_end_it(file):
    write(file, SERVER, adder("one", 1, "config: {maxBatchSize: many}\n"), adder("two", 1).replace("onnx\n", "onyx\n", 1))
    with Up(file, expect_exit=1) as up:
        assert up.process.wait(scaled(30)) == 1
        said = up.said()
    assert "nothing was brought up" in said and "spec.config.maxBatchSize" in said and "onyx" in said, said


def test_a_model_for_a_server_that_is_not_there_is_told(file):
    write(file, SERVER, adder("one", 1).replace("{name: test}", "{name: nobody}"))
    with Up(file, expect_exit=1) as up:
        assert up.process.wait(scaled(30)) == 1
        assert "nobody" in up.said()


def test_a_server_that_dies_is_started_again(file):
    write(file, SERVER, adder("plus", 1))
    with Up(file) as up:
        up.wait_for("Ready: ")
        (server,) = up.children()
        os.kill(server, signal.SIGKILL)
        up.wait_for("it is started again in")
        up.wait_for("Ready: ", 60)
        assert up.children() != [server]
        assert add_one("http", connect("http", up), "plus") == 1


def test_a_killed_parent_takes_its_server_along(file):
    write(file, SERVER, adder("plus", 1))
    with Up(file, expect_exit=-signal.SIGKILL) as up:
        up.wait_for("Ready: ")
        (server,) = up.children()
        up.process.kill()
        up.process.wait()
        until(lambda: not alive(server), "the orphan to end")


def test_requests_under_way_finish_after_ctrl_c(file, tmp_path):
    text = '  configPbtxt: |\n    backend: "identity"\n    max_batch_size: 8\n'
    text += '    input [ { name: "INPUT0" data_type: TYPE_FP32 dims: [ 4 ] } ]\n    output [ { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 4 ] } ]\n'
    text += '    parameters { key: "execute_delay_ms" value: { string_value: "1500" } }\n'
    slow = model("slow", 'inline: {files: {"1/nothing": "x"}}').replace("  format: onnx\n", "") + text
    write(file, SERVER, slow)
    with Up(file) as up:
        up.wait_for("Ready: ")
        with two_under_way(up, "grpc", "http") as results:
            up.process.send_signal(signal.SIGINT)
        up.process.wait(scaled(30))
    assert results == [True, True]


class Files(http.server.BaseHTTPRequestHandler):
    """Serves what `content` holds, by path."""

    content = {}

    def do_GET(self):
        body = self.content.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_):
        """Quiet."""


@pytest.fixture
def store():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def archive(**files):
    """A .tar.gz of files by path, given as path with underscores for slashes replaced by the caller."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def test_models_behind_an_address_and_in_a_claim(file, store, tmp_path):
    plain = graphs.add(1).SerializeToString()
    packed = archive(**{"1/model.onnx": graphs.add(2).SerializeToString(), "2/model.onnx": graphs.add(3).SerializeToString()})
    Files.content = {"/model.onnx": plain, "/packed.tar.gz": packed}
    claim = tmp_path / "claim" / "deep" / "inside" / "1"
    claim.mkdir(parents=True)
    (claim / "model.onnx").write_bytes(graphs.add(4).SerializeToString())
    good = f"checksum: {{sha256: '{hashlib.sha256(packed).hexdigest()}'}}\n"
    write(
        file,
        SERVER,
        model("plain", f"http: {{uri: '{store}/model.onnx'}}"),
        model("packed", f"http: {{uri: '{store}/packed.tar.gz'}}", good),
        model("claimed", "pvc: {claimName: models, path: deep/inside}"),
    )
    with Up(file, flags=[f"--volume=models={tmp_path / 'claim'}"]) as up:
        up.wait_for("Ready: ")
        client = connect("http", up)
        assert [add_one("http", client, name) for name in ("plain", "packed", "claimed")] == [1, 3, 4]


def test_weights_of_versions_change_without_a_fetch_and_without_a_load(file, store):
    packed = archive(**{f"{version}/model.onnx": graphs.add(version).SerializeToString() for version in (1, 2)})
    Files.content = {"/packed.tar.gz": packed}

    def split(weights):
        write(file, SERVER, model("split", f"http: {{uri: '{store}/packed.tar.gz'}}", f"versions: {{weights: {weights}}}\n"))

    split('{"1": 9, "2": 1}')
    with Up(file) as up:
        up.wait_for("Ready: ")
        client = connect("http", up)
        assert Counter(add_one("http", client, "split") for _ in range(20)) == {1: 18, 2: 2}
        Files.content = {}  # from here on nothing can be fetched
        with under_load(up, "split", {1, 2}):
            split('{"1": 1, "2": 3}')
            until(lambda: "1:1,2:3" in str(client.get_model_config("split")), "the new weights", process=up.process)
        before = {one["version"]: one["inference_count"] for one in statistics(client, "split")}
        assert before[1] > 18 and before[2] > 2, f"a version was loaded anew: {before}"
        assert Counter(add_one("http", client, "split") for _ in range(40)) == {1: 10, 2: 30}
        split('{"1": 0, "2": 0}')
        up.wait_for("spec.versions.weights: parameter 'version_weights' of model 'split' gives every version weight 0")
        assert Counter(add_one("http", client, "split") for _ in range(4)) == {1: 1, 2: 3}, "the last good state goes on"


def test_what_is_not_what_it_should_be_is_not_served(file, store):
    Files.content = {"/model.onnx": graphs.add(1).SerializeToString()}
    zeros = "0" * 64
    wrong = f"checksum: {{sha256: '{zeros}'}}\n"
    write(
        file,
        SERVER,
        adder("good", 1),
        model("tampered", f"http: {{uri: '{store}/model.onnx'}}", wrong),
        model("absent", f"http: {{uri: '{store}/nowhere.onnx'}}"),
    )
    with Up(file) as up:
        up.wait_for("good: ready")
        for words in ("tampered: failed, ChecksumMismatch", "absent: failed, SourceNotFound"):
            until(lambda words=words: words in up.said(), words, process=up.process)
        said = up.said()
        assert zeros in said and "404" in said
        client = connect("http", up)
        assert add_one("http", client, "good") == 1 and not is_ready(client, "tampered")
