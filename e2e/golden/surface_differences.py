"""Where our answers about shared memory, headers, settings of models, namespaces and overrides differ from the recorded ones, and why. A text that ends
with "..." stands for every text that begins so."""

STRICT = "what 2.51 let pass is refused"
NO_GPUS = "without a GPU ours answers as Triton does when it is built without GPU support; the recorded one is built with it"
NAMES_THE_REGION = "newer Triton says more of what is wrong with the key or the name"
ALSO_GENERATE = "headers are forwarded to generate as to infer"

# (scene, case) -> (status, text, why)
HTTP = {
    ("client_memory", "register with the key ''"): (400, "cannot register shared memory region 'a' - invalid shm key ''", NAMES_THE_REGION),
    ("client_memory", "strings cut off"): (
        400,
        "[request id: <id_unknown>] incomplete string element for inference input 'INPUT0' for model 'type_string', expecting 3 bytes but only 2 bytes available.",
        "the server checks this for every backend, in 2.51 the Python backend was the first to see it",
    ),
    ("client_memory", "cuda: register with a handle that is no base64"): (400, "failed to register CUDA shared memory region: 'c', GPUs not supported", NO_GPUS),
    ("client_memory", "cuda: register"): (400, "failed to register CUDA shared memory region: 'c', GPUs not supported", NO_GPUS),
    ("warm_up", "load w_too_many_rows"): (
        400,
        "load failed for model 'w_too_many_rows': version 1 is at UNAVAILABLE state: Invalid argument: failed to run warmup sample 's': batch size 9 for 'w_too_many_rows_0', max allowed is 8; ;\n",
        "said once, not once for each request",
    ),
    ("warm_up", "load w_wrong_input"): (
        400,
        "load failed for model 'w_wrong_input': version 1 is at UNAVAILABLE state: Invalid argument: [request id: <id_unknown>] expected 1 inputs but got 0 inputs for model 'w_wrong_input'. Got input(s) [], but missing required input(s) ['INPUT0']. Please provide all required input(s). The configuration does not know these inputs of warmup sample 's': 'NOSUCH';\n",
        "the name that is wrong is said",
    ),
}

# (scene, case) -> (code, text, why)
RPC = {
    ("client_memory", "register: nothing said"): ("INVALID_ARGUMENT", "'region name' is necessary to register system shared memory region", NAMES_THE_REGION),
    ("client_memory", "cuda register"): ("INVALID_ARGUMENT", "failed to register CUDA shared memory region: 'c', GPUs not supported", NO_GPUS),
}

# === repositories with models of one name ===

AMBIGUOUS = "a model whose name is ambiguous is known, as one whose configuration is wrong, and the index says what is wrong"
for scene in ("no_namespaces", "no_namespaces_control"):
    for model in ("both", "over_both", "over_both_too"):
        HTTP[scene, f"infer on {model}"] = (404, f"Request for unknown model: '{model}' has no available versions", AMBIGUOUS)
    for case in ("metadata of an ambiguous name", "configuration of an ambiguous name", "a namespace as a parameter"):
        HTTP[scene, case] = (404, "Request for unknown model: 'both' has no available versions", AMBIGUOUS)
    RPC[scene, "metadata of an ambiguous name"] = ("NOT_FOUND", "Request for unknown model: 'both' has no available versions", AMBIGUOUS)
for case in ("load both", "load the ambiguous name again"):
    HTTP["no_namespaces_control", case] = (500, "failed to load 'both', failed to poll from model repository: model 'both' is in more than one repository: ...", "the repositories are named")
for case in ("infer on an ensemble whose part has gone", "infer on an ensemble whose part has come back"):
    HTTP["no_namespaces_control", case] = (404, "Request for unknown model: 'over_both_too' has no available versions", AMBIGUOUS)

# === states of sequences ===

GROWABLE = "what Triton says when the first sequence begins is said at load"
HTTP["sequence_control", "load y_state_growable"] = (500, "failed to load 'y_state_growable', failed to poll from model repository", GROWABLE)
HTTP["sequence_control", "infer on y_state_growable"] = (404, "Request for unknown model: 'y_state_growable' has no available versions", GROWABLE)

# === overrides ===

SAYS_WHAT = "what Triton only says in its log stands in the answer as well"
MEMBER = "newer Triton says which member it is"
POLL = "failed to load 'a', failed to poll from model repository: "
for case, reason in (
    ("load with a configuration that is not JSON", "Invalid config override: ..."),
    ("load with an unknown member", "Invalid config override: ..."),
    ("load with an empty text", "Invalid config override: ..."),
    ("files without a configuration", "Load parameter 'config' must be specified for model file override"),
    ("a file above the folder", "Invalid file parameter '../x' with normalized path 'x' must stay within model directory."),
    ("a file above the folder, by a detour", "Invalid file parameter '1/../../x' with normalized path 'x' must stay within model directory."),
    ("a file without a name", "Invalid file parameter '' with normalized path '' must stay within model directory."),
    ("a file below a file", "Invalid file parameter '1/a/b', directory has been created as a file"),
):
    HTTP["overrides", case] = (500, POLL + reason, SAYS_WHAT)
RPC["overrides", "files without a configuration"] = ("INTERNAL", f"{POLL}Load parameter 'config' must be specified for model file override", SAYS_WHAT)
for case, member in (("load with a configuration that is a number", "config"), ("a file that is a number", "file:1/model.py")):
    HTTP["overrides", case] = (500, f"Unable to parse '{member}': attempt to access JSON non-string as string", MEMBER)
for case in ("parameters that are a number", "parameters that are a list"):
    HTTP["overrides", case] = (500, "Unable to parse 'parameters': attempt to access JSON non-object as object", MEMBER)
HTTP["overrides", "load with a configuration for another name"] = (400, "unexpected directory name 'a' for model 'b', directory name must equal model name", SAYS_WHAT)
NO_VERSION = "load failed for model 'a': at least one version must be available under the version policy of model 'a'\n"
HTTP["overrides", "a file that is a folder"] = (400, NO_VERSION, "the slash at the end is taken away, and there is a file where a version should be")
HTTP["overrides", "unload with junk"] = (500, "failed to parse the request JSON buffer: Missing a name for object member. at 1", STRICT)

# (scene, case) -> (body, why), of answers that are no errors
BODIES = {
    ("headers", "generate"): ('{"SEEN":"my-a = \'1\'","model_name":"seen","model_version":"1"}', ALSO_GENERATE),
    ("headers_in_full", "generate"): ('{"SEEN":"my-a = \'1\'","model_name":"seen","model_version":"1"}', ALSO_GENERATE),
    ("headers", "generate_stream"): ('data: {"SEEN":"my-a = \'1\'","model_name":"seen","model_version":"1"}\n\n', ALSO_GENERATE),
    ("headers_in_full", "generate_stream"): ('data: {"SEEN":"my-a = \'1\'","model_name":"seen","model_version":"1"}\n\n', ALSO_GENERATE),
}

SILENT = {
    **{(scene, "index"): "our index says why an ensemble is not served" for scene in ("no_namespaces", "no_namespaces_control")},
    ("client_memory", "generate knows no regions"): "the identity backend's own parameters stand in its answers to generate",
}
