"""Repositories with ensembles: pipelines people write about, and small ones of the backends that are built in."""

import graphs
import make
import numpy as np
import sequences
from onnx import TensorProto, checker, helper

WORDS = ("great", "terrible", "fine")
TOKENS = 128

# The pipeline and the models of it as a user would write them. Here both models are graphs of ONNX Runtime.
PIPELINE = """
# config.pbtxt — Ensemble pipeline combining preprocessing and inference
name: "ensemble_pipeline"
platform: "ensemble"
max_batch_size: 64

input [ { name: "raw_text" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "logits" data_type: TYPE_FP32 dims: [ 2 ] } ]

ensemble_scheduling {
  step [
    {
      model_name: "preprocess"
      model_version: -1
      input_map { key: "raw_text" value: "raw_text" }
      output_map { key: "input_ids" value: "preprocessed_ids" }
    },
    {
      model_name: "text_classifier"
      model_version: -1
      input_map { key: "input_ids" value: "preprocessed_ids" }
      output_map { key: "logits" value: "logits" }
    }
  ]
}
"""


def step(model, inputs, outputs, version=-1):
    """One step: tensor of the ensemble by input, and by output, of the model."""
    maps = [f'input_map {{ key: "{key}" value: "{value}" }}' for key, value in inputs.items()]
    maps += [f'output_map {{ key: "{key}" value: "{value}" }}' for key, value in outputs.items()]
    return f'{{ model_name: "{model}" model_version: {version} {" ".join(maps)} }}'


def ensemble(root, name, batch, inputs, outputs, steps, more="", limit=0):
    """An ensemble; inputs and outputs as (name, data type, dims)."""
    listed = [", ".join(make.tensor(*one) for one in side) for side in (inputs, outputs)]
    text = f'name: "{name}"\nplatform: "ensemble"\nmax_batch_size: {batch}\ninput [ {listed[0]} ]\noutput [ {listed[1]} ]\n{more}\n'
    text += f"ensemble_scheduling {{ max_inflight_requests: {limit} step [ {', '.join(steps)} ] }}\n"
    return make.write(root, name, text, {1: None})


def tokenizer():
    """The number of a word, once for each token; a word that is not known is number 0."""
    nodes = [
        helper.make_node(
            "LabelEncoder", ["raw_text"], ["number"], domain="ai.onnx.ml", keys_strings=list(WORDS), values_int64s=list(range(1, 1 + len(WORDS))), default_int64=0
        ),
        helper.make_node("Tile", ["number", "times"], ["input_ids"]),
    ]
    times = helper.make_tensor("times", TensorProto.INT64, [2], [1, TOKENS])
    inputs = [graphs.value("raw_text", "STRING", ["batch", 1])]
    graph = helper.make_graph(nodes, "graph", inputs, [graphs.value("input_ids", "INT64", ["batch", TOKENS])], [times])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    checker.check_model(made)
    return made


def classifier():
    """Sum of the token ids, and that less than nothing."""
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Gemm", ["numbers", "w"], ["logits"]),
    ]
    weights = np.stack([np.ones(TOKENS, np.float32), -np.ones(TOKENS, np.float32)], axis=1)
    return graphs.model(nodes, [graphs.value("input_ids", "INT64", ["batch", TOKENS])], [graphs.value("logits", "FP32", ["batch", 2])], w=weights)


def logits(words):
    """What the pipeline answers."""
    sums = [TOKENS * (WORDS.index(word) + 1 if word in WORDS else 0) for word in words]
    return np.array([[one, -one] for one in sums], np.float32)


def pipeline(root):
    """preprocess, text_classifier, ensemble_pipeline."""
    ids = ("input_ids", "INT64", [TOKENS])
    make.write(root, "preprocess", make.onnx_config(64, [("raw_text", "STRING", [1])], [ids], "dynamic_batching { }"), {1: tokenizer()})
    folder = make.write(root, "text_classifier", None, {1: classifier()})
    text = make.onnx_config(64, [ids], [("logits", "FP32", [2])], "dynamic_batching { }")
    (folder / "config.pbtxt").write_text(text.replace("dims: [2] }", 'dims: [2] label_filename: "labels.txt" }'))
    (folder / "labels.txt").write_text("good\nbad\n")
    make.write(root, "ensemble_pipeline", PIPELINE, {1: None})


SIDE, BOXES = 32, 12


