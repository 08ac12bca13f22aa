"""Models that take requests of different lengths in one batch: what they read lies end to end, and inputs that the server adds say where."""

import numpy as np
from make import write
from onnx import helper

import graphs

# Batches leave at three rows, or after so long that a test fails first.
THREE = "dynamic_batching { preferred_batch_size: [ 3 ] max_queue_delay_microseconds: 60000000 }\n"


def batch_input(kind, targets, data_type="INT32", source="X"):
    listed = ", ".join(f'"{target}"' for target in targets)
    return f'{{ kind: BATCH_{kind} target_name: [ {listed} ] data_type: TYPE_{data_type} source_input: "{source}" }}'


def config(dims, outputs, batch_inputs, more="", ragged="allow_ragged_batch: true", batch=3):
    """`outputs`: name -> (data type, dims, more)."""
    text = f'backend: "onnxruntime"\nmax_batch_size: {batch}\n{THREE}input [ {{ name: "X" data_type: TYPE_FP32 dims: {list(dims)} {ragged} }} ]\n'
    listed = (f'{{ name: "{name}" data_type: TYPE_{kind} dims: {list(dims)} {more} }}' for name, (kind, dims, more) in outputs.items())
    return text + f"output [ {', '.join(listed)} ]\nbatch_input [ {', '.join(batch_inputs)} ]\n{more}"


# A number per request: [n] for the model, [n,1] for clients.
NUMBER = "reshape { shape: [ ] }"


def segments(folder):
    """SUM is the sum of each request's own numbers, DOUBLED twice these numbers in the shape in which they came."""
    nodes = [
        helper.make_node("CumSum", ["X", "axis"], ["after"]),
        helper.make_node("Concat", ["nothing", "after"], ["sums"], axis=0),
        helper.make_node("Slice", ["BORDERS", "one", "end"], ["to"]),
        helper.make_node("Slice", ["BORDERS", "zero", "last"], ["from"]),
        helper.make_node("Gather", ["sums", "to"], ["upper"]),
        helper.make_node("Gather", ["sums", "from"], ["lower"]),
        helper.make_node("Sub", ["upper", "lower"], ["SUM"]),
        helper.make_node("Add", ["X", "X"], ["DOUBLED"]),
    ]
    numbers = {"one": [1], "zero": [0], "end": [2**31 - 1], "last": [-1]}
    constants = {name: np.array(value, np.int64) for name, value in numbers.items()}
    inputs = [graphs.value("X", "FP32", ["all"]), graphs.value("BORDERS", "INT32", ["borders"])]
    outputs = [graphs.value("SUM", "FP32", ["requests"]), graphs.value("DOUBLED", "FP32", ["all"])]
    graph = graphs.model(nodes, inputs, outputs, axis=np.int64(0), nothing=np.zeros(1, np.float32), **constants)
    scatter = 'batch_output [ { kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: "DOUBLED" source_input: "X" } ]\n'
    outputs = {"SUM": ("FP32", [1], NUMBER), "DOUBLED": ("FP32", [-1], "")}
    borders = batch_input("ACCUMULATED_ELEMENT_COUNT_WITH_ZERO", ["BORDERS"])
    write(folder, "segments", config([-1], outputs, [borders], scatter), {1: graph})


def lookup(folder):
    """VALUE has 10, 20 or 30 for each 0, 1 or 2; the model fails on other numbers."""
    nodes = [helper.make_node("Cast", ["X"], ["index"], to=7), helper.make_node("Gather", ["table", "index"], ["VALUE"])]
    inputs = [graphs.value("X", "FP32", ["all"]), graphs.value("COUNT", "INT32", ["requests"])]
    nodes.append(helper.make_node("Identity", ["COUNT"], ["COUNT_OUT"]))
    outputs = [graphs.value("VALUE", "FP32", ["all"]), graphs.value("COUNT_OUT", "INT32", ["requests"])]
    graph = graphs.model(nodes, inputs, outputs, table=np.array([10, 20, 30], np.float32))
    scatter = 'batch_output [ { kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: "VALUE" source_input: "X" } ]\n'
    outputs = {"VALUE": ("FP32", [-1], ""), "COUNT_OUT": ("INT32", [1], NUMBER)}
    write(folder, "lookup", config([-1], outputs, [batch_input("ELEMENT_COUNT", ["COUNT"])], scatter), {1: graph})


