"""Where our answer differs from the recorded one on purpose, and why.

A difference replaces the answer of a case, or only the parts of it that differ. `SILENT` cases say nothing about us.
"""

import json
import re

import python_differences
import stateful
import surface_differences

NEWER = "Triton 2.73 answers so, 2.51 did not yet"
CONFIG_ERRORS_KNOWN = "a model whose configuration is wrong is known, and every request for it is answered with what is wrong"
STRICT = "what 2.51 let pass, or died of, is refused"
SAYS_WHAT = "what Triton only says in its log stands in the answer as well"
HASHED = "Triton takes inputs in the order of a hash table, we as they came"
FLOATS = "the same number: we write its shortest form, which rapidjson sometimes misses in the last digit"

DIFFERENCES = {}
SILENT = {}


class Begins(str):
    """Stands for every text that begins so."""


def http(scene, case, status, message, why):
    """An error over HTTP. `message` may be Begins."""
    body = json.dumps({"error": message}, ensure_ascii=False, separators=(",", ":"))
    body = Begins(body[: -len('"}')]) if isinstance(message, Begins) else body
    DIFFERENCES[scene, case] = ({"status": status, "headers": {}, "body": body}, why)


def rpc(scene, case, code, message, why):
    """An error over gRPC."""
    DIFFERENCES[scene, f"gRPC {case}"] = ({"code": code, "message": message}, why)


# === requests ===

INFER = "http_infer"
for case, kind, number in (("UINT8", "UINT8", 256), ("INT8", "INT8", 128), ("INT32", "INT32", 2147483648)):
    http(INFER, f"too large for {case}", 400, f"Unable to parse 'data': {number} is out of range for {kind}", STRICT)
http(INFER, "classes of strings", 400, "class result not available for output due to unsupported type 'BYTES'", STRICT)
http(INFER, "not the gzip it claims", 400, Begins("the compressed request body is damaged: "), STRICT)
http(INFER, "malformed: lone low surrogate", 500, "failed to parse the request JSON buffer: The surrogate pair in string is invalid. at 6", STRICT)
rpc("grpc_infer", "version with a tail", "INVALID_ARGUMENT", "failed to get model version from specified version string '1x' (details: stol), version should be an integral value > 0", STRICT)

ONLY_OPTIONAL = "[request id: <id_unknown>] expected number of inputs between 1 and 2 but got 1 inputs for model 'optional'. Got input(s) ['INPUT1'], but missing required input(s) ['INPUT0']. Please provide all required input(s)."
http(INFER, "only the optional input", 400, ONLY_OPTIONAL, STRICT)
rpc("grpc_infer", "only the optional input", "INVALID_ARGUMENT", ONLY_OPTIONAL, STRICT)
OVERFLOW = "invalid shape for input 'INPUT0': shape [4294967296,4294967296] causes total element count to exceed maximum size of 9223372036854775807"
BYTES_OVERFLOW = "byte size overflow for input 'INPUT0': element count (4611686018427387904) * data type size (4) exceeds maximum allowed size (9223372036854775807)"
http(INFER, "dimensions that overflow", 400, OVERFLOW, NEWER)
http(INFER, "bytes that overflow", 400, BYTES_OVERFLOW, NEWER)
http(INFER, "dimension beyond 63 bits", 400, Begins("invalid shape for input 'INPUT0': shape ["), NEWER)
for case in ("too little data", "no data elements"):
    http(INFER, case, 500, "Failed to parse 'data' field: shape does not match true shape", NEWER)
for case in ("malformed: nested too deep", "malformed: data nested too deep"):
    http(INFER, case, 400, "JSON nesting depth exceeds maximum allowed limit (100)", NEWER)
