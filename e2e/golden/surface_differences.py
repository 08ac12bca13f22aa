"""Where our answers about shared memory, headers, settings of models, namespaces and overrides differ from the recorded ones, and why. A text that ends
with "..." stands for every text that begins so."""

STRICT = "what 2.51 let pass is refused"
NO_GPUS = "without a GPU ours answers as Triton does when it is built without GPU support; the recorded one is built with it"
NAMES_THE_REGION = "newer Triton says more of what is wrong with the key or the name"
HEADER_NAMES = "names of headers are forwarded in lower case, which is what HTTP/2 and gRPC make of them anyhow"
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

# (scene, case) -> (body, why), of answers that are no errors
BODIES = {
    ("headers", "generate"): ('{"SEEN":"my-a = \'1\'","model_name":"seen","model_version":"1"}', ALSO_GENERATE),
    ("headers_in_full", "generate"): ('{"SEEN":"my-a = \'1\'","model_name":"seen","model_version":"1"}', ALSO_GENERATE),
    ("headers", "generate_stream"): ('data: {"SEEN":"my-a = \'1\'","model_name":"seen","model_version":"1"}\n\n', ALSO_GENERATE),
    ("headers_in_full", "generate_stream"): ('data: {"SEEN":"my-a = \'1\'","model_name":"seen","model_version":"1"}\n\n', ALSO_GENERATE),
    ("headers", "letters of either case"): (
        '{"model_name":"seen","model_version":"1","outputs":[{"name":"SEEN","datatype":"BYTES","shape":[2],"data":["my-a = \'1\'","my-b = \'2\'"]}]}',
        HEADER_NAMES,
    ),
    ("headers_in_full", "letters of either case"): (
        '{"model_name":"seen","model_version":"1","outputs":[{"name":"SEEN","datatype":"BYTES","shape":[1],"data":["my-a = \'1\'"]}]}',
        HEADER_NAMES,
    ),
}

SILENT = {
    ("client_memory", "generate knows no regions"): "the identity backend's own parameters stand in its answers to generate",
}
