"""Tensors of Python models: every type, small and large, in every way a model can hand them on, over both protocols."""

import make
import ml_dtypes
import numpy as np
import pytest

from serving import Server
from talking import connect, tensor, wanted
from test_tensor_types import same

KINDS = {
    "BOOL": bool,
    **{f"{kind}{bits}": f"{kind.lower()}{bits}" for kind in ("UINT", "INT") for bits in (8, 16, 32, 64)},
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BF16": ml_dtypes.bfloat16,
    "BYTES": object,
}
NUMBERS = [kind for kind in KINDS if kind != "BYTES"]

MODEL = '''
import gc
import json

import numpy as np
import triton_python_backend_utils as pb_utils

kept = {}
WORDS = {
    "bytes": np.array([b"a", b"", b"\\xff\\x00\\xfe"], object),
    "str": np.array(["a", "", "w\\u00f6rld"], object),
    "mixed": np.array([b"a", "\\u00e9", 5], object),
    "fixed bytes": np.array([b"a", b"", b"abc"]),
    "turned": np.array([["a", "b"], ["c", "d"]], object).T,
    "none": np.array([], object),
}


def mirror(way, name, given):
    """The output `name` of an input, in one of the ways."""
    if way == "the input's array":
        return pb_utils.Tensor(name, given.as_numpy())
    if way == "a copy of the array":
        return pb_utils.Tensor(name, given.as_numpy().copy())
    if way == "not row-major":
        return pb_utils.Tensor(name, np.asfortranarray(given.as_numpy()))
    if way == "a capsule":
        return pb_utils.Tensor.from_dlpack(name, given.to_dlpack())
    if way == "the tensor by DLPack":
        return pb_utils.Tensor.from_dlpack(name, given)
    if way == "an array by DLPack":
        return pb_utils.Tensor.from_dlpack(name, given.as_numpy())
    if way == "NumPy by DLPack":
        return pb_utils.Tensor(name, np.from_dlpack(given))
    if way == "NumPy's old call":
        return pb_utils.Tensor(name, np.from_dlpack(pb_utils.Tensor("X", given.as_numpy())))
    raise ValueError(way)


def attempt(function):
    try:
        return str(function())
    except Exception as error:
        return "%s: %s" % (type(error).__name__, error)


def answer(request):
    asked = json.loads(request.parameters())
    inputs = request.inputs()
    what = asked["what"]
    if what == "mirror":
        return [mirror(asked["way"], "OUT_" + one.name()[3:], one) for one in inputs]
    if what == "half":
        return [pb_utils.Tensor("OUT_FP32", inputs[0].as_numpy()[1:])]
    if what == "words":
        return [pb_utils.Tensor("SAID", WORDS[asked["which"]])]
    if what == "keep":
        kept["array"] = inputs[0].as_numpy() if asked["how"] == "array" else np.from_dlpack(inputs[0])
        return []
    if what == "kept":
        return [pb_utils.Tensor("OUT_FP32", kept.pop("array"))]
    if what == "write":
        array = inputs[0].as_numpy()
        array *= 2
        return [pb_utils.Tensor("OUT_FP32", inputs[0].as_numpy())]
    if what == "say":
        names = {"t": inputs[0], "np": np, "pb_utils": pb_utils}
        return [pb_utils.Tensor("SAID", np.array([attempt(lambda: eval(asked["code"], names))], object))]
    if what == "memory":
        gc.collect()
        pages = int(open("/proc/self/statm").read().split()[1])
        return [pb_utils.Tensor("OUT_INT64", np.array([pages * 4096]))]
    raise ValueError(what)


class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse(answer(request)) for request in requests]
'''

SHAPES = {"no elements": (0, 3), "small": (2, 3), "one row": (1, 7), "large": (64, 1024)}
WAYS = (
    "the input's array",
    "a copy of the array",
    "not row-major",
    "a capsule",
    "the tensor by DLPack",
    "an array by DLPack",
    "NumPy by DLPack",
    "NumPy's old call",
)


