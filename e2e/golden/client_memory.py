"""Shared memory of clients: registration, status, windows of inputs and outputs, over both protocols.

A scene's `segments` (name -> bytes) are shared memory objects that exist while it is asked. Their keys begin with PREFIX, which is another one in
each process, so that two runs on one machine do not meet; recordings say SEGMENT_ instead.
"""

import contextlib
import os
from pathlib import Path

from cases import ROW, ask, floats, ginfer, http, infer, out, rpc, strings, tensor, tin, tout
from tritonclient.grpc import service_pb2 as pb

PREFIX = f"triton_golden_{os.getpid()}_"
SYSTEM, CUDA = "/v2/systemsharedmemory", "/v2/cudasharedmemory"
PAGE = 4096


@contextlib.contextmanager
def segments(scene):
    """The shared memory objects of a scene, as long as the context lasts."""
    places = [Path("/dev/shm", PREFIX + name) for name in scene.get("segments", {})]
    try:
        for place, content in zip(places, scene.get("segments", {}).values(), strict=True):
            place.write_bytes(content)
        yield
    finally:
        for place in places:
            place.unlink(missing_ok=True)


def key(name):
    return f"/{PREFIX}{name}"


def register(name, region, kind=SYSTEM, **body):
    return http(name, "POST", f"{kind}/region/{region}/register", body)


def status(name, region=None, kind=SYSTEM):
    return http(name, "GET", f"{kind}/region/{region}/status" if region else f"{kind}/status")


def unregister(name, region=None, kind=SYSTEM, body=b""):
    return http(name, "POST", f"{kind}/region/{region}/unregister" if region else f"{kind}/unregister", body)


def window(region, size=None, offset=None):
    """Parameters that name a part of a region."""
    members = {"shared_memory_region": region, "shared_memory_byte_size": size, "shared_memory_offset": offset}
    return {name: value for name, value in members.items() if value is not None}


def place(name="INPUT0", shape=(1, 4), datatype="FP32", **parameters):
    """An input without data of its own."""
    return tensor(name, shape, datatype, None, **parameters)


def look(name, count, region="out", offset=None):
    """What a region holds now, as a model that reads it answers."""
    return infer(name, "wild", ask(place(shape=[count], **window(region, 4 * count, offset))))


IN = place(**window("in", 16))

