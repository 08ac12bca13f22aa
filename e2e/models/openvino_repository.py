"""Models for OpenVINO: some in its own form, which are written here as the text that they are, and some of ONNX, which it reads as well."""

import struct
from pathlib import Path

import graphs
import make
import numpy as np

WIDE = 1448  # squared, 8 MB of weights
TEST_MODELS = Path(__file__).resolve().parents[2] / "server/backends/tests/models"


def write(root, name, config, model, weights=b""):
    """A model in OpenVINO's own form: version 1 of it."""
    folder = make.write(root, name, config, {1: model.encode()}, "model.xml")
    (folder / "1" / "model.bin").write_bytes(weights)
    return folder


def onnx(root, name, config, graph):
    """A model of ONNX for OpenVINO."""
    graph = graph.read_bytes() if isinstance(graph, Path) else graph
    return make.write(root, name, f'backend: "openvino"\ndefault_model_filename: "model.onnx"\n{config}', {1: graph})


def config(batch, inputs, outputs, more=""):
    """Inputs and outputs as (name, data type, dims)."""
    return make.onnx_config(batch, inputs, outputs, more).replace('"onnxruntime"', '"openvino"')


def repository(root):
    """Every model of the tests."""
    write(root, "scale", None, scale(-1), struct.pack("<f", 3))
    write(root, "scale_one_row", config(8, [("X", "FP32", [4])], [("Y", "FP32", [4])], "dynamic_batching { }\n"), scale(1), struct.pack("<f", 3))
    for kind in graphs.ELEMENTS:
        io = [("INPUT0", kind, [2])], [("OUTPUT0", kind, [2])]
        tensors = config(8, *io).split("\n", 1)[1]
        onnx(root, f"same_{kind.lower()}", tensors, graphs.identity(kind, ["batch", 2]))
    onnx(root, "large", "", graphs.add(1, ["batch", "columns"]))
    accumulate(root)
    write(root, "heavy", parameter("INFERENCE_PRECISION_HINT", "F32"), product(WIDE), np.eye(WIDE, dtype=np.float32).tobytes())
    write(root, "on_npu", parameter("TARGET_DEVICE", "NPU"), scale(-1), struct.pack("<f", 3))
    write(root, "truncated", 'backend: "openvino"\n', scale(-1)[:300])
    write(root, "without_weights", 'backend: "openvino"\n', scale(-1))


def accumulate(root):
    """OUTPUT = what came in the sequence so far, summed; SEEN_OUT = all of it. The sum and the list are states of the sequence."""
    states = """
      control_input [ { name: "START" control { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } },
                      { name: "READY" control { kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] } } ]
      state [ { input_name: "SUM_IN" output_name: "SUM_OUT" data_type: TYPE_INT32 dims: 1 },
              { input_name: "SEEN_IN" output_name: "SEEN_OUT" data_type: TYPE_INT32 dims: -1
                initial_state { name: "none" data_type: TYPE_INT32 dims: 0 zero_data: true } } ]"""
    tensors = config(4, [("INPUT", "INT32", [1])], [("OUTPUT", "INT32", [1]), ("SEEN_OUT", "INT32", [-1])]).split("\n", 1)[1]
    onnx(root, "accumulate", f"{tensors}sequence_batching {{ {states} }}\n", TEST_MODELS / "accumulate.onnx")


def parameter(key, value):
    return f'backend: "openvino"\nparameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}\n'


def product(wide):
    """Y = X * w, with [rows, wide] numbers and [wide, wide] weights."""
    return network(-1, wide, (wide, wide), "MatMul", 'transpose_a="false" transpose_b="false"')


def scale(rows):
    """Y = X * w, with [rows, 4] numbers and one weight."""
    return network(rows, 4, (1, 1), "Multiply", 'auto_broadcast="numpy"')


def network(rows, columns, weights, operation, how):
    """One operation on X of [rows, columns] and on weights."""
    dims, of_weights = ("".join(f"<dim>{extent}</dim>" for extent in shape) for shape in ((rows, columns), weights))
    return f"""<?xml version="1.0"?>
<net name="{operation}" version="11">
  <layers>
    <layer id="0" name="X" type="Parameter" version="opset1">
      <data shape="{'?' if rows < 0 else rows},{columns}" element_type="f32"/>
      <output><port id="0" precision="FP32" names="X">{dims}</port></output>
    </layer>
    <layer id="1" name="w" type="Const" version="opset1">
      <data element_type="f32" shape="{weights[0]},{weights[1]}" offset="0" size="{4 * weights[0] * weights[1]}"/>
      <output><port id="0" precision="FP32">{of_weights}</port></output>
    </layer>
    <layer id="2" name="times" type="{operation}" version="opset1">
      <data {how}/>
      <input><port id="0" precision="FP32">{dims}</port><port id="1" precision="FP32">{of_weights}</port></input>
      <output><port id="2" precision="FP32" names="Y">{dims}</port></output>
    </layer>
    <layer id="3" name="result" type="Result" version="opset1">
      <input><port id="0" precision="FP32">{dims}</port></input>
    </layer>
  </layers>
  <edges>
    <edge from-layer="0" from-port="0" to-layer="2" to-port="0"/>
    <edge from-layer="1" from-port="0" to-layer="2" to-port="1"/>
    <edge from-layer="2" from-port="2" to-layer="3" to-port="0"/>
  </edges>
</net>
"""
