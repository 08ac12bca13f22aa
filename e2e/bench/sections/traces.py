"""What does a request cost that is traced, one of a hundred or each, into files or for a collector; and one that the access log has?"""

import contextlib
import tempfile
from pathlib import Path

import make
import numpy as np
from serving import Server
from turns import echo, grpc_target, http_target, in_turns, ratio

CALLERS = 16
NUMBERS = [("INPUT0", np.arange(16, dtype=np.float32))]
OFF = "off"
# server CPU over that of a server which traces nothing
LIMITS = {"rate 100": 1.05, "rate 1": 1.8, "spans, rate 100": 1.05, "spans, rate 1": 1.8, "access log": 1.3}


def flags(name, folder, collector):
    """Those of a server that is to do what the name says."""
    if name == "access log":
        return [f"--access-log={folder / 'access.log'}"]
    if name == OFF:
        return []
    settings = ["level=TIMESTAMPS", f"rate={name.split()[-1]}", f"triton,file={folder / name.replace(' ', '-')}", "triton,log-frequency=1000"]
    if name.startswith("spans"):
        settings = [*settings[:2], "mode=opentelemetry", f"opentelemetry,url=http://127.0.0.1:{collector.http}/v1/traces"]
    return [f"--trace-config={setting}" for setting in settings]


def measure(table, options):
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        make.identity_of(folder / "models", "m", [16])
        collector = stack.enter_context(echo("echo_http"))
        servers = {name: stack.enter_context(Server(folder / "models", "--log-info=false", *flags(name, folder, collector))) for name in (OFF, *LIMITS)}
        for protocol, target in (("http", http_target), ("grpc", grpc_target)):
            rounds = in_turns([target(name, server, "m", NUMBERS, CALLERS) for name, server in servers.items()], options)
            table.requests(f"Identity over {protocol}, 16 numbers, {CALLERS} callers", rounds)
            for name, limit in LIMITS.items():
                table.limit(f"{protocol}: server CPU, {name}, over none", ratio(rounds, name, OFF, CALLERS, "cpu"), limit, "times")
