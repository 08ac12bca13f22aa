"""Load tools as functions: run one for a while, return how many requests, how long they took, and what they cost the server."""

import contextlib
import json
import os
import statistics
import struct
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from serving import program

HERE = Path(__file__).resolve().parent
DATATYPES = {"float32": "FP32", "int64": "INT64", "int32": "INT32", "uint32": "UINT32"}
TICK = 1e6 / os.sysconf("SC_CLK_TCK")  # microseconds


@dataclass
class Round:
    """One run of a load tool against one server: latencies and processor time of the server per request in microseconds."""

    requests: int
    seconds: float
    p50: float
    p99: float
    cpu: float
    batch: float | None = None

    @property
    def rate(self):
        return self.requests / self.seconds


def cpu_time(pid):
    """Microseconds that a process and all below it have computed, in their own code and in the kernel for it."""
    return sum(own_cpu_time(one) for one in (pid, *descendants(pid)))


def own_cpu_time(pid):
    """The same of the process alone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0  # it has ended
    return (int(fields[11]) + int(fields[12])) * TICK


def descendants(pid):
    """The processes a process has started, and those that these have."""
    children = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, left = [], [pid]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


def memory(pid):
    """Megabytes of proportional set size."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ValueError("no Pss in smaps_rollup")


FIRST_SEQUENCE = 1_000_000


def http_body(inputs, **parameters):
    """A binary request: JSON, then the data. `inputs` is a list of (name, numpy array of FP32 or INT64)."""
    head = {
        "inputs": [
            {"name": name, "shape": list(array.shape), "datatype": DATATYPES[array.dtype.name], "parameters": {"binary_data_size": array.nbytes}}
            for name, array in inputs
        ],
        "parameters": {"binary_data_output": True, **parameters},
    }
    head = json.dumps(head, separators=(",", ":")).encode()
    return head + b"".join(array.tobytes() for _, array in inputs), len(head)


def grpc_request(model, inputs):
    """The same request as a gRPC message."""
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name=model)
    for name, array in inputs:
        request.inputs.add(name=name, datatype=DATATYPES[array.dtype.name], shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request


def grpc_body(model, inputs):
    """The same request as one gRPC message with its frame."""
    message = grpc_request(model, inputs).SerializeToString()
    return struct.pack(">BI", 0, len(message)) + message


def wrk(url, pid, body, callers, seconds, json_length=None, models=None, sequences=None):
    """HTTP/1.1, one connection per caller. A body is JSON, or binary data after `json_length` bytes of JSON. With `models`, the requests go to
    m0000, m0001 and so on in turn, whatever path the address has. With `sequences`, they belong to so many sequences in turn, from the one whose
    number in the body is FIRST_SEQUENCE."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        env = {**os.environ, "BENCH_BODY": file.name}
        env |= {f"BENCH_{key}": str(number) for key, number in (("JSON_LENGTH", json_length), ("MODELS", models), ("SEQUENCES", sequences)) if number is not None}
        # some models take longer than the two seconds that it waits for an answer by itself
        command = ["wrk", "-t1", f"-c{callers}", f"-d{seconds}s", "--timeout=60s", "-s", str(HERE / "infer.lua"), url]
        before = cpu_time(pid)
        said = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
        cost = cpu_time(pid) - before
    result = json.loads(next(line for line in said.splitlines() if line.startswith("RESULT")).removeprefix("RESULT "))
    assert result["errors"] == 0, said
    assert result["requests"] > 0, said
    return Round(result["requests"], result["seconds"], result["p50"], result["p99"], cost / result["requests"])


def h2load(port, pid, body, callers, seconds, method="ModelInfer"):
    """gRPC: sixteen streams per connection. h2load does not see gRPC's status: the caller counts successes at the server."""
    clients = max(1, callers // 16)
    with tempfile.NamedTemporaryFile() as file, tempfile.NamedTemporaryFile(dir="/dev/shm") as log:
        file.write(body)
        file.flush()
        command = ["h2load", "-t1", f"-c{clients}", f"-m{callers // clients}", f"-D{seconds}", "-d", file.name, f"--log-file={log.name}"]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        before = cpu_time(pid)
        said = subprocess.run([*command, f"http://127.0.0.1:{port}/inference.GRPCInferenceService/{method}"], capture_output=True, text=True, check=True).stdout
        cost = cpu_time(pid) - before
        lines = [line.split() for line in Path(log.name).read_text().splitlines()]
    times = sorted(int(taken) for _, status, taken in lines if status == "200")
    assert times and len(times) == len(lines), said
    return Round(len(times), seconds, times[len(times) // 2], times[len(times) * 99 // 100], cost / len(times))


def large(protocol, port, pid, body, callers, seconds, model, json_length=0):
    """Requests of megabytes, one connection per caller, by a tool that needs next to nothing for them besides what the system does."""
    path = f"/v2/models/{model}/infer" if protocol == "http" else "/inference.GRPCInferenceService/ModelInfer"
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(body)
        file.flush()
        command = [program("large"), "call", protocol, f"127.0.0.1:{port}", path, file.name, str(callers), str(seconds), str(json_length)]
        before = cpu_time(pid)
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        cost = cpu_time(pid) - before
    result = json.loads(said)
    return Round(result["requests"], result["seconds"], result["p50"], result["p99"], cost / result["requests"])


def c_core(port, pid, request, seconds):
    """gRPC by Python's client, one call after the other on one channel."""
    import grpc
    from tritonclient.grpc import service_pb2_grpc

    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    times = []
    with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        stub.ModelInfer(request)
        before, end = cpu_time(pid), time.monotonic() + seconds
        while (begun := time.monotonic()) < end:
            stub.ModelInfer(request)
            times.append((time.monotonic() - begun) * 1e6)
        cost = cpu_time(pid) - before
    times.sort()
    return Round(len(times), seconds, times[len(times) // 2], times[len(times) * 99 // 100], cost / len(times))


@dataclass
class Spread:
    """A median with the least and the most of its rounds."""

    middle: float
    least: float
    most: float

    def __format__(self, spec):
        return f"{self.middle:{spec}} ({self.least:{spec}}..{self.most:{spec}})"


def spread(values):
    values = list(values)
    return Spread(statistics.median(values), min(values), max(values))
