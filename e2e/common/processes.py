"""Processes that a server has started, while they come and go."""

import contextlib
from pathlib import Path


def children(pid):
    """The ids of the processes that the process has started and that are not reaped yet."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that ended just now
            found += map(int, (task / "children").read_text().split())
    return sorted(found)


def workers(pid, model):
    """Those of them that are workers of a Python model."""

    def arguments(child):
        try:
            return Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:  # one that ended just now
            return b""

    return [child for child in children(pid) if arguments(child).endswith(f"\0{model}\0".encode())]
