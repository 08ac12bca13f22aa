"""The access log: a line for each request, over both protocols."""

import json
import queue
import socket

import decoupled
import make
import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.utils

from serving import Server, scaled, until
from talking import connect, tensor

CONFIG = 'backend: "identity" input { name: "INPUT0" data_type: TYPE_INT32 dims: 1 } output { name: "OUTPUT0" data_type: TYPE_INT32 dims: 1 }'


def test_every_request_is_a_line(tmp_path):
    make.write(tmp_path / "models", "m", CONFIG, {1: None})
    log = tmp_path / "access.log"
    with Server(tmp_path / "models", f"--access-log={log}") as server:
        for protocol in ("http", "grpc"):
            client = connect(protocol, server)
            client.infer("m", [tensor(protocol, "INPUT0", np.array([7], np.int32), "INT32")])
            try:
                client.get_model_metadata("none")
            except tritonclient.utils.InferenceServerException:
                pass
            client.close()
        server.request("GET", '/odd"%0apath?secret=1')

        def lines():
            return [json.loads(line) for line in log.read_text().splitlines() if "health" not in line]

        until(lambda: len(lines()) >= 5, "the lines", 60)
        found = [(it["protocol"], it["method"], it["path"], it["status"]) for it in lines()]
        assert ("http", "POST", "/v2/models/m/infer", 200) in found
        assert ("http", "GET", "/v2/models/none", 400) in found or ("http", "GET", "/v2/models/none", 404) in found
        assert ("grpc", "POST", "/inference.GRPCInferenceService/ModelInfer", 0) in found
        assert ("grpc", "POST", "/inference.GRPCInferenceService/ModelMetadata", 5) in found
        assert ("http", "GET", '/odd"%0apath', 404) in found
        assert all(it["client"] == "127.0.0.1" and it["duration_us"] >= 0 and it["time_unix_ms"] > 1_700_000_000_000 for it in lines())
        page = server.request("GET", "/metrics", port=server.metrics)[2]
        assert b"tritonserver_access_log_dropped 0\n" in page


def read(log):
    """The lines of inference requests."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [it for it in lines if "infer" in it["path"].lower() or "generate" in it["path"]]


MINUTE = 60_000  # milliseconds


def repeat(delays):
    """Inputs of the model that answers once after each of the delays, in milliseconds."""
    inputs = [("IN", np.arange(len(delays), dtype=np.int32), "INT32"), ("DELAY", np.array(delays, np.uint32), "UINT32"), ("WAIT", np.array([0], np.uint32), "UINT32")]
    return [tensor("grpc", *it) for it in inputs]


def generate(delays):
    body = json.dumps({"IN": list(range(len(delays))), "DELAY": delays, "WAIT": 0})
    return f"POST /v2/models/repeat/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def test_a_stream_is_a_line_when_it_has_ended(tmp_path):
    decoupled.repeat(tmp_path / "models")
    log = tmp_path / "access.log"
    with Server(tmp_path / "models", f"--access-log={log}") as server:
        answers = queue.Queue()
        with grpcclient.InferenceServerClient(server.grpc_url) as client:
            client.start_stream(callback=lambda result, error: answers.put((result, error)))
            client.async_stream_infer("repeat", repeat([0, 100]))
            assert [answers.get(timeout=scaled(30))[1] for _ in range(2)] == [None, None]
            assert read(log) == [], "the stream goes on"
            client.stop_stream()
        with socket.create_connection(("127.0.0.1", server.http), scaled(30)) as client:
            client.sendall(generate([0, 100]))
            answer = b""
            while not answer.endswith(b"0\r\n\r\n"):
                answer += client.recv(4096)
        grpc, http = until(lambda: sorted(read(log), key=lambda it: it["protocol"]) if len(read(log)) == 2 else None, "two lines", 60)
        assert (grpc["protocol"], grpc["status"], http["status"]) == ("grpc", 0, 200)
        assert all(it["duration_us"] > 100_000 and it["response_bytes"] > 0 and "aborted" not in it for it in (grpc, http)), (grpc, http)
        assert answer.count(b"data: ") == 2


def test_a_client_that_leaves_is_a_line_as_well(tmp_path):
    decoupled.repeat(tmp_path / "models")
    log = tmp_path / "access.log"
    with Server(tmp_path / "models", f"--access-log={log}") as server:

        def lines():
            return [(it["protocol"], it["status"], it.get("aborted")) for it in read(log)]

        # before there is a response
        with socket.create_connection(("127.0.0.1", server.http), scaled(30)) as client:
            client.sendall(generate([MINUTE]))
        until(lambda: lines() == [("http", 499, True)], "the line of HTTP", 60)
        # in the middle of one
        with socket.create_connection(("127.0.0.1", server.http), scaled(30)) as client:
            client.sendall(generate([0, MINUTE]))
            answer = b""
            while b"data: " not in answer:
                answer += client.recv(4096)
        until(lambda: ("http", 200, True) in lines(), "the line of the events", 60)
        answers = queue.Queue()
        with grpcclient.InferenceServerClient(server.grpc_url) as client:
            client.start_stream(callback=lambda result, error: answers.put(error))
            client.async_stream_infer("repeat", repeat([0, MINUTE]))
            assert answers.get(timeout=scaled(30)) is None
            client.stop_stream(cancel_requests=True)
        until(lambda: ("grpc", 1, True) in lines(), "the line of gRPC", 60)


def test_the_last_lines_are_there_when_the_server_has_ended(tmp_path):
    make.write(tmp_path / "models", "m", CONFIG, {1: None})
    log = tmp_path / "access.log"
    with Server(tmp_path / "models", f"--access-log={log}") as server, connect("http", server) as client:
        for _ in range(200):
            client.infer("m", [tensor("http", "INPUT0", np.array([7], np.int32), "INT32")])
    assert [it["status"] for it in read(log)] == [200] * 200


def test_a_log_that_cannot_be_opened_ends_the_start(tmp_path):
    make.write(tmp_path / "models", "m", CONFIG, {1: None})
    path = tmp_path / "missing" / "access.log"
    with Server(tmp_path / "models", f"--access-log={path}", wait=None, expect_exit=1) as server:
        server.process.wait(60)
    assert f"cannot write the access log to '{path}': No such file or directory" in server.log()


def test_a_full_disk_drops_lines_and_no_request(tmp_path):
    make.write(tmp_path / "models", "m", CONFIG, {1: None})
    with Server(tmp_path / "models", "--access-log=/dev/full") as server:
        for _ in range(20):
            assert server.status("/v2/models/m") == 200
        dropped = lambda: b"tritonserver_access_log_dropped 0\n" not in server.request("GET", "/metrics", port=server.metrics)[2]  # noqa: E731
        until(dropped, "the count of what was dropped", 60)
        assert "the access log cannot be written: No space left on device" in server.log()
