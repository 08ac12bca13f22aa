"""What a model sees of a request, of its arguments, and of the process it runs in; and the names and forms of pb_utils."""

import cases
from python_models.snippets import ASYNC_SNIPPETS, SNIPPETS, dedent, message, rpc, snippet

ATTRIBUTES = """
    say("id", request.request_id())
    say("correlation", request.correlation_id())
    say("flags", request.flags())
    say("timeout", request.timeout())
    say("parameters", type(request.parameters()).__name__, json.dumps(json.loads(request.parameters()), sort_keys=True))
    say("outputs", type(request.requested_output_names()).__name__, sorted(request.requested_output_names()))
    say("inputs", [tensor.name() for tensor in request.inputs()])
    say("cancelled", request.is_cancelled())
"""

# Every way a model may bring files of its own.
PLACES_PY = '''
import os
import sys

import numpy as np
import triton_python_backend_utils as pb_utils

SEEN = {"file": __file__, "name": __name__, "package": __package__, "argv0": os.path.basename(sys.argv[0])}
for how in ("from . import beside", "from .beside import WHO", "from .deeper import inner", "import beside", "import above", "from deeper import inner"):
    try:
        exec(how)
        SEEN[how] = "works"
    except Exception as error:
        SEEN[how] = f"{type(error).__name__}: {error}"


class TritonPythonModel:
    def initialize(self, args):
        self.lines = [f"{key}: {value}" for key, value in SEEN.items()]
        self.lines += [f"args {key}: {type(value).__name__} {value}" for key, value in sorted(args.items()) if key != "model_config"]
        here = args["model_repository"]
        self.lines += ["path: " + place[len(here) :] for place in sys.path if place.startswith(here)]
        self.lines.append(f"model dir: {pb_utils.get_model_dir()}")
        self.lines.append(f"module known as: {sorted(name for name, module in sys.modules.items() if getattr(module, '__file__', None) == __file__)}")
        self.lines.append(f"class: {type(self).__module__}.{type(self).__qualname__}")

    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("SAID", np.array(self.lines, dtype=np.object_))]) for _ in requests]
'''

CONFIG_PY = '''
import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.config = args["model_config"]

    def execute(self, requests):
        lines = [type(self.config).__name__, json.dumps(json.loads(self.config), sort_keys=True)]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("SAID", np.array(lines, dtype=np.object_))]) for _ in requests]
'''

SMALL = 'input [ { name: "IN" data_type: TYPE_INT32 dims: [ 1 ] } ]\noutput [ { name: "SAID" data_type: TYPE_STRING dims: [ -1 ] } ]\n'
ONE = cases.ask(cases.tensor("IN", [1], "INT32", [1]))

PLACES = {
    "config.pbtxt": f'backend: "python"\n{SMALL}instance_group [ {{ kind: KIND_CPU }} ]\n',
    "1/model.py": PLACES_PY,
    "1/beside.py": 'WHO = "beside"\n',
    "1/deeper/__init__.py": "",
    "1/deeper/inner.py": "",
    "above.py": 'WHO = "above"\n',
}

FULL = (
    'backend: "python"\nmax_batch_size: 4\n'
    'input [ { name: "IN" data_type: TYPE_FP32 dims: [ 2, -1 ] }, { name: "MORE" data_type: TYPE_STRING dims: [ 1 ] optional: true } ]\n'
    'output [ { name: "SAID" data_type: TYPE_STRING dims: [ -1 ] label_filename: "labels.txt" } ]\n'
    'instance_group [ { name: "mine" count: 1 kind: KIND_CPU } ]\n'
    "dynamic_batching { preferred_batch_size: [ 2 ] max_queue_delay_microseconds: 100 preserve_ordering: true }\n"
    'parameters [ { key: "a" value: { string_value: "1" } }, { key: "long" value: { string_value: "x y" } } ]\n'
    "version_policy { latest { num_versions: 1 } }\n"
)

LEAVES_OUT_PY = '''
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("SAID", request.inputs()[0].as_numpy().astype(str).astype(object))]) for request in requests]
'''

