"""What a server and its workers hold: counts and memory that must be as before, however much it was asked."""

import os
import re
from pathlib import Path

import processes

from serving import until


def children(server):
    return processes.children(server.process.pid)


def memory(pid, kind):
    """Mebibytes."""
    return int(re.search(rf"^{kind}:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[1]) >> 10


def holdings(server):
    """What the server and its workers hold, by name: counts of things, which must be as before."""
    held = {"shm": sum("triton" in name for name in os.listdir("/dev/shm")), "workers": len(children(server))}
    for number, pid in enumerate([server.process.pid, *children(server)]):
        held[f"descriptors of {number}"] = len(os.listdir(f"/proc/{pid}/fd"))
        held[f"threads of {number}"] = len(os.listdir(f"/proc/{pid}/task"))
        held[f"segments of {number}"] = Path(f"/proc/{pid}/maps").read_text().count("memfd:triton")
    return held


def check_nothing_grows(server, work, rounds):
    """Idle memory and connections are given back at times of their own: so counts may differ by a few, however many rounds there are."""
    work()  # what is made once is there
    before = holdings(server)
    private = memory(server.process.pid, "RssAnon")
    for _ in range(rounds):
        work()

    def grown():
        return {name: (before[name], count) for name, count in holdings(server).items() if count > before[name] + 8}

    until(lambda: not grown(), f"no more of anything than {before}")
    assert memory(server.process.pid, "RssAnon") < private + 24


def check_workers_stay(server, work, rounds):
    """Nor do the workers, which are the same ones afterwards."""
    work()
    workers = children(server)
    private = [memory(pid, "RssAnon") for pid in workers]
    check_nothing_grows(server, work, rounds)
    assert children(server) == workers
    assert all(memory(pid, "RssAnon") < was + 24 for pid, was in zip(workers, private))
