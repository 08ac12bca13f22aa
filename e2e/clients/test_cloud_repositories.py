"""Model repositories on real object stores: what is loaded from there serves, what is fetched is checked, and nothing is left behind."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import graphs
import make
import pytest
from certificates import Authority
from object_stores import BUCKET, S3, Azure, Google, Proxy
from tritonclient.utils import InferenceServerException

from serving import Server, free_ports, scaled, until
from talking import PROTOCOLS, add_one, connect, is_ready
from test_namespacing import AMBIGUOUS, repositories  # noqa: F401 - a fixture

EXPLICIT = ("--model-control-mode=explicit",)
POLL = ("--model-control-mode=poll", "--repository-poll-secs=1")


@pytest.fixture(scope="module")
def s3():
    with S3() as store:
        yield store


@pytest.fixture
def repository(s3, tmp_path, request):
    """The path of a repository of the test alone, with a model `add` of three versions."""
    path = f"of/{request.node.name.split('[')[0]}"
    make.versions(tmp_path / "made", name="add")
    s3.put_folder(tmp_path / "made", path)
    return path


def serve(store, url, mount, *flags, **options):
    """A server that keeps what it fetches in the folder `mount`."""
    env = {**store.env(), store.MOUNT: str(mount), **options.pop("env", {})}
    return Server(url, *flags, env=env, **options)


def kept(mount):
    """Files of models below the folder, without the names of the folders that the server makes. Some may go meanwhile."""
    below = [Path(folder, file).relative_to(mount).parts for folder, _, files in os.walk(mount) for file in files]
    return sorted("/".join(parts[3:]) for parts in below if parts[1:2] == ("files",))


def add(numbers=1):
    """The bytes of a model that adds a number."""
    return graphs.add(numbers).SerializeToString()


@pytest.mark.parametrize("kind", [S3, Google, Azure])
def test_models_are_served_from_every_store(kind, tmp_path):
    if why := kind.is_missing():
        pytest.skip(why)
    mount = tmp_path / "mount"
    make.versions(tmp_path / "made", name="add")
    with kind() as store:
        store.put_folder(tmp_path / "made", "a/repo")
        with serve(store, store.url("a/repo"), mount, *EXPLICIT, "--load-model=*") as server:
            client = connect("http", server)
            assert add_one("http", client, "add") == 3
            # only the version that the policy picks
            assert kept(mount) == ["3/model.onnx", "config.pbtxt"]

            store.put("a/repo/add/4/model.onnx", add(4))
            client.load_model("add")
            assert add_one("http", client, "add") == 4
            store.delete("a/repo/add/4/model.onnx")
            client.load_model("add")
            assert add_one("http", client, "add") == 3

            make.versions(tmp_path / "more", name="more", numbers=(7,))
            store.put_folder(tmp_path / "more", "a/repo")
            until(lambda: "more" in {entry["name"] for entry in client.get_model_repository_index()}, "more in the index")
            client.load_model("more")
            assert add_one("grpc", connect("grpc", server), "more") == 7
            with pytest.raises(InferenceServerException, match="failed to load 'none', failed to poll from model repository"):
                client.load_model("none")

            client.unload_model("add")
            until(lambda: kept(mount) == ["7/model.onnx", "config.pbtxt"], "what was fetched of add to go")
        assert os.listdir(mount) == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_bucket_and_a_folder_are_namespaces_of_their_own(s3, repositories, tmp_path, protocol):  # noqa: F811
    bucket, folder = f"namespaces/{protocol}", repositories[1]
    s3.put_folder(repositories[0], bucket)
    with serve(s3, [s3.url(bucket), folder], tmp_path / "mount", "--model-namespacing=true", *EXPLICIT, "--load-model=*") as server:
        client = connect(protocol, server)
        assert [add_one(protocol, client, f"ensemble{number}") for number in (1, 2)] == [1, 2], "each its own `dup`"
        with pytest.raises(InferenceServerException) as caught:
            add_one(protocol, client, "dup")
        assert caught.value.message() == AMBIGUOUS
        _, _, page = server.request("GET", "/metrics", port=server.metrics)
        for number, namespace in enumerate((s3.url(bucket), folder), 1):
            line = f'nv_inference_request_success{{model="ensemble{number}",namespace="{namespace}",version="1"}} 1'
            assert line in page.decode().splitlines()
        # a load goes to both
        s3.put(f"{bucket}/dup/2/model.onnx", add(5))
        client.load_model("dup")
        assert [add_one(protocol, client, f"ensemble{number}") for number in (1, 2)] == [5, 2]


def test_polling_follows_a_bucket_and_reloads_for_nothing_else(s3, repository, tmp_path):
    with serve(s3, s3.url(repository), tmp_path / "mount", *POLL) as server:
        client = connect("http", server)
        assert add_one("http", client, "add") == 3
        # the same once more, and a look at it
        s3.put(f"{repository}/add/3/model.onnx", add(3))
        s3.put(f"{repository}/other/config.pbtxt", (tmp_path / "made/add/config.pbtxt").read_bytes())
        s3.put(f"{repository}/other/1/model.onnx", add(9))
        until(lambda: is_ready(client, "other"), "other to come")
        assert server.log().count("loading: add:3") == 1
        s3.put(f"{repository}/add/5/model.onnx", add(5))
        until(lambda: is_ready(client, "add", "5") and add_one("http", client, "add") == 5, "version 5")
        for file in ("config.pbtxt", "1/model.onnx"):
            s3.delete(f"{repository}/other/{file}")
        until(lambda: not is_ready(client, "other"), "other to go")
        # a file that is half there takes nothing down
        s3.put(f"{repository}/add/5/model.onnx", add(5)[:100])
        until(lambda: "failed to load 'add' version 5" in server.log(), "the half file to be tried")
        assert add_one("http", client, "add") == 5


def test_a_broken_connection_goes_on_where_it_was(s3, repository, tmp_path):
    s3.put(f"{repository}/big/config.pbtxt", b'backend: "identity"\ninput { name: "INPUT0" data_type: TYPE_FP32 dims: 1 }'
           b'output { name: "OUTPUT0" data_type: TYPE_FP32 dims: 1 }')  # fmt: skip
    s3.put(f"{repository}/big/1/weights", os.urandom(1 << 20))
    cuts = iter([200_000, 300_000, 0, 100])

    def disturb(request):
        return ("cut", next(cuts, 2 << 20)) if request.path.endswith("/weights") else None

    with Proxy(s3, disturb) as proxy, serve(s3, s3.url(repository, proxy.port), tmp_path / "mount", *EXPLICIT) as server:
        connect("http", server).load_model("big")
        ranges = [(int(range.split("=")[1].split("-")[0]) if range else 0) for _, path, range in proxy.seen if path.endswith("/weights")]
        assert ranges == [0, 200_000, 500_000, 500_000, 500_100]


def test_damage_is_seen_and_fetched_anew(s3, repository, tmp_path):
    damages = iter([("damage", 100)])

    def disturb(request):
        return next(damages, None) if request.path.endswith("/3/model.onnx") else None

    with Proxy(s3, disturb) as proxy, serve(s3, s3.url(repository, proxy.port), tmp_path / "mount") as server:
        assert add_one("http", connect("http", server), "add") == 3
        assert "arrived damaged: MD5 is" in server.log()

    with Proxy(s3, lambda request: ("damage", 100) if request.path.endswith("/3/model.onnx") else None) as proxy:
        with serve(s3, s3.url(repository, proxy.port), tmp_path / "mount", *EXPLICIT) as server:
            with pytest.raises(InferenceServerException, match="add/3/model.onnx' arrived damaged 3 times: MD5 is"):
                connect("http", server).load_model("add")


def test_a_store_that_goes_away_takes_nothing_along(s3, repository, tmp_path):
    is_down = False
    with Proxy(s3, lambda request: ("refuse", 503) if is_down else None) as proxy:
        with serve(s3, s3.url(repository, proxy.port), tmp_path / "mount", *EXPLICIT, "--load-model=add") as server:
            client = connect("http", server, network_timeout=scaled(60), connection_timeout=scaled(60))
            is_down = True
            for ask in (client.get_model_repository_index, lambda: client.load_model("add")):
                with pytest.raises(InferenceServerException, match=f"Unable to read model repository 's3://127.0.0.1:{proxy.port}/{BUCKET}"):
                    ask()
            assert add_one("http", client, "add") == 3
            assert server.status("/v2/health/ready") == 200
            is_down = False
            assert [entry["name"] for entry in client.get_model_repository_index()] == ["add"]
            client.load_model("add")


def test_credentials_come_from_a_file_and_are_looked_up_again(repository, tmp_path):
    with S3() as store:
        make.versions(tmp_path / "own", name="add")
        store.put_folder(tmp_path / "own", "repo")
        key_id, secret = store.ask_for_keys()
        file = tmp_path / "credentials.json"
        env = {"TRITON_CLOUD_CREDENTIAL_PATH": str(file)}

        def entry(secret):
            return {"secret_key": secret, "key_id": key_id, "region": "us-east-1", "session_token": "", "profile": ""}

        longest = f"s3://127.0.0.1:{store.port}/{BUCKET}"
        file.write_text(json.dumps({"s3": {"": entry("wrong"), longest: entry("wrong, too")}}))
        mount = tmp_path / "mount"
        with serve(store, store.url("repo"), mount, *EXPLICIT, env=env) as server:
            client = connect("http", server)
            with pytest.raises(InferenceServerException) as refused:
                client.load_model("add")
            text = str(refused.value)
            assert "access denied: SignatureDoesNotMatch" in text, text
            assert f'region us-east-1, credentials from the entry "{longest}" of \'{file}\' (TRITON_CLOUD_CREDENTIAL_PATH)' in text, text
            assert "wrong" not in text and "wrong" not in server.log()
            file.write_text(json.dumps({"s3": {"": entry("wrong"), longest: entry(secret)}}))
            client.load_model("add")
            assert add_one("http", client, "add") == 3
        file.unlink()
        with serve(store, store.url("repo"), mount, env=env, wait=None, expect_exit=1) as server:
            assert server.process.wait(scaled(20)) == 1
            assert f"failed to open text file for read {file}: No such file or directory" in server.log(), server.log()
        for content, text in [
            ("{", "is no JSON at line 1 column 1"),
            ('{"s3": {"": {"secret_key": 1}}}', "is not as the user guide describes it at line 1"),
            ('{"s3": {"s3://elsewhere": {}}}', f"Cannot match credential for path {store.url('repo')}"),
        ]:
            file.write_text(content)
            with serve(store, store.url("repo"), mount, env=env, wait=None, expect_exit=1) as server:
                assert server.process.wait(scaled(20)) == 1
                assert text in server.log(), server.log()


def test_a_repository_that_cannot_be_read_ends_the_start_soon(s3, tmp_path):
    (nobody,) = free_ports(1)
    silent = Proxy(s3, lambda request: time.sleep(60))
    with silent:
        for url, text in [
            (f"s3://127.0.0.1:{s3.port}/no-such-bucket/x", f"bucket 'no-such-bucket' does not exist (endpoint http://127.0.0.1:{s3.port}, region"),
            (f"s3://127.0.0.1:{nobody}/{BUCKET}", "Connection refused"),
            (s3.url("x", silent.port), "nothing came for 8s"),
        ]:
            begin = time.monotonic()
            with serve(s3, url, tmp_path / "mount", wait=None, expect_exit=1) as server:
                assert server.process.wait(scaled(30)) == 1
                assert text in server.log(), server.log()
                sentence = "Unable to create S3 filesystem client. Check account credentials. Unable to read model repository"
                assert f"creating server: Internal - {sentence} '{url}'" in server.log(), server.log()
            assert time.monotonic() - begin < scaled(12), url
    with serve(s3, s3.url("x") + "/../y", tmp_path / "mount", wait=None, expect_exit=1) as server:
        assert server.process.wait(scaled(20)) == 1
        assert "has the part '..' in its path" in server.log()


def test_keys_that_are_no_files_stay_where_they_are(s3, repository, tmp_path):
    config = (tmp_path / "made/add/config.pbtxt").read_bytes()
    for model, key in [("dots", "1/../../../../escaped"), ("empty", "1//model.onnx"), ("long", f"1/{'x' * 300}"), ("both", "1/model.onnx/more")]:
        s3.put(f"{repository}/{model}/config.pbtxt", config)
        s3.put(f"{repository}/{model}/1/model.onnx", add(1))
        s3.put(f"{repository}/{model}/{key}", b"junk")
    s3.put(f"{repository}/marked/", b"")
    s3.put(f"{repository}/marked/1/", b"")
    s3.put(f"{repository}/marked/config.pbtxt", config)
    s3.put(f"{repository}/marked/1/model.onnx", add(1))
    with serve(s3, s3.url(repository), tmp_path / "mount", *EXPLICIT) as server:
        client = connect("http", server)
        names = {entry["name"] for entry in client.get_model_repository_index()}
        assert names == {"add", "both", "dots", "empty", "long", "marked"}
        for model, text in [("dots", "escaped', which is"), ("empty", "1//model.onnx'"), ("long", "300 bytes"), ("both", "has others below it")]:
            with pytest.raises(InferenceServerException, match=f"has the object '{repository}/{model}/.*{text}.*rename or remove it"):
                client.load_model(model)
        for model in ("add", "marked"):
            client.load_model(model)
        assert kept(tmp_path / "mount") == ["1/model.onnx", "3/model.onnx", "config.pbtxt", "config.pbtxt"]
    assert not list(tmp_path.rglob("escaped"))


def test_a_server_that_is_fetching_ends_when_it_is_told(s3, repository, tmp_path):
    is_asked = threading.Event()

    def disturb(request):
        if request.path.endswith("/model.onnx"):
            is_asked.set()
            time.sleep(60)

    mount = tmp_path / "mount"
    with Proxy(s3, disturb) as proxy, serve(s3, s3.url(repository, proxy.port), mount, wait="live") as server:
        assert is_asked.wait(scaled(20))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(scaled(10)) == 0
        assert "panic" not in server.log(), server.log()
    assert os.listdir(mount) == []


def test_models_come_over_tls(tmp_path):
    authority = Authority(tmp_path / "authority")
    mount = tmp_path / "mount"
    make.versions(tmp_path / "made", name="add")
    with S3(authority.issue(), authority.root) as store:
        store.put_folder(tmp_path / "made", "repo")
        with serve(store, store.url("repo"), mount, env={"AWS_CA_BUNDLE": str(authority.root)}) as server:
            assert add_one("http", connect("http", server), "add") == 3
        for bundle, text in [("", "invalid peer certificate: UnknownIssuer"), (str(tmp_path / "made"), "(AWS_CA_BUNDLE) cannot be used")]:
            with serve(store, store.url("repo"), mount, env={"AWS_CA_BUNDLE": bundle}, wait=None, expect_exit=1) as server:
                assert server.process.wait(scaled(20)) == 1
                assert text in server.log(), server.log()


def test_what_a_killed_server_left_is_removed_by_the_next(s3, repository, tmp_path):
    mount = tmp_path / "mount"
    with serve(s3, s3.url(repository), mount, expect_exit=None) as server:
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        assert kept(mount) == ["3/model.onnx", "config.pbtxt"]
    with serve(s3, s3.url(repository), mount), serve(s3, s3.url(repository), mount) as other:
        assert add_one("http", connect("http", other), "add") == 3
        assert len(kept(mount)) == 4  # two servers, each with its own
    assert os.listdir(mount) == []
