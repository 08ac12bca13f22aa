"""What does one response of a decoupled model cost in a stream of a thousand, beside a bare tonic stream that sends as many?"""

import contextlib
import dataclasses
import tempfile

import decoupled
import load
import numpy as np
from serving import Server
from turns import Target, echo, in_turns, ratio

CALLERS = (1, 16)
RESPONSES = 1000
LIMIT = 12  # microseconds of the server's processor time per response


def measure(table, options):
    with contextlib.ExitStack() as stack:
        models = stack.enter_context(tempfile.TemporaryDirectory())
        decoupled.square(models)
        decoupled.repeat(models)
        server = stack.enter_context(Server(models, "--log-info=false"))
        limit = stack.enter_context(echo("echo_grpc"))
        values = [("IN", np.arange(RESPONSES, dtype=np.int32)), ("DELAY", np.zeros(RESPONSES, np.uint32)), ("WAIT", np.zeros(1, np.uint32))]
        count = [("IN", np.array([RESPONSES], np.int32))]
        targets = []
        for callers in CALLERS:
            targets += [
                streams("echo", limit, "square", count, callers),
                streams("square, 1 tensor", server, "square", count, callers),
                streams("repeat, 2 tensors", server, "repeat", values, callers),
            ]
        rounds = in_turns(targets, options)
    table.requests(f"Streams of {RESPONSES} responses over gRPC: per response, but for p50 and p99, which are of a stream", rounds)
    for callers in CALLERS:
        for model in ("square, 1 tensor", "repeat, 2 tensors"):
            cost = load.spread(one.cpu for target, all_of in rounds.items() if (target.name, target.callers) == (model, callers) for one in all_of)
            table.limit(f"server CPU per response, {model}, {callers} callers", cost, LIMIT, "us")
        table.figure(f"server CPU, square over the echo, {callers} callers", ratio(rounds, "square, 1 tensor", "echo", callers, "cpu"), "times", 2)


def streams(name, server, model, inputs, callers):
    """Streams of one request each."""
    body = load.grpc_body(model, inputs)

    def call(seconds):
        one = load.h2load(server.grpc, server.process.pid, body, callers, seconds, method="ModelStreamInfer")
        return dataclasses.replace(one, requests=one.requests * RESPONSES, cpu=one.cpu / RESPONSES)

    return Target(name, callers, call)
