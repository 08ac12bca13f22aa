"""What is tried on the GPU. Each check takes a Setup and returns its figures; it raises NotHere where the machine lacks what it needs."""

import base64
import ctypes
import random
import re
import struct
import subprocess
import threading
import time

from machine import NotHere, Server, binary_request

TOKENS = 128
WIDTH = 256
ROWS = 64  # of a request whose run takes long enough that Python's clients are no limit
SECONDS = 5


class Setup:
    """The files that were brought, and a server that runs with them."""

    def __init__(self, folder, found, deadline):
        self.folder, self.gpus, self.deadline = folder, found, deadline
        packages = folder / "packages"
        libraries = sorted(packages.glob("onnxruntime/capi/libonnxruntime.so.*"))
        if not libraries:
            raise NotHere("ONNX Runtime is not among the pieces")
        self.library = libraries[0]
        self.libraries = ":".join(map(str, [*sorted(packages.glob("nvidia/*/lib")), self.library.parent]))
        self.tensorrt = folder / "tensorrt"
        backends = [f"onnxruntime,library={self.library}", f"tensorrt,library={self.tensorrt}"]
        self.server = Server(folder, folder / "models", backends, self.libraries)
        weights = next((folder / "models/bert_cpu").glob("*/model.onnx"))
        for model in (folder / "models").iterdir():
            (model / "1").mkdir(exist_ok=True)
            if not (model / "1/model.onnx").exists():
                (model / "1/model.onnx").symlink_to(weights)

    def stop(self):
        self.server.stop()

    def request(self, rows, seed):
        values = random.Random(seed).choices(range(1000), k=rows * TOKENS)
        return binary_request("input_ids", "INT64", (rows, TOKENS), struct.pack(f"<{len(values)}q", *values))


def onnxruntime_right(setup, model="bert_gpu", runs=4, allowed=1e-3):
    """The same answers as on the CPU, within what single precision leaves open."""
    server = setup.server
    server.load("bert_cpu")
    server.load(model)
    worst = 0.0
    for seed in range(runs):
        for rows in (1, 3):
            request = setup.request(rows, seed)
            expect, got = server.infer("bert_cpu", request), server.infer(model, request)
            if len(got) != rows * WIDTH:
                raise AssertionError(f"{len(got)} numbers for {rows} rows")
            worst = max(worst, max(abs(one - other) for one, other in zip(expect, got)))
    if worst > allowed:
        raise AssertionError(f"answers differ by up to {worst}")
    return {"largest_difference": worst}


def onnxruntime_graphs(setup):
    """Captured runs answer for what they are given, several times for each shape."""
    return onnxruntime_right(setup, "bert_gpu_graph", runs=6)


def onnxruntime_speed(setup):
    """Runs per second of one instance over those of a bare loop."""
    setup.server.load("bert_gpu")
    loop, served = [], []
    for _ in range(3):
        loop.append(raw_loop(setup, 1))
        served.append(rate(setup, "bert_gpu", callers=3))
    ratios = sorted(one / other for one, other in zip(served, loop))
    return {"loop_per_second": loop, "server_per_second": served, "ratio": ratios[1], "wanted": 0.98, "is_reached": ratios[1] >= 0.98}


def two_instances(setup):
    """Two instances on one GPU over two sessions in a loop."""
    setup.server.load("bert_gpu_two")
    loop, served = raw_loop(setup, 2), rate(setup, "bert_gpu_two", callers=6)
    setup.server.unload("bert_gpu_two")
    return {"loop_per_second": loop, "server_per_second": served, "ratio": served / loop}


def out_of_memory(setup):
    """A model that may take 1 MiB of the GPU is told so, and its neighbour goes on."""
    server = setup.server
    server.load("bert_gpu")
    try:
        server.load("bert_gpu_small")
        server.infer("bert_gpu_small", setup.request(ROWS, 1))
    except RuntimeError as error:
        words = str(error)
    else:
        raise AssertionError("a model with 1 MiB of the GPU answered")
    onnxruntime_right(setup, runs=1)
    return {"words": words[:300]}