# Says how many inputs there are, of two that may both be left out.
COUNTS_PY = '''
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("COUNT", np.full((1, 1), len(request.inputs()), np.int32))]) for request in requests]
'''


def all_optional(batch, output):
    inputs = ", ".join(f'{{ name: "{name}" data_type: TYPE_INT32 dims: [ 1 ] optional: true }}' for name in ("A", "B"))
    config = f'backend: "python"\nmax_batch_size: {batch}\ninput [ {inputs} ]\noutput [ {{ name: "COUNT" data_type: TYPE_INT32 dims: {output} }} ]\n'
    return {"config.pbtxt": config + "instance_group [ { kind: KIND_CPU } ]\n", "1/model.py": COUNTS_PY}


NAMES = """
    for name in ("Tensor", "InferenceRequest", "InferenceResponse", "TritonError", "TritonModelException", "Logger", "MetricFamily", "PreferredMemory",
                 "ModelConfig", "load_model", "unload_model", "is_model_ready", "get_model_dir", "get_input_tensor_by_name", "get_output_tensor_by_name",
                 "get_input_config_by_name", "get_output_config_by_name", "using_decoupled_model_transaction_policy", "triton_to_numpy_type",
                 "numpy_to_triton_type", "triton_string_to_numpy", "serialize_byte_tensor", "deserialize_bytes_tensor", "TRITON_STRING_TO_NUMPY",
                 "TRITONSERVER_REQUEST_FLAG_SEQUENCE_START", "TRITONSERVER_REQUEST_FLAG_SEQUENCE_END", "TRITONSERVER_RESPONSE_COMPLETE_FINAL",
                 "TRITONSERVER_REQUEST_RELEASE_ALL", "TRITONSERVER_REQUEST_RELEASE_RESCHEDULE", "TRITONSERVER_MEMORY_GPU", "TRITONSERVER_MEMORY_CPU"):
        value = getattr(pb_utils, name, None)
        say(name, "absent" if value is None else "a class" if isinstance(value, type) else "a function" if callable(value) else type(value).__name__)
    say(*[getattr(pb_utils, name) for name in sorted(dir(pb_utils)) if name.startswith("TRITONSERVER_RE")])
"""

MEMBERS = {
    "Tensor": ["as_numpy", "from_dlpack", "is_cpu", "name", "shape", "to_dlpack", "triton_dtype", "__dlpack__", "__dlpack_device__"],
    "InferenceRequest": [
        "async_exec", "correlation_id", "exec", "flags", "get_response_sender", "inputs", "is_cancelled", "parameters", "request_id",
        "requested_output_names", "set_flags", "set_release_flags", "timeout", "trace",
    ],
    "InferenceResponse": ["error", "has_error", "output_tensors"],
    "TritonError": ["ALREADY_EXISTS", "CANCELLED", "INTERNAL", "INVALID_ARG", "NOT_FOUND", "UNAVAILABLE", "UNKNOWN", "UNSUPPORTED", "code", "message"],
    "MetricFamily": ["COUNTER", "GAUGE", "HISTOGRAM", "Metric"],
    "Logger": ["ERROR", "INFO", "LogLevel", "VERBOSE", "WARNING", "log", "log_error", "log_info", "log_verbose", "log_warn"],
    "ModelConfig": ["add_input", "add_output", "as_dict", "set_dynamic_batching", "set_max_batch_size", "set_model_transaction_policy"],
}

