"""What do 1,000 models cost: to load, to hold, to call in turn, to list in the metrics, to unload, to stop?"""

import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import graphs
import load
import make
import numpy as np
from serving import Server, program, runtime_library, scaled
from turns import Target, each, in_turns, ratio

COUNT = 1000
CALLERS = (1, 16)
NUMBERS = [("INPUT0", np.ones((1, 4), np.float32))]


def measure(table, options):
    ready, unload, stop = [], [], []
    with tempfile.TemporaryDirectory() as models:
        content = graphs.add(1).SerializeToString()
        config = make.onnx_config(8, [("INPUT0", "FP32", [4])], [("OUTPUT0", "FP32", [4])])
        for number in range(COUNT):
            make.write(models, f"m{number:04}", config, {1: content})
        for _ in range(min(options.rounds, 3)):
            with start(models) as server:
                ready.append(time.monotonic() - server.started)
                begun = time.monotonic()
                server.process.send_signal(signal.SIGTERM)
                server.process.wait(scaled(120))
                stop.append(time.monotonic() - begun)
            with start(models, "--model-control-mode=explicit", "--load-model=*") as server:
                unload.append(unload_all(server))
        with start(models) as server:
            memory, threads = load.memory(server.process.pid), len(os.listdir(f"/proc/{server.process.pid}/task"))
            page = metrics_ms(server)
            targets = [calls(name, server, models, callers) for callers in CALLERS for name, models in (("one model", 1), ("all in turn", COUNT))]
            rounds = in_turns(targets, options)
        alone = sessions(Path(models, "m0000", "1", "model.onnx"), options)
    table.section(f"{COUNT} small ONNX models")
    for what, values in (("from exec to ready", ready), ("to unload all, over HTTP", unload), ("to stop", stop)):
        table.figure(what, load.spread(values), "s", 2)
    table.figure("/metrics", page, "ms", 2)
    table.row("memory", f"{memory:.0f} MB PSS", widths=(44, 40))
    table.row("threads", threads, widths=(44, 40))
    table.requests(f"{COUNT} models called in turn, HTTP, binary data, wrk", rounds)
    table.section("ONNX Runtime alone, on one thread, microseconds per run, and what it leaves of the limit")
    table.figure("one session", alone[1], "us", 2)
    table.figure(f"{COUNT} sessions in turn", alone[COUNT], "us", 2)
    for callers in CALLERS:
        least = load.spread(1 + (alone[COUNT].middle - alone[1].middle) / cpu for cpu in each(rounds, "one model", callers, "cpu"))
        table.figure(f"least over one model, {callers} callers", least, "times", 2)
    table.limit(f"stopping with {COUNT} models", load.spread(stop), 0.3, "s")
    table.limit(f"unloading {COUNT} models", load.spread(unload), 0.3, "s")
    table.limit(f"/metrics of {COUNT} models", page, 4, "ms")
    for callers in CALLERS:
        for field, what in (("cpu", "server CPU"), ("p50", "p50")):
            table.limit(f"http: {what}, {COUNT} models in turn over one model, {callers} callers", ratio(rounds, "all in turn", "one model", callers, field), 1.3, "times")


def start(models, *flags):
    return Server(models, "--log-info=false", "--exit-on-error=false", *flags, deadline=300)


def calls(name, server, models, callers):
    """Requests to the first `models` models, one after the other."""
    body, json_length = load.http_body(NUMBERS)
    url = f"http://127.0.0.1:{server.http}/"
    return Target(name, callers, lambda seconds: load.wrk(url, server.process.pid, body, callers, seconds, json_length=json_length, models=models))


def sessions(model, options):
    """Microseconds of one run by how many sessions one thread runs in turn, without a server: what is the runtime's own of a call to another model."""
    runs = {1: [], COUNT: []}
    for _ in range(options.rounds):
        for count, times in runs.items():
            command = [program("ort_loop"), runtime_library(), model, "1", str(options.seconds), "1", str(count)]
            times.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[1]))
    return {count: load.spread(times) for count, times in runs.items()}


def metrics_ms(server):
    """Milliseconds of one page on a connection that is kept."""
    connection = http.client.HTTPConnection("127.0.0.1", server.metrics, timeout=scaled(60))
    times = []
    for _ in range(21):
        begun = time.monotonic()
        connection.request("GET", "/metrics")
        page = connection.getresponse().read()
        times.append((time.monotonic() - begun) * 1000)
        assert page.count(b"nv_inference_request_success{") == COUNT
    connection.close()
    return load.spread(times[1:])


def unload_all(server):
    """Seconds from the first request to unload a model until none is ready. The requests are written down beforehand and sent one behind the
    other on a few connections, so that it is the server's time that is measured."""
    connections = [socket.create_connection(("127.0.0.1", server.http), scaled(120)) for _ in range(8)]
    shares = [b"".join(unload_request(number) for number in range(k, COUNT, len(connections))) for k in range(len(connections))]
    begun = time.monotonic()
    for connection, share in zip(connections, shares):
        connection.sendall(share)
    for connection, share in zip(connections, shares):
        said, wanted = b"", share.count(b"POST ")
        while said.count(b"HTTP/1.1 200") < wanted:
            piece = connection.recv(1 << 16)
            assert piece, said[-300:]
            said += piece
        connection.close()
    while any(one.get("state") != "UNAVAILABLE" for one in json.loads(server.request("POST", "/v2/repository/index")[2])):
        assert time.monotonic() - begun < scaled(120)
    return time.monotonic() - begun


def unload_request(number):
    return b"POST /v2/repository/models/m%04d/unload HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n" % number
