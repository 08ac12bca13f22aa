"""Headers and metadata that the server forwards: what a Python model sees of them as parameters."""

import json
import socket

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from serving import Server, program, scaled
from talking import PROTOCOLS, connect, tensor

CONFIG = """backend: "python"
input {{ name: "IN" data_type: TYPE_INT32 dims: 1 }}
output {{ name: "OUT" data_type: TYPE_STRING dims: 1 }}
instance_group {{ kind: KIND_CPU }}
model_transaction_policy {{ decoupled: {decoupled} }}
"""
MODEL = """
import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        answers = [pb.InferenceResponse([pb.Tensor("OUT", np.array([one.parameters().encode()], dtype=object))]) for one in requests]
        if not {decoupled}:
            return answers
        for request, answer in zip(requests, answers):
            request.get_response_sender().send(answer, flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
FLAGS = ["--http-header-forward-pattern=^X-|_header$", "--grpc-header-forward-pattern=^X-|_header$"]


@pytest.fixture(scope="module")
def server(folder):
    for name, decoupled in (("shows", False), ("streams", True)):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(CONFIG.format(decoupled=str(decoupled).lower()))
        (folder / name / "1" / "model.py").write_text(MODEL.format(decoupled=decoupled))
    with Server(folder, *FLAGS) as running:
        yield running


def seen(text):
    """Names and values of the parameters in the order in which the model saw them."""
    return [(name, value) for name, value in json.loads(text, object_pairs_hook=list)]


def ask(protocol, server, headers, **options):
    data = tensor(protocol, "IN", np.array([1], np.int32), "INT32")
    answer = connect(protocol, server).infer("shows", [data], headers=headers, **options)
    return seen(answer.as_numpy("OUT")[0])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_matching_headers_become_parameters(server, protocol):
    headers = {"x-one": "1", "my_header": "two words", "my_header_2": "not", "other": "not", "x-empty": ""}
    assert sorted(ask(protocol, server, headers)) == [("my_header", "two words"), ("x-empty", ""), ("x-one", "1")]
    assert ask(protocol, server, {}) == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_header_stands_behind_the_requests_own_parameters(server, protocol):
    assert ask(protocol, server, {"x-one": "1"}, parameters={"x-one": "own", "a": 2}) in (
        [("x-one", "own"), ("a", 2), ("x-one", "1")],
        [("a", 2), ("x-one", "own"), ("x-one", "1")],
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_reserved_names_are_refused_if_they_match(server, protocol):
    with pytest.raises(InferenceServerException, match="Header 'triton_my_header' is reserved for Triton usage and cannot be forwarded."):
        ask(protocol, server, {"triton_my_header": "1"})
    assert ask(protocol, server, {"triton_other": "1"}) == []


def test_http_values_are_utf8_or_bytes(server):
    body = json.dumps({"inputs": [{"name": "IN", "shape": [1], "datatype": "INT32", "data": [1]}]})
    for value, expected in (("é中".encode(), "é中"), (b"\xe4\xff", "äÿ"), (b'a"b\\', 'a"b\\')):
        status, _, answer = server.request("POST", "/v2/models/shows/infer", body, {"X-Value": value})
        assert status == 200, answer
        assert seen(json.loads(answer)["outputs"][0]["data"][0]) == [("X-Value", expected)]


def test_http_names_are_written_as_the_client_wrote_them(server):
    body = json.dumps({"inputs": [{"name": "IN", "shape": [1], "datatype": "INT32", "data": [1]}]}).encode()
    head = "POST /v2/models/shows/infer HTTP/1.1\r\nHost: x\r\nX-One: 1\r\nx-two: 2\r\nX-ONE: 3\r\nContent-Length: {}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.http), scaled(30)) as caller:
        for length in (len(body), 200_000, len(body)):
            whole = head.format(length).encode() + body.ljust(length)
            for piece in (whole[:40], whole[40:120], whole[120:]):
                caller.sendall(piece)
            said = b""
            while not said.endswith(b"]}]}"):
                piece = caller.recv(65536)
                assert piece, said
                said += piece
            text = json.loads(said.split(b"\r\n\r\n")[1])["outputs"][0]["data"][0]
            assert seen(text) == [("X-One", "1"), ("x-two", "2"), ("X-ONE", "3")]


def test_generate_forwards_headers(server):
    headers = {"X-One": "1", "Other": "2"}
    status, _, answer = server.request("POST", "/v2/models/shows/generate", json.dumps({"IN": 1, "own": True}), headers)
    assert (status, seen(json.loads(answer)["OUT"])) == (200, [("own", True), ("X-One", "1")])
    status, _, answer = server.request("POST", "/v2/models/streams/generate_stream", json.dumps({"IN": 1}), headers)
    assert (status, seen(json.loads(answer.removeprefix(b"data: "))["OUT"])) == (200, [("X-One", "1")])
    status, _, answer = server.request("POST", "/v2/models/shows/generate", json.dumps({"IN": 1}), {"triton_my_header": "1"})
    assert (status, b"is reserved for Triton usage" in answer) == (400, True)


@pytest.mark.parametrize("model", ["shows", "streams"])
def test_every_request_of_a_stream_has_the_metadata_of_its_call(server, model):
    answers = []
    with connect("grpc", server) as client:
        client.start_stream(lambda result, error: answers.append(error or seen(result.as_numpy("OUT")[0])), headers={"x-one": "1"})
        for number in range(2):
            client.async_stream_infer(model, [tensor("grpc", "IN", np.array([1], np.int32), "INT32")], parameters={"n": number})
        client.stop_stream()
    assert answers == [[("n", 0), ("x-one", "1")], [("n", 1), ("x-one", "1")]]


def test_binary_metadata_is_decoded(server):
    client = connect("grpc", server)
    request = grpcclient.service_pb2.ModelInferRequest(model_name="shows", raw_input_contents=[bytes(4)])
    request.inputs.add(name="IN", datatype="INT32", shape=[1])
    for value, expected in ((b"abc", "abc"), (b"", ""), ("é".encode(), "é"), (b"ab\0c", "ab"), (b"\xff", "ÿ")):
        answer = client._client_stub.ModelInfer(request, metadata=[("x-value-bin", value)])
        assert seen(answer.raw_output_contents[0][4:]) == [("x-value-bin", expected)]


def test_a_pattern_that_is_none_stops_the_start(tmp_path):
    argv = [program("tritonserver")]
    for flag in ("http-header-forward-pattern", "grpc-header-forward-pattern"):
        with Server(tmp_path, f"--{flag}=(x", argv=argv, wait=None, expect_exit=1) as server:
            server.process.wait(30)
        assert f"--{flag}: got '(x', expected a regular expression in the syntax of RE2: " in server.log()
