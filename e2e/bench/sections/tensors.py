"""What do 3 x 224 x 224 numbers cost as bytes of a message and in shared memory, beside an echo and a request of one number?"""

import concurrent.futures
import contextlib
import json
import struct
import tempfile
import time
import uuid
from pathlib import Path

import load
import make
import numpy as np
import tritonclient.grpc as grpcclient
from serving import Server
from tritonclient.grpc import service_pb2
from turns import Target, echo, in_turns, ratio

CALLERS = 4
SHAPE = [3, 224, 224]
PICTURE = [("INPUT0", np.random.default_rng(0).random(SHAPE, np.float32))]
NUMBER = [("INPUT0", np.zeros(1, np.float32))]
SIZE = PICTURE[0][1].nbytes
MOST = 1.3  # times the processor time of what it is compared with


def measure(table, options):
    with contextlib.ExitStack() as stack:
        models = stack.enter_context(tempfile.TemporaryDirectory())
        make.identity_of(models, "picture", SHAPE)
        make.identity_of(models, "number", [1])
        server = stack.enter_context(Server(models, "--log-info=false", "--allow-client-shm=true"))
        table.section("A copy of 3 x 224 x 224 numbers alone, which is what identity does with them in shared memory")
        table.figure("NumPy, one thread", load.spread(copy() for _ in range(options.rounds)), "us")
        regions = [stack.enter_context(region(server, f"caller{caller}")) for caller in range(CALLERS)]
        for protocol, kind in (("HTTP", Http), ("gRPC", Grpc)):
            echoed = stack.enter_context(echo("echo_http" if kind is Http else "echo_grpc"))
            targets = [
                kind.target("one number", server, [kind.message("number", NUMBER)] * CALLERS),
                kind.target("echo", echoed, [kind.message("picture", PICTURE)] * CALLERS),
                kind.target("identity", server, [kind.message("picture", PICTURE)] * CALLERS),
                kind.target("shared memory", server, [kind.shared(name, 0, SIZE) for name in regions]),
                kind.target("shared memory, in place", server, [kind.shared(name, 0, 0) for name in regions]),
            ]
            rounds = in_turns(targets, options)
            table.requests(f"3 x 224 x 224 over {protocol}, {CALLERS} callers", rounds)
            for what, base in (("identity", "echo"), ("shared memory", "one number"), ("shared memory, in place", "one number")):
                table.limit(f"{protocol}: server CPU, 3 x 224 x 224, {what}, over {base}'s", ratio(rounds, what, base, CALLERS, "cpu"), MOST, "times")


def copy(times=2000):
    """Microseconds of processor time that a copy takes."""
    source, target = PICTURE[0][1], np.empty_like(PICTURE[0][1])
    np.copyto(target, source)
    before = time.process_time()
    for _ in range(times):
        np.copyto(target, source)
    return (time.process_time() - before) / times * 1e6


@contextlib.contextmanager
def region(server, name):
    """A region with room for an input and, behind it, an output; gives its name."""
    key = f"bench_{uuid.uuid4().hex}"
    file = Path("/dev/shm") / key
    with grpcclient.InferenceServerClient(server.grpc_url) as client:
        try:
            file.write_bytes(PICTURE[0][1].tobytes() + bytes(SIZE))
            client.register_system_shared_memory(name, f"/{key}", 2 * SIZE)
            yield name
        finally:
            client.unregister_system_shared_memory(name)
            file.unlink()


class Http:
    """Requests as wrk sends them: a body, and how much of it is JSON if not all."""

    @staticmethod
    def message(model, inputs):
        return model, *load.http_body(inputs)

    @staticmethod
    def shared(name, at, to):
        def place(offset):
            return {"shared_memory_region": name, "shared_memory_offset": offset, "shared_memory_byte_size": SIZE}

        inputs = [{"name": "INPUT0", "shape": SHAPE, "datatype": "FP32", "parameters": place(at)}]
        return "picture", json.dumps({"inputs": inputs, "outputs": [{"name": "OUTPUT0", "parameters": place(to)}]}).encode(), None

    @staticmethod
    def target(name, server, messages):
        def one(seconds, model, body, json_length):
            return load.wrk(f"http://127.0.0.1:{server.http}/v2/models/{model}/infer", server.process.pid, body, 1, seconds, json_length=json_length)

        return together(name, one, messages)


class Grpc:
    """Requests as h2load sends them: a framed message."""

    @staticmethod
    def message(model, inputs):
        return (load.grpc_body(model, inputs),)

    @staticmethod
    def shared(name, at, to):
        request = service_pb2.ModelInferRequest(model_name="picture")
        tensors = [(request.inputs.add(name="INPUT0", datatype="FP32", shape=SHAPE), at), (request.outputs.add(name="OUTPUT0"), to)]
        for tensor, offset in tensors:
            tensor.parameters["shared_memory_region"].string_param = name
            tensor.parameters["shared_memory_offset"].int64_param = offset
            tensor.parameters["shared_memory_byte_size"].int64_param = SIZE
        message = request.SerializeToString()
        return (struct.pack(">BI", 0, len(message)) + message,)

    @staticmethod
    def target(name, server, messages):
        def one(seconds, body):
            return load.h2load(server.grpc, server.process.pid, body, 1, seconds)

        return together(name, one, messages)


def together(name, one, messages):
    """A load tool for each message, all at once: each caller has its own memory. The server's processor time is that of all of them."""

    def call(seconds):
        with concurrent.futures.ThreadPoolExecutor(len(messages)) as pool:
            rounds = list(pool.map(lambda message: one(seconds, *message), messages))
        requests = sum(a_round.requests for a_round in rounds)
        cost = np.median([a_round.cpu * a_round.requests for a_round in rounds])  # each has measured the server's
        p50, p99 = (np.median([getattr(a_round, field) for a_round in rounds]) for field in ("p50", "p99"))
        return load.Round(requests, rounds[0].seconds, p50, p99, cost / requests)

    return Target(name, len(messages), call)
