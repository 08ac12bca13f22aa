"""Tensors: what as_numpy gives of each type, what an output may be made of, DLPack, and outputs that are not what the configuration says."""

import cases
from python_models.snippets import SNIPPETS, files, snippet

ALL_TYPES = [
    ("BOOL", [True, False]),
    ("UINT8", [0, 255]),
    ("UINT16", [0, 65535]),
    ("UINT32", [0, 4294967295]),
    ("UINT64", [0, 18446744073709551615]),
    ("INT8", [-128, 127]),
    ("INT16", [-32768, 32767]),
    ("INT32", [-2147483648, 2147483647]),
    ("INT64", [-9223372036854775808, 9223372036854775807]),
    ("FP32", [0.5, -0.0]),
    ("FP64", [0.1, 5e-324]),
    ("STRING", ["a", "é", ""]),
]

SEEN = """
    for tensor in sorted(request.inputs()[1:], key=lambda tensor: tensor.name()):
        array = tensor.as_numpy()
        flags = array.flags
        say(tensor.name(), type(tensor.shape()).__name__, tensor.shape(), tensor.is_cpu(), str(array.dtype), array.shape, array.tolist())
        say("writeable", flags.writeable, "owns", flags.owndata, "contiguous", flags.c_contiguous, "aligned", flags.aligned, "same again", tensor.as_numpy() is array)
        say("element", type(array.reshape(-1)[0]).__name__.rstrip("_"))
"""

ECHO = """
    outputs = [pb_utils.Tensor(tensor.name().replace("IN_", "OUT_"), tensor.as_numpy()) for tensor in sorted(request.inputs()[1:], key=lambda tensor: tensor.name())]
    answer = [pb_utils.InferenceResponse(outputs)]
"""


def answers(name, expression, *tensors, **more):
    """One output made of an expression of numpy."""
    return snippet(name, f"answer = [pb_utils.InferenceResponse([{expression}])]", *tensors, **more)


def binary_halves(name, code, kind="FP16"):
    """FP16 and BF16 travel as binary data only."""
    request = cases.ask(
        cases.tensor("CODE", [1], "BYTES", [code.strip("\n")]),
        cases.tensor(f"IN_{kind}", [2], kind, None, binary_data_size=4),
        parameters={"binary_data_output": True},
    )
    return cases.binary(name, "snippets", request, b"\x00\x3c\x80\x3f")


MADE = """
    T = pb_utils.Tensor
    attempt(lambda: T("A", np.zeros((2, 3), np.float32)).shape())
    attempt(lambda: T("A", np.zeros((), np.float32)).shape())
    attempt(lambda: T("A", np.zeros((0, 3), np.float32)).shape())
    for kind in ("bool_", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "object_", "complex64", "datetime64"):
        attempt(lambda: (kind, T("A", np.zeros(1, getattr(np, kind))).shape()))
    attempt(lambda: T("A", np.array([b"ab", b"c"])).as_numpy().tolist())
    attempt(lambda: T("A", np.array(["ab", "c"])).as_numpy().tolist())
    attempt(lambda: T("A", np.zeros(1, ">f4")).as_numpy().tolist())
    attempt(lambda: T("A", np.zeros(1, ">f4")).as_numpy().dtype.byteorder)
    attempt(lambda: T("A", np.zeros(1, np.longdouble)).shape())
    attempt(lambda: T("A", [1, 2]).as_numpy())
    attempt(lambda: T("A", 1).as_numpy())
    attempt(lambda: T("A", (1.5, 2)).as_numpy())
    attempt(lambda: T("A", "text").as_numpy())
    attempt(lambda: T("A", None))
    attempt(lambda: T("A"))
    attempt(lambda: T())
    attempt(lambda: T("", np.zeros(1, np.float32)))
    attempt(lambda: T("", np.zeros(1, np.float32)).name())
    attempt(lambda: T(3, np.zeros(1, np.float32)))
    attempt(lambda: T(name="A", numpy_array=np.zeros(1, np.float32)))
    attempt(lambda: T("A", np.zeros(1, np.float32)).is_cpu())
    attempt(lambda: T("A", np.float32(1)).shape())
    attempt(lambda: T(b"A", np.zeros(1, np.float32)).name())
    attempt(lambda: T("A", np.ma.masked_array([1, 2], [0, 1])).as_numpy())
    attempt(lambda: T("A", np.rec.array([(1, 2.0)], dtype=[("x", int), ("y", float)])))
    attempt(lambda: T("A", memoryview(b"ab")).as_numpy())
"""

