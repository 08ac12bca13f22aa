"""Starts a server program for a test, waits for it with a deadline, and ends it: nothing outlives the test that started it."""

import contextlib
import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from waiting import scaled, until  # noqa: F401 - the tests take `until` from here

ROOT = Path(__file__).resolve().parents[2]


def free_ports(count=3):
    """Port numbers that nobody listens on now, all different. They lie below those the kernel gives to outgoing connections, any of which
    could take a port before the server binds it."""
    first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    choice = (10_000, first_ephemeral) if first_ephemeral > 20_000 else (10_000, 65_536)
    with contextlib.ExitStack() as stack:
        ports = []
        while len(ports) < count:
            port = random.randrange(*choice)
            one = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                one.bind(("127.0.0.1", port))
                ports.append(port)
        return ports


def program(name):
    """A binary of this project: TRITON_PROFILE names the cargo profile folder, debug by default."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    path = target / os.environ.get("TRITON_PROFILE", "debug") / name
    if not path.exists():
        raise FileNotFoundError(f"{path} is not built; e2e/test builds it")
    return str(path)


def runtime_library():
    """ONNX Runtime's shared library, from the wheel in the environment that runs the tests."""
    import onnxruntime

    return str(next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*")))


def everything_in(file):
    """What was written to `file` so far. The writer shares the file's position, so this leaves it where it is."""
    descriptor = file.fileno()
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")


class Server:
    """A running server. Use as a context manager; leaving it sends SIGTERM and expects exit code 0.

    Its Python models run in the interpreter of the tests, or in the one that E2E_PYTHON names."""

    def __init__(self, repositories, *flags, argv=None, env=None, wait="ready", expect_exit=0, deadline=60.0):
        self.http, self.grpc, self.metrics = free_ports()
        self.expect_exit, self.wait, self.deadline = expect_exit, wait, deadline
        ports = [f"--http-port={self.http}", f"--grpc-port={self.grpc}", f"--metrics-port={self.metrics}"]
        ports += [f"--{kind}-address=127.0.0.1" for kind in ("http", "grpc", "metrics")]
        repositories = [repositories] if isinstance(repositories, (str, Path)) else repositories
        if argv is None:
            argv = [program("tritonserver"), f"--backend-config=onnxruntime,library={runtime_library()}"]
            argv += [f"--backend-config=python,executable={os.environ.get('E2E_PYTHON', sys.executable)}"]
        self.argv = [*argv, *(f"--model-repository={path}" for path in repositories), *ports, *flags]
        self.env = {**os.environ, **(env or {})}
        self.output = tempfile.TemporaryFile(mode="w+b")
        self.process = None

    def __enter__(self):
        self.started = time.monotonic()
        self.process = subprocess.Popen(self.argv, env=self.env, stdout=self.output, stderr=subprocess.STDOUT, cwd=ROOT)
        try:
            if self.wait:
                until(lambda: self.status(f"/v2/health/{self.wait}") == 200, f"/v2/health/{self.wait}", self.deadline, self.process)
        except BaseException as error:
            self.kill()
            raise AssertionError(f"{error}\n{self.log()[-4000:]}") from error
        return self

    def __exit__(self, kind, error, trace):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(scaled(self.deadline))
        except subprocess.TimeoutExpired:
            self.kill()
            code = "nothing (killed)"
        if error is not None:
            error.add_note("the server said:\n" + self.log()[-4000:])
        elif self.expect_exit is not None:
            assert code == self.expect_exit, f"the server ended with {code}, not {self.expect_exit}\n{self.log()[-4000:]}"

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def log(self):
        """Everything the server has said so far."""
        return everything_in(self.output)

    @property
    def url(self):
        return f"127.0.0.1:{self.http}"

    @property
    def grpc_url(self):
        return f"127.0.0.1:{self.grpc}"

    def status(self, path, method="GET", body=None):
        """Status of one request, or None while nobody listens."""
        try:
            return self.request(method, path, body)[0]
        except OSError:
            return None

    def request(self, method, path, body=None, headers=None, port=None):
        """Status, headers and body of one plain request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.http, timeout=scaled(self.deadline))
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()