def gauges(setup):
    """Memory of the GPU on the metrics page beside what the driver's tool says."""
    page = setup.server.metrics()
    found = dict(re.findall(r"^(nv_gpu_\w+)\{[^}]*\} (\S+)$", page, re.MULTILINE))
    if "nv_gpu_memory_total_bytes" not in found:
        raise AssertionError("no nv_gpu_memory_total_bytes on the metrics page")
    told, known = float(found["nv_gpu_memory_total_bytes"]), float(setup.gpus[0][1]) * (1 << 20)
    if abs(told - known) > 0.05 * known:
        raise AssertionError(f"{told} bytes on the metrics page, {known} by nvidia-smi")
    return found


def cuda_shared_memory(setup):
    """An input that this process has put into memory of the GPU, and an output there."""
    setup.server.load("bert_gpu")
    request = setup.request(1, 7)
    expect = setup.server.infer("bert_gpu", request)
    values = request[0][-TOKENS * 8 :]
    memory = DeviceMemory(len(values) + WIDTH * 4)
    memory.write(0, values)
    handle = {"raw_handle": {"b64": base64.b64encode(memory.handle()).decode()}, "device_id": 0, "byte_size": memory.size}
    server = setup.server
    server.post("/v2/cudasharedmemory/region/gpu/register", json_bytes(handle))
    try:
        region = {"shared_memory_region": "gpu"}
        body = {
            "inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [1, TOKENS], "parameters": {**region, "shared_memory_byte_size": len(values)}}],
            "outputs": [{"name": "pooled", "parameters": {**region, "shared_memory_offset": len(values), "shared_memory_byte_size": WIDTH * 4}}],
        }
        server.post("/v2/models/bert_gpu/infer", json_bytes(body), {"Content-Type": "application/json"})
    finally:
        server.post("/v2/cudasharedmemory/region/gpu/unregister", b"")
    got = struct.unpack(f"<{WIDTH}f", memory.read(len(values), WIDTH * 4))
    memory.free()
    worst = max(abs(one - other) for one, other in zip(expect, got))
    if worst > 1e-4:
        raise AssertionError(f"answers differ by up to {worst}")
    return {"largest_difference": worst}


