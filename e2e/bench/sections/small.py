"""What does the server add to a small model, with batching and without, beside a bare echo and ONNX Runtime alone?"""

import contextlib
import json
import subprocess
import tempfile
from dataclasses import replace

import load
import make
import numpy as np
from serving import Server, program, runtime_library
from turns import Target, each, echo, grpc_target, http_target, in_turns, ratio

CALLERS = (1, 16, 64)
QUEUE_DELAY = 100.0  # microseconds, as in the configuration of mlp_batched
FEATURES = [("features", np.random.default_rng(0).random((1, 50), np.float32))]
ECHOES = {"http": "hyper echo", "grpc": "tonic echo"}


def measure(table, options):
    with contextlib.ExitStack() as stack:
        models = stack.enter_context(tempfile.TemporaryDirectory())
        make.bench(models)
        own = own_time(table, models)
        server = stack.enter_context(Server(models, "--log-info=false"))
        echoes = {"http": stack.enter_context(echo("echo_http")), "grpc": stack.enter_context(echo("echo_grpc"))}
        for protocol, target, title in (("http", http_target, "HTTP, binary data, wrk"), ("grpc", grpc_target, "gRPC, h2load")):
            targets = []
            for callers in CALLERS:
                targets.append(target(ECHOES[protocol], echoes[protocol], "mlp", FEATURES, callers))
                targets += [counted(target(name, server, name, FEATURES, callers), server) for name in ("mlp", "mlp_batched")]
            rounds = in_turns(targets, options)
            table.requests(title, rounds)
            compare(table, protocol, rounds, own)


def own_time(table, models):
    """Median microseconds of ONNX Runtime alone, by model and batch size."""
    table.section("The model alone: ONNX Runtime in a loop, one thread, microseconds per run and per row")
    times = {}
    for model in ("mlp", "mlp_big"):
        for batch in (1, 16, 32):
            command = [program("ort_loop"), runtime_library(), f"{models}/{model}/1/model.onnx", str(batch), "0.5"]
            runs = [float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]) for _ in range(3)]
            times[model, batch] = load.spread(runs).middle
            table.row(f"{model}, batch {batch}", f"{load.spread(runs):.2f}", f"{times[model, batch] / batch:.2f} per row", widths=(25, 34, 20))
    return times


def counted(target, server):
    """The target, with the mean batch size by the server's own statistics, which must have counted what the tool counted."""

    def call(seconds):
        before = statistics(server, target.name)
        one = target.call(seconds)
        requests, executions = (after - start for start, after in zip(before, statistics(server, target.name)))
        # the tool stops in the middle of things: what was under way then may count or not
        assert one.requests <= requests <= one.requests + target.callers, (one, requests)
        return replace(one, batch=requests / executions)

    return Target(target.name, target.callers, call)


def statistics(server, model):
    """How many requests of one row each the model has answered, in how many executions."""
    stats = json.loads(server.request("GET", f"/v2/models/{model}/stats")[2])["model_stats"][0]
    return stats["inference_stats"]["success"]["count"], stats["execution_count"]


def compare(table, protocol, rounds, own):
    base = ECHOES[protocol]
    factor = {"http": 1.8, "grpc": 1.5}[protocol]
    table.limit(f"{protocol}: server CPU, small model with batching, 64 callers, over the echo's", ratio(rounds, "mlp_batched", base, 64, "cpu"), factor, "times")
    allowed = 1.5 * load.spread(each(rounds, base, 1, "p50")).middle + own["mlp", 1]
    table.limit(f"{protocol}: p50 of a lone caller, no batching", load.spread(each(rounds, "mlp", 1, "p50")), allowed, "us")
    lone = load.spread(each(rounds, "mlp_batched", 1, "p50"))
    table.limit(f"{protocol}: p50 of a lone caller, batching with {QUEUE_DELAY:.0f} us delay", lone, allowed + QUEUE_DELAY + 20, "us")