def name_of(kind):
    return "STRING" if kind == "BYTES" else kind


@pytest.fixture(scope="module")
def server(folder):
    inputs = ", ".join(f'{{ name: "IN_{kind}" data_type: TYPE_{name_of(kind)} dims: [-1, -1] optional: true }}' for kind in KINDS)
    outputs = ", ".join(f'{{ name: "OUT_{kind}" data_type: TYPE_{name_of(kind)} dims: [-1, -1] }}' for kind in KINDS)
    outputs += ', { name: "SAID" data_type: TYPE_STRING dims: [-1] }'
    config = f'backend: "python"\nmax_batch_size: 0\ninput [ {inputs} ]\noutput [ {outputs} ]\n'
    make.write(folder, "tensors", config, {1: MODEL.encode()}, filename="model.py")
    with Server(folder) as running:
        yield running


def ask(server, protocol, inputs, outputs, **parameters):
    """The answer to one request; inputs by kind, outputs by name."""
    given = [tensor(protocol, f"IN_{kind}", array, kind) for kind, array in inputs.items()]
    asked = [wanted(protocol, name) for name in outputs]
    return connect(protocol, server).infer("tensors", given, outputs=asked, parameters=parameters)


def said(server, code, kind, array):
    """What an expression of `t`, the input, is in the model; or the exception it raises."""
    return ask(server, "http", {kind: array}, ["SAID"], what="say", code=code).as_numpy("SAID")[0].decode()


def sample(kind, shape):
    """Bits of all sorts, as far as they are values of the type."""
    random = np.random.default_rng(len(kind))
    if kind == "BYTES":
        return np.array([random.bytes(number % 7) for number in range(int(np.prod(shape)))], object).reshape(shape)
    if kind == "BOOL":
        return random.integers(0, 2, shape).astype(bool)
    dtype = np.dtype(KINDS[kind])
    return np.frombuffer(random.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)


@pytest.mark.parametrize("protocol", ("http", "grpc"))
@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("way", WAYS)
def test_every_type_comes_back_to_the_bit(server, protocol, size, way):
    without = {"BYTES"} if "DLPack" in way or way in ("a capsule", "NumPy's old call") else set()
    if way not in ("a capsule", "the tensor by DLPack"):
        without.add("BF16")
    kinds = [kind for kind in KINDS if kind not in without]
    sent = {kind: sample(kind, SHAPES[size]) for kind in kinds}
    got = ask(server, protocol, sent, [f"OUT_{kind}" for kind in kinds], what="mirror", way=way)
    for kind in kinds:
        same(got.as_numpy(f"OUT_{kind}"), sent[kind])


# === strings ===

WORDS = {
    "bytes": [b"a", b"", b"\xff\x00\xfe"],
    "str": [b"a", b"", "wörld".encode()],
    "mixed": [b"a", "é".encode(), b"5"],
    "fixed bytes": [b"a", b"", b"abc"],
    "turned": [[b"a", b"c"], [b"b", b"d"]],
    "none": [],
}


@pytest.mark.parametrize("protocol", ("http", "grpc"))
@pytest.mark.parametrize("which", WORDS)
def test_strings_go_out_in_every_form(server, protocol, which):
    got = ask(server, protocol, {"FP32": np.zeros((1, 1), np.float32)}, ["SAID"], what="words", which=which)
    assert got.as_numpy("SAID").tolist() == WORDS[which]


# === what a model sees of an input ===


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("kind", NUMBERS)
def test_shape_and_type_of_an_input(server, size, kind):
    given = sample(kind, SHAPES[size])
    number = 14 if kind == "BF16" else list(KINDS).index(kind) + 1
    code = "t.shape(), t.triton_dtype(), t.is_cpu(), t.__dlpack_device__()"
    assert said(server, code, kind, given) == str((list(given.shape), number, True, (1, 0)))