NO_HEADER = "must specify valid 'Infer-Header-Content-Length' in request header and 'binary_data_size' when passing inputs in binary data format"
http(INFER, "binary size without the header", 400, NO_HEADER, NEWER)
http(INFER, "header is no number", 400, "Unable to parse Inference-Header-Content-Length, got: abc", NEWER)
OUT_OF_RANGE = "Unable to parse Inference-Header-Content-Length, value is out of range [ -2147483648, 2147483647 ], got: 99999999999999999999"
http(INFER, "header beyond 64 bits", 400, OUT_OF_RANGE, NEWER)
http(INFER, "malformed: empty body", 500, "failed to parse the request JSON buffer: The document is empty. at 0", NEWER)
TWICE = "[request id: <id_unknown>] output 'OUTPUT0' already exists in request"
http(INFER, "an output twice", 400, TWICE, NEWER)
rpc("grpc_infer", "an output twice", "INVALID_ARGUMENT", TWICE, NEWER)
DIFFERENCES[INFER, "whole numbers as BOOL"] = (
    {
        "status": 200,
        "headers": {"content-type": "application/json"},
        "body": '{"model_name":"type_bool","model_version":"1","outputs":[{"name":"OUTPUT0","datatype":"BOOL","shape":[3],"data":[true,false,true]}]}',
    },
    NEWER,
)
for case, got in (("raw request of a wrong size", 10), ("raw request without body", 0)):
    text = f"[request id: <id_unknown>] input byte size mismatch for input 'INPUT0' for model 'single'. Expected 16, got {got}"
    http(INFER, case, 400, text, "the input is called by its name, not by the one a raw request has inside")

MANY = "[request id: <id_unknown>] expected 1 inputs but got 2 inputs for model 'single'. Got input(s) ['INPUT0','NOPE'], but missing required input(s) ]. Please provide all required input(s)."
UNEQUAL = "[request id: <id_unknown>] input 'INPUT1' batch size does not match other inputs for 'two'"
THIRD = "[request id: <id_unknown>] expected number of inputs between 1 and 2 but got 3 inputs for model 'optional'. Got input(s) ['INPUT0','INPUT1','INPUT2'], but missing required input(s) ]. Please provide all required input(s)."
http(INFER, "a third input where one is optional", 400, THIRD, HASHED)
for case, text in (("one input too many", MANY), ("batches differ", UNEQUAL)):
    http(INFER, case, 400, text, HASHED)
    rpc("grpc_infer", case, "INVALID_ARGUMENT", text, HASHED)
for case, digits in (
    ("fractions and exponents", "0.10000000149011612,-1.0000000116860974e-7,15000000512.0,3.4028234663852886e38"),
    ("whole and tiny", "100000.0,123456792.0,1.0000000200408773e21,1.401298464324817e-45"),
):
    body = f'{{"model_name":"single","model_version":"1","outputs":[{{"name":"OUTPUT0","datatype":"FP32","shape":[1,4],"data":[{digits}]}}]}}'
    DIFFERENCES[INFER, case] = ({"body": body}, FLOATS)
for scene, case in ((INFER, "inputs in the other order"), (INFER, "outputs in the asked order"), ("grpc_infer", "gRPC outputs in the asked order"), ("client_memory", "gRPC raw contents beside a region")):
    SILENT[scene, case] = "the order of the outputs is that of the recorded backend"

# === looking up ===

http("resources", "index, ready of a wrong type", 400, "Invalid value for 'ready': expected a boolean", NEWER)
DIFFERENCES["resources", "a percent in the name"] = (
    {
        "status": 200,
        "headers": {"content-type": "application/json"},
        "body": '{"name":"single","versions":["1"],"platform":"identity","inputs":[{"name":"INPUT0","datatype":"FP32","shape":[-1,4]}],'
        '"outputs":[{"name":"OUTPUT0","datatype":"FP32","shape":[-1,4]}]}',
    },
    "the Python client encodes names: they are decoded",
)
for case, path in (("method", "inference.GRPCInferenceService"), ("service", "some.Service")):
    rpc("resources", f"unknown {case}", "UNIMPLEMENTED", f"there is no method /{path}/Nothing", "an empty message helps nobody")
rpc("resources", "a message that is none", "INTERNAL", Begins("failed to decode Protobuf message"), "the words are those of the protobuf library")

