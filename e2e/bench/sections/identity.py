"""What does a request cost where the model does nothing, for a fixed shape and for an open one, beside a bare echo?"""

import contextlib
import tempfile

import make
import numpy as np
from serving import Server
from turns import echo, grpc_target, http_target, in_turns, ratio

CALLERS = (1, 16, 64)
NUMBERS = [("INPUT0", np.arange(16, dtype=np.float32))]
LIMITS = {"http": 1.35, "grpc": 1.12}  # over the echo's processor time, at 64 callers


def measure(table, options):
    with contextlib.ExitStack() as stack:
        models = stack.enter_context(tempfile.TemporaryDirectory())
        make.identity_of(models, "fixed", [16])
        make.identity_of(models, "open", [-1])
        server = stack.enter_context(Server(models, "--log-info=false"))
        echoes = {"http": stack.enter_context(echo("echo_http")), "grpc": stack.enter_context(echo("echo_grpc"))}
        for protocol, target in (("http", http_target), ("grpc", grpc_target)):
            targets = []
            for callers in CALLERS:
                targets.append(target("echo", echoes[protocol], "none", NUMBERS, callers))
                targets += [target(f"{model} shape", server, model, NUMBERS, callers) for model in ("fixed", "open")]
            rounds = in_turns(targets, options)
            table.requests(f"Identity over {protocol}, 16 numbers", rounds)
            table.limit(f"{protocol}: server CPU, identity of fixed shape, 64 callers, over the echo's", ratio(rounds, "fixed shape", "echo", 64, "cpu"), LIMITS[protocol], "times")
            for callers in CALLERS:
                for field, what in (("cpu", "server CPU"), ("p50", "p50")):
                    open_over_fixed = ratio(rounds, "open shape", "fixed shape", callers, field)
                    table.limit(f"{protocol}: {what}, open shape over fixed shape, {callers} callers", open_over_fixed, 1.05, "times")
