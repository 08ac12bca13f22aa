"""What do many servers and models cost the operator? A real API server, pods that are objects only and answer as agents do.

Each shape is measured in a cluster of its own:
  first start   from the operator's exec until all resources, which were there before it, are ready: every object is made, every pod loads
                and, with --during-start, from a change of a model each second meanwhile until its server's manifest has it
  idle          processor time and writes of all resources at rest
  changes       from the request that changes a model until its server's manifest has the change
  restart       from the operator's exec until each server was reconciled, nothing having changed; and what is written then
  busy server   changes of other servers, while a server changes each second"""

import argparse
import json
import os
import re
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), *(str(HERE.parent / name) for name in ("clients", "common", "models", "golden"))]

import load  # noqa: E402
import waiting  # noqa: E402
from control_plane import OPERATOR, ROOT, ControlPlane  # noqa: E402
from table import Table, machine  # noqa: E402

METRICS = "127.0.0.1:8090"
IDLE = 30  # seconds
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Shape:
    """How many of what. With `busy` models, the first server is changed each second while others are."""

    servers: int
    models: int
    orphans: int = 0
    replicas: int = 1
    busy: int = 0

    def flags(self):
        flags = [f"--servers={self.servers}", f"--models={self.models}", f"--replicas={self.replicas}", f"--orphans={self.orphans}"]
        return [*flags, f"--first={self.busy}"] if self.busy else flags

    @property
    def resources(self):
        return self.servers * (1 + self.models) + (self.busy - self.models if self.busy else 0)


SHAPES = {
    "100": Shape(100, 10),
    "300": Shape(300, 10),
    "1000": Shape(1000, 10),
    "one-server": Shape(1, 1000),
    "no-models": Shape(1000, 0),
    "no-servers": Shape(0, 0, orphans=10_000),
    "replicas": Shape(300, 3, replicas=3),
    "busy": Shape(100, 5, busy=1000),
}


class Operator:
    """The operator under measure."""

    def __init__(self, plane, profile):
        self.plane, self.begun = plane, time.monotonic()
        program = ROOT / "target" / profile / "triton-operator"
        flags = ["--image=localhost/tritonserver:1", "--leader-election=false", f"--metrics-address={METRICS}"]
        self.process = plane.start("operator", [program, "run", *flags], OPERATOR)

    def number(self, name):
        """The sum of a family of its metrics."""
        page = self.plane.run(["curl", "-sS", f"http://{METRICS}/metrics"])
        return sum(float(value) for value in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", page, re.MULTILINE))

    def cpu(self):
        """Seconds of processor time."""
        return processor_time(self.process)

    def memory(self, field="VmRSS"):
        """Megabytes."""
        return int(re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text()).group(1)) * 1024 / 1e6

    def stop(self):
        self.plane.stop(self.process)


def measure(table, name, shape, options):
    pretend = ROOT / "target" / options.pretend_profile / "pretend_cluster"
    with ControlPlane() as plane:
        ask = lambda *command: json.loads(plane.run([pretend, *map(str, command)]))
        pods = plane.start("pods", [pretend, "pods"])
        say(f"{name}: making {shape.resources + shape.orphans} resources")
        made = ask("fill", *shape.flags())["seconds"]
        table.section(title(shape))
        say(f"{name}: first start")
        before = plane.writes()
        others = {"API server": plane.server, "etcd": plane.etcd, "pretend pods": pods}
        cpu_before = {name: processor_time(process) for name, process in others.items()}
        operator = Operator(plane, options.profile)
        meanwhile = None
        if options.during_start:
            meanwhile = ThreadPoolExecutor(1).submit(ask, "changes", *shape.flags(), f"--seconds={options.during_start}", "--every=1000")
        try:
            seconds = first_start(plane, operator, ask, shape)
        except Exception:
            sys.stderr.write((plane.state / "operator.log").read_text()[-3000:])
            raise
        writes = difference(plane.writes(), before)
        figure(table, "resources made beforehand in", made, "s")
        figure(table, "first start", seconds, "s")
        figure(table, "its processor time", operator.cpu(), "s")
        if meanwhile:
            changes(table, "changes meanwhile", meanwhile.result())
        spent = {name: processor_time(process) - cpu_before[name] for name, process in others.items()}
        table.row("processor time of others", ", ".join(f"{name} {spent[name]:.1f} s" for name in others), widths=(44, 40))
        figure(table, "its peak memory", operator.memory("VmHWM"), "MB")
        table.row("reconciles", f"{operator.number('triton_operator_reconcile_total'):.0f}", widths=(44, 40))
        table.row("writes of all, pods' included", f"{sum(writes.values()):.0f}", widths=(44, 40))
        if options.verbose:
            say(json.dumps(writes, indent=1))
        quiet(plane)
        idle(table, plane, operator, options)
        if shape.models:
            say(f"{name}: changes")
            changes(table, "changes", ask("changes", *shape.flags(), f"--seconds={options.seconds}"))
            if shape.busy:
                changes(table, "changes beside a busy server", ask("changes", *shape.flags(), f"--seconds={options.seconds}", "--busy"))
            quiet(plane)
        say(f"{name}: restart")
        operator.stop()
        restart(table, plane, shape, options)


