"""auto_complete_config: what its ModelConfig allows, what it refuses and how, and the configurations that result."""

import cases

HEAD = '''import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        {body}

    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", request.inputs()[0].as_numpy())]) for request in requests]
'''

IN, OUT = '{"name": "IN", "data_type": "TYPE_FP32", "dims": [4]}', '{"name": "OUT", "data_type": "TYPE_FP32", "dims": [4]}'
BOTH = f"config.add_input({IN})\nconfig.add_output({OUT})\n"
GIVEN = (
    'max_batch_size: 4\ninput [ { name: "IN" data_type: TYPE_FP32 dims: [ 4 ] } ]\noutput [ { name: "OUT" data_type: TYPE_FP32 dims: [ 4 ] } ]\n'
)
SEQUENCE = GIVEN + "sequence_batching { }\n"

# name: (what the function does, the configuration beside it, or None for no file at all)
GOOD = {
    "everything": (f"{BOTH}config.set_max_batch_size(8)\nconfig.set_dynamic_batching()", None),
    "no_batch": (f"{BOTH}config.set_max_batch_size(0)", None),
    "batch_alone": (f"{BOTH}config.set_max_batch_size(3)", None),
    "nothing_set": ("pass", GIVEN),
    "inputs_only_added": (BOTH, None),
    "the_same_again": (BOTH, GIVEN),
    "a_larger_batch": ("config.set_max_batch_size(9)", GIVEN),
    "the_same_batch": ("config.set_max_batch_size(4)", GIVEN),
    "dynamic_batching_again": ("config.set_dynamic_batching()", GIVEN + "dynamic_batching { max_queue_delay_microseconds: 7 }\n"),
    "optional_input": (f'{BOTH}config.add_input({{"name": "MORE", "data_type": "TYPE_STRING", "dims": [-1], "optional": True}})', None),
    "optional_false": (f'{BOTH}config.add_input({{"name": "MORE", "data_type": "TYPE_INT8", "dims": [1, 2], "optional": False}})', None),
    "decoupled": (f'{BOTH}config.set_model_transaction_policy({{"decoupled": True}})', None),
    "not_decoupled": (f'{BOTH}config.set_model_transaction_policy({{"decoupled": False}})', None),
    "empty_policy": (f"{BOTH}config.set_model_transaction_policy({{}})", None),
    "decoupled_again": ('config.set_model_transaction_policy({"decoupled": True})', GIVEN + "model_transaction_policy { decoupled: true }\n"),
    "fills_a_type": (BOTH, 'input [ { name: "IN" dims: [ 4 ] } ]\n'),
    "fills_dims": (BOTH, 'input [ { name: "IN" data_type: TYPE_FP32 } ]\n'),
    "one_of_two_given": (BOTH, 'output [ { name: "OUT" data_type: TYPE_FP32 dims: [ 4 ] } ]\n'),
    "an_input_more": ('config.add_input({"name": "MORE", "data_type": "TYPE_FP32", "dims": [4]})', GIVEN),
    "zero_dims": (f'{BOTH}config.add_output({{"name": "MORE", "data_type": "TYPE_FP32", "dims": [1]}})', None),
    "a_dictionary_changed": (f'{BOTH}config.as_dict()["parameters"] = {{"mine": {{"string_value": "x"}}}}', None),
    "a_group_changed": (f'{BOTH}config.as_dict()["instance_group"] = [{{"count": 2, "kind": "KIND_CPU"}}]', None),
    "a_new_object": (f'other = pb_utils.ModelConfig(json.dumps(config.as_dict()))\nother.add_input({IN})\nother.add_output({OUT})\nreturn other', None),
}

