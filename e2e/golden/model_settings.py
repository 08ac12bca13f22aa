"""What a configuration may ask for beyond its tensors: warm-up, batch inputs and outputs, shape tensors, placement, agents, the cache. What is
refused, in which words, and what a warm-up leaves in the statistics. Python models, in both servers the same."""

import struct

from cases import http, load
from repository import MODEL_PY, tensors

FAILING_PY = """
class TritonPythonModel:
    def execute(self, requests):
        raise Exception("this one fails")
"""

F = tensors([("FP32", [4])])
ONE = "max_batch_size: 8\n" + F
NO_BATCH = "max_batch_size: 0\n" + F
TEXT = "max_batch_size: 8\n" + tensors([("STRING", [2])])
SEQUENCE = (
    'sequence_batching { control_input [ { name: "START" control [ { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } ] },'
    ' { name: "READY" control [ { kind: CONTROL_SEQUENCE_READY fp32_false_true: [ 0, 1 ] } ] } ] }\n'
)

# === warm-up ===


def given(name="INPUT0", kind="FP32", dims="[ 4 ]", data="random_data: true"):
    return f'inputs {{ key: "{name}" value {{ data_type: TYPE_{kind} dims: {dims} {data} }} }}'


def sample(*inputs, batch_size=1, name="s", more=""):
    return f'{{ name: "{name}" batch_size: {batch_size} {more} {" ".join(inputs)} }}'


def warm(*samples, config=ONE):
    return config + f"model_warmup [ {', '.join(samples)} ]\n"


def of_file(name, **more):
    return given(data=f'input_data_file: "{name}"', **more)


WARM_UPS = {
    "w_random": warm(sample(given())),
    "w_count": warm(sample(given(data="zero_data: true"), batch_size=2, more="count: 3")),
    "w_full_batch": warm(sample(given(), batch_size=8)),
    "w_no_rows": warm(sample(given(), batch_size=0)),
    "w_without_batches": warm(sample(given()), config=NO_BATCH),
    "w_two_samples": warm(sample(given()), sample(given(data="zero_data: true"), batch_size=2, name="t")),
    "w_one_name_twice": warm(sample(given()), sample(given(), batch_size=2)),
    "w_no_name": warm(sample(given(), name="")),
    "w_two_instances": warm(sample(given()), config=ONE + "instance_group [ { kind: KIND_CPU count: 2 } ]\n"),
    "w_dynamic": warm(sample(given(), batch_size=4), config=ONE + "dynamic_batching { }\n"),
    "w_text_file": warm(sample(of_file("text", kind="STRING", dims="[ 2 ]")), config=TEXT),
    "w_file": warm(sample(of_file("right"))),
    "w_file_for_two": warm(sample(of_file("right"), batch_size=2)),
    "w_file_too_long": warm(sample(of_file("long"))),
    "w_sequence": warm(sample(given()), config=ONE + SEQUENCE),
    "w_sequence_controls": warm(sample(given(), given("START", dims="[ 1 ]", data="zero_data: true")), config=ONE + SEQUENCE),
}

COLD = {
    "w_too_many_rows": warm(sample(given(), batch_size=9)),
    "w_no_inputs": warm(sample()),
    "w_wrong_input": warm(sample(given("NOSUCH"))),
    "w_wrong_type": warm(sample(given(kind="INT32"))),
    "w_wrong_dims": warm(sample(given(dims="[ 5 ]"))),
    "w_open_dims": warm(sample(given(dims="[ -1 ]"))),
    "w_no_dims": warm(sample(given(dims="[ ]"))),
    "w_no_data": warm(sample(given(data=""))),
    "w_file_missing": warm(sample(of_file("nosuch"))),
    "w_file_short": warm(sample(of_file("short"))),
    "w_fails": warm(sample(given())),
}

WARM_UP_FILES = {
    "warmup/right": struct.pack("<4f", 1, 2, 3, 4),
    "warmup/long": struct.pack("<5f", 1, 2, 3, 4, 5),
    "warmup/short": b"abc",
    "warmup/text": b"\3\0\0\0abc\2\0\0\0de",
}

# === batch inputs and outputs, kinds of tensors, other fields ===

KINDS = ("ELEMENT_COUNT", "ACCUMULATED_ELEMENT_COUNT", "ACCUMULATED_ELEMENT_COUNT_WITH_ZERO", "MAX_ELEMENT_COUNT_AS_SHAPE", "ITEM_SHAPE", "ITEM_SHAPE_FLATTEN")


def batch_input(kind="ELEMENT_COUNT", target='"X"', data_type="FP32", source='"INPUT0"'):
    members = {"target_name": target, "data_type": data_type and f"TYPE_{data_type}", "source_input": source}
    given_ones = " ".join(f"{key}: {value}" for key, value in members.items() if value)
    return ONE + f"batch_input [ {{ kind: BATCH_{kind} {given_ones} }} ]\n"


