"""Processes that a server has started, while they come and go."""

import contextlib
from pathlib import Path


def children(pid):
    """The ids of the processes that the process has started and that are not reaped yet.

    Each process is asked for its parent: a list of a thread's children lacks one that is handed on just now, for the thread ends."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # a process that ended just now
            parent = stat.read_text().rpartition(")")[2].split()[1]
            if int(parent) == pid:
                found.append(int(stat.parent.name))
    return sorted(found)


def workers(pid, model):
    """Those of them that are workers of a Python model."""

    def arguments(child):
        try:
            return Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:  # one that ended just now
            return b""

    return [child for child in children(pid) if arguments(child).endswith(f"\0{model}\0".encode())]