def described(folder):
    """Gives back what the server says of the batch, one line per request: inputs of every kind but the one above."""
    same = {"COUNT": "ELEMENT_COUNT", "COUNT_AGAIN": "ELEMENT_COUNT", "END": "ACCUMULATED_ELEMENT_COUNT"}
    nodes = [helper.make_node("Identity", [name], [f"{name}_OUT"]) for name in same]
    nodes += [
        helper.make_node("Shape", ["MOST"], ["most"]),
        helper.make_node("Shape", ["COUNT"], ["requests"]),
        helper.make_node("Expand", ["most", "requests"], ["MOST_OUT"]),
        helper.make_node("Identity", ["ITEM"], ["ITEM_OUT"]),
        helper.make_node("Reshape", ["FLAT", "pairs"], ["FLAT_OUT"]),
        helper.make_node("ReduceSum", ["X"], ["whole"], keepdims=1),
        helper.make_node("Expand", ["whole", "requests"], ["WHOLE_OUT"]),
    ]
    kinds = {"COUNT": "INT32", "COUNT_AGAIN": "INT32", "END": "FP32", "MOST": "FP32", "ITEM": "INT32", "FLAT": "FP32"}
    shapes = {"ITEM": ["rows", 2]}
    inputs = [graphs.value("X", "FP32", ["all"])]
    inputs += [graphs.value(name, kind, shapes.get(name, [f"some_{name}"])) for name, kind in kinds.items()]
    out_kinds = {**kinds, "MOST": "INT64", "WHOLE": "FP32"}
    out_shapes = {"ITEM": ["rows", 2], "FLAT": ["pairs", 2]}
    outputs = [graphs.value(f"{name}_OUT", kind, out_shapes.get(name, [f"out_{name}"])) for name, kind in out_kinds.items()]
    graph = graphs.model(nodes, inputs, outputs, pairs=np.array([-1, 2], np.int64))
    added = [
        batch_input("ELEMENT_COUNT", ["COUNT", "COUNT_AGAIN"]),
        batch_input("ACCUMULATED_ELEMENT_COUNT", ["END"], "FP32"),
        batch_input("MAX_ELEMENT_COUNT_AS_SHAPE", ["MOST"], "FP32"),
        batch_input("ITEM_SHAPE", ["ITEM"]),
        batch_input("ITEM_SHAPE_FLATTEN", ["FLAT"], "FP32"),
    ]
    listed = {f"{name}_OUT": (kind, [2] if name in out_shapes else [1], "" if name in out_shapes else NUMBER) for name, kind in out_kinds.items()}
    write(folder, "described", config([-1, -1], listed, added), {1: graph})


def broken(folder):
    """What cannot be: name -> a piece of the reason."""
    out = {"OUTPUT0": ("FP32", [4], "")}
    reasons = {
        "not_flat": "configuration expects model provides input with shape [-1]  for ragged input 'X', model provides [-1,4]",
        "no_such_input": "unexpected inference input 'NO', allowed inputs are: COUNT, X",
        "other_type": "configuration expects datatype TYPE_FP32 for input 'COUNT', model provides TYPE_INT32",
    }
    rows = [helper.make_node("Identity", ["X"], ["OUTPUT0"])]
    counted = [helper.make_node("Expand", ["COUNT", "four"], ["wide"]), helper.make_node("Cast", ["wide"], ["OUTPUT0"], to=1)]
    four = np.array([1, 4], np.int64)
    shape = ["batch", 4]
    identity = graphs.model(rows, [graphs.value("X", "FP32", shape)], [graphs.value("OUTPUT0", "FP32", shape)])
    inputs = [graphs.value("X", "FP32", ["all"]), graphs.value("COUNT", "INT32", ["n"])]
    counting = graphs.model(counted, inputs, [graphs.value("OUTPUT0", "FP32", shape)], four=four)
    write(folder, "not_flat", config([4], out, []), {1: identity})
    write(folder, "no_such_input", config([-1], out, [batch_input("ELEMENT_COUNT", ["NO"])]), {1: counting})
    write(folder, "other_type", config([-1], out, [batch_input("ELEMENT_COUNT", ["COUNT"], "FP32")]), {1: counting})
    return reasons
