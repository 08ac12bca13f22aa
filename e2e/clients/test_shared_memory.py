"""Shared memory of clients, with the real client library over both protocols: registering, tensors that lie there, and what clients do to their memory meanwhile."""

import base64
import contextlib
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading

import decoupled
import ensembles
import grpc
import make
import numpy as np
import pytest
import python_model
import requests
import sequences
import tritonclient.utils.shared_memory as shm
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

from serving import Server, until
from talking import MODULES, PROTOCOLS, connect, tensor, wanted
from under_way import pending

PAGE = 4096
NUMBER = itertools.count()
SHORTER = "is shorter than it was when it was registered, or the system has no memory for it. Unregister it, and register one of the length that it has."


@pytest.fixture(scope="module")
def server(folder):
    make.identity_of(folder, "identity", [-1])
    make.identity_of(folder, "large", [-1], "UINT8")
    make.identity_of(folder, "texts", [-1], "STRING")
    make.identity(folder, "slow", execute_delay_ms=500)
    make.types(folder)
    make.shapes(folder)
    ensembles.chain(folder)
    decoupled.square(folder)
    sequences.sums(folder, "sums", f"direct {{ }} {sequences.controls('START', 'READY')} max_sequence_idle_microseconds: 600000000")
    python_model.write(folder, "python", python_model.IDENTITY, python_model.tensors(["IN FP32 -1"], ["OUT FP32 -1"]))
    with Server(folder, "--allow-client-shm=true") as running:
        yield running


class Memory:
    """A shared-memory object of this client, and the whole of it registered as the region of that name."""

    def __init__(self, server, name, size, registered=True, headers=None):
        self.server, self.name, self.headers = server, name, headers
        self.key = f"/e2e_{os.getpid()}_{next(NUMBER)}"
        self.handle = shm.create_shared_memory_region(name, self.key, size)
        if registered:
            connect("grpc", server).register_system_shared_memory(name, self.key, size)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.server.process.poll() is None:
            connect("grpc", self.server).unregister_system_shared_memory(self.name, headers=self.headers)
        with contextlib.suppress(shm.SharedMemoryException, KeyError, FileNotFoundError):  # the test has done so
            shm.destroy_shared_memory_region(self.handle)

    def put(self, array, offset=0):
        shm.set_shared_memory_region(self.handle, [array], offset)

    def get(self, kind, shape, offset=0):
        return np.array(shm.get_contents_as_numpy(self.handle, kind, shape, offset))

    def resize(self, size):
        os.truncate(f"/dev/shm{self.key}", size)

    def input(self, protocol, name, shape, datatype, size, offset=0):
        made = MODULES[protocol].InferInput(name, list(shape), datatype)
        made.set_shared_memory(self.name, size, offset)
        return made

    def output(self, protocol, name, size, offset=0):
        made = MODULES[protocol].InferRequestedOutput(name)
        made.set_shared_memory(self.name, size, offset)
        return made


def output_of(result, protocol, name="OUTPUT0"):
    """Shape and parameters of an output; and that it brought no bytes."""
    output = result.get_output(name)
    if protocol == "http":
        assert "data" not in output and "parameters" not in output, output
        return output["shape"]
    assert not any(result.get_response().raw_output_contents) and not output.parameters, output
    return list(output.shape)


def refusal(ask, *arguments, **options):
    with pytest.raises(InferenceServerException) as caught:
        ask(*arguments, **options)
    return caught.value.status(), caught.value.message()


def regions(client):
    """Names that the status tells of."""
    status = client.get_system_shared_memory_status()
    return [region["name"] for region in status] if isinstance(status, list) else sorted(status.regions)


def alive(server):
    assert server.process.poll() is None
    data = np.arange(3, dtype=np.float32)
    result = connect("http", server).infer("identity", [tensor("http", "INPUT0", data, "FP32")])
    assert result.as_numpy("OUTPUT0").tolist() == data.tolist()


