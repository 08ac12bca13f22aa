"""Where a Python model sees or causes something else than in the recorded Triton, and why. differences.py takes it from here."""

MORE = "what 2.51 refuses is allowed"
NEWER = "newer than 2.51"
OURS = "the same in words of our own"
EARLY = "it is said when the model is loaded, not with each request"
SAFE = "2.51 hangs, dies or answers by chance"
CODE = "the code of the target's error is kept"
FLOAT = "numbers with a fraction are allowed, as in newer Tritons"

# Lines of what a snippet said: their place, and what we say there.
LINES = {
    ("python_api", "requests made wrongly"): ({14: "TritonModelException: Correlation ID must be integer or string"}, OURS),
    ("python_api", "parameters of a request of one's own"): (
        {
            2: '{"a": 1, "b": true, "c": "x", "d": 1.5}',
            **{
                place: f"TritonModelException: Expect parameters values to have type bool/int/float/str, found type <class '{kind}'>"
                for place, kind in ((4, "NoneType"), (5, "list"), (6, "dict"), (7, "numpy.int64"), (8, "bytes"))
            },
            11: "TypeError: of the arguments",
            12: "TypeError: of the arguments",
        },
        FLOAT,
    ),
    ("python_api", "helper functions"): ({6: "False"}, MORE),
    ("python_api", "byte tensors"): (
        {
            4: r"('bytes', None, None, b'\x02\x00\x00\x00ab\x01\x00\x00\x00c')",
            11: "TritonModelException: Invalid bytes tensor data: string extends beyond buffer",
            12: "TritonModelException: Invalid bytes tensor data: incomplete length field",
        },
        NEWER,
    ),
    ("python_api", "the logger"): ({1: "<enum 'LogLevel'>"}, OURS),
    ("python_api", "the sender of a request"): ({1: "TypeError: InferenceResponseSender: No constructor defined!"}, MORE),
    ("python_tensors", "triton_dtype"): ({0: "13", 1: "11"}, "2.51 has forgotten to make the type known to Python"),
    ("python_tensors", "tensors made"): (
        {19: "['ab', 'c']", 20: "[0.0]", 21: "=", 37: "masked_array(data=[1, --],\n             mask=[False,  True],\n       fill_value=999999)"},
        MORE,
    ),
    ("python_tensors", "DLPack: protocol of newer consumers"): ({0: '<capsule object "dltensor" at 0x>'}, MORE),
    ("python_tensors", "DLPack: a capsule used twice"): ({1: "TritonModelException: The capsule holds no DLPack tensor, or one that was taken before."}, SAFE),
    ("python_responses", "parameters of a response"): (
        {
            0: """('str', '{"a": 1, "b": true, "c": "x"}')""",
            1: """('str', '{"a": 1.5}')""",
            2: "('str', '{}')",
            3: "('str', '{}')",
            4: "TritonModelException: Expect parameters values to have type bool/int/float/str, found type <class 'NoneType'>",
            5: "TritonModelException: Expect parameters keys to have type str, found type <class 'int'>",
            6: "TritonModelException: Expect parameters values to have type bool/int/float/str, found type <class 'list'>",
        },
        NEWER,
    ),
    ("python_bls", "bls: the target answers an error"): ({0: "('error', 'refused by the target', '__ErrorCode.NOT_FOUND', 0)"}, CODE),
    ("python_bls", "bls: a decoupled target that ends with an error"): (
        {0: "[[('OUT', [0.0])], [('OUT', [1.0])], ('error', 'at the end', '__ErrorCode.INTERNAL', 0), []]"},
        "2.51 loses the error",
    ),
    ("python_metrics", "histograms made wrongly"): ({2: "RuntimeError: Unable to cast Python instance to C++ type: a bound of a bucket is 'a', and no number"}, OURS),
    ("python_metrics", "families made wrongly"): ({8: "<class 'c_python_backend_utils.Metric'>"}, MORE),
    ("python_senders", "attributes"): ({1: "<class 'c_python_backend_utils.InferenceResponseSender'>"}, MORE),
    ("python_bls", "bls while a model is made ready"): ({1: "False"}, "a model that is not ready yet is just that"),
    ("python_bls_control", "unload what is unknown"): (
        {
            1: "TritonModelException: Failed to unload model: Failed to process the request for model 'snippets_0_0', message: "
            "Model name cannot be empty. Please enter a valid name to deploy."
        },
        NEWER,
    ),
    ("python_bls_control", "load with a blank name"): (
        {
            0: "TritonModelException: Failed to load model: Failed to process the request for model 'snippets_0_0', message: "
            "Model name cannot be empty. Please enter a valid name to deploy."
        },
        NEWER,
    ),
    ("python_bls_control", "load with files and no configuration"): (
        {
            0: "TritonModelException: Failed to load model: Failed to process the request for model 'snippets_0_0', message: "
            "failed to load 'brought', failed to poll from model repository: Load parameter 'config' must be specified for model file override"
        },
        "what Triton only says in its log stands in the answer as well",
    ),
}

