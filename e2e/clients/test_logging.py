"""Log settings that change while the server runs, over both protocols, and what becomes of lines."""

import json
import re

import grpc
import make
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving import Server, until

SHOWN = {"log_file": "", "log_info": True, "log_warning": True, "log_error": True, "log_verbose_level": 0, "log_format": "default"}
DEFAULT = re.compile(r"^[IWE]\d{4} \d\d:\d\d:\d\d\.\d{6} \d+ \S+:\d+\] ")
ISO8601 = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ [IWE] \d+ \S+:\d+\] ")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


def explicit(folder, *flags):
    return Server(folder, "--model-control-mode=explicit", *flags)


def failed_load(server):
    """Has a line logged, and returns what the log has got since."""
    before = len(server.log())
    assert server.request("POST", "/v2/repository/models/nothing/load", "{}")[0] >= 400
    return server.log()[before:]


def test_settings_are_shown_and_changed_over_both_protocols(folder):
    with explicit(folder) as server:
        with httpclient.InferenceServerClient(server.url) as client, grpcclient.InferenceServerClient(server.grpc_url) as grpc_client:
            assert client.get_log_settings() == SHOWN
            assert client.update_log_settings({"log_info": False, "log_verbose_level": 1}) == {**SHOWN, "log_info": False, "log_verbose_level": 1}
            settings = grpc_client.update_log_settings({"log_format": "ISO8601", "log_info": True, "log_verbose_level": 0}).settings
            found = {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in settings.items()}
            assert found == {**SHOWN, "log_format": "ISO8601"}


def test_a_change_counts_from_the_next_line_on(folder):
    with explicit(folder) as server:
        change = lambda **settings: server.request("POST", "/v2/logging", json.dumps(settings))[0]  # noqa: E731
        assert all(DEFAULT.match(line) for line in failed_load(server).splitlines() if "] " in line)
        assert "nothing" in failed_load(server)
        assert change(log_format="ISO8601") == 200
        lines = [line for line in failed_load(server).splitlines() if "] " in line]
        assert lines and all(ISO8601.match(line) for line in lines), lines
        assert change(log_error=False, log_warning=False, log_info=False) == 200
        assert failed_load(server) == ""
        # a level that was off when the server began
        assert change(log_verbose_level=2, log_error=True, log_warning=True, log_info=True, log_format="default") == 200
        assert failed_load(server) != ""
        assert change(log_verbose_level=0) == 200


def test_requests_are_told_of_where_the_level_is_verbose(folder):
    with explicit(folder, "--log-file=") as server:
        assert server.request("GET", "/v2")[0] == 200
        assert "HTTP request" not in server.log()
        assert server.request("POST", "/v2/logging", '{"log_verbose_level":1}')[0] == 200
        assert server.request("GET", "/v2/models/nothing")[0] >= 400
        with grpcclient.InferenceServerClient(server.grpc_url) as client:
            assert client.is_server_live()
        until(lambda: "HTTP request: GET /v2/models/nothing" in server.log(), "the line of HTTP", 30)
        until(lambda: "gRPC request: /inference.GRPCInferenceService/ServerLive" in server.log(), "the line of gRPC", 30)


def test_instances_and_requests_that_cannot_be_read_are_told_of(tmp_path):
    config = 'backend: "identity"\ninput { name: "INPUT0" data_type: TYPE_FP32 dims: [1] }\noutput { name: "OUTPUT0" data_type: TYPE_FP32 dims: [1] }\n'
    make.write(tmp_path, "one", config, {1: None})
    make.write(tmp_path, "two", f"{config}instance_group {{ count: 2 kind: KIND_CPU }}", {1: None})
    with Server(tmp_path, "--log-verbose=1") as server:
        for name in ("one_0", "two_0_0", "two_0_1"):
            assert f"TRITONBACKEND_ModelInstanceInitialize: {name} (CPU device 0)" in server.log()
        assert server.request("POST", "/v2/models/one/infer", '{"a": ')[0] == 500
        assert server.request("POST", "/v2/models/one/generate", "[]")[0] >= 400
        with grpcclient.InferenceServerClient(server.grpc_url) as client, pytest.raises(grpc.RpcError):
            request = service_pb2.ModelInferRequest(model_name="one", id="r1")
            request.inputs.add(name="INPUT0", datatype="FP32", shape=[1])
            request.parameters["sequence_id"].bool_param = True
            client._client_stub.ModelInfer(request)
        said = "[request id: <id_unknown>] Infer failed: failed to parse the request JSON buffer: "
        until(lambda: server.log().count(said) == 1, "the line of HTTP", 30)
        until(lambda: server.log().count("[request id: <id_unknown>] Infer failed: ") == 2, "the line of generate", 30)
        until(lambda: "[request id: r1] Infer failed: invalid value type for 'sequence_id' parameter" in server.log(), "the line of gRPC", 30)