def tensorrt(setup):
    """A plan built here and served: right, with graphs and without them, and one of another version refused without harm to it."""
    if not (setup.tensorrt / "libnvinfer.so.10").exists():
        raise NotHere("TensorRT is not among the pieces")
    plan, seconds = build_plan(setup)
    for name, optimization in {"bert_trt": "", "bert_trt_graph": "optimization { cuda { graphs: true output_copy_stream: true } }\n"}.items():
        write_plan(setup, name, plan, optimization)
    figures = {"build_seconds": seconds, "plan_bytes": len(plan)}
    for name in ("bert_trt", "bert_trt_graph"):
        # layers run in TF32 where that is faster, as a plan is built by default
        figures[name] = {**onnxruntime_right(setup, name, allowed=2e-2), "answers_per_second": rate(setup, name, callers=4)}
    write_plan(setup, "bert_trt_other", plan[:24] + bytes([9, 9, 9, 9]) + plan[28:], "")
    write_plan(setup, "bert_trt_damaged", plan[: len(plan) // 2], "")
    for name in ("bert_trt_other", "bert_trt_damaged"):
        try:
            setup.server.load(name)
        except RuntimeError as error:
            figures[name] = str(error)[:300]
        else:
            raise AssertionError(f"{name} was loaded")
    onnxruntime_right(setup, "bert_trt", runs=1, allowed=2e-2)
    return figures


def build_plan(setup):
    """The plan of the network, and how long that took."""
    save, network = setup.folder / "bert.plan", setup.folder / "models/bert_cpu/1/model.onnx"
    shapes = [f"--{which}=input_ids:{rows}x{TOKENS}" for which, rows in {"min": 1, "opt": ROWS, "max": ROWS}.items()]
    command = [setup.folder / "bin/build-plan", f"--onnx={network}", f"--save={save}", *shapes, "--level=2", f"--library={setup.tensorrt}"]
    environment = {"LD_LIBRARY_PATH": f"{setup.tensorrt}:{setup.libraries}"}
    started = time.monotonic()
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=setup.deadline - time.monotonic())
    if done.returncode:
        raise RuntimeError(done.stderr[-1000:])
    return save.read_bytes(), round(time.monotonic() - started, 1)


def write_plan(setup, name, plan, optimization):
    """Puts a model with that plan into the repository. The rest of its configuration is the engine's."""
    version = setup.folder / "models" / name / "1"
    version.mkdir(parents=True)
    (version / "model.plan").write_bytes(plan)
    (version.parent / "config.pbtxt").write_text(f'platform: "tensorrt_plan"\nbackend: "tensorrt"\n{optimization}')


def python_torch(_setup):
    raise NotHere("no torch for CUDA among the pieces")


def raw_loop(setup, threads):
    """Runs per second of ONNX Runtime alone on the first GPU."""
    model = setup.folder / "models/bert_cpu/1/model.onnx"
    command = [setup.folder / "bin/ort_loop", setup.library, model, str(ROWS), str(SECONDS), str(threads), "1", "0"]
    environment = {"LD_LIBRARY_PATH": setup.libraries}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=SECONDS + 60)
    if done.returncode:
        raise RuntimeError(done.stderr[-500:])
    return float(done.stdout.split()[2])


def rate(setup, model, callers):
    """Answers per second to so many callers, each on a connection of its own."""
    request = setup.request(ROWS, 0)
    counts, failures = [0] * callers, []
    setup.server.infer(model, request)
    end = time.monotonic() + SECONDS

    def call(number):
        connection = setup.server.connect()
        try:
            while time.monotonic() < end:
                setup.server.infer(model, request, connection)
                counts[number] += 1
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return sum(counts) / (time.monotonic() - started)


class DeviceMemory:
    """Memory of the first GPU, by the driver's own functions, which another process can open."""

    def __init__(self, size):
        try:
            self.driver = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise NotHere(f"no libcuda.so.1: {error}") from error
        self.size = size
        device, context, self.pointer = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)
        self.call("cuMemAlloc_v2", ctypes.byref(self.pointer), ctypes.c_size_t(size))

    def call(self, name, *arguments):
        code = getattr(self.driver, name)(*arguments)
        if code:
            raise RuntimeError(f"{name} answers {code}")

    def write(self, offset, data):
        self.call("cuMemcpyHtoD_v2", ctypes.c_uint64(self.pointer.value + offset), data, ctypes.c_size_t(len(data)))

    def read(self, offset, length):
        data = ctypes.create_string_buffer(length)
        self.call("cuMemcpyDtoH_v2", data, ctypes.c_uint64(self.pointer.value + offset), ctypes.c_size_t(length))
        return data.raw

    def handle(self):
        handle = ctypes.create_string_buffer(64)
        self.call("cuIpcGetMemHandle", handle, self.pointer)
        return handle.raw

    def free(self):
        self.call("cuMemFree_v2", self.pointer)


def json_bytes(value):
    import json

    return json.dumps(value).encode()


ALL = {
    "onnxruntime right": onnxruntime_right,
    "onnxruntime speed": onnxruntime_speed,
    "onnxruntime graphs": onnxruntime_graphs,
    "two instances on a GPU": two_instances,
    "out of memory": out_of_memory,
    "CUDA shared memory": cuda_shared_memory,
    "GPU gauges": gauges,
    "TensorRT": tensorrt,
    "Python with torch": python_torch,
}