WRONG_REQUESTS = """
    tensor = pb_utils.Tensor("IN", np.zeros(1, np.float32))
    R = pb_utils.InferenceRequest
    attempt(lambda: R(inputs=[tensor], requested_output_names=["OUT"], model_name="m").request_id())
    attempt(lambda: R("an id", 7, [tensor], ["OUT"], "m", 3, 1, 99).model_name)
    attempt(lambda: R(model_name="m"))
    attempt(lambda: R(inputs=[], requested_output_names=["OUT"], model_name="m"))
    attempt(lambda: R(inputs=[tensor], requested_output_names=[], model_name="m"))
    attempt(lambda: R(inputs=[tensor], requested_output_names=["OUT"], model_name=""))
    attempt(lambda: R(inputs=[None], requested_output_names=["OUT"], model_name="m"))
    attempt(lambda: R(inputs=[tensor, None], requested_output_names=["OUT"], model_name="m"))
    attempt(lambda: R(inputs=tensor, requested_output_names=["OUT"], model_name="m"))
    attempt(lambda: R(inputs=(tensor,), requested_output_names=("OUT",), model_name="m").requested_output_names())
    attempt(lambda: R(inputs=[tensor], requested_output_names=["OUT", "", "OUT"], model_name="m").requested_output_names())
    attempt(lambda: R(inputs=[tensor], requested_output_names="OUT", model_name="m").requested_output_names())
    attempt(lambda: R(inputs=[tensor], requested_output_names=["OUT"], model_name=3))
    attempt(lambda: R(inputs=[tensor], requested_output_names=["OUT"], model_name="m", model_version="1"))
    attempt(lambda: R(inputs=[tensor], requested_output_names=["OUT"], model_name="m", correlation_id=-1))
    attempt(lambda: R(inputs=[tensor], requested_output_names=["OUT"], model_name="m", correlation_id=2**63).correlation_id())
    attempt(lambda: R(inputs=[tensor], requested_output_names=["OUT"], model_name="m", correlation_id="seven").correlation_id())
    attempt(lambda: R(inputs=[tensor], requested_output_names=["OUT"], model_name="m", correlation_id="").correlation_id())
    attempt(lambda: R(inputs=[tensor], requested_output_names=["OUT"], model_name="m", correlation_id=1.5))
    attempt(lambda: R(inputs=[tensor], requested_output_names=["OUT"], model_name="m", flags=-1))
    attempt(lambda: R(inputs=[tensor], requested_output_names=["OUT"], model_name="m", timeout=-1))
    attempt(lambda: R(inputs=[tensor], requested_output_names=["OUT"], model_name="m", nonsense=1))
    attempt(lambda: R(inputs=[tensor], requested_output_names=["OUT"], model_name="m", preferred_memory=3))
    attempt(lambda: R(inputs=[tensor], requested_output_names=["OUT"], model_name="m", trace=3))
"""

OWN_PARAMETERS = """
    tensor = pb_utils.Tensor("IN", np.zeros(1, np.float32))
    def make(parameters):
        return pb_utils.InferenceRequest(inputs=[tensor], requested_output_names=["OUT"], model_name="m", parameters=parameters)
    attempt(lambda: make(None).parameters())
    attempt(lambda: make({}).parameters())
    attempt(lambda: make({"a": 1, "b": True, "c": "x", "d": 1.5}).parameters())
    attempt(lambda: make({"z": -1, "é": "ü\\"", "a b": False}).parameters())
    attempt(lambda: make({"a": None}).parameters())
    attempt(lambda: make({"a": [1]}).parameters())
    attempt(lambda: make({"a": {"b": 1}}).parameters())
    attempt(lambda: make({"a": np.int64(1)}).parameters())
    attempt(lambda: make({"a": b"x"}).parameters())
    attempt(lambda: make({1: "x"}).parameters())
    attempt(lambda: make({"a": 2**63}).parameters())
    attempt(lambda: make([("a", 1)]).parameters())
    attempt(lambda: make("text").parameters())
"""

OWN_ATTRIBUTES = """
    tensor = pb_utils.Tensor("IN", np.zeros(1, np.float32))
    own = pb_utils.InferenceRequest(inputs=[tensor], requested_output_names=["B", "A"], model_name="m")
    say(own.request_id(), own.correlation_id(), own.flags(), own.timeout(), own.parameters(), sorted(own.requested_output_names()))
    attempt(lambda: own.trace() is not None)
    attempt(lambda: own.set_flags(3))
    say(own.flags())
    attempt(lambda: own.set_flags("x"))
    attempt(lambda: own.model_name())
    attempt(lambda: own.model_version)
    say(type(own.inputs()).__name__, own.inputs()[0].name(), own.inputs()[0] is tensor)
    attempt(lambda: setattr(own, "colour", "red"))
    attempt(lambda: own == own)
    attempt(lambda: len({own: 1}))
    attempt(lambda: bool(own))
"""