# === registering ===


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_regions_come_into_the_status_and_go(server, protocol):
    client = connect(protocol, server)
    assert not regions(client) and not connect("grpc", server).get_cuda_shared_memory_status().regions
    with Memory(server, "a b", 2 * PAGE, registered=False) as memory:
        client.register_system_shared_memory(memory.name, memory.key, 100, 50)
        if protocol == "http":
            assert client.get_system_shared_memory_status() == [{"name": memory.name, "key": memory.key, "offset": 50, "byte_size": 100}]
            assert client.get_system_shared_memory_status(memory.name) == client.get_system_shared_memory_status()
            assert client.get_cuda_shared_memory_status() == []
        else:
            (region,) = client.get_system_shared_memory_status(memory.name).regions.values()
            assert (region.name, region.key, region.offset, region.byte_size) == (memory.name, memory.key, 50, 100)
        client.register_system_shared_memory("other", memory.key, 2 * PAGE)
        assert regions(client) == [memory.name, "other"]
        client.unregister_system_shared_memory(memory.name)
        client.unregister_system_shared_memory("nobody")
        client.unregister_cuda_shared_memory()
        assert regions(client) == ["other"]
        client.unregister_system_shared_memory()
        assert not regions(client)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_cannot_be_registered(server, protocol):
    client = connect(protocol, server)
    invalid, internal = ("400", "500") if protocol == "http" else ("StatusCode.INVALID_ARGUMENT", "StatusCode.INTERNAL")
    absent, there = ("404", "400") if protocol == "http" else ("StatusCode.NOT_FOUND", "StatusCode.ALREADY_EXISTS")
    register = client.register_system_shared_memory
    with Memory(server, "r", PAGE) as memory:
        assert refusal(register, "r", "/nothing", 1) == (there, "shared memory region 'r' already in manager")
        for key in ("/nothing", "a/b", "/..", "/../etc/passwd", "k" * 300, "/dev/null"):
            assert refusal(register, "s", key, 1) == (internal, f"Unable to open shared memory region: '{key}'")
        for key in ("/", "//"):
            assert refusal(register, "s", key, 1) == (invalid, f"cannot register shared memory region 's' - invalid shm key '{key}'")
        reserved = "/triton_python_backend_shm_region_1"
        said = f"cannot register shared memory region 's' with key '{reserved}' as the key contains the reserved prefix 'triton_python_backend_shm_region_'"
        assert refusal(register, "s", reserved, 1) == (invalid, said)
        for size, offset in ((PAGE + 1, 0), (PAGE, 1), (1, PAGE), (2**64 - 1, 1), (1, 2**64 - 1)):
            assert refusal(register, "s", memory.key, size, offset) == (invalid, "failed to register shared memory region 's': invalid args")
        said = "failed to register shared memory region 's': unable to process address spaceInvalid argument"
        assert refusal(register, "s", memory.key, 0) == (invalid, said)
        status = client.get_system_shared_memory_status
        assert refusal(status, "s") == (absent, "Unable to find system shared memory region: 's'")
        assert refusal(client.get_cuda_shared_memory_status, "s") == (absent, "Unable to find cuda shared memory region: 's'")
        said = "The region named 'r' is registered as system shared memory, not CUDA shared memory"
        assert refusal(client.get_cuda_shared_memory_status, "r") == (absent, said)
        assert regions(client) == ["r"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_cuda_memory_without_a_gpu(server, protocol):
    if os.path.exists("/dev/nvidia0"):
        pytest.skip("this machine has a GPU")
    client = connect(protocol, server)
    handle = base64.b64encode(bytes(64))
    said = "failed to register CUDA shared memory region: 'c', GPUs not supported"
    assert refusal(client.register_cuda_shared_memory, "c", handle, 0, 100)[1] == said
    client.unregister_cuda_shared_memory("c")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_is_registered_unless_the_server_was_started_so(folder, protocol):
    off = "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."
    code = "501" if protocol == "http" else "StatusCode.UNIMPLEMENTED"
    with Server(folder, "--model-control-mode=explicit") as closed:
        client = connect(protocol, closed)
        assert refusal(client.register_system_shared_memory, "r", "/r", 1) == (code, off)
        assert refusal(client.unregister_system_shared_memory) == (code, off)
        assert refusal(client.register_cuda_shared_memory, "r", base64.b64encode(bytes(64)), 0, 1) == (code, off)
        assert refusal(client.unregister_cuda_shared_memory, "r") == (code, off)
        assert not regions(client)


JUNK = {
    "": (500, "failed to parse the request JSON buffer: The document is empty. at 0"),
    "{": (500, "failed to parse the request JSON buffer: Missing a name for object member. at 1"),
    "{}": (400, "Shared memory register request has no 'key' field"),
    "[[[": (500, None),
    "null": (400, "Shared memory register request has no 'key' field"),
    '{"key": "/k"}': (400, "Shared memory register request has no 'byte_size' field"),
    '{"key": 1, "byte_size": 1}': (500, "attempt to access JSON non-string as string"),
    '{"key": "/k", "byte_size": -1}': (500, "attempt to access JSON non-unsigned-integer as unsigned-integer"),
    '{"key": "/k", "byte_size": 18446744073709551616}': (500, "attempt to access JSON non-unsigned-integer as unsigned-integer"),
    '{"key": "/k", "byte_size": 1, "offset": 1e3}': (500, "attempt to access JSON non-unsigned-integer as unsigned-integer"),
    '{"key": "/nul\\u0000", "byte_size": 1}': (500, "Unable to open shared memory region: '/nul\0'"),
    "[" * 5000: (400, "JSON nesting depth exceeds maximum allowed limit (100)"),
}


@pytest.mark.parametrize("body", JUNK, ids=range(len(JUNK)))
def test_junk_that_is_to_be_registered(server, body):
    status, said = JUNK[body]
    for name in ("r", "a%2Fb", "..", "%00", "n" * 4096):
        got, _, answer = server.request("POST", f"/v2/systemsharedmemory/region/{name}/register", body)
        assert got == status and said in (None, json.loads(answer)["error"]), answer
    got, _, answer = server.request("POST", "/v2/cudasharedmemory/region/r/register", body)
    assert got in (400, 500) and json.loads(answer)["error"], answer
    assert not regions(connect("http", server))


METHODS = [f"{kind}SharedMemory{what}" for kind in ("System", "Cuda") for what in ("Register", "Unregister", "Status")]


@pytest.mark.parametrize("method", METHODS)
def test_junk_that_is_said_over_grpc(server, method):
    names = ("a/b", "..", "\0", "\x7f", "n" * 5000, "n" * 3_000_000)
    messages = [b"\x0a", b"\x0a\xff\xff\xff\xff\x0f", b"\xff" * 100, b"\x0a\x02\xff\xfe", b"\x0a\x01r\x12\x05ab"]  # cut off, lengths that lie, no UTF-8
    for name in names:
        kind = getattr(service_pb2, f"{method}Request")(name=name)
        if method == "SystemSharedMemoryRegister":
            kind.key, kind.offset, kind.byte_size = name[:300], 2**64 - 1, 2**64 - 1
        elif method == "CudaSharedMemoryRegister":
            kind.raw_handle, kind.device_id, kind.byte_size = name.encode()[:70], -1, 2**64 - 1
        messages.append(kind.SerializeToString())
    with grpc.insecure_channel(server.grpc_url) as channel:
        call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        for number, message in enumerate(messages):
            try:
                call(message, timeout=30)
                assert method.endswith("Unregister"), number
            except grpc.RpcError as error:
                assert error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND), (number, error)
    assert not regions(connect("grpc", server))
    alive(server)


