"""What the machine has, what was brought to it, and a server on it."""

import hashlib
import http.client
import json
import os
import re
import socket
import struct
import subprocess
import time
import zipfile
from pathlib import Path


class NotHere(Exception):
    """Something that a check needs is not on this machine."""


def gpus():
    """Name, memory in MiB and driver of each GPU, as the driver's own tool says."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode:
        return []
    return [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines() if line.strip()]


class Pieces:
    """The files of e2e/gpu/prepare: `FOLDER--NAME.part-NNN`, and their sums in SHA256SUMS."""

    def __init__(self, folder):
        self.folder = folder

    def join(self, target):
        """Checks all pieces, puts files together below `target`, and unpacks the libraries of packages there.

        Raises NotHere if pieces are missing or damaged.
        """
        sums = self.folder / "SHA256SUMS"
        if not sums.exists():
            raise NotHere(f"no pieces in {self.folder}: e2e/gpu/prepare makes them where there is a network")
        for line in sorted(sums.read_text().splitlines(), key=lambda line: line.split()[1]):
            digest, name = line.split()
            self.append(digest, name, target)
        for wheel in (target / "wheels").glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(target / "packages", [name for name in archive.namelist() if ".so" in Path(name).name])
            wheel.unlink()
        for program in (target / "bin").iterdir():
            program.chmod(0o755)
        return target

    def append(self, digest, name, target):
        piece = self.folder / name
        if not piece.exists():
            raise NotHere(f"piece {name} is missing")
        data = piece.read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise NotHere(f"piece {name} is damaged")
        file = target / re.sub(r"\.part-\d+$", "", name).replace("--", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "ab") as out:
            out.write(data)


class Server:
    """tritonserver with one repository, on ports of its own. Models are loaded when they are asked for.

    `backends`: values of --backend-config. `libraries`: folders for the loader, separated by colons.
    """

    def __init__(self, folder, models, backends, libraries):
        self.port, metrics_port = free_ports(2)
        self.metrics_port = metrics_port
        flags = {
            "model-repository": models,
            "model-control-mode": "explicit",
            "http-address": "127.0.0.1",
            "http-port": self.port,
            "allow-grpc": "false",
            "metrics-address": "127.0.0.1",
            "metrics-port": metrics_port,
        }
        self.log = folder / "server.log"
        command = [str(folder / "bin/tritonserver"), *(f"--{key}={value}" for key, value in flags.items())]
        command += [f"--backend-config={backend}" for backend in backends]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, env=dict(os.environ, LD_LIBRARY_PATH=libraries), stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not self.is_live():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.1)

    def is_live(self):
        try:
            return self.request("GET", "/v2/health/live")[0] == 200
        except OSError:
            return False

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)

    def request(self, method, path, body=b"", headers=None, connection=None):
        """Status, body and headers."""
        used = connection or self.connect()
        used.request(method, path, body, headers or {})
        response = used.getresponse()
        return response.status, response.read(), response.headers

    def load(self, model):
        """Raises RuntimeError with the server's words if it does not load."""
        self.post(f"/v2/repository/models/{model}/load", b"{}")

    def unload(self, model):
        self.post(f"/v2/repository/models/{model}/unload", b"{}")

    def post(self, path, body, headers=None, connection=None):
        """Body and headers of an answer that says yes; RuntimeError with the server's words otherwise."""
        status, answer, found = self.request("POST", path, body, headers, connection)
        if status != 200:
            raise RuntimeError(f"{status}: {answer.decode(errors='replace')}")
        return answer, found

    def infer(self, model, request, connection=None):
        """Floats of the only output."""
        answer, headers = self.post(f"/v2/models/{model}/infer", *request, connection=connection)
        data = answer[int(headers["Inference-Header-Content-Length"]) :]
        return struct.unpack(f"<{len(data) // 4}f", data)

    def metrics(self):
        page = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=60)
        page.request("GET", "/metrics")
        return page.getresponse().read().decode()

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def binary_request(name, data_type, shape, data):
    """Body and headers of a request with one input, whose answer is binary as well."""
    head = {
        "inputs": [{"name": name, "datatype": data_type, "shape": list(shape), "parameters": {"binary_data_size": len(data)}}],
        "parameters": {"binary_data_output": True},
    }
    head = json.dumps(head).encode()
    return head + data, {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
