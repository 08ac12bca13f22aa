"""What do 1,000 numbers cost as JSON, in and out?"""

import contextlib
import json
import tempfile

import load
import make
import numpy as np
from serving import Server
from turns import Target, each, echo, in_turns

COUNT = 1000
CALLERS = (1, 16)
TO_REACH = 61.0  # microseconds of processor time: .14 of what Triton 24.10 takes on two cores of an AMD EPYC


def body(datatype):
    """A request as a client writes it: the shortest decimal of each number."""
    random = np.random.default_rng(0)
    numbers = random.random(COUNT, np.float32) if datatype == "FP32" else random.integers(0, 1 << 31, COUNT, np.int64)
    data = "[" + ",".join(map(str, numbers)) + "]"
    head = {"name": "INPUT0", "shape": [COUNT], "datatype": datatype}
    return json.dumps({"inputs": [head]})[:-3].encode() + b', "data": ' + data.encode() + b"}]}"


def measure(table, options):
    with contextlib.ExitStack() as stack:
        models = stack.enter_context(tempfile.TemporaryDirectory())
        for kind in ("FP32", "INT64"):
            make.identity_of(models, kind, [-1], kind)
        server = stack.enter_context(Server(models, "--log-info=false"))
        bare = stack.enter_context(echo("echo_http"))

        def target(name, running, kind, callers):
            url = f"http://127.0.0.1:{running.http}/v2/models/{kind}/infer"
            return Target(name, callers, lambda seconds: load.wrk(url, running.process.pid, body(kind), callers, seconds))

        targets = [
            target(name, running, kind, callers)
            for callers in CALLERS
            for name, running, kind in (("echo of the FP32", bare, "FP32"), ("FP32", server, "FP32"), ("INT64", server, "INT64"))
        ]
        rounds = in_turns(targets, options)
    table.requests(f"JSON of {COUNT} numbers, in and out", rounds)
    table.limit(f"http: server CPU, JSON of {COUNT} floats in and out, 16 callers", load.spread(each(rounds, "FP32", 16, "cpu")), TO_REACH, "us")