# === model control ===

http("control", "load a blank name", 400, "Model name cannot be empty. Please enter a valid name to deploy.", NEWER)
rpc("control", "load without a name", "INVALID_ARGUMENT", "Model name cannot be empty. Please enter a valid name to deploy.", NEWER)
http("control", "load dots", 400, "invalid model name '..', model name must not contain path traversal characters", NEWER)
http("control", "load a name with an escaped slash", 400, "invalid model name 'a/b', model name must not contain path traversal characters", NEWER)
http("control", "load with a config that is no text", 500, "Unable to parse 'config': attempt to access JSON non-string as string", NEWER)
for case in ("load with a malformed config", "load with an unknown config field"):
    http("control", case, 500, Begins("failed to load 'two', failed to poll from model repository: Invalid config override: "), SAYS_WHAT)
http("control", "load with a file and no config", 500, "failed to load 'two', failed to poll from model repository: Load parameter 'config' must be specified for model file override", SAYS_WHAT)
TYPE = "Unable to parse 'unload_dependents': attempt to access JSON non-boolean as boolean"
http("control", "unload with dependents of a wrong type", 500, TYPE, STRICT)
DIFFERENCES["control", "ready after failed loads"] = ({"status": 200}, "a load that fails later does not take the server out of service")

UNREADABLE = ("bad_field", "bad_syntax", "bad_enum")
WRONG = {
    "bad_batch": "'max_batch_size' must be non-negative value for bad_batch",
    "bad_preferred": "dynamic batching preferred size must be <= max batch size for bad_preferred",
    "zero_preferred": "dynamic batching preferred size must be positive for zero_preferred",
    "bad_priority": "default priority level must be in range [1, 2] for bad_priority",
    "bad_platform": "unexpected platform type 'nosuch_platform' for bad_platform",
    "bad_pair": "unexpected 'platform' and 'backend' pair, got:onnxruntime_onnx, tensorrt",
    "nothing_said": "Invalid model name: Could not determine backend for model 'nothing_said' with no backend in model configuration. "
    "Expected model name of the form 'model.<backend_name>'.",
}
http("control", "load wrong_name", 400, "unexpected directory name 'wrong_name' for model 'another', directory name must equal model name", NEWER)
NO_BACKEND = "unable to find backend library for backend 'nosuchbackend', try specifying runtime on the model configuration."
prefix = "load failed for model 'no_backend': version 1 is at UNAVAILABLE state: Invalid argument: "
http("control", "load no_backend", 400, Begins(prefix + NO_BACKEND), "the backends there are, are named")
NO_GPU = "instance group gpu_group_0 of model gpu_group has kind KIND_GPU but no GPUs are available"
prefix = "load failed for model 'gpu_group': version 1 is at UNAVAILABLE state: Invalid argument: "
http("control", "load gpu_group", 400, Begins(f"{prefix}{NO_GPU}. "), "where there is no GPU that is the first thing to know, and what to do about it the second")
no_version = "load failed for model 'wrong_versions': at least one version must be available under the version policy of model 'wrong_versions'\n"
http("control", "load wrong_versions", 400, no_version, NEWER)
for model in (*UNREADABLE, *WRONG, "wrong_name"):
    http("control", f"infer on {model}", 404, f"Request for unknown model: '{model}' has no available versions", CONFIG_ERRORS_KNOWN)
http("control", "infer on wrong_versions", 404, "Request for unknown model: 'wrong_versions' has no available versions", NEWER)
http("control", "ready of wrong_versions", 400, "Model version not ready", NEWER)
for scene, case in (("control", "index after failed loads"), ("broken_start", "index")):
    SILENT[scene, case] = CONFIG_ERRORS_KNOWN  # the reasons themselves are compared where the models are loaded

# === ensembles ===

NO_VERSION = "an ensemble needs no folder of a version: it has no files, and many sources of models cannot hold an empty folder"
for case in ("index", "configuration of e_no_version", "infer on e_no_version"):
    SILENT["ensembles", case] = NO_VERSION