def test_a_region_without_a_name(server):
    said = "'region name' is necessary to register {} shared memory region"
    for kind in ("system", "cuda"):
        answer = requests.post(f"http://{server.url}/v2/{kind}sharedmemory/register", '{"key": "/k", "byte_size": 1}')
        assert (answer.status_code, answer.json()) == (400, {"error": said.format(kind)})
    for path in ("systemsharedmemory/region//register", "systemsharedmemory/region/a/b/register", "systemsharedmemory", "systemsharedmemory/region/a"):
        assert requests.post(f"http://{server.url}/v2/{path}").status_code == 404
    assert requests.get(f"http://{server.url}/v2/systemsharedmemory/unregister").status_code == 405


def test_registering_may_need_a_header(folder):
    flags = [f"--{flag}=shared-memory:admin=secret" for flag in ("http-restricted-api", "grpc-restricted-protocol")]
    with Server(folder, "--model-control-mode=explicit", "--allow-client-shm=true", *flags) as restricted:
        with Memory(restricted, "r", PAGE, registered=False, headers={"triton-grpc-protocol-admin": "secret"}) as memory:
            client = connect("http", restricted)
            assert "This API is restricted" in refusal(client.register_system_shared_memory, "r", memory.key, PAGE)[1]
            client.register_system_shared_memory("r", memory.key, PAGE, headers={"admin": "secret"})
            client = connect("grpc", restricted)
            assert "This protocol is restricted" in refusal(client.unregister_system_shared_memory, "r")[1]
            client.unregister_system_shared_memory("r", headers={"triton-grpc-protocol-admin": "secret"})


