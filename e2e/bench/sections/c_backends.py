"""What does a request cost through a backend in C, beside one that is built in and does the same?"""

import contextlib
import os
import subprocess
import tempfile
from pathlib import Path

import make
import numpy as np
from serving import ROOT, Server
from turns import http_target, in_turns, ratio

CALLERS = (1, 16, 64)
NUMBERS = [("INPUT0", np.arange(16, dtype=np.float32))]
LIMIT = 1.1
SOURCES = ROOT / "server" / "capi"


def measure(table, options):
    with contextlib.ExitStack() as stack:
        models, backends = (Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2))
        library = backends / "in_c" / "libtriton_in_c.so"
        library.parent.mkdir()
        command = [os.environ.get("CC", "cc"), "-O2", "-shared", "-fPIC", "-pthread", "-I", SOURCES / "include", "-o", library]
        subprocess.run([*command, SOURCES / "tests" / "libraries" / "identity.c"], check=True)
        make.identity_of(models, "inside", [16])
        make.identity_of(models, "in_c", [16])
        config = models / "in_c" / "config.pbtxt"
        text = config.read_text()
        assert 'backend: "identity"' in text, text
        alone = "" if "instance_group" in text else "instance_group { count: 1 kind: KIND_CPU }\n"
        config.write_text(text.replace('backend: "identity"', 'backend: "in_c"') + alone)  # the library would like two
        server = stack.enter_context(Server(models, "--log-info=false", f"--backend-directory={backends}", "--backend-config=in_c,run-inline=true"))
        targets = [http_target(model, server, model, NUMBERS, callers) for callers in CALLERS for model in ("inside", "in_c")]
        rounds = in_turns(targets, options)
        table.requests("Identity over http, 16 numbers, built in and in C", rounds)
        for callers in CALLERS:
            for field, what in (("cpu", "server CPU"), ("p50", "p50")):
                table.limit(f"{what}, in C over built in, {callers} callers", ratio(rounds, "in_c", "inside", callers, field), LIMIT, "times")