for case in ("configuration of e_no_platform", "infer on e_no_platform"):
    http("ensembles", case, 404, "Request for unknown model: 'e_no_platform' has no available versions", CONFIG_ERRORS_KNOWN)
http("ensembles", "unequal rows", 400, "[request id: <id_unknown>] input 'W' batch size does not match other inputs for 'e_fan'", HASHED)
DIFFERENCES["ensembles", "only the inner output"] = (
    {
        "status": 200,
        "headers": {"content-type": "application/json"},
        "body": '{"model_name":"e_inner_output","model_version":"1","parameters":{"sequence_id":0,"sequence_start":false,"sequence_end":false},'
        '"outputs":[{"name":"A","datatype":"FP32","shape":[1,4],"data":[1.0,2.0,3.0,4.0]}]}',
    },
    "Triton waits for the step that it left out itself",
)
SILENT["ensembles", "statistics of e_open_over_fixed"] = "Triton counts an ensemble's request twice when a step refuses it, we once"
for case in ("index after a part was unloaded", "index after failed loads"):
    SILENT["ensemble_control", case] = "our reasons say more: which part is missing, what is wrong with a configuration"
DIFFERENCES["ensemble_control", "server ready without a part"] = ({"status": 200}, "a model that leaves later does not take the server out of service")
TWO_UNKNOWN = "load failed for model 'x_two_unknown_models': ensemble x_two_unknown_models contains models that are not available or ambiguous: noneither, nosuch\n"
http("ensemble_control", "load x_two_unknown_models", 400, TWO_UNKNOWN, "all that is missing is named")
prefix = "load failed for model 'x_failed_model': ensemble 'x_failed_model' depends on 'no_backend' which has no loaded version. Model 'no_backend' loading failed with error: version 1 is at UNAVAILABLE state: Invalid argument: "
http("ensemble_control", "load x_failed_model", 400, Begins(prefix + NO_BACKEND), "the backends there are, are named")
CIRCLE = "load failed for model 'x_circle_two': circular dependency between ensembles: x_circle_two -> ... -> x_circle_one -> x_circle_two\n"
http("ensemble_control", "load x_circle_two", 400, CIRCLE, "the second time as well it is said what is wrong")

# === sequences ===

for model in ("s_direct", "s_oldest"):
    text = f"[request id: <id_unknown>] expected 1 inputs but got 2 inputs for model '{model}'. Got input(s) ['INPUT','START'], but missing required input(s) ]. Please provide all required input(s)."
    http("sequences", f"{model}: controls given by the caller", 400, text, HASHED)


def text_id(model):
    return f"[request id: <id_unknown>] sequence batching control 'CORRID' data-type is 'BYTES', but model '{model}' expects 'UINT64'"


for case in ("s_oldest: the id as text", "s_oldest_bare: the id as text", "s_oldest: a text of 128"):
    http("sequences", case, 400, text_id(case.partition(":")[0]), NEWER)
rpc("sequences", "s_oldest: an id of text", "INVALID_ARGUMENT", text_id("s_oldest"), NEWER)
for case in ("gRPC s_oldest: first", "gRPC s_oldest: last", *(f"statistics of {model}" for model in ("s_direct", "s_direct_named", "s_direct_one", "s_oldest", "s_oldest_bare"))):
    SILENT["sequences", case] = "Triton died of the one before it, or of this one"
for model in stateful.BROKEN_SEQUENCES:
    if not model.startswith("y_state"):
        http("sequence_control", f"infer on {model}", 404, f"Request for unknown model: '{model}' has no available versions", CONFIG_ERRORS_KNOWN)
SILENT["sequence_control", "index"] = CONFIG_ERRORS_KNOWN
http(
    "sequence_control",
    "load y_state_no_file",
    400,
    Begins("load failed for model 'y_state_no_file': version 1 is at UNAVAILABLE state: Internal: failed to open text file for read "),
    "the folder is another",
)

# === decoupled models ===

