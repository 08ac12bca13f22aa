"""Makes model repositories for tests and measurements, at run time, in a folder of the caller's choice.

As a program: .venv/bin/python e2e/models/make.py FOLDER [SET...]     sets: examples, examples_gpu, types, shapes, versions, broken, bench
"""

import sys
from pathlib import Path

import onnx

sys.path.insert(0, str(Path(__file__).resolve().parent))

import graphs  # noqa: E402


def write(root, name, config, versions, filename="model.onnx"):
    """One model folder. `versions` maps a version folder to a graph, to raw bytes, or to None for an empty folder; `config` may be None."""
    folder = Path(root) / name
    for version, content in versions.items():
        (folder / str(version)).mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            (folder / str(version) / filename).write_bytes(content)
        elif content is not None:
            onnx.save(content, folder / str(version) / filename)
    if config is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.pbtxt").write_text(config)
    return folder


def tensor(name, kind, dims):
    return f'{{ name: "{name}" data_type: TYPE_{kind} dims: {list(dims)} }}'


def onnx_config(batch, inputs, outputs, more=""):
    """Configuration of an ONNX model: inputs and outputs as (name, data type, dims)."""
    listed = [", ".join(tensor(*one) for one in side) for side in (inputs, outputs)]
    return f'backend: "onnxruntime"\nmax_batch_size: {batch}\ninput [ {listed[0]} ]\noutput [ {listed[1]} ]\n{more}'


# === the models people write about: names, shapes and configurations as a user would have them ===

GPU_GROUP = """
instance_group [
  {{
    count: 2
    kind: KIND_GPU
    gpus: {gpus}
  }}
]
"""
CPU_GROUP = """
instance_group [
  {
    count: 2
    kind: KIND_CPU
  }
]
"""

TEXT_ENCODER = """
# config.pbtxt for ONNX model
name: "text_encoder"
platform: "onnxruntime_onnx"
max_batch_size: 64

input [
  {
    name: "input_ids"
    data_type: TYPE_INT64
    dims: [-1]  # Dynamic sequence length
  }
]

output [
  {
    name: "embeddings"
    data_type: TYPE_FP32
    dims: [768]
  }
]

dynamic_batching {
  preferred_batch_size: [8, 16, 32]
  max_queue_delay_microseconds: 100
}

optimization {
  cuda { graphs: true }
}
"""

TEXT_CLASSIFIER = """
name: "text_classifier"
platform: "onnxruntime_onnx"
max_batch_size: 64

input [
  {
    name: "input_ids"
    data_type: TYPE_INT64
    dims: [ 128 ]
  },
  {
    name: "attention_mask"
    data_type: TYPE_INT64
    dims: [ 128 ]
  }
]

output [
  {
    name: "logits"
    data_type: TYPE_FP32
    dims: [ 2 ]
  }
]

dynamic_batching {
  preferred_batch_size: [ 8, 16, 32 ]
  max_queue_delay_microseconds: 100
}
"""

ALPHA_MODEL = """
name: "alpha_model"
platform: "onnxruntime_onnx"
max_batch_size: 64

input [
  {
    name: "features"
    data_type: TYPE_FP32
    dims: [50]
  }
]

output [
  {
    name: "prediction"
    data_type: TYPE_FP32
    dims: [1]
  }
]

dynamic_batching {
  preferred_batch_size: [8, 16, 32]
  max_queue_delay_microseconds: 5000
}
"""

PCB_DETECTOR = """
name: "pcb_detector"
platform: "onnxruntime_onnx"  # or "tensorrt_plan"
max_batch_size: 8
input [
  {
    name: "images"
    data_type: TYPE_FP32
    dims: [ 3, 640, 640 ]
  }
]
output [
  {
    name: "output"
    data_type: TYPE_FP32
    dims: [ 25200, 85 ]  # Adjust based on model
  }
]
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]
  max_queue_delay_microseconds: 100
}
"""


def examples(root, gpu=False):
    """text_encoder, text_classifier, alpha_model (two versions), pcb_detector; on the CPU, or as written for GPUs."""

    def group(gpus):
        return GPU_GROUP.format(gpus=gpus) if gpu else CPU_GROUP

    write(root, "text_encoder", TEXT_ENCODER + group([0, 1]), {1: graphs.text_encoder()})
    write(root, "text_classifier", TEXT_CLASSIFIER + group([0]), {1: graphs.text_classifier()})
    write(root, "alpha_model", ALPHA_MODEL + group([0]), {1: graphs.mlp(50, 8, 1, seed=1), 2: graphs.mlp(50, 8, 1, seed=2)})
    write(root, "pcb_detector", PCB_DETECTOR, {1: graphs.pcb_detector()})


def examples_gpu(root):
    """The same with their KIND_GPU instance groups."""
    examples(root, gpu=True)


# === what can go through a model ===


def identity(root, name, **parameters):
    """A model of the identity backend, INPUT0 FP32 [4]; parameters such as execute_delay_ms=100."""
    lines = [f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}' for key, value in parameters.items()]
    io = [("INPUT0", "FP32", [4])], [("OUTPUT0", "FP32", [4])]
    text = onnx_config(8, *io, "\n".join(lines)).replace('backend: "onnxruntime"', 'backend: "identity"')
    return write(root, name, text, {1: None})


def identity_of(root, name, dims, kind="FP32"):
    """A model of the identity backend without batching, INPUT0 to OUTPUT0, of any shape."""
    text = onnx_config(0, [("INPUT0", kind, dims)], [("OUTPUT0", kind, dims)]).replace('backend: "onnxruntime"', 'backend: "identity"')
    return write(root, name, text, {1: None})


