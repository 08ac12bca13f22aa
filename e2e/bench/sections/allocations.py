"""How often does the server ask for memory while it answers one request?"""

import contextlib
import os
import subprocess
import tempfile
from pathlib import Path

import load
import make
import numpy as np
from serving import ROOT, Server
from turns import echo, grpc_target, http_target

NUMBERS = [("INPUT0", np.arange(16, dtype=np.float32))]
TO_REACH = 10


class Counter:
    """The library that counts calls of malloc, calloc and realloc in a file that we can read."""

    def __init__(self, folder):
        library = ROOT / "target" / "bench" / "count_malloc.so"
        library.parent.mkdir(parents=True, exist_ok=True)
        source = Path(__file__).resolve().parents[1] / "count_malloc.c"
        subprocess.run([os.environ.get("CC", "cc"), "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
        self.file = Path(folder) / "count"
        self.file.write_bytes(bytes(8))
        self.env = {**os.environ, "LD_PRELOAD": str(library), "COUNT_MALLOC": str(self.file)}

    def read(self):
        return int.from_bytes(self.file.read_bytes(), "little")


def measure(table, options):
    table.section("Allocations per request, lone caller on one connection")
    with tempfile.TemporaryDirectory() as models:
        make.identity_of(models, "fixed", [16])
        make.identity_of(models, "open", [-1])
        for protocol, target, program in (("http", http_target, "echo_http"), ("grpc", grpc_target, "echo_grpc")):
            with under_count(lambda env: echo(program, env=env)) as (running, count):
                table.figure(f"{protocol}: echo", per_request(target("echo", running, "none", NUMBERS, 1), count, options), "allocations")
            for model in ("fixed", "open"):
                with under_count(lambda env: Server(models, "--log-info=false", env=env)) as (running, count):
                    spent = per_request(target(model, running, model, NUMBERS, 1), count, options)
                table.figure(f"{protocol}: identity, {model} shape", spent, "allocations")
                if protocol == "http":
                    table.limit(f"http: allocations per request, identity of {model} shape", spent, TO_REACH, "")


@contextlib.contextmanager
def under_count(start):
    """A program that is started with the counting library, and the counter."""
    with tempfile.TemporaryDirectory() as folder:
        counter = Counter(folder)
        with start(counter.env) as running:
            yield running, counter


def per_request(target, counter, options):
    """A few belong to the connection and to what else happens; there are thousands of requests to one of them."""
    target.call(1)
    spent = []
    for _ in range(options.rounds):
        before = counter.read()
        one = target.call(1)
        spent.append((counter.read() - before) / one.requests)
    return load.spread(spent)
