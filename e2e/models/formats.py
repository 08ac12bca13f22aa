"""The same models for every native runtime: one list of formats, each with the files that its runtime reads and the words of its configuration.

The files are made here (ONNX), or by e2e/runtimes/pytorch and e2e/runtimes/tensorflow."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import graphs
import ml_dtypes
import numpy as np
import runtimes
import tensorflow_repository
import torch_repository
from make import tensor
from onnx import TensorProto, helper

REALS = ("FP16", "FP32", "FP64", "BF16")
INTEGERS = tuple(f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64))
CONTROLS = ("START", "READY", "END", "CORRID")


@dataclass(frozen=True)
class Format:
    """One kind of model file."""

    name: str
    header: str  # first lines of its configurations
    put: Callable  # (version folder, model, argument): puts the files of a model of `MODELS` there
    library: Callable  # flags with which a server finds its runtime
    types: tuple = REALS + INTEGERS  # that can be added up
    completes: bool = True  # configurations are read from files
    numbers_controls: bool = False  # controls of sequences are called NAME__INDEX


# === what the models compute ===

MODELS = {
    "sums": (("INPUT0", "INPUT1"), ("OUTPUT0", "OUTPUT1")),  # their sum and their difference, of the type that is the argument
    "plus": (("INPUT0",), ("OUTPUT0",)),  # INPUT0 FP32 [.., 4], and the argument added to it
    "controls": (("INPUT",), ("SEEN",)),  # a number of a sequence, and what the server says besides: INT64 [5]
}


def onnx_graph(model, argument):
    if model == "plus":
        return graphs.add(argument)
    if model == "sums":
        shape = ("rows", "columns")
        nodes = [helper.make_node(kind, ["INPUT0", "INPUT1"], [f"OUTPUT{k}"]) for k, kind in enumerate(("Add", "Sub"))]
        return graphs.model(nodes, *([graphs.value(name, argument, shape) for name in side] for side in MODELS[model]))
    names = ("INPUT", *CONTROLS)
    kinds = ("FP32", "INT32", "INT32", "INT32", "INT64")
    nodes = [helper.make_node("Cast", [name], [f"{name}_64"], to=TensorProto.INT64) for name in names]
    nodes.append(helper.make_node("Concat", [f"{name}_64" for name in names], ["SEEN"], axis=1))
    inputs = [graphs.value(name, kind, ("rows", 1)) for name, kind in zip(names, kinds)]
    return graphs.model(nodes, inputs, [graphs.value("SEEN", "INT64", ("rows", 5))])


def put_onnx(folder, model, argument):
    (folder / "model.onnx").write_bytes(onnx_graph(model, argument).SerializeToString())


def put_torch(folder, model, argument):
    file = {"sums": "add_sub", "plus": f"plus_{argument}"}.get(model, model)
    shutil.copy(torch_repository.HOME / "models" / f"{file}.pt", folder / "model.pt")


def put_tensorflow(file):
    def put(folder, model, argument):
        made = tensorflow_repository.MADE / model / {"sums": str(argument).lower(), "plus": str(argument)}.get(model, "") / file
        (shutil.copytree if made.is_dir() else shutil.copy)(made, folder / file)

    return put


# === the formats ===


def setting(backend, runtime, file):
    """The flag that names a library below target/runtimes; without it the test is skipped."""
    return lambda: [f"--backend-config={backend},library={runtimes.runtime(runtime, file)}"]


TENSORFLOW = setting("tensorflow", "tensorflow", "lib/libtensorflow_cc.so.2")
FORMATS = [
    Format("onnxruntime", 'platform: "onnxruntime_onnx"\n', put_onnx, list, ("FP32", "FP64", "INT32", "INT64")),
    Format(
        "openvino",
        'backend: "openvino"\ndefault_model_filename: "model.onnx"\n',
        put_onnx,
        setting("openvino", "openvino", "openvino/libs/libopenvino_c.so.*"),
    ),
    Format(
        "pytorch",
        'platform: "pytorch_libtorch"\n',
        put_torch,
        setting("pytorch", "pytorch", "libtriton_torch_shim.so"),
        tuple(kind for kind in REALS + INTEGERS if kind not in ("UINT16", "UINT32", "UINT64")),  # Debian's libtorch has none of these
        completes=False,
        numbers_controls=True,
    ),
    Format("savedmodel", 'platform: "tensorflow_savedmodel"\n', put_tensorflow("model.savedmodel"), TENSORFLOW),
    Format("graphdef", 'platform: "tensorflow_graphdef"\n', put_tensorflow("model.graphdef"), TENSORFLOW, completes=False),
]


def write(root, form, name, model, versions, config):
    """One model folder: `versions` maps a version to the argument of the model. `config` follows the first lines of the format; None: no file,
    but what tells the format where it has to be told."""
    folder = Path(root) / name
    for version, argument in versions.items():
        place = folder / str(version)
        place.mkdir(parents=True, exist_ok=True)
        form.put(place, model, argument)
    if config is not None or form.name == "openvino":
        (folder / "config.pbtxt").write_text(form.header + (config or ""))
    return folder


def config(batch, inputs, outputs, more=""):
    """Inputs and outputs as (name, data type, dims), behind the first lines of a format."""
    listed = [", ".join(tensor(*one) for one in side) for side in (inputs, outputs)]
    return f"max_batch_size: {batch}\ninput [ {listed[0]} ]\noutput [ {listed[1]} ]\n{more}"


def sums(root, form, kind, batch, dims, more="", name=None):
    sides = [[(one, kind, dims) for one in side] for side in MODELS["sums"]]
    return write(root, form, name or f"sums_{kind.lower()}_{batch}", "sums", {1: kind}, config(batch, *sides, more))


def plus(root, form, name, more="", versions=None, batch=8):
    io = [("INPUT0", "FP32", [4])], [("OUTPUT0", "FP32", [4])]
    return write(root, form, name, "plus", versions or {1: 1}, config(batch, *io, more))


def controls(root, form, name, strategy, batch=4, more=""):
    """A model that answers what it was told of its sequence."""
    number = (lambda name, index: f"{name}__{index}") if form.numbers_controls else (lambda name, index: name)
    listed = [
        f'control_input {{ name: "{number(one, index)}" control {{ kind: CONTROL_SEQUENCE_{one} {"data_type: TYPE_INT64" if one == "CORRID" else "int32_false_true: [ 0, 1 ]"} }} }}'
        for index, one in enumerate(CONTROLS, 1)
    ]
    batching = "\n".join(["sequence_batching {", strategy, *listed, "}\n"])
    io = [(number("INPUT", 0), "FP32", [1])], [(number("SEEN", 0), "INT64", [5])]
    return write(root, form, name, "controls", {1: None}, config(batch, *io, batching + more))


def dtype(kind):
    """NumPy's type of a data type."""
    return np.dtype({"FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "BF16": ml_dtypes.bfloat16}.get(kind, kind.lower()))

