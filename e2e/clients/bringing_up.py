"""Starts `triton-operator up` for a test, follows what it says, and ends it: nothing outlives the test that started it."""

import contextlib
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from serving import everything_in, free_ports, program, runtime_library, scaled, until


class Up:
    """A running `triton-operator up`; leaving it sends SIGTERM, expects 0 and that nothing is left."""

    def __init__(self, *files, flags=(), expect_exit=0, env=None):
        self.http, self.grpc, self.metrics = free_ports()
        ports = [f"--http-port={self.http}", f"--grpc-port={self.grpc}", f"--metrics-port={self.metrics}"]
        self.argv = [program("triton-operator"), "up", *(f"--file={file}" for file in files), *ports, *flags]
        self.env = {**os.environ, "ORT_DYLIB_PATH": runtime_library(), **(env or {})}
        self.expect_exit = expect_exit

    def __enter__(self):
        self.output = open(os.memfd_create("up"), "w+b")
        self.process = subprocess.Popen(self.argv, env=self.env, stdout=self.output, stderr=subprocess.STDOUT, cwd="/")
        return self

    def __exit__(self, kind, error, trace):
        children = self.children()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(scaled(60))
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
        if error is not None:
            error.add_note("triton-operator up said:\n" + self.said())
            return
        assert code == self.expect_exit, f"ended with {code}\n{self.said()}"
        until(lambda: not any(alive(child) for child in children), "the server to be gone with its parent")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", self.http), 1).close()

    def said(self):
        return everything_in(self.output)

    def wait_for(self, text, deadline=30):
        """Until it has said so; what it has said so far is used up, so that the next wait is for something new."""
        seen = getattr(self, "_seen", 0)

        def found():
            place = self.said().find(text, seen)
            return place + len(text) if place >= 0 else None

        try:
            self._seen = until(found, f"the words '{text}'", deadline, self.process)
        except AssertionError as failure:
            raise AssertionError(f"{failure}\nit said:\n{self.said()}") from None

    def children(self):
        """Process ids of the servers."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == self.process.pid:
                    found.append(int(stat.parent.name))
        return found

    @property
    def url(self):
        return f"127.0.0.1:{self.http}"

    @property
    def grpc_url(self):
        return f"127.0.0.1:{self.grpc}"


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def write(path, *texts):
    """Replaces a file as an editor does: whole, by rename."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text("".join(texts))
    fresh.rename(path)
