"""What does a Python model cost, beside the same model.py files in a real Triton 2.51: identity, pictures, streams, BLS, start, memory?"""

import contextlib
import dataclasses
import subprocess
import tempfile
import time
from pathlib import Path

import grpc
import load
import numpy as np
import real
from sections.streams import streams
from serving import ROOT, Server
from tritonclient.grpc import service_pb2_grpc
from turns import Target, bare_exchange, grpc_target, http_target, in_turns, large_target, ratio

CALLERS = (1, 16, 64)
PICTURE_CALLERS = (1, 4)
NUMBERS = [("INPUT0", np.arange(16, dtype=np.float32))]
PICTURE = [("INPUT0", np.random.default_rng(0).random((3, 640, 640), np.float32))]
RESPONSES = 1000
COUNT = [("IN", np.array([RESPONSES], np.int32))]
CALLS = 50  # BLS calls within one request

IDENTITY_PY = '''
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            tensor = pb_utils.get_input_tensor_by_name(request, "INPUT0")
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", tensor.as_numpy())]))
        return responses
'''

STREAM_PY = '''
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for number in range(int(request.inputs()[0].as_numpy()[0])):
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([number], np.int32))]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
'''

BLS_PY = f'''
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        value = request.inputs()[0].as_numpy()
        for _ in range({CALLS}):
            tensor = pb_utils.Tensor("INPUT0", value)
            call = pb_utils.InferenceRequest(model_name="identity_py", requested_output_names=["OUTPUT0"], inputs=[tensor])
            response = call.exec()
            if response.has_error():
                return pb_utils.InferenceResponse(error=response.error())
            value = response.output_tensors()[0].as_numpy()
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", value)])
'''


def tensors(dims):
    return f'input [ {{ name: "INPUT0" data_type: TYPE_FP32 dims: {dims} }} ]\noutput [ {{ name: "OUTPUT0" data_type: TYPE_FP32 dims: {dims} }} ]\n'


STREAM_IO = 'input [ { name: "IN" data_type: TYPE_INT32 dims: [ 1 ] } ]\noutput [ { name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] } ]\nmodel_transaction_policy { decoupled: true }\n'
MODELS = {
    "identity_py": (IDENTITY_PY, tensors([16])),
    "picture_py": (IDENTITY_PY, tensors([3, 640, 640])),
    "stream_py": (STREAM_PY, STREAM_IO),
    "bls_py": (BLS_PY, tensors([16])),
}


def measure(table, options):
    if subprocess.run([ROOT / "e2e" / "golden" / "install"]).returncode:
        table.section("Python models")
        table.row("skipped: the real Triton they are measured beside cannot be installed here", widths=(80,))
        return
    with tempfile.TemporaryDirectory() as models:
        for name, (code, config) in MODELS.items():
            write(Path(models, name), code, config)
        with ours(models) as server, triton(models) as other:
            servers = {"ours": server, "Triton": other}
            for one in servers.values():
                check(one)
            identity(table, options, servers)
            pictures(table, options, servers)
            stream(table, options, servers)
            calls(table, options, servers)
        start(table, options, models)
        memory(table, options)


def write(folder, code, config):
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(f'backend: "python"\nmax_batch_size: 0\n{config}instance_group [ {{ kind: KIND_CPU count: 1 }} ]\n')
    (folder / "1" / "model.py").write_text(code)


def ours(models, **more):
    """Our server with the same interpreter and numpy for its models as the real Triton has."""
    return Server(models, "--log-info=false", env={"PATH": real.path(), "PYTHONDONTWRITEBYTECODE": "1"}, **more)


def triton(models, **more):
    argv, env = real.command()
    return Server(models, "--log-info=false", argv=argv, env=env, expect_exit=None, **more)


def check(server):
    """Answers are right before they are counted: the load tools for gRPC do not look at them."""
    check_http(server, "identity_py")
    check_http(server, "bls_py")
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.grpc_url, options) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for model, inputs in (("identity_py", NUMBERS), ("picture_py", PICTURE)):
            assert stub.ModelInfer(load.grpc_request(model, inputs)).raw_output_contents[0] == inputs[0][1].tobytes()
        messages = list(stub.ModelStreamInfer(iter([load.grpc_request("stream_py", COUNT)])))
        assert [message.infer_response.raw_output_contents[0] for message in messages] == [number.to_bytes(4, "little") for number in range(RESPONSES)]


def check_http(server, model):
    body, json_length = load.http_body(NUMBERS)
    status, headers, said = server.request("POST", f"/v2/models/{model}/infer", body, {"Inference-Header-Content-Length": str(json_length)})
    assert status == 200, said
    assert said[int(headers["Inference-Header-Content-Length"]) :] == NUMBERS[0][1].tobytes(), said


