"""Repositories of TensorFlow models: the files are those that e2e/runtimes/tensorflow made, the configurations are here."""

import shutil
from pathlib import Path

MADE = Path(__file__).resolve().parents[2] / "target" / "runtimes" / "tensorflow" / "models"


def parameter(key, value):
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'


def write(root, name, config="", made=None, version="1"):
    """One model: the files of `made`, or of its own name, and a configuration if one is given."""
    folder = Path(root) / name
    shutil.copytree(MADE / (made or name), folder / version, dirs_exist_ok=True)
    if config:
        (folder / "config.pbtxt").write_text(config)
    return folder


GRAPH = """
platform: "tensorflow_graphdef"
max_batch_size: 8
input [ { name: "INPUT0" data_type: TYPE_INT32 dims: [4] }, { name: "INPUT1" data_type: TYPE_INT32 dims: [4] } ]
output [ { name: "OUTPUT0" data_type: TYPE_INT32 dims: [4] }, { name: "OUTPUT1" data_type: TYPE_INT32 dims: [4] } ]
"""
VARIABLE = """
platform: "tensorflow_graphdef"
input [ { name: "X" data_type: TYPE_FP32 dims: [1] } ]
output [ { name: "SUM" data_type: TYPE_FP32 dims: [1] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
""" + parameter("TF_INIT_OPS_FILE", "init_ops.json")
SEQUENCE = """
max_batch_size: 4
instance_group [ { kind: KIND_CPU count: 1 } ]
sequence_batching {
  control_input [ { name: "START" control [ { kind: CONTROL_SEQUENCE_START fp32_false_true: [0, 1] } ] } ]
  state [ { input_name: "STATE" output_name: "STATE_OUT" data_type: TYPE_FP32 dims: [1] } ]
}
"""
RAGGED = """
max_batch_size: 4
instance_group [ { kind: KIND_CPU count: 1 } ]
input [ { name: "X" dims: [-1] allow_ragged_batch: true } ]
output [ { name: "SUM" dims: [1] } ]
batch_input [ { kind: BATCH_ACCUMULATED_ELEMENT_COUNT target_name: "ENDS" data_type: TYPE_FP32 source_input: "X" } ]
dynamic_batching { preferred_batch_size: [3] max_queue_delay_microseconds: 60000000 }
"""
XLA = "optimization { graph { level: 1 } }\n" + parameter("TF_NUM_INTRA_THREADS", "1") + parameter("MAX_SESSION_SHARE_COUNT", "2")
OPERATIONS = 'model_operations { op_library_filename: "libe2e_operations.so" }\n'
WARM = 'model_warmup [ { name: "zeros" batch_size: 1 inputs { key: "WORDS" value { data_type: TYPE_STRING dims: [2] zero_data: true } } } ]\n'


def repository(root):
    """Every kind of model, all of which load."""
    for name in ("add_sub", "types", "shapes", "table", "gather", "signatures", "prints"):
        write(root, name)
    write(root, "words", WARM)
    for name in ("scaled", "scaled_too"):
        shutil.copy(MADE.parent / "libe2e_operations.so", write(root, name, OPERATIONS, made="scaled"))
    write(root, "xla", XLA, made="add_sub")
    write(root, "square", parameter("TF_SIGNATURE_DEF", "square"), made="signatures")
    write(root, "other_tag", parameter("TF_GRAPH_TAG", "other"), made="tags")
    write(root, "graph", GRAPH, made="graph_add_sub")
    write(root, "variable", VARIABLE, made="graph_variable")
    write(root, "accumulate", SEQUENCE)
    write(root, "segments", RAGGED)