def processor_time(process):
    """Seconds."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def first_start(plane, operator, ask, shape):
    ask("settled", f"--resources={shape.resources}", f"--orphans={shape.orphans}")
    return time.monotonic() - operator.begun


def restart(table, plane, shape, options):
    before = plane.writes()
    operator = Operator(plane, options.profile)
    keys = shape.servers + (shape.orphans + 9) // 10

    def is_done():
        return operator.number("triton_operator_reconcile_total") >= keys and operator.number("triton_operator_reconciles_active") == 0

    waiting.until(is_done, "every server to be reconciled", 300, operator.process, pause=0.2, means_no=(Exception,))
    figure(table, "restart", time.monotonic() - operator.begun, "s")
    figure(table, "its processor time", operator.cpu(), "s")
    time.sleep(10)
    writes = difference(plane.writes(), before)
    table.row("writes until 10 s later", f"{sum(writes.values()):.0f} {writes or ''}", widths=(44, 40))
    figure(table, "its peak memory", operator.memory("VmHWM"), "MB")
    idle(table, plane, operator, options)


def idle(table, plane, operator, options):
    writes, cpu = plane.writes(), operator.cpu()
    begun = time.monotonic()
    time.sleep(options.idle)
    elapsed = time.monotonic() - begun
    share = (operator.cpu() - cpu) / elapsed * 100
    written = difference(plane.writes(), writes)
    figure(table, "idle: processor time", share, "% of a core")
    table.row("idle: writes", f"{sum(written.values()):.0f} in {elapsed:.0f} s {written or ''}", widths=(44, 40))
    figure(table, "idle: memory, RSS", operator.memory(), "MB")
    figure(table, "idle: memory, PSS", load.memory(operator.process.pid), "MB")


def changes(table, what, seen):
    words = " ".join(f"{name} {seen['manifest'][name] * 1000:.0f}" for name in ("p50", "p99", "most"))
    request = " ".join(f"{name} {seen['request'][name] * 1000:.0f}" for name in ("p50", "p99"))
    table.row(f"{what}: until the manifest has it", f"{words} ms; {seen['changes']} changes, {seen['lost']} lost; the request alone {request} ms", widths=(44, 40))


def quiet(plane):
    """Waits until nothing is written for 5 s."""
    before, since = plane.writes(), time.monotonic()
    while time.monotonic() - since < 5:
        time.sleep(1)
        now = plane.writes()
        if now != before:
            before, since = now, time.monotonic()


def difference(after, before):
    counts = {name: count - before.get(name, 0) for name, count in after.items()}
    return {name: count for name, count in sorted(counts.items()) if count}


def figure(table, what, value, unit):
    table.row(what, f"{value:.1f} {unit}", widths=(44, 40))


def title(shape):
    words = [f"{shape.servers} servers", f"{shape.models} models each"]
    if shape.replicas > 1:
        words.append(f"{shape.replicas} replicas each")
    if shape.busy:
        words.append(f"the first {shape.busy}")
    if shape.orphans:
        words = [f"{shape.orphans} models of servers that do not exist"]
    return ", ".join(words)


def say(text):
    print(f"scale: {text}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", nargs="*", choices=[*SHAPES, []], metavar="SHAPE", help=f"of {', '.join(SHAPES)} (default: all)")
    parser.add_argument("--profile", default="release", help="cargo profile of the operator that is measured (release)")
    parser.add_argument("--pretend-profile", default="debug", help="cargo profile of the program that pretends to be everybody else")
    parser.add_argument("--seconds", type=int, default=20, help="length of each series of changes")
    parser.add_argument("--during-start", type=int, default=0, help="seconds of the first start in which a model is changed each second (0)")
    parser.add_argument("--idle", type=int, default=IDLE, help="seconds at rest that are looked at")
    parser.add_argument("--verbose", action="store_true", help="name what is written")
    options = parser.parse_args()
    options.rounds = 1
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    table = Table()
    machine(table, options)
    for name in options.shape or SHAPES:
        measure(table, name, SHAPES[name], options)
    text = table.text()
    print(text)
    folder = ROOT / "target" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"scale-{'-'.join(options.shape) or 'all'}.txt").write_text(text + "\n")


if __name__ == "__main__":
    main()
