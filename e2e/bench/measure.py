"""Measures the server beside the limits of this machine, in one run, in turns, and compares with what was set out to be reached."""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), *(str(HERE.parent / name) for name in ("clients", "common", "models"))]

import load  # noqa: E402
import make  # noqa: E402
import numpy as np  # noqa: E402
from serving import ROOT, Server, free_ports, program, runtime_library, until  # noqa: E402

CALLERS = (1, 16, 64)
QUEUE_DELAY = 100.0  # microseconds, as in the configuration of mlp_batched


def main():
    options = arguments()
    os.environ["TRITON_PROFILE"] = options.profile
    features = [("features", np.random.default_rng(0).random((1, 50), np.float32))]
    with contextlib.ExitStack() as stack:
        models = stack.enter_context(tempfile.TemporaryDirectory())
        make.bench(models)
        table = Table()
        machine(table, options)
        own = own_time(table, models, options)
        start_and_memory(table, models, options)
        server = stack.enter_context(Server(models, "--log-info=false"))
        targets = {
            "http": {"hyper echo": stack.enter_context(echo("echo_http")), "mlp": server, "mlp_batched": server},
            "grpc": {"tonic echo": stack.enter_context(echo("echo_grpc")), "mlp": server, "mlp_batched": server},
        }
        rounds = in_turns(targets, features, options)
    report(table, rounds, own)
    text = table.text()
    print(text)
    folder = ROOT / "target" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latest.txt").write_text(text + "\n")
    print(f"\nalso in {folder / 'latest.txt'}")
    return 1 if options.strict and table.missed else 0


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="release", help="cargo profile whose programs are measured (release)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="length of each single run")
    parser.add_argument("--strict", action="store_true", help="end with 1 when a limit is missed")
    return parser.parse_args()


class Table:
    """Lines of the report, and how many limits were missed."""

    def __init__(self):
        self.lines, self.missed = [], 0

    def section(self, title):
        self.lines += ["", title, "-" * len(title)]

    def row(self, *columns, widths=(16, 9, 24, 24, 26, 30, 20)):
        self.lines.append("".join(f"{column:<{width}}" for column, width in zip(map(str, columns), widths)).rstrip())

    def limit(self, what, value, limit, unit):
        kept = value.middle <= limit
        self.missed += not kept
        self.lines.append(f"{'PASS' if kept else 'MISS'}  {what:<74}{f'{value:.2f} {unit}':<34}limit {limit:.2f}")

    def text(self):
        return "\n".join(self.lines).strip()


def machine(table, options):
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "?")
    revision = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    table.section("Machine and build")
    table.row("processor", f"{os.cpu_count()} x {model}", widths=(12, 80))
    table.row("system", f"{platform.system()} {platform.release()}", widths=(12, 80))
    table.row("build", f"{revision}, profile {options.profile}", widths=(12, 80))
    table.row("rounds", f"{options.rounds} of {options.seconds} s, all targets in turns; figures are medians (least..most)", widths=(12, 80))


def own_time(table, models, options):
    """Median microseconds of ONNX Runtime alone, by batch size, for the small network and the large one."""
    table.section("The model alone: ONNX Runtime in a loop, one thread, microseconds per run and per row")
    times = {}
    for model in ("mlp", "mlp_big"):
        for batch in (1, 16, 32):
            command = [program("ort_loop"), runtime_library(), f"{models}/{model}/1/model.onnx", str(batch), "0.5"]
            runs = [float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]) for _ in range(3)]
            times[model, batch] = load.spread(runs).middle
            table.row(f"{model}, batch {batch}", f"{load.spread(runs):.2f}", f"{times[model, batch] / batch:.2f} per row", widths=(25, 34, 20))
    return times


def start_and_memory(table, models, options):
    """From exec to ready, and memory once ready: with no model, and with one small model."""
    table.section("Start and memory")
    with tempfile.TemporaryDirectory() as nothing, tempfile.TemporaryDirectory() as one:
        os.symlink(f"{models}/mlp", f"{one}/mlp")
        ready, empty, small = [], [], []
        for _ in range(max(options.rounds, 3)):
            with Server(nothing, wait=None) as server:
                ready.append(time_to_ready(server))
                empty.append(load.memory(server.process.pid))
            with Server(one) as server:
                answer(server, "mlp")
                small.append(load.memory(server.process.pid))
    table.row("ready, no model", f"{load.spread(ready):.1f} ms", widths=(25, 40))
    table.row("memory, no model", f"{load.spread(empty):.1f} MB PSS", widths=(25, 40))
    table.row("memory, one small model", f"{load.spread(small):.1f} MB PSS", widths=(25, 40))
    table.limits = {
        "ready with no model": (load.spread(ready), 50, "ms"),
        "memory with no model": (load.spread(empty), 15, "MB"),
        "memory with one small ONNX model": (load.spread(small), 60, "MB"),
    }


