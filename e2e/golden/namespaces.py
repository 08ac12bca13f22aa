"""The same names in two repositories, with and without --model-namespacing."""

from cases import GOOD, http, infer, load, named, rpc, unload
from repository import tensors
from tritonclient.grpc import service_pb2 as pb

ONE = "max_batch_size: 8\n" + tensors([("FP32", [4])])


def python(stamp):
    """A model that answers its stamp."""
    code = f'''
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        stamp = np.full((1, 4), {stamp}, np.float32)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", stamp)]) for _ in requests]
'''
    return {"config.pbtxt": 'backend: "python"\n' + ONE, "1/model.py": code}


def over(model):
    step = f'step [ {{ model_name: "{model}" model_version: -1 input_map {{ key: "INPUT0" value: "INPUT0" }} output_map {{ key: "OUTPUT0" value: "OUTPUT0" }} }} ]'
    return {"config.pbtxt": f'platform: "ensemble"\n{ONE}ensemble_scheduling {{ {step} }}\n', "1/": ""}


REPOSITORIES = {
    "first": {"both": python(1), "only_first": python(11), "over_both": over("both")},
    "second": {"both": python(2), "only_second": python(22), "over_both_too": over("both"), "over_other": over("only_first")},
}

SERVED = ("both", "only_first", "only_second", "over_both", "over_both_too", "over_other")

ASKED = [
    http("index", "POST", "/v2/repository/index"),
    *[infer(f"infer on {model}", model, GOOD) for model in SERVED],
    http("metadata of an ambiguous name", "GET", "/v2/models/both"),
    http("configuration of an ambiguous name", "GET", "/v2/models/both/config"),
    http("ready of an ambiguous name", "GET", "/v2/models/both/ready"),
    http("statistics of an ambiguous name", "GET", "/v2/models/both/stats"),
    rpc("metadata of an ambiguous name", "ModelMetadata", pb.ModelMetadataRequest(name="both")),
    rpc("ready of an ambiguous name", "ModelReady", pb.ModelReadyRequest(name="both")),
    http("metadata of an unknown name", "GET", "/v2/models/nosuch"),
    rpc("metadata of an unknown name", "ModelMetadata", pb.ModelMetadataRequest(name="nosuch")),
    infer("infer on an unknown name", "nosuch", GOOD),
    infer("a namespace as a parameter", "both", {**GOOD, "parameters": {"namespace": "first", "model_namespace": "first"}}),
]

CONTROLLED = [
    http("index at first", "POST", "/v2/repository/index"),
    *[load(model) for model in SERVED],
    *ASKED,
    unload("over_both"),
    unload("both"),
    named(infer("", "over_both_too", GOOD), "infer on an ensemble whose part has gone"),
    named(load("both"), "load the ambiguous name again"),
    named(infer("", "over_both_too", GOOD), "infer on an ensemble whose part has come back"),
]


def scene(cases, *flags):
    return {"repositories": REPOSITORIES, "flags": ["--exit-on-error=false", *flags], "cases": cases}


SCENES = {
    "namespaces": scene(ASKED, "--model-namespacing=true"),
    "namespaces_control": scene(CONTROLLED, "--model-namespacing=true", "--model-control-mode=explicit"),
    "no_namespaces": scene(ASKED),
    "no_namespaces_control": scene(CONTROLLED, "--model-control-mode=explicit"),
}