def test_a_thousand_regions_leave_nothing_behind(server):
    def held():
        maps = open(f"/proc/{server.process.pid}/maps").read()
        return maps.count(memory.key), len([link for link in os.listdir(f"/proc/{server.process.pid}/fd")])

    client = connect("grpc", server)
    with Memory(server, "r", PAGE, registered=False) as memory:
        client.get_system_shared_memory_status()
        before = held()
        for number in range(1000):
            client.register_system_shared_memory(f"r{number}", memory.key, PAGE)
        assert held()[0] == 1000 and len(regions(client)) == 1000
        for number in range(0, 1000, 2):
            client.unregister_system_shared_memory(f"r{number}")
        client.unregister_system_shared_memory()
        until(lambda: held() == before, "mappings and descriptors as before")


# === tensors ===


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("model", ("identity", "onnx_fp32", "python"))
def test_tensors_lie_in_regions_on_either_side(server, protocol, model):
    client = connect(protocol, server)
    side = ("IN", "OUT") if model == "python" else ("INPUT0", "OUTPUT0")
    data = np.arange(1000, dtype=np.float32)
    with Memory(server, "in", 3 * PAGE) as ins, Memory(server, "out", 3 * PAGE) as outs:
        for offset in (0, 4, 3, PAGE + 7):  # one that is no multiple of the size of a number as well
            ins.put(data, offset)
            outs.put(np.full(3 * PAGE, 0xAA, np.uint8))
            inputs = [ins.input(protocol, side[0], [1000], "FP32", 4000, offset)]
            result = client.infer(model, inputs, outputs=[outs.output(protocol, side[1], 5000, offset)])
            assert output_of(result, protocol, side[1]) == [1000]
            assert outs.get(np.float32, [1000], offset).tobytes() == data.tobytes()
            untouched = outs.get(np.uint8, [3 * PAGE])
            assert (untouched[:offset] == 0xAA).all() and (untouched[offset + 4000 :] == 0xAA).all()
            # one side only
            result = client.infer(model, inputs, outputs=[wanted(protocol, side[1])])
            assert result.as_numpy(side[1]).tobytes() == data.tobytes()
            outs.put(np.zeros(3 * PAGE, np.uint8))
            client.infer(model, [tensor(protocol, side[0], data, "FP32")], outputs=[outs.output(protocol, side[1], 4000, 8)])
            assert outs.get(np.float32, [1000], 8).tobytes() == data.tobytes()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_several_tensors_and_several_regions(server, protocol):
    client = connect(protocol, server)
    one, two = (np.full((1, 4), number, np.float32) for number in (5, 3))
    with Memory(server, "in", PAGE) as ins, Memory(server, "out", PAGE) as outs:
        ins.put(one, 64)
        inputs = [ins.input(protocol, "INPUT0", [1, 4], "FP32", 16, 64), tensor(protocol, "INPUT1", two, "FP32")]
        outputs = [wanted(protocol, "OUTPUT1"), outs.output(protocol, "OUTPUT0", 16, 32)]
        result = client.infer("add_sub", inputs, outputs=outputs)
        assert result.as_numpy("OUTPUT1").tolist() == (one - two).tolist()
        assert outs.get(np.float32, [1, 4], 32).tolist() == (one + two).tolist()
        # over each other: the last one counts; and over the inputs
        outputs = [outs.output(protocol, "OUTPUT0", 16), outs.output(protocol, "OUTPUT1", 16, 8)]
        client.infer("add_sub", inputs, outputs=outputs)
        assert outs.get(np.float32, [6]).tolist() == [8, 8, 2, 2, 2, 2]
        client.infer("add_sub", inputs, outputs=[ins.output(protocol, "OUTPUT0", 16, 72)])
        assert ins.get(np.float32, [6], 64).tolist() == [5, 5, 8, 8, 8, 8]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("model", ("onnx_string", "texts"))