REFUSED = {
    "smaller_batch": ("config.set_max_batch_size(2)", GIVEN),
    "zero_batch": ("config.set_max_batch_size(0)", GIVEN),
    "batch_of_text": ('config.set_max_batch_size("8")', GIVEN),
    "batching_of_sequences": ("config.set_dynamic_batching()", SEQUENCE),
    "no_name": ('config.add_input({"data_type": "TYPE_FP32", "dims": [4]})', None),
    "no_type": ('config.add_input({"name": "IN", "dims": [4]})', None),
    "no_dims": ('config.add_input({"name": "IN", "data_type": "TYPE_FP32"})', None),
    "property_more": ('config.add_input({"name": "IN", "data_type": "TYPE_FP32", "dims": [4], "reshape": {}})', None),
    "property_more_no_name": ('config.add_input({"data_type": "TYPE_FP32", "dims": [4], "reshape": {}})', None),
    "output_no_name": ('config.add_output({"data_type": "TYPE_FP32", "dims": [4]})', None),
    "output_no_type": ('config.add_output({"name": "OUT", "dims": [4]})', None),
    "output_no_dims": ('config.add_output({"name": "OUT", "data_type": "TYPE_FP32"})', None),
    "output_optional": ('config.add_output({"name": "OUT", "data_type": "TYPE_FP32", "dims": [4], "optional": True})', None),
    "other_type": ('config.add_input({"name": "IN", "data_type": "TYPE_INT32", "dims": [4]})', GIVEN),
    "other_dims": ('config.add_input({"name": "IN", "data_type": "TYPE_FP32", "dims": [5]})', GIVEN),
    "other_optional": ('config.add_input({"name": "IN", "data_type": "TYPE_FP32", "dims": [4], "optional": True})', GIVEN),
    "output_other_type": ('config.add_output({"name": "OUT", "data_type": "TYPE_INT32", "dims": [4]})', GIVEN),
    "output_other_dims": ('config.add_output({"name": "OUT", "data_type": "TYPE_FP32", "dims": [5, 6]})', GIVEN),
    "twice_other_type": (f'{BOTH}config.add_input({{"name": "IN", "data_type": "TYPE_INT32", "dims": [4]}})', None),
    "unknown_type": ('config.add_input({"name": "IN", "data_type": "TYPE_NOTHING", "dims": [4]})\n' + f"config.add_output({OUT})", None),
    "type_without_prefix": ('config.add_input({"name": "IN", "data_type": "FP32", "dims": [4]})\n' + f"config.add_output({OUT})", None),
    "policy_property": ('config.set_model_transaction_policy({"other": True})', None),
    "policy_changed": ('config.set_model_transaction_policy({"decoupled": False})', GIVEN + "model_transaction_policy { decoupled: true }\n"),
    "policy_of_none": ("config.set_model_transaction_policy(None)", None),
    "returns_none": ("return None", GIVEN),
    "returns_a_dictionary": ("return config.as_dict()", GIVEN),
    "returns_a_text": ('return "config"', GIVEN),
    "raises": ('raise ValueError("of the model")', GIVEN),
    "raises_deeper": ("{}['k']", GIVEN),
    "no_inputs": (f"config.add_output({OUT})", None),
    "nothing_at_all": ("pass", None),
    "exits": ("import sys; sys.exit(3)", GIVEN),
    "not_json": ('config.as_dict()["name"] = {1, 2}', GIVEN),
    "another_name": ('config.as_dict()["name"] = "another"', GIVEN),
    "unknown_field": ('config.as_dict()["nonsense"] = 3', GIVEN),
}


def files(name, body, config):
    body = body if "return " in body else f"{body}\nreturn config"
    code = HEAD.format(body=body.replace("\n", "\n        "))
    text = {} if config is None else {"config.pbtxt": f'name: "{name}"\nbackend: "python"\n{config}'}
    return {"1/model.py": code, **text}


FILES = {name: files(name, *how) for name, how in {**GOOD, **REFUSED}.items()}
NOT_STATIC = HEAD.format(body="return config").replace("    @staticmethod\n    def auto_complete_config(config)", "    def auto_complete_config(self, config)")
CLASS_METHOD = HEAD.format(body="return config").replace("    @staticmethod\n    def auto_complete_config(config)", "    @classmethod\n    def auto_complete_config(cls, config)")
WITHOUT = "class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"
SEEN_PY = '''import json


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        raise ValueError(type(config).__name__ + json.dumps(config.as_dict(), sort_keys=True))

    def execute(self, requests):
        return []
'''
ONCE_FILES = {
    "not_static": {"1/model.py": NOT_STATIC, "config.pbtxt": f'backend: "python"\n{GIVEN}'},
    "class_method": {"1/model.py": CLASS_METHOD, "config.pbtxt": f'backend: "python"\n{GIVEN}'},
    "without_function": {"1/model.py": WITHOUT, "config.pbtxt": f'backend: "python"\n{GIVEN}'},
    "without_function_and_file": {"1/model.py": WITHOUT},
    "what_it_sees": {"1/model.py": SEEN_PY},
    "what_it_sees_of_a_file": {"1/model.py": SEEN_PY, "config.pbtxt": f'backend: "python"\n{GIVEN}'},
}
FILES.update(ONCE_FILES)

CASES = []
for name in [*GOOD, *ONCE_FILES]:
    CASES.append(cases.http(f"load {name}", "POST", f"/v2/repository/models/{name}/load"))
    CASES.append(cases.http(f"configuration of {name}", "GET", f"/v2/models/{name}/config"))
CASES += [cases.http(f"load {name}", "POST", f"/v2/repository/models/{name}/load") for name in REFUSED]
CASES += [
    cases.infer("infer on everything", "everything", cases.ask(cases.tensor("IN", [2, 4], "FP32", range(8)))),
    cases.infer("infer on no_batch", "no_batch", cases.ask(cases.tensor("IN", [4], "FP32", range(4)))),
    cases.http("metadata of everything", "GET", "/v2/models/everything"),
    cases.http(
        "load with a configuration of the request",
        "POST",
        "/v2/repository/models/everything/load",
        {"parameters": {"config": '{"max_batch_size": 5, "backend": "python"}'}},
    ),
    cases.http("configuration with a configuration of the request", "GET", "/v2/models/everything/config"),
]

SCENE = {"files": FILES, "flags": ["--model-control-mode=explicit"], "cases": CASES}