SHARING = """
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensor = pb_utils.Tensor("A", array)
    say(tensor.as_numpy() is array, np.shares_memory(tensor.as_numpy(), array))
    array[0, 0] = 9
    say(tensor.as_numpy().tolist())
    turned = pb_utils.Tensor("A", array.T)
    say(turned.shape(), turned.as_numpy().flags.c_contiguous, turned.as_numpy().tolist(), np.shares_memory(turned.as_numpy(), array))
    steps = pb_utils.Tensor("A", array[:, ::2])
    say(steps.shape(), steps.as_numpy().flags.c_contiguous, steps.as_numpy().tolist())
    spread = pb_utils.Tensor("A", np.broadcast_to(np.float32(7), (2, 2)))
    say(spread.shape(), spread.as_numpy().tolist(), spread.as_numpy().flags.writeable)
    words = pb_utils.Tensor("A", np.array(["a", b"b"], dtype=object))
    say(words.as_numpy().tolist())
    tensor.as_numpy()[:] = 4
    say(array.tolist())
"""

NUMERIC = ("bool_", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
TENSOR = 'tensor = pb_utils.Tensor("B", np.arange(6, dtype=np.float32).reshape(2, 3))\n'

# Each alone: several of them end the recorded worker.
DLPACK = {
    **{f"there and back, {kind}": f'attempt(lambda: pb_utils.Tensor.from_dlpack("A", pb_utils.Tensor("B", np.array([1, 0, 1], np.{kind})).to_dlpack()).as_numpy().tolist())' for kind in NUMERIC},
    **{f"numpy takes, {kind}": f'attempt(lambda: np.from_dlpack(pb_utils.Tensor("B", np.array([1, 0, 1], np.{kind}))).tolist())' for kind in NUMERIC},
    "a capsule": TENSOR + "say(tensor.to_dlpack())",
    "device": TENSOR + "attempt(lambda: tensor.__dlpack_device__())",
    "protocol": TENSOR + "attempt(lambda: tensor.__dlpack__())",
    "protocol, no stream": TENSOR + "attempt(lambda: tensor.__dlpack__(stream=None))",
    "protocol, a stream": TENSOR + "attempt(lambda: tensor.__dlpack__(stream=1))",
    "protocol of newer consumers": TENSOR + "attempt(lambda: tensor.__dlpack__(max_version=(1, 0), dl_device=None, copy=None))",
    "memory is shared": TENSOR + "copy = np.from_dlpack(tensor)\nsay(copy.shape, copy.tolist(), np.shares_memory(copy, tensor.as_numpy()))",
    "no name": 'attempt(lambda: pb_utils.Tensor.from_dlpack("", np.zeros(1, np.float32)))',
    "a list": 'attempt(lambda: pb_utils.Tensor.from_dlpack("C", [1, 2]))',
    "None": 'attempt(lambda: pb_utils.Tensor.from_dlpack("C", None))',
    "a number": 'attempt(lambda: pb_utils.Tensor.from_dlpack("C", 3))',
    "without a name": "attempt(lambda: pb_utils.Tensor.from_dlpack(np.zeros(1, np.float32)))",
    "another tensor": TENSOR + 'again = pb_utils.Tensor.from_dlpack("C", tensor)\nsay(again.name(), again.as_numpy().tolist())',
    "a capsule used twice": TENSOR + """
capsule = tensor.to_dlpack()
attempt(lambda: pb_utils.Tensor.from_dlpack("C", capsule).shape())
attempt(lambda: pb_utils.Tensor.from_dlpack("C", capsule).shape())
""",
    "strings": 'attempt(lambda: pb_utils.Tensor("W", np.array([b"x"], dtype=object)).to_dlpack())',
    "strings by the protocol": 'attempt(lambda: pb_utils.Tensor("W", np.array([b"x"], dtype=object)).__dlpack__())',
    "device of strings": 'attempt(lambda: pb_utils.Tensor("W", np.array([b"x"], dtype=object)).__dlpack_device__())',
}

# from_dlpack of numpy's arrays is left out: it ends the recorded worker.
FOREIGN = {
    "without a device": """
        class Half:
            def __dlpack__(self):
                return np.zeros(1, np.float32).__dlpack__()

        attempt(lambda: pb_utils.Tensor.from_dlpack("A", Half()).shape())
    """,
}

INPUTS_DLPACK = """
    for tensor in sorted(request.inputs()[1:], key=lambda tensor: tensor.name()):
        attempt(lambda: np.from_dlpack(tensor).tolist())
        attempt(lambda: pb_utils.Tensor.from_dlpack("X", tensor.to_dlpack()).as_numpy().tolist())
"""

CASES = [
    snippet("every type as an array", SEEN, *ALL_TYPES),
    snippet("every type there and back", ECHO, *ALL_TYPES),
    binary_halves("half precision as an array", "tensor = request.inputs()[1]\nsay(tensor.shape(), str(tensor.as_numpy().dtype), tensor.as_numpy().tolist())"),
    binary_halves("half precision there and back", "answer = [pb_utils.InferenceResponse([pb_utils.Tensor('OUT_FP16', request.inputs()[1].as_numpy())])]"),
    binary_halves("BF16 as an array", "attempt(lambda: request.inputs()[1].as_numpy())\nsay(request.inputs()[1].shape())", "BF16"),
    binary_halves("BF16 by DLPack", "answer = [pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack('OUT_BF16', request.inputs()[1].to_dlpack())])]", "BF16"),
    binary_halves("BF16 handed on as it is", "answer = [pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack('OUT_BF16', request.inputs()[1])])]", "BF16"),
    binary_halves("BF16 by DLPack says its type", "t = pb_utils.Tensor.from_dlpack('A', request.inputs()[1])\nsay(t.shape(), t.is_cpu())\nattempt(lambda: np.from_dlpack(t))\nsay(t.to_dlpack())\nattempt(lambda: t.as_numpy())", "BF16"),
    snippet("triton_dtype", "attempt(lambda: request.inputs()[0].triton_dtype())\nattempt(lambda: pb_utils.Tensor('A', np.zeros(1, np.float32)).triton_dtype())"),
    snippet("tensors made", MADE),
    snippet("who shares memory with whom", SHARING),
    *[snippet(f"DLPack: {name}", code) for name, code in DLPACK.items()],
    *[snippet(f"DLPack {name}", code) for name, code in FOREIGN.items()],
    snippet("DLPack of inputs", INPUTS_DLPACK, *ALL_TYPES),
    snippet("an input may be written to", """
        array = request.inputs()[1].as_numpy()
        try:
            array[0] = 7
        except Exception as error:
            say(type(error).__name__, error)
        say(array.tolist(), request.inputs()[1].as_numpy().tolist())
    """, ("FP32", [1, 2])),
    snippet("an empty input", SEEN.replace('say("element"', 'array.size and say("element"'), ("FP32", []), ("STRING", [])),
    answers("an empty output", "pb_utils.Tensor('OUT_FP32', np.zeros(0, np.float32)), pb_utils.Tensor('OUT_STRING', np.array([], dtype=object))"),
    answers("an output of no dimensions", "pb_utils.Tensor('OUT_FP32', np.array(3, np.float32))"),
    answers("a string of no dimensions", "pb_utils.Tensor('SAID', np.array(b'x', dtype=object))"),
    answers("a transposed output", "pb_utils.Tensor('OUT_FP32', np.arange(6, dtype=np.float32).reshape(2, 3).T)"),
    answers("an output of steps", "pb_utils.Tensor('OUT_INT32', np.arange(10, dtype=np.int32)[::-3])"),
    answers("a broadcast output", "pb_utils.Tensor('OUT_INT32', np.broadcast_to(np.int32(5), (3,)))"),
    answers("an output of the other byte order", "pb_utils.Tensor('OUT_INT32', np.arange(3).astype('>i4'))"),
    answers("strings of str", "pb_utils.Tensor('SAID', np.array(['plain', 'é', '', '日本'], dtype=object))"),
    answers("strings of bytes", r"pb_utils.Tensor('SAID', np.array([b'plain', b'', b'a\x00b'], dtype=object))"),
    answers("strings that are no UTF-8", r"pb_utils.Tensor('SAID', np.array([b'\xff\xfe'], dtype=object))", parameters={"binary_data_output": True}),
    answers("strings of fixed length", "pb_utils.Tensor('SAID', np.array([b'ab', b'', b'abcd']))"),
    answers("unicode of fixed length", "pb_utils.Tensor('SAID', np.array(['ab', '', 'abcd']))"),
    answers("objects that are no strings", "pb_utils.Tensor('SAID', np.array([1, 2.5, None], dtype=object))"),
    answers("strings in two dimensions", "pb_utils.Tensor('SAID', np.array([['a', 'b'], ['c', 'd']], dtype=object))"),
    answers("strings turned around", "pb_utils.Tensor('SAID', np.array([['a', 'b'], ['c', 'd']], dtype=object).T)"),
    answers("a masked array", "pb_utils.Tensor('OUT_INT32', np.ma.masked_array(np.arange(3, dtype=np.int32), [0, 1, 0]))"),
    answers("a matrix", "pb_utils.Tensor('OUT_INT32', np.matrix([[1, 2]], dtype=np.int32))"),
    answers("another type than configured", "pb_utils.Tensor('OUT_FP32', np.arange(3, dtype=np.int64))"),
    answers("a string where numbers are configured", "pb_utils.Tensor('OUT_FP32', np.array(['x'], dtype=object))"),
    answers("another shape than configured", "pb_utils.Tensor('OUT_FP32', np.zeros((2, 2, 2), np.float32))"),
    answers("an output nobody configured", "pb_utils.Tensor('NOTHING', np.zeros(1, np.float32)), pb_utils.Tensor('OUT_FP32', np.zeros(1, np.float32))"),
    answers("only an output nobody configured", "pb_utils.Tensor('NOTHING', np.zeros(1, np.float32))"),
    answers("no outputs at all", ""),
    answers("an output twice", "pb_utils.Tensor('OUT_FP32', np.zeros(1, np.float32)), pb_utils.Tensor('OUT_FP32', np.ones(2, np.float32))"),
    answers("a requested output is missing", "pb_utils.Tensor('OUT_FP32', np.zeros(1, np.float32))", outputs=[{"name": "OUT_FP32"}, {"name": "OUT_BOOL"}]),
    answers("an output that was not requested", "pb_utils.Tensor('OUT_FP32', np.zeros(1, np.float32)), pb_utils.Tensor('OUT_BOOL', np.ones(1, bool))", outputs=[{"name": "OUT_BOOL"}]),
    answers("outputs in another order", "pb_utils.Tensor('OUT_BOOL', np.ones(1, bool)), pb_utils.Tensor('OUT_FP32', np.zeros(1, np.float32))", outputs=[{"name": "OUT_FP32"}, {"name": "OUT_BOOL"}]),
    answers("an input handed on as an output", "request.inputs()[1]", ("FP32", [1, 2])),
    answers("not a number and infinities", "pb_utils.Tensor('OUT_FP32', np.array([np.nan, np.inf, -np.inf], np.float32))", ("FP32", [1, 2])),
    answers("a row without its batch", "pb_utils.Tensor('OUT_FP32', np.zeros(3, np.float32))", model="batching") | {},
    answers("a batch of another size", "pb_utils.Tensor('OUT_FP32', np.zeros((3, 3), np.float32))", model="batching"),
    answers("a batch of no dimensions", "pb_utils.Tensor('OUT_FP32', np.zeros((), np.float32))", model="batching"),
    answers("a dimension other than configured", "pb_utils.Tensor('FIXED', np.zeros(3, np.float32))", model="fixed"),
    answers("the dimension configured", "pb_utils.Tensor('FIXED', np.zeros(2, np.float32))", model="fixed"),
    answers("dimensions of another number", "pb_utils.Tensor('FIXED', np.zeros((1, 2), np.float32))", model="fixed"),
]


def batched(case):
    """The same with a leading dimension of one in every input."""
    return {**case, "body": case["body"].replace(b'"shape": [1]', b'"shape": [1, 1]')} if "/batching/" in case["http"][1] else case


CASES = [batched(case) for case in CASES]

FIXED = files()
FIXED["config.pbtxt"] = (
    'backend: "python"\ninput [ { name: "CODE" data_type: TYPE_STRING dims: [ 1 ] } ]\n'
    'output [ { name: "FIXED" data_type: TYPE_FP32 dims: [ 2 ] }, { name: "SAID" data_type: TYPE_STRING dims: [ -1 ] } ]\n'
)

SCENE = {"files": {"snippets": SNIPPETS, "batching": files(batch=4), "fixed": FIXED}, "flags": [], "cases": CASES}