def time_to_ready(server):
    while server.status("/v2/health/ready") != 200:
        if time.monotonic() - server.started > 30:
            raise TimeoutError("the server does not become ready")
    return (time.monotonic() - server.started) * 1000


def answer(server, model):
    body, json_length = load.http_body([("features", np.zeros((1, 50), np.float32))])
    status, _, said = server.request("POST", f"/v2/models/{model}/infer", body, {"Inference-Header-Content-Length": str(json_length)})
    assert status == 200, said


@contextlib.contextmanager
def echo(name):
    """One of the echo programs; has the port and the process of a server."""
    (port,) = free_ports(1)
    process = subprocess.Popen([program(name), f"127.0.0.1:{port}"])

    class Running:
        pass

    running = Running()
    running.http = running.grpc = port
    running.process = process
    try:
        until(lambda: listens(port), f"{name} to listen", process=process)
        yield running
    finally:
        process.kill()
        process.wait()


def listens(port):
    import socket

    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def in_turns(targets, features, options):
    """Every target once per round, so that a change in the machine's mood meets all of them."""
    rounds = {}
    body, json_length = load.http_body(features)
    for turn in range(options.rounds + 1):  # the first warms up and is not counted
        for callers in CALLERS:
            for protocol, servers in targets.items():
                for name, server in servers.items():
                    seconds = options.seconds if turn else 1
                    model = name if name.startswith("mlp") else "mlp"
                    before = statistics(server, name)
                    if protocol == "http":
                        url = f"http://127.0.0.1:{server.http}/v2/models/{model}/infer"
                        one = load.wrk(url, server.process.pid, body, json_length, callers, seconds)
                    else:
                        one = load.h2load(server.grpc, server.process.pid, load.grpc_body(model, features), callers, seconds)
                    if before is not None:
                        requests, executions = (after - start for start, after in zip(before, statistics(server, name)))
                        # the tool stops in the middle of things: what was under way then may count or not
                        assert one.requests <= requests <= one.requests + callers, (one, requests)
                        one.batch = requests / executions
                    if turn:
                        rounds.setdefault((protocol, name, callers), []).append(one)
        print(f"round {turn} of {options.rounds} done", file=sys.stderr)
    return rounds


def statistics(server, name):
    """How many requests the server has answered well, one row each, in how many executions; None where nobody counts."""
    if not name.startswith("mlp"):
        return None
    stats = json.loads(server.request("GET", f"/v2/models/{name}/stats")[2])["model_stats"][0]
    return stats["inference_stats"]["success"]["count"], stats["execution_count"]


def report(table, rounds, own):
    echoes = {"http": "hyper echo", "grpc": "tonic echo"}
    for protocol, title in (("http", "HTTP, binary data, wrk"), ("grpc", "gRPC, h2load")):
        table.section(title)
        table.row("", "callers", "server CPU us/request", "p50 us", "p99 us", "requests/s", "mean batch")
        for (kind, name, callers), all_of in rounds.items():
            if kind == protocol:
                columns = [load.spread(getattr(one, field) for one in all_of) for field in ("cpu", "p50", "p99", "rate")]
                batch = "" if all_of[0].batch is None else f"{load.spread(one.batch for one in all_of).middle:.1f}"
                table.row(name, callers, f"{columns[0]:.1f}", f"{columns[1]:.0f}", f"{columns[2]:.0f}", f"{columns[3]:.0f}", batch)

    def each(protocol, name, callers, field):
        return [getattr(one, field) for one in rounds[protocol, name, callers]]

    table.section("Against what was set out to be reached")
    for protocol, factor in (("http", 1.8), ("grpc", 1.5)):
        # round by round: what slows the machine slows both
        pairs = zip(each(protocol, "mlp_batched", 64, "cpu"), each(protocol, echoes[protocol], 64, "cpu"))
        ratios = load.spread(server / echo for server, echo in pairs)
        table.limit(f"{protocol}: server CPU, small model with batching, 64 callers, over the echo's", ratios, factor, "times")
    for protocol in ("http", "grpc"):
        allowed = 1.5 * load.spread(each(protocol, echoes[protocol], 1, "p50")).middle + own["mlp", 1]
        table.limit(f"{protocol}: p50 of a lone caller, no batching", load.spread(each(protocol, "mlp", 1, "p50")), allowed, "us")
        table.limit(f"{protocol}: p50 of a lone caller, batching with {QUEUE_DELAY:.0f} us delay", load.spread(each(protocol, "mlp_batched", 1, "p50")), allowed + QUEUE_DELAY + 20, "us")
    for what, (value, limit, unit) in table.limits.items():
        table.limit(what, value, limit, unit)


if __name__ == "__main__":
    sys.exit(main())
