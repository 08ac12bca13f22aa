"""Models that run the code of a request and answer what it says, so that a case is a few lines of Python.

The code sees `pb_utils`, `np`, `request`, `requests` and `model`, says lines with `say(value, ...)` and `attempt(function)` (its value, or its exception
as `Type: message`), and may set `answer`, which execute returns in place of the lines; whoever answers by response senders sets it to None.
"""

import textwrap

import cases

TYPES = ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "STRING", "BF16"]

HELPERS = '''
import ast
import asyncio
import inspect
import json
import os
import re
import sys
import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils


def text(value):
    """A value as a line without addresses, and without what numpy 2 calls otherwise."""
    line = re.sub("0x[0-9a-f]+", "0x", value if isinstance(value, str) else repr(value))
    return line.replace("numpy.bool_'", "numpy.bool'")


def failure(error):
    """An exception as a line. How wrong arguments are called is up to who checks them, and so is the module of a class."""
    lines = str(error).replace("c_python_backend_utils.", "").splitlines() or [""]
    if isinstance(error, TypeError) and re.search("incompatible|argument|expected|found type", lines[0]):
        return "TypeError: of the arguments"
    return type(error).__name__ + ": " + "\\n".join(lines)


class Lines:
    """What one run of a snippet said."""

    def __init__(self, model, requests):
        self.lines = []
        self.scope = {**globals(), "model": model, "requests": requests, "request": requests[0], "say": self.say, "attempt": self.attempt, "response": self.response}
        code = pb_utils.get_input_tensor_by_name(requests[0], "CODE").as_numpy().reshape(-1)[0].decode()
        self.code = compile(code, "snippet", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

    def say(self, *values):
        self.lines.append(" ".join(text(value) for value in values))

    def attempt(self, function):
        try:
            self.say(function())
        except BaseException as error:
            self.say(failure(error))

    def response(self, *values):
        """A response of lines of its own, or of those said so far."""
        lines = [text(value) for value in values] or self.lines
        return pb_utils.InferenceResponse([pb_utils.Tensor("SAID", np.array(lines, dtype=np.object_))])

    def answer(self):
        return self.scope["answer"] if "answer" in self.scope else [self.response()] + [None] * (len(self.scope["requests"]) - 1)
'''

MODEL = (
    HELPERS
    + '''

class TritonPythonModel:
    def initialize(self, args):
        self.args = args
        self.kept = {}

    def execute(self, requests):
        lines = Lines(self, requests)
        eval(lines.code, lines.scope)
        return lines.answer()
'''
)

ASYNC_MODEL = (
    HELPERS
    + '''

class TritonPythonModel:
    def initialize(self, args):
        self.args = args
        self.kept = {}

    async def execute(self, requests):
        lines = Lines(self, requests)
        result = eval(lines.code, lines.scope)
        if inspect.iscoroutine(result):
            await result
        return lines.answer()
'''
)

# Lines go out as one response; a snippet that sends by itself sets `answer` to None.
DECOUPLED_MODEL = (
    HELPERS
    + '''

class TritonPythonModel:
    def initialize(self, args):
        self.args = args
        self.kept = {}

    def execute(self, requests):
        lines = Lines(self, requests)
        eval(lines.code, lines.scope)
        if "answer" in lines.scope:
            return lines.scope["answer"]
        for request in requests:
            request.get_response_sender().send(lines.response(), pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
'''
)


def config(more="", batch=0):
    """An input and an output of every type beside CODE and SAID."""
    ins = "".join(f', {{ name: "IN_{kind}" data_type: TYPE_{kind} dims: [ -1 ] optional: true }}' for kind in TYPES)
    outs = "".join(f', {{ name: "OUT_{kind}" data_type: TYPE_{kind} dims: [ -1 ] }}' for kind in TYPES)
    first = '{ name: "CODE" data_type: TYPE_STRING dims: [ 1 ] }'
    return (
        f'backend: "python"\nmax_batch_size: {batch}\ninput [ {first}{ins} ]\n'
        f'output [ {{ name: "SAID" data_type: TYPE_STRING dims: [ -1 ] }}{outs} ]\ninstance_group [ {{ kind: KIND_CPU }} ]\n{more}'
    )


def files(code=MODEL, more="", batch=0):
    return {"config.pbtxt": config(more, batch), "1/model.py": code}


SNIPPETS = files()
ASYNC_SNIPPETS = files(ASYNC_MODEL)
DECOUPLED_SNIPPETS = files(DECOUPLED_MODEL, "model_transaction_policy { decoupled: true }\n")


def dedent(code):
    return textwrap.dedent(code).strip("\n")


def inputs(code, *tensors):
    """The inputs of one request; further ones are (type, data) or (type, data, shape) and go to IN_<type>."""
    given = [cases.tensor("CODE", [1], "BYTES", [dedent(code)])]
    for kind, data, *shape in tensors:
        given.append(cases.tensor(f"IN_{kind}", shape[0] if shape else [len(data)], "BYTES" if kind == "STRING" else kind, list(data)))
    return given


def snippet(name, code, *tensors, model="snippets", **more):
    """One case over HTTP; `more` are members of the request."""
    return cases.infer(name, model, cases.ask(*inputs(code, *tensors), **more))


def message(code, model="snippets", **more):
    """The same as a gRPC message; `more` are its parameters."""
    request = cases.pb.ModelInferRequest(model_name=model)
    request.inputs.add(name="CODE", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(cases.strings(dedent(code).encode()))
    for key, value in more.items():
        field = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}[type(value)]
        setattr(request.parameters[key], field, value)
    return request


def rpc(name, code, model="snippets", **more):
    return {"name": name, "rpc": ("ModelInfer", message(code, model, **more))}


def stream(name, *codes, model="snippets_decoupled", **more):
    """A stream of one request per piece of code."""
    return {"name": name, "stream": [message(code, model, **more) for code in codes]}
