"""Models from a hub and from a registry, brought up by `triton-operator up`. The hub is ours; the registry is crane's. The clients of the real ones
say whether they are like them."""

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import graphs
import pytest

from bringing_up import Up, write
from hubs import Gate, Hub, Registry, crane, crane_program, tar_of
from serving import scaled, until
from talking import add_one, connect

SERVER = "apiVersion: triton-operator.dev/v1alpha1\nkind: TritonServer\nmetadata: {name: test}\nspec: {server: {exitTimeout: 10s, drainDelay: 0s}}\n"

needs_go = pytest.mark.skipif(not shutil.which("go"), reason="the registry is built from its Go module: go is missing")


def model(name, source, more=""):
    """A TritonModel on the test server."""
    head = f"---\napiVersion: triton-operator.dev/v1alpha1\nkind: TritonModel\nmetadata: {{name: {name}}}\nspec:\n  serverRef: {{name: test}}\n"
    policy = "  loadPolicy: {retry: {limit: 0}}\n"
    return head + f"  format: onnx\n  source: {json.dumps(source)}\n" + policy + textwrap.indent(more, "  ")


def secret(name, **keys):
    return f"---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {json.dumps(keys)}\n"


def adder(number):
    return graphs.add(number).SerializeToString()


@pytest.fixture(scope="module")
def hub():
    with Hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def registry():
    with Registry() as registry:
        yield registry


@pytest.fixture
def file(tmp_path):
    return tmp_path / "all.yaml"