REGISTER = [
    status("status of nothing"),
    status("status of an unknown region", "nosuch"),
    http("status by POST", "POST", f"{SYSTEM}/status"),
    http("register by GET", "GET", f"{SYSTEM}/region/a/register"),
    http("an unknown action", "POST", f"{SYSTEM}/region/a/nonsense"),
    http("register without a region", "POST", f"{SYSTEM}/register", {"key": key("in"), "byte_size": 16}),
    *[
        http(f"register with a body that is {what}", "POST", f"{SYSTEM}/region/a/register", body)
        for what, body in (("empty", b""), ("cut off", b"{"), ("a list", b"[]"), ("an empty object", b"{}"), ("a text", b'"x"'))
    ],
    register("register without a key", "a", byte_size=16),
    register("register without a size", "a", key=key("in")),
    register("register with a key of a wrong type", "a", key=3, byte_size=16),
    *[register(f"register with a size of {size!r}", "a", key=key("in"), byte_size=size) for size in ("16", -1, 1.5, 2**64, 2**64 - 1, None)],
    *[register(f"register with an offset of {offset!r}", "a", key=key("in"), offset=offset, byte_size=16) for offset in ("0", -1, None, 2**64)],
    *[register(f"register with the key {bad!r}", "a", key=bad, byte_size=16) for bad in ("/triton_golden_nosuch", "", "/a/b", "../etc/passwd")],
    register("register beyond the end", "a", key=key("in"), byte_size=257),
    register("register from behind the end", "a", key=key("in"), offset=PAGE, byte_size=1),
    register("register an empty object", "a", key=key("empty"), byte_size=1),
    register("register", "in", key=key("in"), byte_size=256),
    register("register once more", "in", key=key("in"), byte_size=256),
    register("register another object by a name that is taken", "in", key=key("out"), byte_size=16),
    register("register nothing by a name that is taken", "in", key="/triton_golden_nosuch", byte_size=16),
    register("register with a member nobody knows", "out", key=key("out"), byte_size=256, whatever=1),
    register("register a page further on", "page", key=key("pages"), offset=PAGE, byte_size=PAGE),
    status("status of all"),
    status("status of one", "page"),
    *[
        rpc(f"register: {what}", "SystemSharedMemoryRegister", pb.SystemSharedMemoryRegisterRequest(**members))
        for what, members in (
            ("nothing said", {}),
            ("no such object", {"name": "g", "key": "/triton_golden_nosuch", "byte_size": 16}),
            ("a name that is taken", {"name": "in", "key": key("in"), "byte_size": 16}),
            ("beyond the end", {"name": "g", "key": key("other"), "byte_size": 65}),
            ("good", {"name": "g", "key": key("other"), "byte_size": 64}),
        )
    ],
    rpc("status of one", "SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest(name="page")),
    rpc("status of an unknown region", "SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest(name="nosuch")),
    rpc("status of all", "SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest()),
]

INFER = [
    infer("input from a region", "single", ask(IN)),
    infer("output into a region", "single", ask(IN, outputs=[out(**window("out", 16))])),
    look("what was written", 8),
    infer("windows with offsets", "single", ask(place(**window("in", 16, 16)), outputs=[out(**window("out", 16, 16))])),
    look("what was written at an offset", 8),
    infer("a window with room to spare", "single", ask(place(**window("in", 16, 16)), outputs=[out(**window("out", 200, 8))])),
    look("what was written with room to spare", 8),
    infer("two rows", "single", ask(place(shape=[2, 4], **window("in", 32)), outputs=[out(**window("out", 32))])),
    look("two rows written", 8),
    infer("output over its input", "single", ask(IN, outputs=[out(**window("in", 16, 64))])),
    look("output beside its input", 4, "in", 64),
    infer("one output in a region, one not", "two", ask(IN, tensor("INPUT1"), outputs=[out(**window("out", 16)), out("OUTPUT1")])),
    infer("binary_data false and a region", "single", ask(IN, outputs=[out(**window("out", 16), binary_data=False)])),
    infer("strings", "type_string", ask(place(shape=[2], datatype="BYTES", **window("text", 14)), outputs=[out(**window("out", 14))])),
    infer("strings written", "type_string", ask(place(shape=[2], datatype="BYTES", **window("out", 14)))),
    infer("no elements into a region", "wild", ask(tensor(shape=[0], data=[]), outputs=[out(**window("out", 16))])),
    infer("through an ensemble", "through", ask(IN, outputs=[out(**window("out", 16))])),
    infer("through an ensemble, too small", "through", ask(IN, outputs=[out(**window("out", 8))])),
    *[
        case
        for what, parameters in (
            ("an unknown region", window("nosuch", 16)),
            ("a region without a name", window("", 16)),
            ("one byte too few", window("in", 15)),
            ("one byte too many", window("in", 17)),
            ("size zero", window("in", 0)),
            ("no size", window("in")),
            ("past the end", window("in", 16, 241)),
            ("an offset at the end", window("in", 16, 256)),
            ("an offset of 64 bits", window("in", 16, 2**64 - 1)),
            ("a size of 64 bits", window("in", 2**64 - 1)),
            ("a negative size", window("in", -1)),
            ("a negative offset", window("in", 16, -1)),
            ("a size that is text", window("in", "16")),
            ("a size that is a fraction", window("in", 16.5)),
            ("an offset that is text", window("in", 16, "0")),
            ("a region that is a number", window(3, 16)),
            ("a size without a region", {"shared_memory_byte_size": 16}),
            ("an offset without a region", {"shared_memory_offset": 0}),
        )
        for case in (
            infer(f"input: {what}", "single", ask(place(**parameters))),
            infer(f"output: {what}", "single", ask(tensor(), outputs=[out(**parameters)])),
        )
    ],
    infer("a region and data", "single", ask(tensor(**window("in", 16)))),
    infer("a region and binary data", "single", ask(place(**window("in", 16), binary_data_size=16))),
    infer("a region and binary output", "single", ask(IN, outputs=[out(**window("out", 16), binary_data=True)])),
    infer("a region and classes", "single", ask(IN, outputs=[out(**window("out", 64), classification=2)])),
    infer("an unknown output into a region", "single", ask(IN, outputs=[out("NOSUCH", **window("out", 16))])),
    infer("strings cut off", "type_string", ask(place(shape=[2], datatype="BYTES", **window("text", 13)))),
    infer("strings with a byte too many", "type_string", ask(place(shape=[2], datatype="BYTES", **window("text", 15)))),
    infer("strings that do not fit", "type_string", ask(place(shape=[2], datatype="BYTES", **window("text", 14)), outputs=[out(**window("out", 13))])),
    http("generate knows no regions", "POST", "/v2/models/single/generate", {"INPUT0": [1, 2, 3, 4], **window("in", 16)}),
]



def said(name, model, *inputs, raw=(), **more):
    """A request whose inputs bring no data of their own unless `raw` says so."""
    return ginfer(name, model, *inputs, raw=raw, **more)


G_IN = tin(**window("in", 16))

GRPC = [
    said("input from a region", "single", G_IN),
    said("output into a region", "single", G_IN, outputs=[tout(**window("out", 16))]),
    look("written over gRPC", 4),
    said("windows with offsets", "single", tin(**window("in", 16, 16)), outputs=[tout(**window("out", 16, 16))]),
    said("raw contents beside a region", "two", tin("INPUT1"), G_IN, raw=[ROW], outputs=[tout("OUTPUT1"), tout()]),
    said("raw contents that are not needed", "single", G_IN, raw=[ROW]),
    said("contents and a region", "single", tin(contents={"fp32_contents": [1, 2, 3, 4]}, **window("in", 16))),
    *[
        case
        for what, parameters in (
            ("an unknown region", window("nosuch", 16)),
            ("one byte too few", window("in", 15)),
            ("size zero", window("in", 0)),
            ("no size", window("in")),
            ("past the end", window("in", 16, 241)),
            ("an offset at the end", window("in", 16, 256)),
            ("a size of 63 bits", window("in", 2**63 - 1)),
            ("a negative size", window("in", -1)),
            ("a negative offset", window("in", 16, -1)),
            ("a size that is text", window("in", "16")),
            ("an offset that is text", window("in", 16, "0")),
            ("a region that is a number", window(3, 16)),
            ("a size without a region", {"shared_memory_byte_size": 16}),
            ("an offset without a region", {"shared_memory_offset": 0}),
        )
        for case in (
            said(f"input: {what}", "single", tin(**parameters)),
            said(f"output: {what}", "single", G_IN, outputs=[tout(**parameters)]),
        )
    ],
    said("a region and classes", "single", G_IN, outputs=[tout(**window("out", 64), classification=2)]),
]

CUDA_CASES = [
    status("cuda: status of nothing", kind=CUDA),
    status("cuda: status of an unknown region", "nosuch", CUDA),
    http("cuda: register without a region", "POST", f"{CUDA}/register", {"raw_handle": {"b64": "AAAA"}, "device_id": 0, "byte_size": 16}),
    http("cuda: register with an empty body", "POST", f"{CUDA}/region/c/register", b""),
    register("cuda: register without a handle", "c", CUDA, device_id=0, byte_size=16),
    register("cuda: register with a handle that is text", "c", CUDA, raw_handle="AAAA", device_id=0, byte_size=16),
    register("cuda: register with a handle without b64", "c", CUDA, raw_handle={}, device_id=0, byte_size=16),
    register("cuda: register without a size", "c", CUDA, raw_handle={"b64": "AAAA"}, device_id=0),
    register("cuda: register without a device", "c", CUDA, raw_handle={"b64": "AAAA"}, byte_size=16),
    register("cuda: register with a negative device", "c", CUDA, raw_handle={"b64": "AAAA"}, device_id=-1, byte_size=16),
    register("cuda: register with a handle that is no base64", "c", CUDA, raw_handle={"b64": "!!"}, device_id=0, byte_size=16),
    register("cuda: register", "c", CUDA, raw_handle={"b64": "eHh4" * 21 + "eA=="}, device_id=0, byte_size=16),
    unregister("cuda: unregister an unknown region", "nosuch", CUDA),
    unregister("cuda: unregister all", None, CUDA),
    rpc("cuda status of an unknown region", "CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusRequest(name="nosuch")),
    rpc("cuda register", "CudaSharedMemoryRegister", pb.CudaSharedMemoryRegisterRequest(name="c", raw_handle=b"x" * 64, byte_size=16)),
    rpc("cuda unregister all", "CudaSharedMemoryUnregister", pb.CudaSharedMemoryUnregisterRequest()),
]

UNREGISTER = [
    unregister("unregister an unknown region", "nosuch"),
    unregister("unregister with a body", "page", body=b"junk"),
    status("status after one has gone"),
    infer("input from a region that has gone", "single", ask(place(**window("page", 16)))),
    rpc("unregister one", "SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name="g")),
    rpc("unregister one again", "SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name="g")),
    unregister("unregister all"),
    status("status after all have gone"),
]

THROUGH = (
    'name: "through"\nplatform: "ensemble"\nmax_batch_size: 8\n'
    'input [ { name: "INPUT0" data_type: TYPE_FP32 dims: [ 4 ] } ]\noutput [ { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 4 ] } ]\n'
    'ensemble_scheduling { step [ { model_name: "single" model_version: -1\n'
    '  input_map { key: "INPUT0" value: "INPUT0" } output_map { key: "OUTPUT0" value: "OUTPUT0" } } ] }\n'
)

SCENES = {
    "client_memory": {
        "good": True,
        "files": {"through": {"config.pbtxt": THROUGH, "1/": ""}},
        "segments": {
            "in": floats(1, 2, 3, 4, 5, 6, 7, 8).ljust(256, b"\0"),
            "out": bytes(256),
            "pages": bytes(PAGE) + floats(11, 12, 13, 14).ljust(PAGE, b"\0"),
            "text": strings(b"abc", b"def").ljust(64, b"\0"),
            "other": bytes(64),
            "empty": b"",
        },
        "flags": [],
        "our_flags": ["--allow-client-shm=true"],
        "cases": [*REGISTER, register("register strings", "text", key=key("text"), byte_size=64), *INFER, *GRPC, *CUDA_CASES, *UNREGISTER],
    }
}