def types(root):
    """An identity of every tensor type, each once without batching and once with."""
    for kind in graphs.ELEMENTS:
        flat = onnx_config(0, [("INPUT0", kind, [-1])], [("OUTPUT0", kind, [-1])])
        batched = onnx_config(8, [("INPUT0", kind, [2])], [("OUTPUT0", kind, [2])], "dynamic_batching { }\n")
        write(root, f"onnx_{kind.lower()}", flat, {1: graphs.identity(kind, ["n"])})
        write(root, f"onnx_{kind.lower()}_batched", batched, {1: graphs.identity(kind, ["batch", 2])})


def shapes(root):
    """Scalars, fixed shapes, variable shapes, several inputs, no configuration."""
    write(root, "scalar", None, {1: graphs.scalar()})
    write(root, "total", None, {1: graphs.total()})
    write(root, "auto", None, {1: graphs.add_sub()})
    write(root, "auto_fixed", None, {1: graphs.add_sub([2, 3])})
    write(root, "upper", onnx_config(0, [("TEXT", "STRING", [-1])], [("UPPER", "STRING", [-1])]), {1: graphs.upper()})
    both = [[(f"{side}{k}", "FP32", [4]) for k in range(2)] for side in ("INPUT", "OUTPUT")]
    write(root, "add_sub", onnx_config(8, *both), {1: graphs.add_sub()})
    wide = [("INPUT0", "FP32", [-1, 3])], [("OUTPUT0", "FP32", [-1, 3])]
    write(root, "ragged_rows", onnx_config(8, *wide, "dynamic_batching { max_queue_delay_microseconds: 20000 }\n"), {1: graphs.add(1, ["batch", "rows", 3])})
    slow = "dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 3000000 }\ninstance_group [ { kind: KIND_CPU count: 1 } ]\n"
    write(root, "long_delay", onnx_config(8, [("INPUT0", "FP32", [4])], [("OUTPUT0", "FP32", [4])], slow), {1: graphs.add(1)})


def versions(root, policy="", name="versions", numbers=(1, 2, 3), config=""):
    """Versions that add their own number."""
    text = onnx_config(8, [("INPUT0", "FP32", [4])], [("OUTPUT0", "FP32", [4])], policy + config)
    return write(root, name, text, {n: graphs.add(n) for n in numbers})


def broken(root):
    """Models that must not load, each for one reason a user may meet."""
    io = [("INPUT0", "FP32", [4])], [("OUTPUT0", "FP32", [4])]
    good = {1: graphs.add(1)}
    write(root, "corrupt", onnx_config(8, *io), {1: b"this is no ONNX graph"})
    write(root, "cut_off", onnx_config(8, *io), {1: graphs.mlp(50, 8, 1).SerializeToString()[:200]})
    write(root, "missing_file", onnx_config(8, *io), {1: None})
    write(root, "unknown_field", onnx_config(8, *io, "no_such_field: 1\n"), good)
    wrong = "dynamic_batching { preferred_batch_size: [ 8 ] priority_levels: 2 default_priority_level: 3 }\n"
    write(root, "two_mistakes", onnx_config(4, *io, wrong), good)
    write(root, "other_type", onnx_config(8, [("INPUT0", "INT32", [4])], io[1]), good)
    write(root, "other_dims", onnx_config(8, [("INPUT0", "FP32", [5])], io[1]), {1: graphs.add(1, ["batch", 4])})
    write(root, "other_rank", onnx_config(8, [("INPUT0", "FP32", [4, 4])], io[1]), good)
    write(root, "other_name", onnx_config(8, [("WRONG", "FP32", [4])], io[1]), good)
    write(root, "other_count", onnx_config(8, io[0] + [("INPUT1", "FP32", [4])], io[1]), good)
    write(root, "cannot_batch", onnx_config(8, [("INPUT0", "FP32", [3])], [("OUTPUT0", "FP32", [3])]), {1: graphs.add(1, [2, 3])})
    write(root, "no_such_backend", 'backend: "nosuchbackend"\n' + onnx_config(8, *io).split("\n", 1)[1], good)
    write(root, "on_a_gpu", onnx_config(8, *io, "instance_group [ { kind: KIND_GPU } ]\n"), good)


def bench(root):
    """What is measured: a small and a large network, each with batching and without, one instance, one thread."""
    one = 'instance_group [ { kind: KIND_CPU count: 1 } ]\nparameters { key: "intra_op_thread_count" value: { string_value: "1" } }\n'
    batching = "dynamic_batching { preferred_batch_size: [ 8, 16, 32 ] max_queue_delay_microseconds: 100 }\n"
    for name, widths in {"mlp": (50, 128, 64, 1), "mlp_big": (512, 2048, 2048, 512)}.items():
        io = [("features", "FP32", [widths[0]])], [("prediction", "FP32", [widths[-1]])]
        graph = {1: graphs.mlp(*widths)}
        write(root, name, onnx_config(32, *io, one), graph)
        write(root, f"{name}_batched", onnx_config(32, *io, one + batching), graph)


SETS = {make.__name__: make for make in (examples, examples_gpu, types, shapes, versions, broken, bench)}

if __name__ == "__main__":
    if len(sys.argv) < 2 or set(sys.argv[2:]) - set(SETS):
        sys.exit(f"usage: make.py FOLDER [SET...]     sets: {', '.join(SETS)}")
    for chosen in sys.argv[2:] or ["examples", "shapes"]:
        SETS[chosen](sys.argv[1])
    print(*sorted(path.name for path in Path(sys.argv[1]).iterdir()))