TRACES = """
    trace = request.trace()
    say(type(trace).__name__, [name for name in dir(trace) if not name.startswith("_")])
    attempt(lambda: trace.get_context())
"""

MEMORY = """
    attempt(lambda: pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU))
    attempt(lambda: pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_GPU, 1))
    attempt(lambda: pb_utils.PreferredMemory(preferred_memory_type=pb_utils.TRITONSERVER_MEMORY_GPU, preferred_device_id=2))
    attempt(lambda: pb_utils.PreferredMemory())
    attempt(lambda: pb_utils.PreferredMemory(0))
    attempt(lambda: pb_utils.TRITONSERVER_MEMORY_CPU)
    attempt(lambda: int(pb_utils.TRITONSERVER_MEMORY_CPU))
    attempt(lambda: int(pb_utils.TRITONSERVER_MEMORY_GPU))
"""

HELPERS = """
    config = json.loads(model.args["model_config"])
    say(json.dumps(pb_utils.get_input_config_by_name(config, "IN_FP32"), sort_keys=True))
    say(pb_utils.get_input_config_by_name(config, "nothing"))
    say(json.dumps(pb_utils.get_output_config_by_name(config, "SAID"), sort_keys=True))
    say(pb_utils.get_output_config_by_name({}, "SAID"))
    say(pb_utils.using_decoupled_model_transaction_policy(config))
    say(pb_utils.using_decoupled_model_transaction_policy({"model_transaction_policy": {"decoupled": True}}))
    attempt(lambda: pb_utils.using_decoupled_model_transaction_policy({"model_transaction_policy": {}}))
    for number in range(16):
        attempt(lambda: pb_utils.triton_to_numpy_type(number))
    for kind in ("bool_", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "object_", "bytes_", "str_", "complex64"):
        say(kind, pb_utils.numpy_to_triton_type(getattr(np, kind)))
    say(pb_utils.numpy_to_triton_type(np.dtype("float32")), pb_utils.numpy_to_triton_type(bool), pb_utils.numpy_to_triton_type(object), pb_utils.numpy_to_triton_type(float))
    for name in ("TYPE_BOOL", "TYPE_STRING", "TYPE_FP16", "TYPE_UINT64", "TYPE_BF16", "FP32", "TYPE_BYTES", ""):
        attempt(lambda: pb_utils.triton_string_to_numpy(name))
    say(pb_utils.get_input_tensor_by_name(request, "CODE").name(), pb_utils.get_input_tensor_by_name(request, "nothing"))
    attempt(lambda: pb_utils.get_output_tensor_by_name(response("a"), "SAID").as_numpy())
    attempt(lambda: pb_utils.get_output_tensor_by_name(response("a"), "nothing"))
    attempt(lambda: pb_utils.get_output_tensor_by_name(pb_utils.InferenceResponse([], pb_utils.TritonError("no")), "SAID"))
"""

BYTES = """
    def form(value):
        return (type(value).__name__, getattr(value, "dtype", None) and str(value.dtype), getattr(value, "shape", None), value.tolist() if hasattr(value, "tolist") else value)
    def bytes_of(value):
        return value.item() if value.size == 1 and value.dtype == object else value.tobytes()
    attempt(lambda: form(pb_utils.serialize_byte_tensor(np.array([b"abc", b""], dtype=object))))
    attempt(lambda: form(pb_utils.serialize_byte_tensor(np.array(["é", "x"], dtype=object))))
    attempt(lambda: form(pb_utils.serialize_byte_tensor(np.array([[b"a", b"b"], [b"c", b"d"]], dtype=object))))
    attempt(lambda: form(pb_utils.serialize_byte_tensor(np.array([b"ab", b"c"]))))
    attempt(lambda: form(pb_utils.serialize_byte_tensor(np.array(["ab", "c"]))))
    attempt(lambda: form(pb_utils.serialize_byte_tensor(np.array([1, 2], dtype=object))))
    attempt(lambda: form(pb_utils.serialize_byte_tensor(np.array([1, 2]))))
    attempt(lambda: form(pb_utils.serialize_byte_tensor(np.array([], dtype=object))))
    attempt(lambda: form(pb_utils.serialize_byte_tensor([b"a"])))
    attempt(lambda: form(pb_utils.deserialize_bytes_tensor(b"\\x03\\x00\\x00\\x00abc\\x00\\x00\\x00\\x00")))
    attempt(lambda: form(pb_utils.deserialize_bytes_tensor(b"")))
    attempt(lambda: form(pb_utils.deserialize_bytes_tensor(b"\\x03\\x00\\x00\\x00ab")))
    attempt(lambda: form(pb_utils.deserialize_bytes_tensor(b"\\x03")))
"""

