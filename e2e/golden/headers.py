"""Headers that are forwarded to models as parameters of a request: which, how called, and beside which others.

The model answers what it sees: each parameter as a line, in the order of the names (of several with one name Python sees the last).
"""

from cases import ask, http, infer, stream, tin
from cases import rpc as plain_rpc
from tritonclient.grpc import service_pb2 as pb

CONFIG = """backend: "python"
max_batch_size: 0
input [ { name: "INPUT0" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "SEEN" data_type: TYPE_STRING dims: [ -1 ] } ]
"""

MODEL = '''
import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.seen(request) for request in requests]

    def seen(self, request):
        parameters = json.loads(request.parameters())
        lines = [f"{name} = {value!r}" for name, value in sorted(parameters.items())]
        return pb_utils.InferenceResponse([pb_utils.Tensor("SEEN", np.array(lines or ["nothing"], dtype=np.object_))])
'''

ONE = ask({"name": "INPUT0", "shape": [1], "datatype": "FP32", "data": [1]})
WITH_OWN = {**ONE, "parameters": {"my-b": 3, "own": "text"}}


def over_http(name, *pairs, body=ONE, model="seen"):
    return infer(name, model, body) | {"headers": list(pairs)}


def message(**own):
    parameters = {key: pb.InferParameter(string_param=value) for key, value in own.items()}
    raw = [b"\0\0\x80?"]
    return pb.ModelInferRequest(model_name="seen", inputs=[tin("INPUT0", (1,))], raw_input_contents=raw, parameters=parameters)


def over_grpc(name, *metadata, **own):
    return {**plain_rpc(name, "ModelInfer", message(**own)), "metadata": metadata}


CASES = [
    over_http("no headers of ours"),
    over_http("one", ("my-a", "1")),
    over_http("several", ("my-a", "1"), ("my-b", "two"), ("other", "3")),
    over_http("letters of either case", ("My-A", "1"), ("MY-B", "2")),
    over_http("the pattern in the middle of a name", ("x-my-a", "1"), ("xmy-b", "2")),
    over_http("an underscore", ("my_a", "1")),
    over_http("blanks inside a value", ("my-a", "one two  three")),
    over_http("quotes and backslashes", ("my-a", 'a"b\\c')),
    over_http("beside parameters of its own", ("my-a", "h"), body=WITH_OWN),
    over_http("names that mean something", ("sequence_id", "3"), ("priority", "4"), ("my-timeout", "5")),
    http("generate", "POST", "/v2/models/seen/generate", {"INPUT0": [1]}) | {"headers": [("my-a", "1")]},
    http("generate_stream", "POST", "/v2/models/seen/generate_stream", {"INPUT0": [1]}) | {"headers": [("my-a", "1")]},
    over_grpc("nothing"),
    over_grpc("one", ("my-a", "1")),
    over_grpc("several", ("my-a", "1"), ("my-b", "two"), ("other", "3")),
    over_grpc("the pattern in the middle of a name", ("x-my-a", "1")),
    over_grpc("beside a parameter of its own", ("my-a", "1"), own="text"),
    {**stream("several requests", message(), message(own="text")), "metadata": (("my-a", "1"), ("other", "2"))},
]

FILES = {"seen": {"config.pbtxt": CONFIG, "1/model.py": MODEL}}


def scene(pattern):
    return {"files": FILES, "flags": [f"--http-header-forward-pattern={pattern}", f"--grpc-header-forward-pattern={pattern}"], "cases": CASES}


SCENES = {"headers": scene("my-.*"), "headers_in_full": scene("^MY-A$")}
