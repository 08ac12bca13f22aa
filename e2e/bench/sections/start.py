"""How soon is the server ready, and how much memory does it take with no model and with one?"""

import os
import tempfile
import time

import load
import make
import numpy as np
from serving import Server

FEATURES = [("features", np.zeros((1, 50), np.float32))]


def measure(table, options):
    ready, empty, small = [], [], []
    with tempfile.TemporaryDirectory() as models, tempfile.TemporaryDirectory() as nothing, tempfile.TemporaryDirectory() as one:
        make.bench(models)
        os.symlink(f"{models}/mlp", f"{one}/mlp")
        for _ in range(max(options.rounds, 3)):
            with Server(nothing, wait=None) as server:
                ready.append(time_to_ready(server))
                empty.append(load.memory(server.process.pid))
            with Server(one) as server:
                answer(server, "mlp")
                small.append(load.memory(server.process.pid))
    ready, empty, small = map(load.spread, (ready, empty, small))
    table.section("Start and memory")
    table.figure("ready, no model", ready, "ms")
    table.figure("memory, no model", empty, "MB PSS")
    table.figure("memory, one small model", small, "MB PSS")
    table.limit("ready with no model", ready, 50, "ms")
    table.limit("memory with no model", empty, 15, "MB")
    table.limit("memory with one small ONNX model", small, 60, "MB")


def time_to_ready(server):
    """Milliseconds from exec."""
    while server.status("/v2/health/ready") != 200:
        if time.monotonic() - server.started > 30:
            raise TimeoutError("the server does not become ready")
    return (time.monotonic() - server.started) * 1000


def answer(server, model):
    body, json_length = load.http_body(FEATURES)
    status, _, said = server.request("POST", f"/v2/models/{model}/infer", body, {"Inference-Header-Content-Length": str(json_length)})
    assert status == 200, said