def test_a_log_file_is_shown_and_stays(folder, tmp_path):
    with explicit(folder, f"--log-file={tmp_path}/log") as server:
        with httpclient.InferenceServerClient(server.url) as client:
            assert client.get_log_settings()["log_file"] == f"{tmp_path}/log"
            client.update_log_settings({"log_format": "ISO8601"})
        server.request("POST", "/v2/repository/models/nothing/load", "{}")
        until(lambda: "nothing" in (tmp_path / "log").read_text(), "the line", 30)
        assert any(ISO8601.match(line) for line in (tmp_path / "log").read_text().splitlines())


def test_messages_are_escaped_unless_the_environment_says_otherwise(folder):
    for value, expect in ((None, True), ("1", True), ("0", False)):
        env = {} if value is None else {"TRITON_SERVER_ESCAPE_LOG_MESSAGES": value}
        with Server(folder, "--model-control-mode=explicit", env=env) as server:
            line = until(lambda: [line for line in server.log().splitlines() if "Started HTTPService at" in line], "its word that it has started")[0]
            assert ('] "Started' in line) == expect, line


# Recorded: what Triton 2.51 answers. It takes 4294967296 for 0.
WRONG = [
    ({"log_file": "x"}, 501, "log file location can not be updated through network protocol"),
    ({"log_info": "false"}, 500, "attempt to access JSON non-boolean as boolean"),
    ({"log_error": 1}, 500, "attempt to access JSON non-boolean as boolean"),
    ({"log_verbose_level": "1"}, 500, "attempt to access JSON non-unsigned-integer as unsigned-integer"),
    ({"log_verbose_level": -1}, 500, "attempt to access JSON non-unsigned-integer as unsigned-integer"),
    ({"log_verbose_level": 1.5}, 500, "attempt to access JSON non-unsigned-integer as unsigned-integer"),
    ({"log_verbose_level": 4294967296}, 400, "log_verbose_level is out of range [ 0, 4294967295 ], got: 4294967296"),
    ({"log_format": "x"}, 503, "invalid argument for --log_format, got: x"),
    ({"log_format": "iso8601"}, 503, "invalid argument for --log_format, got: iso8601"),
    ({"log_format": 1}, 500, "attempt to access JSON non-string as string"),
]


def test_what_is_wrong_changes_nothing_and_is_told_in_tritons_words(folder):
    with explicit(folder) as server:
        for body, status, text in WRONG:
            answer = server.request("POST", "/v2/logging", json.dumps({"log_warning": False, **body}))
            assert (answer[0], json.loads(answer[2])) == (status, {"error": text}), body
        for junk in ("", "junk", "{", "\x00"):
            assert server.request("POST", "/v2/logging", junk)[0] == 500
        for nothing in ("{}", "[]", "null", '{"unknown":1}', '{"log_file":null,"log_info":null}'):
            assert json.loads(server.request("POST", "/v2/logging", nothing)[2]) == SHOWN
        with grpc.insecure_channel(server.grpc_url) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            for name, value, text in [
                ("log_info", {"string_param": "x"}, "expect boolean for 'log_info'"),
                ("log_error", {}, "expect boolean for 'log_error'"),
                ("log_verbose_level", {"string_param": "1"}, "expect int32 for 'log_verbose_level'"),
                ("log_format", {"uint32_param": 1}, "expect string for 'log_format'"),
                ("log_format", {"string_param": "x"}, "invalid argument for log_format, got: x"),
                ("log_file", {"string_param": "x"}, "log file location can not be updated through network protocol"),
            ]:
                settings = {name: service_pb2.LogSettingsRequest.SettingValue(**value)}
                with pytest.raises(grpc.RpcError) as failed:
                    stub.LogSettings(service_pb2.LogSettingsRequest(settings=settings))
                assert failed.value.details() == text
        assert json.loads(server.request("GET", "/v2/logging")[2]) == SHOWN
