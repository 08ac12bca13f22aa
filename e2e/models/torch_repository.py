"""Repositories of PyTorch models: the files are those that e2e/runtimes/pytorch made, the configurations are here."""

from pathlib import Path

import ensembles
import graphs
import make
from make import tensor, write

HOME = Path(__file__).resolve().parents[2] / "target" / "runtimes" / "pytorch"
SHIM = HOME / "libtriton_torch_shim.so"
OPERATIONS = HOME / "libe2e_operations.so"  # which the model `scaled` calls

CLASSIFIER = """
name: "classifier"
platform: "pytorch_libtorch"
max_batch_size: 64
input [ { name: "embeddings" data_type: TYPE_FP32 dims: [ 768 ] } ]
output [ { name: "probabilities" data_type: TYPE_FP32 dims: [ 10 ] } ]
dynamic_batching { preferred_batch_size: [ 8, 16, 32 ] max_queue_delay_microseconds: 100 }
instance_group [ { count: 2 kind: KIND_CPU } ]
"""

RISK_MODEL = """
name: "risk_model"
platform: "pytorch_libtorch"
max_batch_size: 64
input [ { name: "features" data_type: TYPE_FP32 dims: [ 50 ] } ]
output [ { name: "risk" data_type: TYPE_FP32 dims: [ 1 ] } ]
dynamic_batching { preferred_batch_size: [ 8, 16, 32 ] max_queue_delay_microseconds: 5000 }
instance_group [ { count: 2 kind: KIND_CPU } ]
"""

# Batches leave at three rows, or after so long that a test fails first.
THREE = "dynamic_batching { preferred_batch_size: [ 3 ] max_queue_delay_microseconds: 60000000 }\n"
BORDERS = """
batch_input [ { kind: BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO target_name: "BORDERS" data_type: TYPE_INT32 source_input: "X" } ]
batch_output [ { kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: "DOUBLED__1" source_input: "X" } ]
"""
SEGMENTS = f"""
platform: "pytorch_libtorch"
max_batch_size: 3
input [ {{ name: "X" data_type: TYPE_FP32 dims: [ -1 ] allow_ragged_batch: true }} ]
output [ {{ name: "SUM__0" data_type: TYPE_FP32 dims: [ 1 ] reshape {{ shape: [ ] }} }}, {tensor("DOUBLED__1", "FP32", [-1])} ]
{BORDERS}{THREE}"""

SUMS = """
platform: "pytorch_libtorch"
max_batch_size: 4
input [ { name: "INPUT__0" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "OUTPUT__0" data_type: TYPE_FP32 dims: [ 1 ] } ]
sequence_batching {
  control_input { name: "START__1" control { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } }
  state {
    input_name: "TOTAL__2" output_name: "TOTAL__1" data_type: TYPE_FP32 dims: [ 1 ]
    initial_state { name: "zero" data_type: TYPE_FP32 dims: [ 1 ] zero_data: true }
  }
}
instance_group [ { count: 2 kind: KIND_CPU } ]
"""


def script(root, name, file, inputs, outputs, batch=0, more=""):
    """A model with the TorchScript file of that name; inputs and outputs as (name, data type, dims)."""
    listed = [", ".join(tensor(*one) for one in side) for side in (inputs, outputs)]
    config = f'platform: "pytorch_libtorch"\nmax_batch_size: {batch}\ninput [ {listed[0]} ]\noutput [ {listed[1]} ]\n{more}'
    return written(root, name, file, config)


def written(root, name, file, config):
    return write(root, name, config, {1: (HOME / "models" / f"{file}.pt").read_bytes()}, "model.pt")


def examples(root):
    """classifier and risk_model, as people write them, and the ensemble of a text_encoder in ONNX with the classifier."""
    written(root, "classifier", "classifier", CLASSIFIER)
    written(root, "risk_model", "risk_model", RISK_MODEL)
    write(root, "text_encoder", make.TEXT_ENCODER + make.CPU_GROUP, {1: graphs.text_encoder()})
    steps = [
        ensembles.step("text_encoder", {"input_ids": "input_ids"}, {"embeddings": "vectors"}),
        ensembles.step("classifier", {"embeddings": "vectors"}, {"probabilities": "probabilities"}),
    ]
    ensembles.ensemble(root, "ensemble", 64, [("input_ids", "INT64", [-1])], [("probabilities", "FP32", [10])], steps)
