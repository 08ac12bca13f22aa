#!/usr/bin/env python3
"""Writes the small ONNX models that the tests of this crate run, into models/ beside this file.

Needs the package `onnx`. The files are committed; run this again after a change here, and commit what it wrote.
"""

import pathlib
import shutil

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper

HERE = pathlib.Path(__file__).parent / "models"
TYPES = {
    "BOOL": T.BOOL,
    "UINT8": T.UINT8,
    "UINT16": T.UINT16,
    "UINT32": T.UINT32,
    "UINT64": T.UINT64,
    "INT8": T.INT8,
    "INT16": T.INT16,
    "INT32": T.INT32,
    "INT64": T.INT64,
    "FP16": T.FLOAT16,
    "FP32": T.FLOAT,
    "FP64": T.DOUBLE,
    "BYTES": T.STRING,
    "BF16": T.BFLOAT16,
}


def tensor(name, kind, shape):
    return h.make_tensor_value_info(name, kind, shape)


def model(nodes, inputs, outputs, initializers=(), is_checked=True):
    graph = h.make_graph(nodes, "test", inputs, outputs, list(initializers))
    made = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8, producer_name="")
    if is_checked:
        onnx.checker.check_model(made)
    return made


def write(name, made):
    data = made.SerializeToString(deterministic=True)
    assert len(data) < 2048, f"{name} has {len(data)} bytes"
    (HERE / f"{name}.onnx").write_bytes(data)