def detector(root):
    """preprocessing -> detection -> postprocessing: a picture as bytes, the best box out. Only the middle one takes batches."""
    scale = [
        helper.make_node("Cast", ["IMAGE"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["numbers", "most"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["images"], perm=[2, 0, 1]),
    ]
    picture = graphs.value("IMAGE", "UINT8", [SIDE, SIDE, 3])
    images = ("images", "FP32", [3, SIDE, SIDE])
    made = graphs.model(scale, [picture], [graphs.value(*images)], most=np.float32(255))
    make.write(root, "preprocessing", make.onnx_config(0, [("IMAGE", "UINT8", [SIDE, SIDE, 3])], [images]), {1: made})
    find = [helper.make_node("Reshape", ["images", "shape"], ["rows"]), helper.make_node("Slice", ["rows", "from", "to", "axis"], ["output"])]
    numbers = {"shape": [0, -1, 4], "from": [0], "to": [BOXES], "axis": [1]}
    output = ("output", "FP32", [BOXES, 4])
    made = graphs.model(
        find, [graphs.value("images", "FP32", ["batch", 3, SIDE, SIDE])], [graphs.value("output", "FP32", ["batch", BOXES, 4])], **{k: np.array(v, np.int64) for k, v in numbers.items()}
    )
    make.write(root, "detection", make.onnx_config(8, [images], [output], "dynamic_batching { }"), {1: made})
    best = [helper.make_node("ReduceMax", ["output"], ["BEST"], axes=[0], keepdims=0)]
    made = graphs.model(best, [graphs.value(*output)], [graphs.value("BEST", "FP32", [4])])
    make.write(root, "postprocessing", make.onnx_config(0, [output], [("BEST", "FP32", [4])]), {1: made})
    steps = [
        step("postprocessing", {"output": "boxes"}, {"BEST": "BEST"}),
        step("preprocessing", {"IMAGE": "IMAGE"}, {"images": "pixels"}),
        step("detection", {"images": "pixels"}, {"output": "boxes"}),
    ]
    ensemble(root, "detector", 0, [("IMAGE", "UINT8", [SIDE, SIDE, 3])], [("BEST", "FP32", [4])], steps)


def best_box(picture):
    """What the detector answers."""
    pixels = (picture.astype(np.float32) / np.float32(255)).transpose(2, 0, 1)
    return pixels.reshape(-1, 4)[:BOXES].max(axis=0)


def chain(root, name="chain", length=3, dims=(4,), batch=8, limit=0, **parameters):
    """Identity models `NAME_0` ... one after the other; INPUT0 to OUTPUT0."""
    lines = "\n".join(f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}' for key, value in parameters.items())
    io = [("INPUT0", "FP32", list(dims))], [("OUTPUT0", "FP32", list(dims))]
    steps = []
    for number in range(length):
        text = make.onnx_config(batch, *io, lines).replace('backend: "onnxruntime"', 'backend: "identity"')
        make.write(root, f"{name}_{number}", text, {1: None})
        before = "INPUT0" if number == 0 else f"between_{number}"
        after = "OUTPUT0" if number == length - 1 else f"between_{number + 1}"
        steps.append(step(f"{name}_{number}", {"INPUT0": before}, {"OUTPUT0": after}))
    return ensemble(root, name, batch, *io, steps, limit=limit)


def repeating(root, limit=0):
    """A decoupled model whose every answer goes through an identity."""
    ins = [("IN", "INT32", [-1]), ("DELAY", "UINT32", [-1]), ("WAIT", "UINT32", [1])]
    outs = [("OUT", "INT32", [1]), ("IDX", "UINT32", [1])]
    text = make.onnx_config(0, ins, outs, "model_transaction_policy { decoupled: true }").replace("onnxruntime", "repeat")
    make.write(root, "repeat_int32", text, {1: None})
    make.identity_of(root, "pass", [1], "INT32")
    steps = [step("pass", {"INPUT0": "value"}, {"OUTPUT0": "OUT"}), step("repeat_int32", {one[0]: one[0] for one in ins}, {"OUT": "value", "IDX": "IDX"})]
    ensemble(root, "repeating", 0, ins, outs, steps, limit=limit)


def running_sum(root, name, identity):
    """The sum of a sequence so far: an identity, then a model that remembers it."""
    controls = sequences.controls("START", "READY", "END", identity=identity)
    sequences.sums(root, f"{name}_sums", f"oldest {{ }} {controls} max_sequence_idle_microseconds: 600000000")
    io = [("INPUT", "INT32", [1])], [("OUTPUT", "INT32", [1])]
    text = make.onnx_config(1, [("INPUT0", "INT32", [1])], [("OUTPUT0", "INT32", [1])]).replace("onnxruntime", "identity")
    make.write(root, f"{name}_pass", text, {1: None})
    steps = [step(f"{name}_pass", {"INPUT0": "INPUT"}, {"OUTPUT0": "value"}), step(f"{name}_sums", {"INPUT": "value"}, {"OUTPUT": "OUTPUT"})]
    ensemble(root, name, 1, *io, steps)