@pytest.mark.parametrize("size", ("small", "large"))
def test_bf16_is_for_dlpack_only(server, size):
    message = "Tensor dtype is BF16 and cannot be converted to NumPy. Use to_dlpack() and from_dlpack() instead."
    given = sample("BF16", SHAPES[size])
    assert said(server, "t.as_numpy()", "BF16", given) == f"TritonModelException: {message}"
    assert said(server, "pb_utils.Tensor.from_dlpack('X', t).as_numpy()", "BF16", given) == f"TritonModelException: {message}"
    # NumPy has no such type either, and says so without harm.
    assert said(server, "np.from_dlpack(t)", "BF16", given).startswith(("RuntimeError: ", "BufferError: "))


@pytest.mark.parametrize("size", ("small", "large"))
def test_strings_are_not_for_dlpack(server, size):
    given = sample("BYTES", SHAPES[size])
    for code in ("t.to_dlpack()", "t.__dlpack__()", "np.from_dlpack(t)", "pb_utils.Tensor.from_dlpack('X', t)"):
        assert said(server, code, "BYTES", given) == "TritonModelException: DLPack does not have support for string tensors."


@pytest.mark.parametrize("size", ("small", "large"))
@pytest.mark.parametrize("protocol", ("http", "grpc"))
def test_a_model_may_write_to_its_input(server, protocol, size):
    given = np.arange(np.prod(SHAPES[size]), dtype=np.float32).reshape(SHAPES[size])
    got = ask(server, protocol, {"FP32": given}, ["OUT_FP32"], what="write").as_numpy("OUT_FP32")
    np.testing.assert_array_equal(got, given * 2)


@pytest.mark.parametrize("size", ("small", "large"))
def test_all_ways_to_an_input_lead_to_the_same_memory(server, size):
    code = (
        "t.as_numpy() is t.as_numpy(), np.shares_memory(t.as_numpy(), np.from_dlpack(t)), "
        "np.shares_memory(t.as_numpy(), pb_utils.Tensor.from_dlpack('X', t).as_numpy()), "
        "np.shares_memory(t.as_numpy(), np.from_dlpack(pb_utils.Tensor('X', t.as_numpy()[1:])))"
    )
    assert said(server, code, "FP32", sample("FP32", SHAPES[size])) == str((True,) * 4)


@pytest.mark.parametrize("size", ("small", "large"))
@pytest.mark.parametrize("protocol", ("http", "grpc"))
def test_a_part_of_an_input_is_an_output(server, protocol, size):
    given = sample("FP32", SHAPES[size])
    got = ask(server, protocol, {"FP32": given}, ["OUT_FP32"], what="half")
    same(got.as_numpy("OUT_FP32"), given[1:])


# === memory ===


@pytest.mark.parametrize("how", ("array", "consumer"))
@pytest.mark.parametrize("protocol", ("http", "grpc"))
def test_an_input_that_a_model_keeps_stays_as_it_was(server, protocol, how):
    kept = sample("FP32", SHAPES["large"])
    ask(server, protocol, {"FP32": kept}, [], what="keep", how=how)
    others = {"FP32": np.zeros(SHAPES["large"], np.float32)}
    for way in ("the input's array", "a copy of the array", "the tensor by DLPack") * 4:
        ask(server, protocol, others, ["OUT_FP32"], what="mirror", way=way)
    got = ask(server, protocol, {"FP32": np.zeros((1, 1), np.float32)}, ["OUT_FP32"], what="kept")
    same(got.as_numpy("OUT_FP32"), kept)


@pytest.mark.parametrize("way", WAYS)
def test_memory_does_not_grow(server, way):
    given = {"FP32": np.zeros((1024, 1024), np.float32)}
    small = {"FP32": np.zeros((1, 1), np.float32)}

    def memory():
        return int(ask(server, "http", small, ["OUT_INT64"], what="memory").as_numpy("OUT_INT64")[0])

    for _ in range(4):
        ask(server, "http", given, ["OUT_FP32"], what="mirror", way=way)
    before = memory()
    for _ in range(12):
        ask(server, "http", given, ["OUT_FP32"], what="mirror", way=way)
    assert memory() - before < 3 * given["FP32"].nbytes
