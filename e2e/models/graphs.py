"""Small ONNX graphs, built by hand: each function returns one model whose answers a test can work out with numpy."""

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

# config name without TYPE_ -> ONNX element type
ELEMENTS = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "STRING": TensorProto.STRING,
    "BF16": TensorProto.BFLOAT16,
}


def value(name, element, shape):
    return helper.make_tensor_value_info(name, ELEMENTS[element], shape)


def model(nodes, inputs, outputs, **constants):
    """A checked model of opset 17, readable by every ONNX Runtime of the last years."""
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(made)
    return made


def identity(element, shape):
    """OUTPUT0 = INPUT0."""
    nodes = [helper.make_node("Identity", ["INPUT0"], ["OUTPUT0"])]
    return model(nodes, [value("INPUT0", element, shape)], [value("OUTPUT0", element, shape)])


def add(number, shape=("batch", 4)):
    """OUTPUT0 = INPUT0 + number: a different number per version makes the versions distinguishable."""
    nodes = [helper.make_node("Add", ["INPUT0", "number"], ["OUTPUT0"])]
    return model(nodes, [value("INPUT0", "FP32", shape)], [value("OUTPUT0", "FP32", shape)], number=np.float32(number))


def add_sub(shape=("batch", 4)):
    """OUTPUT0 = INPUT0 + INPUT1, OUTPUT1 = INPUT0 - INPUT1."""
    nodes = [helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]), helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"])]
    both = [[value(f"{side}{k}", "FP32", shape) for k in range(2)] for side in ("INPUT", "OUTPUT")]
    return model(nodes, *both)


def greedy(elements):
    """OUTPUT0 = INPUT0 + 1, of a one that is the largest of so many: folding that constant takes four bytes for each when it is loaded."""
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["ones"], value=helper.make_tensor("value", TensorProto.FLOAT, [1], [1.0])),
        helper.make_node("ReduceMax", ["ones"], ["one"], keepdims=0),
        helper.make_node("Add", ["INPUT0", "one"], ["OUTPUT0"]),
    ]
    shape = ("batch", 4)
    return model(nodes, [value("INPUT0", "FP32", shape)], [value("OUTPUT0", "FP32", shape)], shape=np.array([elements], np.int64))


def scalar():
    """A graph of scalars: y = 2 x."""
    nodes = [helper.make_node("Mul", ["x", "two"], ["y"])]
    return model(nodes, [value("x", "FP32", [])], [value("y", "FP32", [])], two=np.float32(2))


def total():
    """One scalar out of a fixed matrix, no batch dimension: sum of INPUT0 [2,3]."""
    nodes = [helper.make_node("ReduceSum", ["INPUT0"], ["SUM"], keepdims=0)]
    return model(nodes, [value("INPUT0", "FP32", [2, 3])], [value("SUM", "FP32", [])])


def upper():
    """Strings in upper case. The locale is named because the usual one is not installed everywhere."""
    nodes = [helper.make_node("StringNormalizer", ["TEXT"], ["UPPER"], case_change_action="UPPER", is_case_sensitive=1, locale="C")]
    return model(nodes, [value("TEXT", "STRING", ["n"])], [value("UPPER", "STRING", ["n"])])


def mlp(*widths, inside="features", out="prediction", seed=1):
    """Fully connected layers with ReLU between them, no ReLU after the last."""
    random = np.random.default_rng(seed)
    nodes, constants, last = [], {}, inside
    for layer, (rows, columns) in enumerate(zip(widths, widths[1:])):
        final = layer == len(widths) - 2
        constants[f"w{layer}"] = (random.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)
        constants[f"b{layer}"] = random.standard_normal(columns).astype(np.float32)
        sums = out if final else f"sums{layer}"
        nodes.append(helper.make_node("Gemm", [last, f"w{layer}", f"b{layer}"], [sums]))
        if not final:
            last = f"active{layer}"
            nodes.append(helper.make_node("Relu", [sums], [last]))
    return model(nodes, [value(inside, "FP32", ["batch", widths[0]])], [value(out, "FP32", ["batch", widths[-1]])], **constants)


def text_encoder():
    """Mean of one vector of 768 numbers per token; token ids are taken modulo 512."""
    table = np.random.default_rng(2).standard_normal((512, 768)).astype(np.float32)
    nodes = [
        helper.make_node("Mod", ["input_ids", "rows"], ["row"]),
        helper.make_node("Gather", ["table", "row"], ["vectors"], axis=0),
        helper.make_node("ReduceMean", ["vectors"], ["embeddings"], axes=[1], keepdims=0),
    ]
    inputs = [value("input_ids", "INT64", ["batch", "tokens"])]
    return model(nodes, inputs, [value("embeddings", "FP32", ["batch", 768])], rows=np.int64(512), table=table)


def text_classifier():
    """Two scores from 128 token ids of which the mask keeps some."""
    random = np.random.default_rng(3)
    nodes = [
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["kept"]),
        helper.make_node("Cast", ["kept"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Gemm", ["numbers", "w", "b"], ["logits"]),
    ]
    inputs = [value(name, "INT64", ["batch", 128]) for name in ("input_ids", "attention_mask")]
    w, b = random.standard_normal((128, 2)) / 1000, random.standard_normal(2)
    return model(nodes, inputs, [value("logits", "FP32", ["batch", 2])], w=w.astype(np.float32), b=b.astype(np.float32))


def pcb_detector():
    """25200 rows of 85 numbers: the picture's own numbers in order, and its first ones once more."""
    again = 25200 * 85 - 3 * 640 * 640
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"], axis=1),
        helper.make_node("Slice", ["flat", "from", "to", "axis"], ["first"]),
        helper.make_node("Concat", ["flat", "first"], ["all"], axis=1),
        helper.make_node("Reshape", ["all", "shape"], ["output"]),
    ]
    inputs = [value("images", "FP32", ["batch", 3, 640, 640])]
    numbers = {"from": [0], "to": [again], "axis": [1], "shape": [-1, 25200, 85]}
    return model(nodes, inputs, [value("output", "FP32", ["batch", 25200, 85])], **{k: np.array(v, np.int64) for k, v in numbers.items()})