LOGGER = """
    L = pb_utils.Logger
    say(L.INFO, int(L.INFO), L.WARNING, int(L.WARNING), L.ERROR, int(L.ERROR), L.VERBOSE, int(L.VERBOSE))
    attempt(lambda: L.LogLevel)
    attempt(lambda: L.log("plain"))
    attempt(lambda: L.log("with level", L.WARNING))
    attempt(lambda: L.log("level by name", level=L.ERROR))
    attempt(lambda: L.log(message="all by name", level=L.VERBOSE))
    attempt(lambda: L.log_info("info"))
    attempt(lambda: L.log_warn("warn"))
    attempt(lambda: L.log_error("error"))
    attempt(lambda: L.log_verbose("verbose"))
    attempt(lambda: L.log(3))
    attempt(lambda: L.log("x", 1))
    attempt(lambda: L.log("x", "INFO"))
    attempt(lambda: L.log())
    attempt(lambda: L.log_info(message="by name"))
    attempt(lambda: L().log("by an object"))
    attempt(lambda: L.log("several\\nlines é"))
"""


def own(code):
    return f"tensor = pb_utils.Tensor('IN', np.zeros(1, np.float32))\nown = pb_utils.InferenceRequest(inputs=[tensor], requested_output_names=['A'], model_name='m')\n{code}"


def attributes(name, **more):
    return snippet(name, ATTRIBUTES, **more)


def wanted(*names):
    return [{"name": name} for name in names]


def ordered(name):
    """A request whose outputs are named in an order of its own."""
    request = message(ATTRIBUTES)
    for output in ("SAID", "OUT_FP32", "OUT_BOOL"):
        request.outputs.add(name=output)
    request.id = "of gRPC"
    return {"name": name, "rpc": ("ModelInfer", request)}


