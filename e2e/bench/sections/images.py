"""What does a picture of 3 x 224 x 224 numbers cost, beside a bare echo of the same bytes?"""

import contextlib
import tempfile

import load
import make
import numpy as np
from serving import Server
from turns import Target, echo, grpc_target, http_target, in_turns, ratio

PICTURE = [("INPUT0", np.random.default_rng(0).random((3, 224, 224), np.float32))]
CALLERS = (1, 16)


def measure(table, options):
    with contextlib.ExitStack() as stack:
        models = stack.enter_context(tempfile.TemporaryDirectory())
        make.identity_of(models, "picture", [3, 224, 224])
        server = stack.enter_context(Server(models, "--log-info=false"))
        bare = {"http": stack.enter_context(echo("echo_http")), "grpc": stack.enter_context(echo("echo_grpc"))}
        for title, target, base in (
            ("HTTP, binary data, wrk", http_target, bare["http"]),
            ("gRPC, h2load: frames of 16 KiB", grpc_target, bare["grpc"]),
            ("gRPC, the C core of grpcio", c_core_target, bare["grpc"]),
        ):
            callers = (1,) if target is c_core_target else CALLERS
            targets = [target(name, running, "picture", PICTURE, count) for count in callers for name, running in (("echo", base), ("identity", server))]
            rounds = in_turns(targets, options)
            table.requests(f"3 x 224 x 224 over {title}", rounds)
            for count in callers if base is bare["grpc"] else ():
                cpu = ratio(rounds, "identity", "echo", count, "cpu")
                table.limit(f"{title.split(':')[0]}: server CPU, 3 x 224 x 224, {count} callers, over the echo's", cpu, 1.10, "times")


def c_core_target(name, server, model, inputs, callers):
    """The calls of Python's gRPC client, one after the other."""
    assert callers == 1
    return Target(name, callers, lambda seconds: load.c_core(server.grpc, server.process.pid, load.grpc_request(model, inputs), seconds))
