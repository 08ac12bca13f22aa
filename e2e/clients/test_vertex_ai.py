"""Vertex AI's protocol, as its endpoints ask."""

import json

import make
import pytest

from serving import Server, free_ports

IO = 'input { name: "INPUT0" data_type: TYPE_INT32 dims: 1 } output { name: "OUTPUT0" data_type: TYPE_INT32 dims: 1 }'
CONFIG = f'backend: "identity" {IO}'
BINARY = "application/vnd.vertex-ai-triton.binary+json"
ASK = {"inputs": [{"name": "INPUT0", "datatype": "INT32", "shape": [1], "data": [7]}]}
ANSWER = {"outputs": [{"name": "OUTPUT0", "datatype": "INT32", "shape": [1], "data": [7]}]}
ROUTES = {"AIP_PREDICT_ROUTE": "/v1/endpoints/1:predict", "AIP_HEALTH_ROUTE": "/health"}
PREDICT = ROUTES["AIP_PREDICT_ROUTE"]


def answered(body):
    """A response without the parameters that this model adds to each."""
    return {key: value for key, value in json.loads(body).items() if key != "parameters"}


class Endpoint(Server):
    """A server that Vertex AI asks."""

    def __init__(self, repository, *flags, env=None, **options):
        (self.vertex,) = free_ports(1)
        env = {**ROUTES, "AIP_MODE": "PREDICTION", "AIP_HTTP_PORT": str(self.vertex)} if env is None else env
        # a server of Vertex AI has no other service by itself
        super().__init__(repository, "--allow-http=true", "--allow-grpc=true", *flags, env=env, **options)

    def ask(self, method, path, body=None, redirect=None, headers=None):
        """Status and body."""
        headers = {**({"X-Vertex-Ai-Triton-Redirect": redirect} if redirect is not None else {}), **(headers or {})}
        status, _, answer = self.request(method, path, json.dumps(body) if isinstance(body, dict) else body, headers, self.vertex)
        return status, answer


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name in ("m", "n"):
        make.write(folder, name, CONFIG, {1: None})
    return folder


@pytest.fixture(scope="module")
def server(models):
    with Endpoint(models, "--vertex-ai-default-model=m", "--http-restricted-api=model-repository:key=secret") as server:
        yield server


def test_predictions_and_health_are_where_the_environment_says(server):
    assert server.ask("GET", "/health") == (200, b"")
    status, answer = server.ask("POST", PREDICT, ASK)
    assert status == 200 and answered(answer) == {"model_name": "m", "model_version": "1", **ANSWER}


def test_the_type_of_the_content_says_where_the_json_ends(server):
    ask = json.dumps({"inputs": [{"name": "INPUT0", "datatype": "INT32", "shape": [1], "parameters": {"binary_data_size": 4}}],
                      "outputs": [{"name": "OUTPUT0", "parameters": {"binary_data": True}}]}).encode()
    for redirect in ({}, {"X-Vertex-Ai-Triton-Redirect": "v2/models/n/infer"}):
        headers = {"Content-Type": f"{BINARY};json-header-size={len(ask)}", **redirect}
        status, headers, answer = server.request("POST", PREDICT, ask + b"\x07\0\0\0", headers, server.vertex)
        assert status == 200 and headers["Content-Type"] == "application/octet-stream"
        assert answer[int(headers["Inference-Header-Content-Length"]):] == b"\x07\0\0\0"


def test_the_header_leads_to_no_settings_of_logs_and_traces(server):
    for path in ("v2/logging", "v2/trace/setting", "v2/models/m/trace/setting", ""):
        for body in ("", {"log_info": False}, {"trace_rate": "1"}):
            assert server.ask("POST", PREDICT, body, path) == (400, b""), (path, body)
    status, _, answer = server.request("GET", "/v2/logging")
    assert status == 200 and json.loads(answer)["log_info"] is True


def test_a_header_leads_to_every_other_call(server):
    assert json.loads(server.ask("POST", PREDICT, ASK, "v2/models/n/infer")[1])["model_name"] == "n"
    assert json.loads(server.ask("POST", PREDICT, "", "v2/models/n")[1])["name"] == "n"
    assert server.ask("POST", PREDICT, "", "v2/health/ready") == (200, b"")
    status, page = server.ask("POST", PREDICT, "", "metrics")
    assert status == 200 and b"# TYPE nv_inference_count counter\n" in page
    assert server.ask("POST", PREDICT, "", "v2/models/none")[0] in (400, 404)


def test_what_is_restricted_stays_so(server):
    status, answer = server.ask("POST", PREDICT, "", "v2/repository/index")
    assert status == 403 and b"This API is restricted" in answer
    assert server.ask("POST", PREDICT, "", "v2/repository/index", {"key": "secret"})[0] == 200


def test_junk_is_an_error_of_the_caller(server):
    for method, path, redirect, status in (
        ("POST", "/health", None, 405),
        ("GET", PREDICT, None, 405),
        ("GET", PREDICT, "v2/health/ready", 405),
        ("GET", "/", None, 400),
        ("GET", "/v2/health/ready", None, 400),
        ("POST", PREDICT + "/more", None, 400),
        ("POST", PREDICT, "junk", 400),
        ("POST", PREDICT, "/v2/health/ready", 400),
        ("POST", PREDICT, PREDICT[1:], 400),
    ):
        assert server.ask(method, path, "" if method == "POST" else None, redirect)[0] == status, (method, path, redirect)
    for body in ("", "junk", "{}", "[" * 10_000, b"\xff\0"):
        assert server.ask("POST", PREDICT, body)[0] in (400, 500), body
    for size in ("x", "-4", "1000", ""):
        assert server.ask("POST", PREDICT, ASK, headers={"Content-Type": f"{BINARY};json-header-size={size}"})[0] == 400, size
    assert server.ask("GET", "/health")[0] == 200


@pytest.mark.parametrize(
    ("env", "text"),
    [
        ({"AIP_HEALTH_ROUTE": "/h"}, "API_PREDICT_ROUTE is not defined for Vertex AI endpoint"),
        ({"AIP_PREDICT_ROUTE": "/p"}, "AIP_HEALTH_ROUTE is not defined for Vertex AI endpoint"),
        (ROUTES, "Expect the model repository contains only a single model if default model is not specified"),
    ],
)
def test_what_the_environment_lacks_ends_the_start(models, env, text):
    with Endpoint(models, "--allow-vertex-ai=true", "--vertex-ai-port=0", env=env, wait=None, expect_exit=1) as server:
        server.process.wait(60)
    assert f"failed to start Vertex AI service: Invalid argument - {text}" in server.log()


def test_the_only_model_answers_where_none_is_named(tmp_path):
    make.write(tmp_path, "only", CONFIG, {1: None})
    with Endpoint(tmp_path) as server:
        assert json.loads(server.ask("POST", PREDICT, ASK)[1])["model_name"] == "only"


def test_the_only_model_is_the_one_that_is_loaded(models):
    with Endpoint(models, "--model-control-mode=explicit", "--load-model=n") as server:
        assert json.loads(server.ask("POST", PREDICT, ASK)[1])["model_name"] == "n"


def test_a_default_model_that_is_not_loaded_ends_the_start(models):
    for flags in (["--vertex-ai-default-model=x"], ["--model-control-mode=explicit", "--load-model=n", "--vertex-ai-default-model=m"]):
        with Endpoint(models, *flags, wait=None, expect_exit=1) as server:
            server.process.wait(60)
        name = flags[-1].partition("=")[2]
        assert f"failed to start Vertex AI service: Invalid argument - Expect the default model '{name}' is loaded" in server.log()
