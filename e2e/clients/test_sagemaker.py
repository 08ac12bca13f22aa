"""SageMaker's protocol, as its endpoints ask: with one model, and with models that come and go."""

import json
import os

import make
import pytest

from serving import Server, free_ports, until

IO = 'input { name: "INPUT0" data_type: TYPE_INT32 dims: 1 } output { name: "OUTPUT0" data_type: TYPE_INT32 dims: 1 }'
CONFIG = f'backend: "identity" {IO}'
BINARY = "application/vnd.sagemaker-triton.binary+json"
ASK = {"inputs": [{"name": "INPUT0", "datatype": "INT32", "shape": [1], "data": [7]}]}
ANSWER = {"outputs": [{"name": "OUTPUT0", "datatype": "INT32", "shape": [1], "data": [7]}]}


def answered(body):
    """A response without the parameters that this model adds to each."""
    return {key: value for key, value in json.loads(body).items() if key != "parameters"}


class Endpoint(Server):
    """A server that SageMaker asks."""

    def __init__(self, repository, *flags, env=None, **options):
        (self.sagemaker,) = free_ports(1)
        flags = ["--allow-sagemaker=true", f"--sagemaker-port={self.sagemaker}", *flags]
        super().__init__(repository, *flags, env=env, **options)

    def ask(self, method, path, body=None, **headers):
        """Status and body."""
        body = json.dumps(body) if isinstance(body, dict) else body
        status, _, answer = self.request(method, path, body, {key.replace("_", "-"): it for key, it in headers.items()}, self.sagemaker)
        return status, answer


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    make.write(folder, "m", CONFIG, {1: None})
    with Endpoint(folder, env={"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "m"}) as server:
        yield server


def test_one_model_answers_invocations(single):
    assert single.ask("GET", "/ping") == (200, b"")
    status, answer = single.ask("POST", "/invocations", ASK, Content_Type="application/json")
    assert status == 200 and answered(answer) == {"model_name": "m", "model_version": "1", **ANSWER}


def test_the_type_of_the_content_says_where_the_json_ends(single):
    ask = json.dumps({"inputs": [{"name": "INPUT0", "datatype": "INT32", "shape": [1], "parameters": {"binary_data_size": 4}}],
                      "outputs": [{"name": "OUTPUT0", "parameters": {"binary_data": True}}]}).encode()
    headers = {"Content-Type": f"{BINARY};json-header-size={len(ask)}"}
    status, headers, answer = single.request("POST", "/invocations", ask + b"\x07\0\0\0", headers, single.sagemaker)
    kind, _, length = headers["Content-Type"].partition(";json-header-size=")
    assert (status, kind, answer[int(length):]) == (200, BINARY, b"\x07\0\0\0")
    assert "Inference-Header-Content-Length" not in headers


def test_junk_is_an_error_of_the_caller(single):
    for method, path, status in (
        ("POST", "/ping", 405),
        ("GET", "/invocations", 405),
        ("GET", "/", 400),
        ("GET", "/v2/health/ready", 400),
        ("GET", "/models/a/b", 400),
        ("PUT", "/models/a", 400),
        ("DELETE", "/models/a", 404),
        ("GET", "/models/a", 404),
        ("POST", "/models/a/invoke", 404),
    ):
        assert single.ask(method, path)[0] == status, (method, path)
    for body in ("", "junk", "{}", "[" * 10_000, b"\xff\0"):
        assert single.ask("POST", "/invocations", body)[0] in (400, 500), body
    for size in ("x", "-4", "1000", "99999999999999999999", ""):
        assert single.ask("POST", "/invocations", ASK, Content_Type=f"{BINARY};json-header-size={size}")[0] == 400, size
    assert single.ask("POST", "/models", {"model_name": "a", "url": "/nowhere"}) == (
        400, b'{"error":"repository registration is not allowed if model control mode is not EXPLICIT"}')
    assert single.ask("GET", "/ping")[0] == 200


def test_without_a_model_of_that_name_invocations_are_not_found(tmp_path):
    make.write(tmp_path, "m", CONFIG, {1: None})
    with Endpoint(tmp_path, "--allow-http=true") as server:
        status, answer = server.ask("POST", "/invocations", ASK)
    assert status == 404 and b"unspecified_SAGEMAKER_TRITON_DEFAULT_MODEL_NAME" in answer


def test_invocations_may_generate(tmp_path):
    make.write(tmp_path, "m", CONFIG, {1: None})
    env = {"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "m", "SAGEMAKER_TRITON_INFERENCE_TYPE": "generate", "SAGEMAKER_TRITON_PING_MODE": "live"}
    with Endpoint(tmp_path, env=env) as server:
        status, answer = server.ask("POST", "/invocations", {"INPUT0": 7})
        assert (status, json.loads(answer)["OUTPUT0"]) == (200, 7)
        assert server.ask("GET", "/ping") == (200, b"")


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("SAGEMAKER_TRITON_INFERENCE_TYPE", "expected one of infer, generate, generate_stream"),
        ("SAGEMAKER_TRITON_PING_MODE", "expected one of ready, live"),
    ],
)
def test_what_the_environment_may_not_say_ends_the_start(tmp_path, variable, text):
    make.write(tmp_path, "m", CONFIG, {1: None})
    with Endpoint(tmp_path, env={variable: "x"}, wait=None, expect_exit=1) as server:
        server.process.wait(60)
    assert f"failed to start Sagemaker service: Invalid argument - {variable} is 'x', {text}" in server.log()


def test_models_come_and_go(tmp_path):
    unpacked = tmp_path / "opt"
    for hash_ in ("one", "two"):
        make.write(unpacked / hash_, "resnet", f'name: "resnet" {CONFIG}', {1: None})
    (tmp_path / "empty").mkdir()
    with Endpoint(tmp_path / "empty", "--model-control-mode=explicit") as server:
        assert server.ask("GET", "/models") == (200, b'{"models":[]}')
        urls = {name: str(unpacked / name) for name in ("one", "two")}
        for name, url in urls.items():
            assert server.ask("POST", "/models", {"model_name": name, "url": url}) == (200, b"")
        again = server.ask("POST", "/models", {"model_name": "three", "url": urls["one"]})
        assert again == (409, f'{{"error":"model repository \'{urls["one"]}\' has already been registered"}}'.encode())
        assert server.ask("POST", "/models", {"model_name": "one", "url": str(tmp_path)})[0] == 409
        listed = [{"modelName": name, "modelUrl": url} for name, url in urls.items()]
        assert json.loads(server.ask("GET", "/models")[1]) == {"models": listed}
        assert json.loads(server.ask("GET", "/models/one")[1]) == listed[0]
        for name in urls:
            status, answer = server.ask("POST", f"/models/{name}/invoke", ASK)
            assert status == 200 and answered(answer) == {"model_name": name, "model_version": "1", **ANSWER}
        named = server.ask("POST", "/models/one/invoke", ASK, X_Amzn_SageMaker_Target_Model="two", X_Amzn_SageMaker_Custom_Attributes="a=b")
        assert json.loads(named[1])["model_name"] == "two"
        named = server.ask("POST", "/models/one/invoke", ASK, X_Amzn_SageMaker_Target_Model="s3/two.tar.gz")
        assert json.loads(named[1])["model_name"] == "one", "a name under which nothing was loaded"
        assert server.ask("POST", "/models/one/invoke", "junk")[0] == 400
        assert server.ask("DELETE", "/models/one") == (200, b"")
        assert server.ask("DELETE", "/models/one") == (404, b"")
        assert server.ask("POST", "/models/one/invoke", ASK) == (404, b"")
        assert server.ask("POST", "/models", {"model_name": "one", "url": urls["one"]}) == (200, b"")
        assert server.ask("POST", "/models/one/invoke", ASK)[0] == 200


def test_what_is_unpacked_may_be_the_model_itself(tmp_path):
    make.write(tmp_path / "opt" / "one", "model", CONFIG, {1: None})
    (tmp_path / "empty").mkdir()
    with Endpoint(tmp_path / "empty", "--model-control-mode=explicit") as server:
        assert server.ask("POST", "/models", {"model_name": "one", "url": f"{tmp_path}/opt/one/model"}) == (200, b"")
        shown = {"modelName": "one", "modelUrl": f"{tmp_path}/opt/one"}
        assert json.loads(server.ask("GET", "/models/one")[1]) == shown
        assert json.loads(server.ask("GET", "/models")[1]) == {"models": [shown]}
        assert server.ask("POST", "/models/one/invoke", ASK)[0] == 200
        # one that is not ready is not listed
        assert server.request("POST", "/v2/repository/models/one/unload", "{}")[0] == 200
        until(lambda: server.ask("GET", "/models") == (200, b'{"models":[]}'), "the list without it")
        assert server.ask("DELETE", "/models/one") == (200, b"")


ENSEMBLE = """platform: "ensemble"
ensemble_scheduling { step { model_name: "part" model_version: -1 input_map { key: "INPUT0" value: "INPUT0" } output_map { key: "OUTPUT0" value: "OUTPUT0" } } }
"""


def test_an_ensemble_is_served_with_its_parts(tmp_path):
    for archive in ("one", "two"):
        make.write(tmp_path / archive, "part", f'name: "part" {CONFIG}', {1: None})
        make.write(tmp_path / archive, "whole", f'name: "whole" {ENSEMBLE} {IO}', {1: None})
    (tmp_path / "empty").mkdir()
    with Endpoint(tmp_path / "empty", "--model-control-mode=explicit") as server:
        for archive in ("one", "two"):  # what is unloaded leaves the names of its parts to others
            assert server.ask("POST", "/models", {"model_name": archive, "url": str(tmp_path / archive)}) == (200, b"")
            listed = {"models": [{"modelName": archive, "modelUrl": str(tmp_path / archive)}]}
            assert json.loads(server.ask("GET", "/models")[1]) == listed
            status, answer = server.ask("POST", f"/models/{archive}/invoke", ASK)
            answer = answered(answer)
            assert status == 200 and (answer["model_name"], answer["outputs"]) == (archive, ANSWER["outputs"])
            taken = server.ask("POST", "/models", {"model_name": "three", "url": str(tmp_path / ("two" if archive == "one" else "one"))})
            assert taken[0] == 409 and b"conflicting mapping for 'part'" in taken[1]
            assert server.ask("DELETE", f"/models/{archive}") == (200, b"")
            states = {it["name"]: it.get("state") for it in json.loads(server.request("POST", "/v2/repository/index", "{}")[2])}
            assert "READY" not in states.values(), states


def test_what_cannot_be_loaded_leaves_nothing(tmp_path):
    make.write(tmp_path / "bad", "m", 'backend: "identity" max_batch_size: -1', {1: None})
    (tmp_path / "empty").mkdir()
    with Endpoint(tmp_path / "empty", "--model-control-mode=explicit") as server:
        for body in ("", "junk", "{}", {"model_name": "a"}, {"model_name": 3, "url": []}, {"model_name": "a", "url": ""}, {"model_name": "../a", "url": str(tmp_path / "bad")}):
            assert server.ask("POST", "/models", body)[0] in (400, 500), body
        assert server.ask("POST", "/models", {"model_name": "a", "url": "/nowhere"}) == (
            400, b'{"error":"failed to register \'/nowhere\', repository not found"}')
        for url in (tmp_path / "empty", tmp_path / "bad"):
            status, answer = server.ask("POST", "/models", {"model_name": "a", "url": str(url)})
            assert status == 400 and "error" in json.loads(answer)
        assert server.ask("GET", "/models") == (200, b'{"models":[]}')


def test_other_endpoints_keep_to_the_ports_that_are_free(tmp_path):
    make.write(tmp_path, "m", CONFIG, {1: None})
    with Endpoint(tmp_path, "--sagemaker-safe-port-range=1-2", wait=None, expect_exit=1) as server:
        server.process.wait(60)
    assert f"The server cannot listen to HTTP requests at port {server.http}, allowed port range is [1, 2]" in server.log()


def test_it_is_off_unless_it_is_asked_for(tmp_path):
    make.write(tmp_path, "m", CONFIG, {1: None})
    (port,) = free_ports(1)
    with Server(tmp_path, f"--sagemaker-port={port}", env={"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "m"}) as server:
        with pytest.raises(OSError):
            server.request("GET", "/ping", port=port)
        assert "Sagemaker" not in server.log()


def test_nothing_of_models_stays_when_it_ends(tmp_path):
    make.write(tmp_path / "opt", "m", CONFIG, {1: None})
    (tmp_path / "empty").mkdir()
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with Endpoint(tmp_path / "empty", "--model-control-mode=explicit", env={"TMPDIR": str(temporary)}) as server:
        assert server.ask("POST", "/models", {"model_name": "a", "url": str(tmp_path / "opt")})[0] == 200
        until(lambda: os.listdir(temporary), "the folder of links")
    assert [it for it in os.listdir(temporary) if "sagemaker" in it] == []