def batch_output(target='"OUTPUT0"', source='"INPUT0"'):
    members = {"target_name": target, "source_input": source}
    given_ones = " ".join(f"{key}: {value}" for key, value in members.items() if value)
    return ONE + f"batch_output [ {{ kind: BATCH_SCATTER_WITH_INPUT_SHAPE {given_ones} }} ]\n"


def integers(of_input="", of_output=""):
    return (
        f'max_batch_size: 8\ninput [ {{ name: "INPUT0" data_type: TYPE_INT32 dims: [ 4 ] {of_input} }} ]\n'
        f'output [ {{ name: "OUTPUT0" data_type: TYPE_INT32 dims: [ 4 ] {of_output} }} ]\n'
    )


FIELDS = {
    **{f"b_{kind.lower()}": batch_input(kind) for kind in KINDS},
    "b_int32": batch_input(data_type="INT32"),
    "b_two_targets": batch_input(target='[ "X", "Y" ]'),
    "b_no_source": batch_input(source=None),
    "b_two_sources": batch_input(source='[ "INPUT0", "INPUT0" ]'),
    "b_wrong_source": batch_input(source='"NOSUCH"'),
    "b_wrong_type": batch_input(data_type="INT64"),
    "b_no_type": batch_input(data_type=None),
    "o_good": batch_output(),
    "o_no_source": batch_output(source=None),
    "o_two_sources": batch_output(source='[ "INPUT0", "INPUT0" ]'),
    "o_wrong_target": batch_output(target='"NOSUCH"'),
    "o_wrong_source": batch_output(source='"NOSUCH"'),
    "ragged": ONE.replace("dims: [4] }", "dims: [4] allow_ragged_batch: true }", 1) + "dynamic_batching { }\n",
    "shape_input": integers("is_shape_tensor: true"),
    "shape_output": integers("", "is_shape_tensor: true"),
    "non_linear_input": integers("is_non_linear_format_io: true"),
    "format_of_one_dimension": integers("format: FORMAT_NCHW"),
    "other_file_by_capability": ONE + 'cc_model_filenames { key: "7.5" value: "x.py" }\n',
    "operations": ONE + 'model_operations { op_library_filename: "libx.so" }\n',
    "eager": ONE + "optimization { eager_batching: true gather_kernel_buffer_threshold: 3 input_pinned_memory { enable: false } }\n",
    "priority_max": ONE + "optimization { priority: PRIORITY_MAX }\n",
    "cached": ONE + "response_cache { enable: true }\n",
    "cached_decoupled": ONE + "response_cache { enable: true }\nmodel_transaction_policy { decoupled: true }\n",
    "cached_sequence": ONE + SEQUENCE + "response_cache { enable: true }\n",
    "unknown_agent": ONE + 'model_repository_agents { agents [ { name: "nosuch" parameters { key: "a" value: "b" } } ] }\n',
    "passive_and_not": ONE + "instance_group [ { kind: KIND_CPU passive: true }, { kind: KIND_CPU } ]\n",
}


# === host policies ===

POLICIES = {
    "p_one": "cpu-cores=0-0",
    "p_beyond": "cpu-cores=0-99999",
    "p_no_range": "cpu-cores=0",
    "p_letters": "cpu-cores=a",
    "p_half": "cpu-cores=-1",
    "p_numa_letters": "numa-node=a",
}
PLACED = {name: ONE + f'instance_group [ {{ kind: KIND_CPU host_policy: "{name}" }} ]\n' for name in (*POLICIES, "p_unknown")}


def models(configs, more=None):
    """Model folders of these configurations."""
    code = {name: FAILING_PY if name == "w_fails" else MODEL_PY for name in configs}
    return {name: {"config.pbtxt": f'name: "{name}"\nbackend: "python"\n{config}', "1/model.py": code[name], **(more or {})} for name, config in configs.items()}


def statistics(model):
    return http(f"statistics of {model}", "GET", f"/v2/models/{model}/stats")


def configuration(model):
    return http(f"configuration of {model}", "GET", f"/v2/models/{model}/config")


EXPLICIT = "--model-control-mode=explicit"

SCENES = {
    "warm_up": {
        "files": models({**WARM_UPS, **COLD}, WARM_UP_FILES),
        "flags": [EXPLICIT],
        "cases": [*[case for model in WARM_UPS for case in (load(model), statistics(model))], *[load(model) for model in COLD], configuration("w_count")],
    },
    "model_settings": {
        "files": models(FIELDS),
        "flags": [EXPLICIT],
        "cases": [*[load(model) for model in FIELDS], *[configuration(model) for model in ("b_item_shape", "o_good", "eager", "cached", "passive_and_not", "operations")]],
    },
    "host_policies": {
        "files": models(PLACED),
        "flags": [EXPLICIT, *[f"--host-policy={name},{setting}" for name, setting in POLICIES.items()]],
        "cases": [load(model) for model in PLACED],
    },
}