ONE = "generate expects model to produce exactly 1 response, use generate stream for model that generates various number of responses"
for model in ("repeat", *stateful.OVER_REPEATS):
    for case in ("three", "none"):
        http("decoupled", f"{model}: generate {case}", 500, ONE, "an error has the status of one")
SILENT["decoupled", "statistics of repeat"] = "the recorded Python model reports no statistics of responses, the backend repeat does"
for model in stateful.OVER_REPEATS:
    SILENT["decoupled", f"statistics of {model}"] = "when generate has seen a second response, Triton lets the request run on, we cancel it"

# The last step of an ensemble answers before the decoupled step ahead of it has said that nothing follows, or after that: so the end is a message of its own, or
# marked on the last response. Triton did the latter in 15 of 20 streams, and in those that were recorded.
END_BY_CHANCE = {
    ("decoupled", f"gRPC stream: e_repeat_then: {case}") for case in ("one response", "three responses", "three responses and an empty final one")
}

# === rate limiter ===

SILENT["rate_limits", "index"] = SILENT["rate_limits_default", "index"] = CONFIG_ERRORS_KNOWN


# === Python models ===

SILENT.update(python_differences.SILENT)
for (scene, case), (status, text, why) in python_differences.ERRORS.items():
    http(scene, case, status, Begins(text.removesuffix("...")) if text.endswith("...") else text, why)

# === shared memory, headers, settings, namespaces, overrides ===

SILENT.update(surface_differences.SILENT)
for (scene, case), (status, text, why) in surface_differences.HTTP.items():
    http(scene, case, status, Begins(text.removesuffix("...")) if text.endswith("...") else text, why)
for (scene, case), (code, text, why) in surface_differences.RPC.items():
    rpc(scene, case, code, Begins(text.removesuffix("...")) if text.endswith("...") else text, why)
for (scene, case), (body, why) in surface_differences.BODIES.items():
    DIFFERENCES[scene, case] = ({"body": body}, why)


# === comparing ===

# The two backends and the two programs name themselves differently; the identity backend adds parameters of its own.
OWN_NAMES = [
    (re.compile(r'"(platform|backend)": ?"(python|identity|sequence|dyna_sequence|repeat)"'), r'"\1":"BACKEND"'),
    (re.compile(r'"default_model_filename": ?"(model.py)?"'), '"default_model_filename":"FILE"'),
    (re.compile(r'("name": ?"triton", ?"version": ?)"\d+\.\d+\.\d+"'), r'\1"VERSION"'),
]
# Frames of Python's own import system and of pb_utils itself: what they are called, and how many there are, is each implementation's own;
# and list comprehensions have a frame in some versions of Python only.
FOREIGN_FRAMES = re.compile(
    r"  (?:(?:<frozen importlib\.[\w.]+>|\S*triton_python_backend_utils\S*?|PYTHON\S*?)\(\d+\): [^\s\\]+|[^\s()]+\(\d+\): <listcomp>)(?:\n|\\+n)"
)
PARAMETERS = re.compile(r'"parameters":\{"param0":[^}]*\},')


def expected(scene, case, recorded):
    """What we should answer: the recorded answer with the difference of this case laid over it."""
    if (scene, case) in python_differences.LINES:
        return with_lines(recorded, python_differences.LINES[scene, case][0])
    ours, _ = DIFFERENCES.get((scene, case), ({}, ""))
    of_another_kind = recorded.keys() & {"died", "closed", "silent"} or ours.get("code", recorded.get("code")) != recorded.get("code")
    return ours if ours and of_another_kind else {**recorded, **ours}


def with_lines(recorded, lines):
    """A recorded answer whose one output is lines of text, some of which are ours."""
    body = json.loads(recorded["body"])
    said = body["outputs"][0]["data"]
    body["outputs"][0]["data"] = [lines.get(place, line) for place, line in enumerate(said)]
    return {**recorded, "body": json.dumps(body, ensure_ascii=False, separators=(",", ":"))}