def identity(table, options, servers):
    for protocol, target in (("HTTP", http_target), ("gRPC", grpc_target)):
        targets = [target(name, server, "identity_py", NUMBERS, callers) for callers in CALLERS for name, server in servers.items()]
        rounds = in_turns(targets, options)
        table.requests(f"Python identity over {protocol}, 16 numbers; CPU of the server and its workers together", rounds)
        for callers in CALLERS:
            against(table, rounds, f"{protocol}, identity_py, {callers} callers", callers, rate=2, cpu=0.5, p50=0.6 if callers == 1 else None)


def pictures(table, options, servers):
    """Beside the exchange of as many bytes with nobody who looks at them, which is all that a server can save."""
    for protocol in ("http", "grpc"):
        name = {"http": "HTTP", "grpc": "gRPC"}[protocol]
        with bare_exchange(protocol, PICTURE[0][1].nbytes) as bare:
            all_of = {**servers, "bare exchange": bare}
            target = large_target(protocol)
            targets = [target(name, server, "picture_py", PICTURE, callers) for callers in PICTURE_CALLERS for name, server in all_of.items()]
            rounds = in_turns(targets, options)
        table.requests(f"Python identity over {name}, 3 x 640 x 640 FP32", rounds)
        for callers in PICTURE_CALLERS:
            against(table, rounds, f"{name}, 3 x 640 x 640, {callers} callers", callers, rate=3)
            table.figure(f"{name}, {callers} callers: bare exchange over Triton", ratio(rounds, "bare exchange", "Triton", callers, "rate"), "times", 2)


def stream(table, options, servers):
    rounds = in_turns([streams(name, server, "stream_py", COUNT, 1) for name, server in servers.items()], options)
    table.requests(f"Python streams of {RESPONSES} responses over gRPC: per response, but for p50 and p99, which are of a stream", rounds)
    against(table, rounds, f"stream of {RESPONSES} responses", 1, rate=2)


def calls(table, options, servers):
    rounds = in_turns([bls(name, server) for name, server in servers.items()], options)
    table.requests(f"BLS calls of identity_py, {CALLS} in a request: all per call", rounds)
    against(table, rounds, "BLS call of identity_py", 1, p50=0.5)


def bls(name, server):
    """Figures per call of one caller's requests, each of CALLS calls."""
    whole = http_target(name, server, "bls_py", NUMBERS, 1)

    def call(seconds):
        one = whole.call(seconds)
        return dataclasses.replace(one, requests=one.requests * CALLS, **{field: getattr(one, field) / CALLS for field in ("cpu", "p50", "p99")})

    return Target(name, 1, call)


def against(table, rounds, what, callers, rate=None, cpu=None, p50=None):
    """Ours over Triton's, round by round."""
    for field, limit, words in (("rate", rate, "throughput"), ("cpu", cpu, "CPU per request"), ("p50", p50, "p50")):
        if limit is not None:
            table.limit(f"{what}: {words} over Triton's", ratio(rounds, "ours", "Triton", callers, field), limit, "times", at_least=field == "rate")


def start(table, options, models):
    """Four models that are ready: from the start of the program."""
    took = {"ours": [], "Triton": []}
    for _ in range(max(options.rounds, 3)):
        for name, program in (("ours", ours), ("Triton", triton)):
            with program(models, wait=None) as server:
                took[name].append(seconds_to_ready(server))
    table.section("Start to ready with four Python models")
    for name, seconds in took.items():
        table.figure(name, load.spread(seconds), "s", 2)
    table.limit("ready with four Python models", load.spread(took["ours"]), 0.7, "s")


def seconds_to_ready(server):
    while server.status("/v2/health/ready") != 200:
        if time.monotonic() - server.started > 60:
            raise TimeoutError(f"the server does not become ready: {server.log()[-2000:]}")
        time.sleep(0.002)
    return time.monotonic() - server.started


def memory(table, options):
    """An idle worker beside an interpreter that has imported numpy, each alone on the machine with its interpreter."""
    sizes = {"interpreter with numpy": [], "ours": [], "Triton": []}
    with tempfile.TemporaryDirectory() as models:
        write(Path(models, "identity_py"), IDENTITY_PY, tensors([16]))
        for _ in range(max(options.rounds, 3)):
            sizes["interpreter with numpy"].append(size_of_interpreter())
            for name, program in (("ours", ours), ("Triton", triton)):
                with program(models) as server:
                    check_http(server, "identity_py")
                    sizes[name].append(max(load.memory(pid) for pid in load.descendants(server.process.pid)))
    table.section("Memory of an idle Python worker")
    spreads = {name: load.spread(values) for name, values in sizes.items()}
    for name, value in spreads.items():
        table.figure(name, value, "MB PSS")
    share = load.spread(one / base for one, base in zip(sizes["ours"], sizes["interpreter with numpy"]))
    table.limit("memory of an idle worker over an interpreter with numpy", share, 1.3, "times")


def size_of_interpreter():
    """Megabytes of the interpreter of the models with numpy imported."""
    code = "import numpy, sys; print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen([real.HOME / "venv/bin/python3", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        with contextlib.closing(process.stdin):
            assert process.stdout.readline() == b"ready\n"
            return load.memory(process.pid)
