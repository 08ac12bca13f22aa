"""What does an ensemble of three models that do nothing cost, beside one of them and beside a bare echo?"""

import contextlib
import tempfile

import ensembles
import make
import numpy as np
from serving import Server
from turns import echo, http_target, in_turns, ratio

CALLERS = (1, 64)
NUMBERS = [("INPUT0", np.arange(16, dtype=np.float32))]
LIMIT = 1.6  # over the processor time of one identity request, at 64 callers


def measure(table, options):
    with contextlib.ExitStack() as stack:
        models = stack.enter_context(tempfile.TemporaryDirectory())
        make.identity_of(models, "one", [16])
        ensembles.chain(models, dims=[16], batch=0)
        server = stack.enter_context(Server(models, "--log-info=false"))
        bare = stack.enter_context(echo("echo_http"))
        targets = []
        for callers in CALLERS:
            targets.append(http_target("echo", bare, "none", NUMBERS, callers))
            targets.append(http_target("one identity", server, "one", NUMBERS, callers))
            targets.append(http_target("ensemble of three", server, "chain", NUMBERS, callers))
        rounds = in_turns(targets, options)
        table.requests("Ensemble of three identities over HTTP, 16 numbers", rounds)
        table.limit("server CPU, ensemble of three, 64 callers, over one identity's", ratio(rounds, "ensemble of three", "one identity", 64, "cpu"), LIMIT, "times")