def test_strings_lie_in_regions(server, protocol, model):
    client = connect(protocol, server)
    words = np.array([b"", "wörld".encode(), b"x" * 300], object)
    form = serialize_byte_tensor(words).item()
    with Memory(server, "in", PAGE) as ins, Memory(server, "out", PAGE) as outs:
        ins.put(np.frombuffer(form, np.uint8), 5)
        inputs = [ins.input(protocol, "INPUT0", [3], "BYTES", len(form), 5)]
        result = client.infer(model, inputs, outputs=[outs.output(protocol, "OUTPUT0", 1000, 3)])
        assert output_of(result, protocol) == [3]
        assert outs.get(np.uint8, [len(form)], 3).tobytes() == form
        said = f"shared memory size specified with the request for output 'OUTPUT0' (10 bytes) should be at least {len(form)} bytes to hold the results"
        assert refusal(client.infer, model, inputs, outputs=[outs.output(protocol, "OUTPUT0", 10)])[1] == said
        # lengths that lie
        for size, reason in ((len(form) + 1, "incomplete string length indicator"), (len(form) + 8, "unexpected number of string elements"), (len(form) - 304, "expected 3 string elements")):
            bad = ins.input(protocol, "INPUT0", [3], "BYTES", size, 5)
            assert reason in refusal(client.infer, model, [bad])[1]
        ins.put(np.full(8, 0xFF, np.uint8))
        assert "incomplete string element" in refusal(client.infer, model, [ins.input(protocol, "INPUT0", [1], "BYTES", 8)])[1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_requests_may_not_ask_of_a_region(server, protocol):
    client = connect(protocol, server)
    invalid, internal, absent = ("400", "500", "404") if protocol == "http" else ("StatusCode.INVALID_ARGUMENT", "StatusCode.INTERNAL", "StatusCode.NOT_FOUND")
    with Memory(server, "r", PAGE) as memory:

        def ask(name="r", size=16, offset=0, shape=(4,)):
            made = memory.input(protocol, "INPUT0", shape, "FP32", size, offset)
            made.set_shared_memory(name, size, offset)
            return refusal(client.infer, "identity", [made])

        def get(name="r", size=16, offset=0):
            output = memory.output(protocol, "OUTPUT0", size, offset)
            output.set_shared_memory(name, size, offset)
            return refusal(client.infer, "identity", [tensor(protocol, "INPUT0", np.zeros(4, np.float32), "FP32")], outputs=[output])

        for one in (ask, get):
            assert one(name="s") == (absent, "Unable to find shared memory region: 's'")
            for offset in (PAGE, PAGE + 1, 2**62):
                assert one(offset=offset) == (invalid, "Invalid offset for shared memory region: 'r'")
            for size, offset in ((PAGE + 1, 0), (16, PAGE - 15), (2**62, 4), (0, 0)):
                assert one(size=size, offset=offset) == (invalid, "Invalid offset + byte size for shared memory region: 'r'")
        assert ask(size=20) == (invalid, "[request id: <id_unknown>] input byte size mismatch for input 'INPUT0' for model 'identity'. Expected 16, got 20")
        said = "shared memory size specified with the request for output 'OUTPUT0' (15 bytes) should be at least 16 bytes to hold the results"
        assert get(size=15) == (internal, said)
        alive(server)


def test_numbers_that_only_json_can_say(server):
    def ask(**parameters):
        body = {"inputs": [{"name": "INPUT0", "shape": [4], "datatype": "FP32", "parameters": parameters}]}
        answer = requests.post(f"http://{server.url}/v2/models/identity/infer", json.dumps(body))
        return answer.status_code, answer.json()["error"]

    with Memory(server, "r", PAGE):
        most = 2**64 - 1
        said = f"Integer overflow detected: byte_size ({most}) + offset (8) exceeds maximum value ({most}) for region 'r'"
        assert ask(shared_memory_region="r", shared_memory_byte_size=most, shared_memory_offset=8) == (400, said)
        for key in ("shared_memory_offset", "shared_memory_byte_size"):
            for value in (-1, "4", 1.5, most + 1, [1]):
                parameters = {"shared_memory_region": "r", "shared_memory_byte_size": 16, key: value}
                said = f"Unable to parse '{key}': attempt to access JSON non-unsigned-integer as unsigned-integer"
                assert ask(**parameters) == (500, said)
        assert ask(shared_memory_region="r") == (400, "Invalid offset + byte size for shared memory region: 'r'")
        assert ask(shared_memory_region=1)[1] == "Unable to parse 'shared_memory_region': attempt to access JSON non-string as string"
        assert "But no field is set" in ask(shared_memory_offset=8)[1]
        assert ask(shared_memory_region="\0/..", shared_memory_byte_size=16) == (404, "Unable to find shared memory region: '\0/..'")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_ensembles_sequences_and_batches(server, protocol):
    client = connect(protocol, server)
    with Memory(server, "in", PAGE) as ins, Memory(server, "out", PAGE) as outs:
        data = np.arange(8, dtype=np.float32).reshape(2, 4)
        ins.put(data)
        inputs = [ins.input(protocol, "INPUT0", [2, 4], "FP32", 32)]
        result = client.infer("chain", inputs, outputs=[outs.output(protocol, "OUTPUT0", 100)])
        assert output_of(result, protocol) == [2, 4] and outs.get(np.float32, [2, 4]).tolist() == data.tolist()
        assert client.infer("chain", inputs).as_numpy("OUTPUT0").tolist() == data.tolist()
        said = "in ensemble 'chain', shared memory size specified with the request for output 'OUTPUT0' (31 bytes) should be at least 32 bytes to hold the results"
        assert refusal(client.infer, "chain", inputs, outputs=[outs.output(protocol, "OUTPUT0", 31)])[1] == said
        total = 0
        for number, flags in ((5, {"sequence_start": True}), (6, {}), (7, {"sequence_end": True})):
            ins.put(np.array([[number]], np.int32))
            inputs = [ins.input(protocol, "INPUT", [1, 1], "INT32", 4)]
            client.infer("sums", inputs, outputs=[outs.output(protocol, "OUTPUT", 4)], sequence_id=77 + PROTOCOLS.index(protocol), **flags)
            total += number
            assert outs.get(np.int32, [1]).tolist() == [total]
        # batches of several requests, some of whose tensors lie there
        def one(number):
            mine = connect(protocol, server)
            rows = np.full((1, 2), number, np.float32)
            ins.put(rows, 8 * number)
            place = ins.input(protocol, "INPUT0", [1, 2], "FP32", 8, 8 * number)
            for _ in range(20):
                mine.infer("onnx_fp32_batched", [place if number % 3 else tensor(protocol, "INPUT0", rows, "FP32")], outputs=[outs.output(protocol, "OUTPUT0", 8, 8 * number)])
                assert outs.get(np.float32, [1, 2], 8 * number).tolist() == rows.tolist()
            done.append(number)

        done = []
        threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert len(done) == 8


def test_a_stream_writes_each_response_to_the_window(server):
    results = queue.Queue()
    with Memory(server, "out", PAGE) as outs, connect("grpc", server) as client:
        client.start_stream(lambda result, error: results.put((result, error)))
        inputs = [tensor("grpc", "IN", np.array([3], np.int32), "INT32")]
        client.async_stream_infer("square", inputs, outputs=[outs.output("grpc", "OUT", 4, 12)])
        for _ in range(3):
            result, error = results.get(timeout=30)
            assert error is None and output_of(result, "grpc", "OUT") == [1]
        assert outs.get(np.int32, [1], 12).tolist() == [3]
        client.async_stream_infer("square", inputs, outputs=[outs.output("grpc", "OUT", 2)])
        for _ in range(3):
            _, error = results.get(timeout=30)
            assert "(2 bytes) should be at least 4 bytes" in error.message()
        client.stop_stream()


def test_many_requests_at_once(server):
    data = np.arange(40_000, dtype=np.float32)
    with Memory(server, "in", data.nbytes) as ins, Memory(server, "out", 16 * data.nbytes) as outs, connect("http", server, concurrency=8) as client:
        ins.put(data)
        inputs = [ins.input("http", "INPUT0", [data.size], "FP32", data.nbytes)]
        asked = [client.async_infer("identity", inputs, outputs=[outs.output("http", "OUTPUT0", data.nbytes, place * data.nbytes)]) for place in range(16)]
        for answer in asked:
            assert output_of(answer.get_result(), "http") == [data.size]
        assert outs.get(np.float32, [16, data.size]).tobytes() == data.tobytes() * 16


def test_many_strings_in_a_large_region(server):
    """A small message names a large region: its strings are copied and counted while others are answered."""
    size = 64 << 20
    count = size // 4
    with Memory(server, "r", size) as memory:
        said = []

        def ask():  # one string short
            said.append(refusal(connect("grpc", server).infer, "texts", [memory.input("grpc", "INPUT0", [count + 1], "BYTES", size)])[1])

        threads = [threading.Thread(target=ask) for _ in range(2)]
        [thread.start() for thread in threads]
        alive(server)
        [thread.join() for thread in threads]
        wrong = f"[request id: <id_unknown>] expected {count + 1} string elements for inference input 'INPUT0' for model 'texts', got {count}"
        assert len(said) == 2 and all(text == wrong or text.startswith("no memory for a request") for text in said), said


def test_large_tensors(server):
    size = 64 << 20
    with Memory(server, "in", size) as ins, Memory(server, "out", size) as outs:
        ins.put(np.arange(size, dtype=np.uint32).astype(np.uint8))
        inputs = [ins.input("grpc", "INPUT0", [size], "UINT8", size)]
        connect("grpc", server).infer("large", inputs, outputs=[outs.output("grpc", "OUTPUT0", size)])
        assert outs.get(np.uint8, [size])[-300:].tobytes() == ins.get(np.uint8, [size])[-300:].tobytes()


# === what clients do to their memory ===


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_region_that_is_unregistered_in_use_goes_with_the_last_request(server, protocol):
    client = connect(protocol, server)
    data = np.array([[1, 2, 3, 4]], np.float32)
    with Memory(server, "in", PAGE) as ins, Memory(server, "out", PAGE) as outs:
        ins.put(data)
        answers = queue.Queue()

        def ask():
            inputs = [ins.input(protocol, "INPUT0", [1, 4], "FP32", 16)]
            answers.put(connect(protocol, server).infer("slow", inputs, outputs=[outs.output(protocol, "OUTPUT0", 16)]))

        threads = [threading.Thread(target=ask) for _ in range(2)]  # one runs, the other waits
        [thread.start() for thread in threads]
        until(lambda: pending(server) == 1, "a request that waits")
        client.unregister_system_shared_memory()
        assert regions(client) == ["in", "out"]
        shm.destroy_shared_memory_region(ins.handle)  # its name is gone as well
        [thread.join() for thread in threads]
        for _ in threads:
            assert output_of(answers.get(timeout=1), protocol) == [1, 4]
        assert outs.get(np.float32, [1, 4]).tolist() == data.tolist()
        until(lambda: not regions(client), "no region any more")


@pytest.mark.parametrize("size", (0, 100, PAGE), ids=("all of it", "within a page", "some pages"))
def test_a_region_that_is_made_shorter_under_load_harms_nobody_else(server, size):
    whole = 200 * PAGE
    data = np.arange(whole, dtype=np.uint32).astype(np.uint8)
    count = whole // 4
    with Memory(server, "mine", whole) as mine, Memory(server, "others", whole) as others:
        stop, answers, wrong = threading.Event(), [], []

        def load(memory, protocol, model, kind):
            client = connect(protocol, server)
            side = ("IN", "OUT") if model == "python" else ("INPUT0", "OUTPUT0")
            memory.put(data)
            shape, datatype = ([whole], "UINT8") if kind == np.uint8 else ([count], "FP32")
            inputs = [memory.input(protocol, side[0], shape, datatype, whole)]
            while not stop.is_set():
                try:
                    # inputs and outputs in the region, one over the other
                    client.infer(model, inputs, outputs=[memory.output(protocol, side[1], whole)])
                    client.infer(model, inputs, outputs=[wanted(protocol, side[1])])
                    if memory is others:
                        answers.append(1)
                except InferenceServerException as error:
                    if memory is others or error.message() != f"shared memory region 'mine' {SHORTER}":
                        wrong.append(error.message())
                        return

        kinds = [("large", np.uint8), ("identity", np.float32), ("onnx_fp32", np.float32), ("python", np.float32)]
        loads = [(memory, protocol, *kind) for memory, protocol in ((mine, "http"), (mine, "grpc"), (others, "http")) for kind in kinds]
        threads = [threading.Thread(target=load, args=one) for one in loads]
        [thread.start() for thread in threads]
        until(lambda: len(answers) > 10, "answers")
        mine.resize(size)
        client = connect("grpc", server)
        asked = [mine.input("grpc", "INPUT0", [whole], "UINT8", whole)]
        said = f"shared memory region 'mine' {SHORTER}"
        until(lambda: refusal(client.infer, "large", asked)[1] == said, "an error that names the region")
        before = len(answers)
        until(lambda: wrong or len(answers) > before + 10, "answers for others")
        stop.set()
        [thread.join() for thread in threads]
        assert not wrong
        # it is of use again once it is registered as it is
        client.unregister_system_shared_memory("mine")
        if size:
            until(lambda: "mine" not in regions(client), "the last use ended")
            client.register_system_shared_memory("mine", mine.key, size)
            client.infer("large", [mine.input("grpc", "INPUT0", [size], "UINT8", size)])
        alive(server)


def test_a_region_that_grows_or_loses_its_name(server):
    client = connect("http", server)
    data = np.arange(4, dtype=np.float32)
    with Memory(server, "r", PAGE) as memory:
        memory.put(data)
        inputs = [memory.input("http", "INPUT0", [4], "FP32", 16)]
        memory.resize(4 * PAGE)
        assert client.infer("identity", inputs).as_numpy("OUTPUT0").tolist() == data.tolist()
        assert refusal(client.infer, "identity", [memory.input("http", "INPUT0", [4], "FP32", 16, PAGE)])[1] == "Invalid offset for shared memory region: 'r'"
        os.unlink(f"/dev/shm{memory.key}")
        assert client.infer("identity", inputs).as_numpy("OUTPUT0").tolist() == data.tolist()
        client.unregister_system_shared_memory("r")
        assert refusal(client.register_system_shared_memory, "r", memory.key, PAGE)[1] == f"Unable to open shared memory region: '{memory.key}'"


def test_two_servers_share_a_region_which_outlives_both(folder, server):
    data = np.arange(4, dtype=np.float32)
    with Memory(server, "r", PAGE) as memory:
        memory.put(data)
        second = Server(folder, "--allow-client-shm=true", "--model-control-mode=explicit", "--load-model=identity", expect_exit=-signal.SIGKILL)
        with second:
            client = connect("grpc", second)
            client.register_system_shared_memory("here", memory.key, PAGE)
            asked = MODULES["grpc"].InferInput("INPUT0", [4], "FP32")
            asked.set_shared_memory("here", 16)
            output = MODULES["grpc"].InferRequestedOutput("OUTPUT0")
            output.set_shared_memory("here", 16, 1024)
            client.infer("identity", [asked], outputs=[output])
            assert memory.get(np.float32, [4], 1024).tolist() == data.tolist()
            second.kill()
        assert memory.get(np.float32, [4]).tolist() == data.tolist()
        connect("http", server).infer("identity", [memory.input("http", "INPUT0", [4], "FP32", 16)], outputs=[memory.output("http", "OUTPUT0", 16, 2048)])
        assert memory.get(np.float32, [4], 2048).tolist() == data.tolist()


def test_a_client_that_dies_leaves_its_region_usable(server):
    """What it registered stays until somebody unregisters it, as in Triton."""
    key = f"/e2e_{os.getpid()}_{next(NUMBER)}"
    code = f"""
import numpy as np, os, tritonclient.http as http, tritonclient.utils.shared_memory as shm
handle = shm.create_shared_memory_region("r", {key!r}, {PAGE})
shm.set_shared_memory_region(handle, [np.arange(4, dtype=np.float32)])
http.InferenceServerClient({server.url!r}).register_system_shared_memory("r", {key!r}, {PAGE})
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    client = connect("http", server)
    try:
        made = MODULES["http"].InferInput("INPUT0", [4], "FP32")
        made.set_shared_memory("r", 16)
        assert client.infer("identity", [made]).as_numpy("OUTPUT0").tolist() == [0, 1, 2, 3]
    finally:
        client.unregister_system_shared_memory("r")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"/dev/shm{key}")