CASES = [
    attributes("attributes of a bare request"),
    attributes("an id", id="my id é"),
    attributes("outputs are named", outputs=wanted("SAID", "OUT_FP64", "OUT_BOOL")),
    attributes("parameters of every type", parameters={"z": 1, "a": "text é \" \\", "t": True, "f": False, "n": -5, "d": 1.5, "big": 9007199254740993}),
    attributes("parameters with meanings", parameters={"priority": 3, "timeout": 1234567, "headers": 1}),
    attributes("a sequence without a sequence model", parameters={"sequence_id": 5, "sequence_start": True, "sequence_end": True}),
    attributes("a sequence id of text", parameters={"sequence_id": "five", "sequence_start": True}),
    attributes("binary_data_output is no parameter", parameters={"binary_data_output": False}),
    rpc("gRPC attributes of a bare request", ATTRIBUTES),
    ordered("gRPC outputs in an order of their own"),
    rpc("gRPC parameters of every type", ATTRIBUTES, a=1, b="x é", c=True, d=2.5, e=False),
    rpc("gRPC sequence", ATTRIBUTES, sequence_id=9, sequence_start=True),
    rpc("gRPC timeout and priority", ATTRIBUTES, timeout=5000000, priority=1),
    cases.infer("places: what the module sees", "places", ONE),
    cases.infer("args: the configuration", "configured", cases.ask(cases.tensor("IN", [1, 2, 1], "FP32", [1, 2]))),
    cases.infer("a model without initialize and finalize", "bare", ONE),
    snippet("names of pb_utils", NAMES),
    snippet("public members of the classes", f"MEMBERS = {MEMBERS}\n" + dedent("""
        for name, members in MEMBERS.items():
            say(name, "lacks", [member for member in members if not hasattr(getattr(pb_utils, name), member)])
        say(pb_utils.TritonModelException.__mro__)
        say(request)
        say(response("a"))
        say(str(pb_utils.TritonModelException("x")), repr(pb_utils.TritonModelException("x")))
        say(pb_utils.Tensor("A", np.zeros(1)))
        say(sys.modules["triton_python_backend_utils"] is pb_utils, "c_python_backend_utils" in sys.modules)
    """)),
    snippet("sender of a request of one's own", own("attempt(lambda: own.get_response_sender())")),
    snippet("release flags that are none", "attempt(lambda: request.set_release_flags(8))"),
    snippet("requests made wrongly", WRONG_REQUESTS),
    snippet("parameters of a request of one's own", OWN_PARAMETERS),
    snippet("attributes of a request of one's own", OWN_ATTRIBUTES),
    snippet("traces", TRACES),
    snippet("preferred memory", MEMORY),
    snippet("helper functions", HELPERS),
    snippet("byte tensors", BYTES),
    snippet("the logger", LOGGER),
    snippet("the sender of a request", """
        attempt(lambda: type(request.get_response_sender()).__module__ + "." + type(request.get_response_sender()).__name__)
        attempt(lambda: pb_utils.InferenceResponseSender())
        say(request.get_response_sender().is_cancelled(), request.is_cancelled())
    """),
    snippet("what may be changed of a request", """
        attempt(lambda: request.set_flags(2))
        say(request.flags())
        attempt(lambda: setattr(request, "mine", 5))
        attempt(lambda: request.mine)
        say(request.inputs() is request.inputs(), request.inputs()[0] is request.inputs()[0], isinstance(request.inputs(), list))
        say(type(requests).__name__, len(requests), type(request).__name__)
    """),
    snippet("an asynchronous execute", """
        await asyncio.sleep(0)
        say(type(asyncio.get_running_loop()).__name__, threading.current_thread() is threading.main_thread())
    """, model="async_snippets"),
    snippet("an asynchronous execute that fails", """
        await asyncio.sleep(0)
        raise ValueError("after a wait")
    """, model="async_snippets"),
    snippet("the process", """
        say("main thread", threading.current_thread() is threading.main_thread())
        say("stdin at end", os.fstat(0) is not None)
        say("main", sys.modules["__main__"].__name__)
        say("default encoding", sys.getdefaultencoding(), sys.flags.utf8_mode)
        print("printed by the model")
    """),
    cases.http("metadata of a Python model", "GET", "/v2/models/bare"),
    cases.http("configuration of a Python model", "GET", "/v2/models/bare/config"),
    cases.http("configuration with everything", "GET", "/v2/models/configured/config"),
    cases.http("statistics of a Python model", "GET", "/v2/models/bare/stats"),
    cases.http("ready", "GET", "/v2/models/bare/ready"),
    cases.infer("one of two optional inputs", "all_optional", cases.ask(cases.tensor("B", [1, 1], "INT32", [1]))),
    cases.infer("no input where all are optional", "all_optional", cases.ask()),
    cases.infer("no input where all are optional, with an id", "all_optional", cases.ask(id="mine")),
    cases.infer("no input where all are optional, without batches", "all_optional_alone", cases.ask()),
]

SCENE = {
    "files": {
        "snippets": SNIPPETS,
        "async_snippets": ASYNC_SNIPPETS,
        "places": PLACES,
        "configured": {"config.pbtxt": FULL, "1/model.py": CONFIG_PY, "labels.txt": "a\nb\n"},
        "all_optional": all_optional(4, "[ 1 ]"),
        "all_optional_alone": all_optional(0, "[ 1, 1 ]"),
        "bare": {"config.pbtxt": f'backend: "python"\n{SMALL}', "1/model.py": LEAVES_OUT_PY},
    },
    "flags": [],
    "cases": CASES,
}