for case, model in (
    ("an unknown model", "nosuch"),
    ("no model name", ""),
    ("async: an unknown model", "nosuch"),
    ("an unknown target, asked as decoupled", "nosuch"),
):
    text = f"Model {model} - Error when running inference: Request for unknown model: '{model}' is not found"
    line = repr(("error", text, "__ErrorCode.INTERNAL", 0))
    LINES["python_bls", f"bls: {case}"] = ({0: f"[{line}]" if "decoupled" in case else line}, NEWER)

# Errors over HTTP: status and text. A text that ends with "..." is the beginning of one.
NO_CONFIG = "load failed for model '{}': version 1 is at UNAVAILABLE state: Internal: auto_complete_config of '{}' made no valid configuration: ..."
LOAD = "load failed for model '{}': version 1 is at UNAVAILABLE state: Internal: "
ERRORS = {
    ("python_auto_complete", "load unknown_type"): (400, NO_CONFIG.format("unknown_type", "unknown_type"), "it is said what is wrong"),
    ("python_auto_complete", "load type_without_prefix"): (400, NO_CONFIG.format("type_without_prefix", "type_without_prefix"), "it is said what is wrong"),
    ("python_auto_complete", "load property_more_no_name"): (
        400,
        LOAD.format("property_more_no_name") + "ValueError: input in auto-complete-config function for model 'property_more_no_name' is missing 'name' property.\n\nAt:\n"
        "  MODELS/property_more_no_name/1/model.py(10): auto_complete_config\n;\n",
        "it is said what is wrong",
    ),
    ("python_auto_complete", "load policy_of_none"): (
        400,
        LOAD.format("policy_of_none") + "TypeError: 'NoneType' object is not iterable\n\nAt:\n  MODELS/policy_of_none/1/model.py(10): auto_complete_config\n;\n",
        OURS,
    ),
    ("python_loads", "load null_byte"): (400, LOAD.format("null_byte") + "SyntaxError: source code string cannot contain null bytes;\n", "newer Pythons say so"),
    ("python_loads", "load initialize_hard_exit"): (
        400,
        LOAD.format("initialize_hard_exit") + "Stub process 'initialize_hard_exit_0_0' is not healthy. (exit code 6);\n",
        "how it ended is said",
    ),
    **{
        ("python_loads", f"load {name}"): (400, LOAD.format(name) + f"Python model MODELS/{name}/1/model.py does not implement `execute` method.;\n", EARLY)
        for name in ("no_execute", "class_is_a_function")
    },
    **{
        ("python_loads", f"infer on {name}"): (404, f"Request for unknown model: '{name}' has no available versions", EARLY)
        for name in ("no_execute", "class_is_a_function")
    },
    ("python_loads", "load hard_exit_on_import"): (400, LOAD.format("hard_exit_on_import") + "the Python interpreter '...", SAFE),
    **{
        ("python_loads", f"load {name}"): (400, LOAD.format(name) + f"Python model file not found: 'MODELS/{name}/1/{file}' does not exist;\n", SAFE)
        for name, file in (("no_file", "model.py"), ("other_file_name_missing", "mine.py"))
    },
    ("python_responses", "returns a generator"): (
        500,
        "Failed to process the request(s) for model 'snippets_0_0', message: Expected a list in the execute return, found type '<class 'generator'>'.",
        "a generator is no coroutine",
    ),
}

# Not compared: the reason.
INDEX = "the reasons are compared where the models are loaded"
SILENT = {
    ("python_loads", "index"): INDEX,
    ("python_tensors", "an output of the other byte order"): MORE,
    ("python_tensors", "unicode of fixed length"): MORE,
    ("python_tensors", "a masked array"): MORE,
    ("python_tensors", "strings that are no UTF-8"): "the order of the members",
    ("python_bls", "bls: an input too many"): "Triton takes inputs in the order of a hash table, we as they came",
    ("python_bls", "bls: the iterator"): "newer iterators can be cancelled",
    ("python_metrics", "page of a description of several lines"): "a description of several lines is escaped, as the format wants it",
    ("python_responses", "parameters of a response over HTTP"): NEWER,
    ("python_responses", "gRPC parameters of a response"): NEWER,
    ("python_senders", "cancelled after the end: what was said"): SAFE,
    ("python_decoupled", "after the end: what was said"): SAFE,
    ("python_decoupled", "async: raises"): SAFE,
    ("python_decoupled", "two requests in a stream"): "which of two requests of a stream answers first is left to chance",
    ("python_rescheduling", "statistics"): "2.51 counts each turn but the last as failed as well",
}
