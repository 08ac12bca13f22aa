"""What does a request cost through a backend in C, beside one that is built in and does the same?"""

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import make
import numpy as np
from serving import ROOT, Server, runtime_library
from turns import http_target, in_turns, ratio

CALLERS = (1, 16, 64)
NUMBERS = [("INPUT0", np.arange(16, dtype=np.float32))]
FEATURES = [("features", np.random.default_rng(0).random((1, 50), np.float32))]
LIMIT = 1.1
INTERFACE = ROOT / "server" / "capi"
SOURCES = {"in_c": INTERFACE / "tests" / "libraries" / "identity.c", "network": ROOT / "e2e" / "bench" / "network.c"}


def measure(table, options):
    with contextlib.ExitStack() as stack:
        models, backends, networks = (Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(3))
        for name, source in SOURCES.items():
            build(source, backends / name / f"libtriton_{name}.so")
        make.identity_of(models, "inside", [16])
        make.identity_of(models, "in_c", [16])
        make.bench(networks)
        for name in ("mlp", "mlp_in_c"):
            shutil.copytree(networks / "mlp", models / name)
        replace_backend(models / "in_c", "identity", "in_c")
        replace_backend(models / "mlp_in_c", "onnxruntime", "network")
        flags = [f"--backend-config={name},run-inline=true" for name in SOURCES]
        server = stack.enter_context(Server(models, "--log-info=false", f"--backend-directory={backends}", *flags))
        compare(table, options, server, "Identity over http, 16 numbers", NUMBERS, "inside", "in_c")
        compare(table, options, server, "A small network of ONNX Runtime over http", FEATURES, "mlp", "mlp_in_c")


def build(source, library):
    library.parent.mkdir()
    command = [os.environ.get("CC", "cc"), "-O2", "-shared", "-fPIC", "-pthread", f'-DLIBRARY="{runtime_library()}"', "-o", library]
    for folder in (INTERFACE / "include", INTERFACE / "tests" / "libraries"):
        command += ["-I", folder]
    subprocess.run([*command, source, "-ldl"], check=True)


def replace_backend(model, built_in, library):
    config = model / "config.pbtxt"
    text = config.read_text()
    assert f'backend: "{built_in}"' in text, text
    alone = "" if "instance_group" in text else "instance_group { count: 1 kind: KIND_CPU }\n"  # the library would like two
    config.write_text(text.replace(f'backend: "{built_in}"', f'backend: "{library}"') + alone)


def compare(table, options, server, title, inputs, inside, in_c):
    targets = [http_target(model, server, model, inputs, callers) for callers in CALLERS for model in (inside, in_c)]
    rounds = in_turns(targets, options)
    table.requests(f"{title}, built in and in C", rounds)
    for callers in CALLERS:
        for field, what in (("cpu", "server CPU"), ("p50", "p50")):
            table.limit(f"{what}, {in_c} over {inside}, {callers} callers", ratio(rounds, in_c, inside, callers, field), LIMIT, "times")