def comparable(answer):
    """The answer without the parts that only differ between Triton and us, or between backends."""
    return comparable_form(without_frames(answer))


def without_frames(value):
    if isinstance(value, dict):
        return {key: without_frames(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_frames(item) for item in value]
    return FOREIGN_FRAMES.sub("", value) if isinstance(value, str) else value


def comparable_form(answer):
    if "reply" in answer:
        text = json.dumps(answer["reply"], ensure_ascii=False)
        for pattern, calm in OWN_NAMES:
            text = pattern.sub(calm, text)
        reply = without_times(json.loads(text))
        if any(key.startswith("param") for key in reply.get("parameters", {})):
            del reply["parameters"]
        reply.get("config", {}).pop("default_model_filename", None)
        return {**answer, "reply": reply}
    if "replies" in answer:
        return {**answer, "replies": [comparable_message(message) for message in answer["replies"]]}
    if "body" not in answer:
        return answer
    body, headers = PARAMETERS.sub("", answer["body"]), dict(answer["headers"])
    if "inference-header-content-length" in headers:
        shorter = len(answer["body"].encode()) - len(body.encode())
        headers["inference-header-content-length"] = str(int(headers["inference-header-content-length"]) - shorter)
    if answer["status"] != 200 or not body:
        headers.pop("content-type", None)  # 2.51 says text/plain of many a JSON error and of nothing at all
    for pattern, calm in OWN_NAMES:
        body = pattern.sub(calm, body)
    if '"sequence_start":' in body or body.startswith(("data: ", '{"model_name":', '{"SEEN":', '{"IDX":', '{"OUT":')):
        body = in_any_order(body)
    if '"instance_group":' in body:
        config = json.loads(body)  # a configuration: members in any order
        config.get("ensemble_scheduling", {}).pop("max_inflight_requests", None)  # younger than the recording
        body = json.dumps(config, sort_keys=True)
    return {**answer, "body": body, "headers": headers}


def comparable_message(message):
    """One message of a stream, without what the identity backend adds and with its outputs in the order of their names."""
    response = dict(message.get("infer_response", {}))
    if "parameters" in response:
        response["parameters"] = {key: value for key, value in response["parameters"].items() if not re.fullmatch("param[0-3]", key)}
    outputs, contents = response.get("outputs", []), response.get("raw_output_contents", [])
    pairs = sorted(zip(outputs, contents, strict=True), key=lambda pair: pair[0]["name"])
    return {**message, "infer_response": {**response, "outputs": pairs, "raw_output_contents": len(contents)}}


def in_any_order(body):
    """A response whose members, and an ensemble's outputs, Triton writes in the order of a hash table; one per event of a stream."""

    def sorted_outputs(response):
        return {**response, "outputs": sorted(response["outputs"], key=lambda output: output["name"])} if "outputs" in response else response

    lines = (line.removeprefix("data: ") for line in body.split("\n"))
    return [line and json.dumps(sorted_outputs(json.loads(line)), sort_keys=True) for line in lines]


def without_times(value):
    """Durations depend on the machine, and protobuf's JSON leaves out those of zero."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in ("ns", "last_inference")}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def without_chance(scene, case, answer):
    """The answer without the mark of the end, where it is left to chance which message has it."""
    if (scene, case) not in END_BY_CHANCE:
        return answer
    marks, replies = [], []
    for message in answer["replies"]:
        response = dict(message.get("infer_response", {}))
        parameters = dict(response.get("parameters", {}))
        marks.append(parameters.pop("triton_final_response", {}).get("bool_param", False))
        if not marks[-1] or "outputs" in response:
            replies.append({**message, "infer_response": {**response, "parameters": parameters}})
    assert not any(marks[:-1]), "something follows the end"
    return {**answer, "replies": replies}


def settle(wanted, got):
    """`wanted` with each Begins replaced by what was got, if that begins so."""
    return {
        key: got[key] if isinstance(value, Begins) and got.get(key, "").startswith(value) else value for key, value in wanted.items()
    }
