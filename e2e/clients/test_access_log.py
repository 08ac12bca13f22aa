"""The access log: a line for each request, over both protocols."""

import json

import make
import numpy as np
import tritonclient.utils

from serving import Server, until
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