def same(name):
    """A constant of that name."""
    return lambda array: numpy_helper.from_array(array, name)


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()

    # One input and one output of every type, any number of rows.
    write(
        "every_type",
        model(
            [h.make_node("Identity", [f"IN_{name}"], [f"OUT_{name}"]) for name in TYPES],
            [tensor(f"IN_{name}", kind, ["n", 2]) for name, kind in TYPES.items()],
            [tensor(f"OUT_{name}", kind, ["n", 2]) for name, kind in TYPES.items()],
        ),
    )

    # Sum and difference of two rows of four: batches.
    write(
        "add_sub",
        model(
            [h.make_node("Add", ["A", "B"], ["SUM"]), h.make_node("Sub", ["A", "B"], ["DIFFERENCE"])],
            [tensor("A", T.FLOAT, ["n", 4]), tensor("B", T.FLOAT, ["n", 4])],
            [tensor("SUM", T.FLOAT, ["n", 4]), tensor("DIFFERENCE", T.FLOAT, ["n", 4])],
        ),
    )

    # The same without a batch dimension.
    write(
        "add_fixed",
        model(
            [h.make_node("Add", ["A", "B"], ["SUM"])],
            [tensor("A", T.FLOAT, [4]), tensor("B", T.FLOAT, [4])],
            [tensor("SUM", T.FLOAT, [4])],
        ),
    )

    # Strings: passed on, and joined along a row.
    write(
        "strings",
        model(
            [
                h.make_node("Identity", ["TEXT"], ["SAME"]),
                h.make_node("Concat", ["TEXT", "TEXT"], ["TWICE"], axis=1),
            ],
            [tensor("TEXT", T.STRING, ["n", "m"])],
            [tensor("SAME", T.STRING, ["n", "m"]), tensor("TWICE", T.STRING, ["n", "k"])],
        ),
    )

    # A scalar in, a scalar out.
    write(
        "scalar",
        model(
            [h.make_node("Neg", ["X"], ["NEGATIVE"])],
            [tensor("X", T.FLOAT, [])],
            [tensor("NEGATIVE", T.FLOAT, [])],
        ),
    )

    # A flat input of all requests, doubled, and where each request ends in it.
    write(
        "ragged",
        model(
            [h.make_node("Add", ["X", "X"], ["DOUBLED"]), h.make_node("Identity", ["COUNT"], ["END"])],
            [tensor("X", T.FLOAT, ["elements"]), tensor("COUNT", T.FLOAT, ["requests"])],
            [tensor("DOUBLED", T.FLOAT, ["elements"]), tensor("END", T.FLOAT, ["requests"])],
        ),
    )

    # Beside rows, a scalar in and a scalar out.
    write(
        "scalar_offset",
        model(
            [
                h.make_node("Add", ["X", "OFFSET"], ["Y"]),
                h.make_node("ReduceSum", ["Y"], ["TOTAL"], keepdims=0),
            ],
            [tensor("X", T.FLOAT, ["n", 2]), tensor("OFFSET", T.FLOAT, [])],
            [tensor("Y", T.FLOAT, ["n", 2]), tensor("TOTAL", T.FLOAT, [])],
        ),
    )

    # Of any rank: the file declares no shape.
    write(
        "any_rank",
        model(
            [h.make_node("Neg", ["X"], ["Y"])],
            [tensor("X", T.FLOAT, None)],
            [tensor("Y", T.FLOAT, None)],
            is_checked=False,  # the checker wants shapes, ONNX Runtime does not
        ),
    )

    # One number per row: the output of a batch has the batch dimension and nothing else.
    write(
        "row_sum",
        model(
            [h.make_node("ReduceSum", ["X", "axes"], ["TOTAL"], keepdims=0)],
            [tensor("X", T.FLOAT, ["n", "m"])],
            [tensor("TOTAL", T.FLOAT, ["n"])],
            [same("axes")(np.array([1], np.int64))],
        ),
    )

    # Any extents, the second turned with the third.
    write(
        "transpose",
        model(
            [h.make_node("Transpose", ["X"], ["TURNED"], perm=[0, 2, 1])],
            [tensor("X", T.INT32, ["n", "a", "b"])],
            [tensor("TURNED", T.INT32, ["n", "b", "a"])],
        ),
    )

    # Looks rows up in a table of three: an index beyond fails while running.
    write(
        "lookup",
        model(
            [h.make_node("Gather", ["table", "INDEX"], ["VALUE"], axis=0)],
            [tensor("INDEX", T.INT64, ["n", 1])],
            [tensor("VALUE", T.FLOAT, ["n", 1])],
            [same("table")(np.array([10, 20, 30], np.float32))],
        ),
    )

    # The same for ragged requests.
    write(
        "ragged_lookup",
        model(
            [h.make_node("Gather", ["table", "INDEX"], ["VALUE"], axis=0)],
            [tensor("INDEX", T.INT64, ["n"])],
            [tensor("VALUE", T.FLOAT, ["n"])],
            [same("table")(np.array([10, 20, 30], np.float32))],
        ),
    )

    # Adds a constant that a request may replace.
    write(
        "default_bias",
        model(
            [h.make_node("Add", ["X", "BIAS"], ["Y"])],
            [tensor("X", T.FLOAT, [2]), tensor("BIAS", T.FLOAT, [2])],
            [tensor("Y", T.FLOAT, [2])],
            [same("BIAS")(np.array([100, 200], np.float32))],
        ),
    )

    # Rows laid end to end: an output that cannot be taken apart.
    write(
        "flatten",
        model(
            [h.make_node("Reshape", ["X", "flat"], ["FLAT"])],
            [tensor("X", T.FLOAT, ["n", 2])],
            [tensor("FLAT", T.FLOAT, ["m"])],
            [same("flat")(np.array([-1], np.int64))],
        ),
    )

    # An output that is the input itself: nothing is computed, nothing copied.
    write(
        "pass_through",
        model(
            [h.make_node("Neg", ["X"], ["NEGATIVE"])],
            [tensor("X", T.FLOAT, ["n", 2])],
            [tensor("NEGATIVE", T.FLOAT, ["n", 2]), tensor("X", T.FLOAT, ["n", 2])],
        ),
    )

    # Weights in a file of their own: the model is a folder.
    folder = HERE / "external_data.onnx"
    folder.mkdir()
    made = model(
        [h.make_node("Add", ["X", "offset"], ["Y"])],
        [tensor("X", T.FLOAT, ["n", 4])],
        [tensor("Y", T.FLOAT, ["n", 4])],
        [same("offset")(np.arange(4, dtype=np.float32))],
    )
    onnx.save_model(
        made,
        folder / "model.onnx",
        save_as_external_data=True,
        location="offset.bin",
        size_threshold=0,
    )

    # A sequence of tensors: nothing a request can carry.
    sequence = h.make_tensor_sequence_value_info("PARTS", T.FLOAT, None)
    write(
        "sequence_output",
        model([h.make_node("SequenceConstruct", ["X"], ["PARTS"])], [tensor("X", T.FLOAT, ["n", 2])], [sequence]),
    )

    # Implicit state: a sum that starts anew, and everything that came so far.
    signal = [tensor("START", T.INT32, ["n", 1]), tensor("READY", T.INT32, ["n", 1])]
    write(
        "accumulate",
        model(
            [
                h.make_node("Sub", ["one", "START"], ["goes_on"]),
                h.make_node("Mul", ["SUM_IN", "goes_on"], ["before"]),
                h.make_node("Mul", ["INPUT", "READY"], ["value"]),
                h.make_node("Add", ["before", "value"], ["SUM_OUT"]),
                h.make_node("Identity", ["SUM_OUT"], ["OUTPUT"]),
                h.make_node("Concat", ["SEEN_IN", "INPUT"], ["SEEN_OUT"], axis=1),
            ],
            [tensor("INPUT", T.INT32, ["n", 1]), *signal, tensor("SUM_IN", T.INT32, ["n", 1]), tensor("SEEN_IN", T.INT32, ["n", "k"])],
            [tensor("OUTPUT", T.INT32, ["n", 1]), tensor("SUM_OUT", T.INT32, ["n", 1]), tensor("SEEN_OUT", T.INT32, ["n", "m"])],
            [same("one")(np.array(1, dtype=np.int32))],
        ),
    )

    # Three times its input, by an operator that ONNX Runtime does not have: examples/custom_operator.rs.
    made = h.make_model(
        h.make_graph(
            [h.make_node("Triple", ["X"], ["Y"], domain="test.triple")],
            "test",
            [tensor("X", T.FLOAT, ["n", 2])],
            [tensor("Y", T.FLOAT, ["n", 2])],
        ),
        opset_imports=[h.make_opsetid("", 17), h.make_opsetid("test.triple", 1)],
        ir_version=8,
        producer_name="",
    )
    write("custom_operator", made)

    # Inputs of types that no request can carry.
    for name, kind in [("float8", T.FLOAT8E4M3FN), ("four_bits", T.INT4)]:
        graph = h.make_graph([h.make_node("Cast", ["X"], ["Y"], to=T.FLOAT)], "test", [tensor("X", kind, [2])], [tensor("Y", T.FLOAT, [2])])
        write(f"foreign_{name}", h.make_model(graph, opset_imports=[h.make_opsetid("", 21)], ir_version=10, producer_name=""))

    (HERE / "junk.onnx").write_bytes(b"this is not a model\n")


if __name__ == "__main__":
    main()
