"""Loads that bring a configuration or files of their own, over both protocols."""

import base64
import json

from cases import GOOD, http, infer, named, rpc
from namespaces import python
from tritonclient.grpc import service_pb2 as pb


def config(name="a", **more):
    tensor = {"data_type": "TYPE_FP32", "dims": [4]}
    members = {"name": name, "backend": "python", "max_batch_size": 4, "input": [{"name": "INPUT0", **tensor}], "output": [{"name": "OUTPUT0", **tensor}]}
    return json.dumps({**members, **more})


def file(stamp):
    return base64.b64encode(python(stamp)["1/model.py"].encode()).decode()


def load(name, model="a", **parameters):
    parameters = {key.replace("file__", "file:"): value for key, value in parameters.items()}
    return http(name, "POST", f"/v2/repository/models/{model}/load", {"parameters": parameters} if parameters else b"")


def files(name, paths, model="a", **more):
    parameters = {"config": config(model), **{f"file:{path}": value for path, value in paths.items()}, **more}
    return http(name, "POST", f"/v2/repository/models/{model}/load", {"parameters": parameters})


def body(name, text):
    return http(name, "POST", "/v2/repository/models/a/load", text)


def grpc_load(name, model="a", **parameters):
    message = pb.RepositoryModelLoadRequest(model_name=model)
    for key, value in parameters.items():
        field = {bytes: "bytes_param", bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(message.parameters[key.replace("file__", "file:").replace("__", "/").replace("_py", ".py")], field, value)
    return rpc(name, "RepositoryModelLoad", message)


def asked(what, model="a"):
    return [named(infer("", model, GOOD), f"infer {what}"), http(f"metadata {what}", "GET", f"/v2/models/{model}")]


CASES = [
    load("load"),
    *asked("after a plain load"),
    load("load with a configuration", config=config()),
    *asked("after a load with a configuration"),
    load("load with part of a configuration", config='{"max_batch_size": 2}'),
    load("load with an empty configuration", config="{}"),
    load("load with a configuration for another name", config=config("b")),
    load("load with a configuration that is not JSON", config="{"),
    load("load with an unknown member", config='{"nosuch": 1}'),
    load("load with a configuration that is a number", config=3),
    load("load with an empty text", config=""),
    load("files without a configuration", **{"file__1/model.py": file(7)}),
    load("a parameter nobody knows", config=config(), whatever="x"),
    files("a file that is a number", {"1/model.py": 3}),
    files("a file above the folder", {"../x": file(7)}),
    files("a file above the folder, by a detour", {"1/../../x": file(7)}),
    files("a file without a name", {"": file(7)}),
    files("a file where a folder should be", {"1": file(7)}),
    files("a file that is a folder", {"1/": file(7)}),
    files("a file below a file", {"1/a": file(7), "1/a/b": file(7)}),
    files("files without a version", {"x/model.py": file(7)}),
    body("a body that is cut off", b"{"),
    body("a body that is a list", b"[]"),
    body("parameters that are a number", b'{"parameters":3}'),
    body("parameters that are a list", b'{"parameters":[]}'),
    body("a member nobody knows", b'{"x":3}'),
    *asked("after loads that failed"),
    files("load with a file", {"1/model.py": file(7)}),
    *asked("after a load with a file"),
    files("load with a file of another version", {"5/model.py": file(8)}),
    *asked("after a load with another version"),
    load("load from the folder again"),
    *asked("after a load from the folder"),
    files("load a new name", {"1/model.py": file(9)}, "new"),
    *asked("on a new name", "new"),
    http("unload a new name", "POST", "/v2/repository/models/new/unload"),
    load("load a name without a folder", "new"),
    load("load a new name without files", "new_too", config=config("new_too")),
    grpc_load("load with a file", config=config(), file__1__model_py=python(10)["1/model.py"].encode()),
    *asked("after a load over gRPC"),
    grpc_load("files without a configuration", file__1__model_py=b"x"),
    grpc_load("a configuration that is a number", config=3),
    grpc_load("a configuration that is bytes", config=b"x"),
    grpc_load("a file that is text", config=config(), file__1__model_py="text"),
    grpc_load("a parameter nobody knows", config=config(), whatever="x"),
    *[http(f"unload with {what}", "POST", "/v2/repository/models/a/unload", text) for what, text in (("junk", b"{"), ("a parameter nobody knows", b'{"parameters":{"x":true}}'))],
    http("unload what was never there", "POST", "/v2/repository/models/nosuch/unload"),
]

SCENES = {"overrides": {"files": {"a": python(1)}, "flags": ["--model-control-mode=explicit"], "cases": CASES}}
