#!/usr/bin/env python3
"""Writes the small models in OpenVINO's own form that the tests of this crate run, into openvino_models/ beside this file.

Needs the package that e2e/runtimes/openvino installs. The files are committed; run this again after a change here, and commit what it wrote.
"""

import pathlib
import shutil
import sys

ROOT = pathlib.Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "target/runtimes/openvino"))

import numpy as np
import openvino as ov
from openvino import opset13 as op

TYPES = {
    "BOOL": ov.Type.boolean,
    **{f"{kind}INT{bits}": getattr(ov.Type, f"{'u' if kind else 'i'}{bits}") for kind in ("U", "") for bits in (8, 16, 32, 64)},
    "FP16": ov.Type.f16,
    "FP32": ov.Type.f32,
    "FP64": ov.Type.f64,
    "BF16": ov.Type.bf16,
}
HERE = pathlib.Path(__file__).parent / "openvino_models"


def named(node, *names):
    node.output(0).set_names(set(names))
    return node


def write(name, inputs, outputs):
    model = ov.Model([op.result(output) for output in outputs], inputs, "test")
    ov.save_model(model, HERE / f"{name}.xml", compress_to_fp16=False)


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()

    # One row of three to two, with weights: made for one row alone. Its output has two names.
    x = named(op.parameter([1, 3], np.float32), "X")
    weights = op.constant(np.array([[1, 2], [3, 4], [5, 6]], np.float32))
    write("dense", [x], [named(op.matmul(x, weights, False, False), "Y", "Y:0")])

    # Four rows, whose number is written into the model. It fails on rows that do not have four numbers.
    x = named(op.parameter([4, -1, 2], np.float32), "X")
    write("four_rows", [x], [named(op.reshape(x, np.array([4, 4], np.int64), False), "Y")])

    # One input and one output of every type of numbers, any number of rows.
    given, made = [], []
    for name, kind in TYPES.items():
        given.append(named(op.parameter([-1, 2], kind), f"IN_{name}"))
        made.append(named(op.reshape(given[-1], np.array([-1, 2], np.int64), False), f"OUT_{name}"))
    write("every_type", given, made)

    # An output that lays all rows end to end, and one that is one number.
    x = named(op.parameter([1, 3, 4], np.float32), "X")
    write("end_to_end", [x], [named(op.reshape(x, np.array([1, -1], np.int64), False), "Y")])
    x = named(op.parameter([-1, 3], np.float32), "X")
    write("total", [x], [named(op.reduce_sum(x, np.array([0, 1], np.int64), False), "Y")])


if __name__ == "__main__":
    main()