def test_the_hub_of_the_tests_is_one_to_its_own_client(hub, tmp_path):
    files = {"README.md": b"words", "onnx/model.onnx": b"w" * 5000, "config.json": b"{}", "a b/ü.txt": b"x"}
    commit = hub.commit("tests/shape", files, gated=True)
    script = f"""
import sys
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
hub = dict(endpoint={hub.endpoint!r}, cache_dir=sys.argv[1], token={hub.TOKEN!r})
api = HfApi(endpoint={hub.endpoint!r}, token={hub.TOKEN!r})
info = api.model_info("tests/shape", revision="main")
assert (info.sha, info.gated) == ({commit!r}, "auto"), info
listed = {{entry.path for entry in api.list_repo_tree("tests/shape", recursive=True) if hasattr(entry, "size")}}
assert listed == {set(files)!r}, listed
print(snapshot_download("tests/shape", allow_patterns=["onnx/*", "a b/*"], **hub))
for failure, ask in [
    (RepositoryNotFoundError, lambda: api.model_info("tests/absent")),
    (RevisionNotFoundError, lambda: api.model_info("tests/shape", revision="v9")),
    (GatedRepoError, lambda: snapshot_download("tests/shape", **{{**hub, "token": False, "cache_dir": sys.argv[1] + "/other"}})),
]:
    try:
        ask()
    except failure:
        continue
    raise SystemExit(f"no {{failure}}")
"""
    env = {"HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "cache"], capture_output=True, text=True, timeout=scaled(60), env=env)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip().splitlines()[-1])
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {"onnx/model.onnx": files["onnx/model.onnx"], "a b/ü.txt": b"x"}


def test_a_model_of_a_hub_is_served_and_another_commit_after_it(hub, file):
    first = hub.commit("tests/adder", {"README.md": b"words", ".gitattributes": b"*", "model.onnx": adder(1)})
    hub.cut = 100
    source = {"repo": "tests/adder", "endpoint": hub.endpoint}
    write(file, SERVER, model("plus", {"huggingFace": source}))
    with Up(file) as up:
        up.wait_for("Ready: ")
        client = connect("http", up)
        assert add_one("http", client, "plus") == 1
        assert ("GET", "bytes=100-", None) in hub.storage_asked, "what broke off goes on"
        second = hub.commit("tests/adder", {"onnx/model.onnx": adder(5), "other.onnx": b"not fetched"})
        assert first != second
        write(file, SERVER, model("plus", {"huggingFace": {**source, "revision": second, "include": ["onnx/*"]}}))
        until(lambda: add_one("http", client, "plus") == 5, "the second commit", process=up.process)


def test_a_gated_model_wants_a_token_which_no_other_server_sees(hub, file):
    hub.commit("tests/gated", {"1/model.onnx": adder(2), "config.pbtxt": b"max_batch_size: 4\n"}, gated=True)
    source = {"repo": "tests/gated", "endpoint": hub.endpoint}
    with_token = {**source, "secretRef": {"name": "hub-token"}}
    write(file, SERVER, model("plus", {"huggingFace": source}))
    with Up(file) as up:
        up.wait_for("'tests/gated' is gated: accept its terms")
        write(file, SERVER, secret("hub-token", token="hf_wrong"), model("plus", {"huggingFace": with_token}))
        up.wait_for("does not take the token in Secret 'hub-token'")
        before = len(hub.storage_asked)
        write(file, SERVER, secret("hub-token", token=hub.TOKEN), model("plus", {"huggingFace": with_token}))
        up.wait_for("Ready: ")
        assert add_one("http", connect("http", up), "plus") == 2
        assert {authorization for _, _, authorization in hub.storage_asked[before:]} == {None}
        assert hub.TOKEN not in up.said() and "hf_wrong" not in up.said()


def test_what_a_hub_does_not_have_is_told(hub, file):
    hub.commit("tests/other", {"model.bin": b"x"})
    of = lambda **more: {"huggingFace": {"repo": "tests/other", "endpoint": hub.endpoint, **more}}
    models = [model("a", of(revision="v9")), model("b", of(include=["*.onnx"])), model("c", of(repo="tests/absent"))]
    write(file, SERVER, *models)
    with Up(file) as up:
        for words in ["has no revision 'v9'", "no file that matches *.onnx", "no public repository 'tests/absent'"]:
            until(lambda: words in up.said(), words, process=up.process)


@needs_go
def test_the_models_folder_of_an_image_is_served(registry, file):
    system = {"bin/sh": b"#!", "models/1/model.onnx": adder(1), "models/2/model.onnx": adder(7), "etc/passwd": b"root"}
    registry.push_image("models/adder:v1", system, {"models/1/model.onnx": adder(3), "models/.wh.2": b""})
    source = {"oci": {"reference": f"{registry.address}/models/adder:v1", "plainHttp": True}}
    write(file, SERVER, model("plus", source, "versions: {policy: {all: {}}}\n"))
    with Up(file) as up:
        up.wait_for("Ready: ")
        client = connect("http", up)
        assert add_one("http", client, "plus") == 3
        assert client.get_model_metadata("plus")["versions"] == ["1"], "the second layer took version 2 away"
        # an index of images for several machines, by its digest
        registry.push_image("models/adder:v2", {"model.onnx": adder(4)})
        where = f"{registry.address}/models/adder"
        crane("index", "append", "--insecure", f"--manifest={where}:v2", f"--tag={where}:index", "--docker-empty-base=false")
        digest = crane("digest", "--insecure", f"{where}:index").strip()
        write(file, SERVER, model("plus", {"oci": {"reference": f"{where}@{digest}", "plainHttp": True}}))
        until(lambda: add_one("http", client, "plus") == 4, "the image of the index", process=up.process)


@needs_go
def test_a_model_pack_is_served(registry, file):
    at = lambda path: {"org.cncf.model.filepath": path}
    config = tar_of({"config.pbtxt": b"max_batch_size: 2\n"})
    layers = [
        ("application/vnd.cncf.model.weight.v1.raw", at("1/model.onnx"), adder(6)),
        ("application/vnd.cncf.model.weight.config.v1.tar", at("config.pbtxt"), config),
        ("application/vnd.cncf.model.doc.v1.raw", at("README.md"), b"words"),
    ]
    digest = registry.push_artifact("packs/adder", "v1", layers)
    write(file, SERVER, model("plus", {"oci": {"reference": f"{registry.address}/packs/adder@{digest}", "plainHttp": True}}))
    with Up(file) as up:
        up.wait_for("Ready: ")
        client = connect("http", up)
        assert add_one("http", client, "plus") == 6
        assert client.get_model_config("plus")["max_batch_size"] == 2


@needs_go
def test_what_oras_pushed_is_served_from_a_registry_that_wants_a_login(registry, file, tmp_path, monkeypatch):
    import oras.client

    folder = tmp_path / "pushed"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(adder(8))
    (folder / "labels.txt").write_text("a\n")
    monkeypatch.chdir(folder)
    oras.client.OrasClient(insecure=True).push(target=f"{registry.address}/oras/adder:v1", files=["model.onnx", "labels.txt"])
    with Gate(registry) as gate:
        reference = f"{gate.address}/oras/adder:v1"
        # crane, too, needs the login here, and is let in with it
        (tmp_path / "config.json").write_text(gate.login())
        assert crane("manifest", "--insecure", reference, env={"DOCKER_CONFIG": str(tmp_path)})
        nobody = subprocess.run([crane_program(), "manifest", "--insecure", reference], env={"DOCKER_CONFIG": "/nowhere"}, capture_output=True, timeout=scaled(60))
        assert nobody.returncode != 0
        source = {"reference": reference, "plainHttp": True}
        write(file, SERVER, model("plus", {"oci": source}))
        with Up(file) as up:
            up.wait_for("name a Secret of type kubernetes.io/dockerconfigjson")
            login = {".dockerconfigjson": gate.login()}
            write(file, SERVER, secret("login", **login), model("plus", {"oci": {**source, "secretRef": {"name": "login"}}}))
            up.wait_for("Ready: ")
            assert add_one("http", connect("http", up), "plus") == 8
            assert gate.tokens >= 2 and gate.PASSWORD not in up.said()


@needs_go
def test_what_a_registry_does_not_have_is_told(registry, file):
    registry.push_image("systems/only:v1", {"bin/sh": b"#!", "etc/passwd": b"root"})
    of = lambda reference: {"oci": {"reference": f"{registry.address}/{reference}", "plainHttp": True}}
    encrypted = {"oci": {"reference": f"{registry.address}/models/adder:v1"}}
    write(file, SERVER, model("a", of("absent/net:v1")), model("b", of("systems/only:v1")), model("c", encrypted))
    with Up(file) as up:
        for words in ["check the name, and the tag or digest", "put the model's files into /models", f"https://{registry.address}/v2/models/adder"]:
            until(lambda: words in up.said(), words, process=up.process)
