"""The questions put to Triton and to us. A scene is one server start; its cases run in order.

`http` and `rpc` cases are data; the helpers at the top only shorten them.
"""

import gzip
import json
import math
import struct
import zlib

import pipelines
import repository
import stateful
from tritonclient.grpc import service_pb2 as pb

INFER = "/v2/models/{}/infer"


# === HTTP ===


def http(name, method, path, body=b"", **headers):
    """One HTTP case. Keyword names become header names: content_encoding -> content-encoding."""
    body = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return {"name": name, "http": (method, path), "body": body, "headers": {k.replace("_", "-"): v for k, v in headers.items()}}


def infer(name, model, body, **headers):
    return http(name, "POST", INFER.format(model), body, **headers)


def tensor(name="INPUT0", shape=(1, 4), datatype="FP32", data=(1, 2, 3, 4), **parameters):
    """One input in JSON form; None leaves a member out."""
    members = {"name": name, "shape": shape, "datatype": datatype, "parameters": parameters or None, "data": list(data) if isinstance(data, range) else data}
    return {k: v for k, v in members.items() if v is not None}


def ask(*inputs, outputs=None, **more):
    body = {"inputs": list(inputs), **more}
    return body if outputs is None else {**body, "outputs": outputs}


def binary(name, model, request, *blobs, **headers):
    """JSON followed by binary data."""
    head = json.dumps(request).encode()
    headers.setdefault("Inference_Header_Content_Length", str(len(head)))
    return infer(name, model, head + b"".join(blobs), **headers)


def floats(*values):
    return struct.pack(f"<{len(values)}f", *values)


def strings(*values):
    return b"".join(struct.pack("<I", len(v)) + v for v in values)


ROW = floats(1, 2, 3, 4)
GOOD = ask(tensor())
TWO = ask(tensor(), tensor("INPUT1", data=[5, 6, 7, 8]))
RAW = {"binary_data_size": 16}


def out(name="OUTPUT0", **parameters):
    return {"name": name, "parameters": parameters} if parameters else {"name": name}


HTTP_ANSWERED = [
    infer("one input", "single", GOOD),
    infer("two inputs", "two", TWO),
    infer("inputs in the other order", "two", ask(tensor("INPUT1", data=[5, 6, 7, 8]), tensor())),
    infer("an id is echoed", "single", ask(tensor(), id="my-id")),
    infer("an id of odd characters is echoed", "single", ask(tensor(), id='é"\\\n\t\u0001 😀 /')),
    infer("an empty id", "single", ask(tensor(), id="")),
    infer("nested data", "single", ask(tensor(shape=[2, 4], data=[[1, 2, 3, 4], [5, 6, 7, 8]]))),
    infer("flat data", "single", ask(tensor(shape=[2, 4], data=[1, 2, 3, 4, 5, 6, 7, 8]))),
    infer("data nested otherwise than the shape", "single", ask(tensor(data=[[[1], [2]], [[3], [4]]]))),
    infer("fractions and exponents", "single", ask(tensor(data=[0.1, -1e-7, 1.5e10, 3.4028235e38]))),
    infer("whole and tiny", "single", ask(tensor(data=[100000, 123456789, 1e21, 1e-45]))),
    infer("infinities and not a number", "single", '{"inputs":[{"name":"INPUT0","shape":[1,4],"datatype":"FP32","data":[NaN,Infinity,-Infinity,0]}]}'),
    infer("too large for the type", "single", '{"inputs":[{"name":"INPUT0","shape":[1,4],"datatype":"FP32","data":[1e39,0,0,0]}]}'),
    infer("full batch", "single", ask(tensor(shape=[8, 4], data=list(range(32))))),
    infer("one of two outputs", "two", ask(*TWO["inputs"], outputs=[out("OUTPUT1")])),
    infer("outputs in the asked order", "two", ask(*TWO["inputs"], outputs=[out("OUTPUT1"), out("OUTPUT0")])),
    infer("empty list of outputs", "two", ask(*TWO["inputs"], outputs=[])),
    infer("binary output by parameter", "single", ask(tensor(), parameters={"binary_data_output": True})),
    infer("binary output by output", "single", ask(tensor(), outputs=[out(binary_data=True)])),
    infer("one output binary, one not", "two", ask(*TWO["inputs"], outputs=[out(binary_data=True), out("OUTPUT1", binary_data=False)])),
    infer("naming outputs overrides binary_data_output", "two", ask(*TWO["inputs"], outputs=[out(binary_data=False), out("OUTPUT1")], parameters={"binary_data_output": True})),
    infer("binary_data_output and a binary output", "two", ask(*TWO["inputs"], outputs=[out(binary_data=True), out("OUTPUT1")], parameters={"binary_data_output": False})),
    binary("binary in, JSON out", "single", ask(tensor(data=None, **RAW)), ROW),
    binary("binary in, binary out", "single", ask(tensor(data=None, **RAW), outputs=[out(binary_data=True)]), ROW),
    binary("two binary inputs", "two", ask(tensor(data=None, **RAW), tensor("INPUT1", data=None, **RAW)), ROW, floats(5, 6, 7, 8)),
    binary("one input binary, one not", "two", ask(tensor(), tensor("INPUT1", data=None, **RAW)), floats(5, 6, 7, 8)),
    binary("JSON only with the header given", "single", GOOD),
    infer("raw request with batch", "single", ROW, Inference_Header_Content_Length="0"),
    infer("raw request", "wild", ROW, Inference_Header_Content_Length="0"),
    infer("raw request of strings", "text_one", b"hello", Inference_Header_Content_Length="0"),
    infer("request parameters are not echoed", "single", ask(tensor(), parameters={"a": 1, "b": "x", "c": True, "priority": 3, "timeout": 100})),
    infer("a double parameter", "single", ask(tensor(), parameters={"a": 1.5})),
    infer("version one", "single/versions/1", GOOD),
    infer("dynamic batching", "batched", GOOD),
    infer("no batching", "nobatch", ask(tensor(shape=[2, 2]))),
    infer("variable dimension", "wildbatch", ask(tensor(shape=[2, 2, 3], datatype="INT32", data=list(range(12))))),
    infer("variable dimension of zero", "wild", ask(tensor(shape=[0], data=[]))),
    binary("no elements in binary", "wild", ask(tensor(shape=[0], data=None, binary_data_size=0), outputs=[out(binary_data=True)])),
    infer("strings", "text", ask(tensor(shape=[1, 2], datatype="BYTES", data=["hello", "wörld \" \\ \n"]))),
    infer("empty strings", "text", ask(tensor(shape=[1, 2], datatype="BYTES", data=["", ""]))),
    binary("binary strings", "text", ask(tensor(shape=[1, 2], datatype="BYTES", data=None, binary_data_size=14)), strings(b"abc", b"def")),
    binary("binary strings out", "text", ask(tensor(shape=[1, 2], datatype="BYTES", data=["abc", "de"]), outputs=[out(binary_data=True)])),
    infer("unknown members are ignored", "single", {**GOOD, "whatever": {"a": [1]}}),
    infer("unknown members of an input are ignored", "single", ask({**tensor(), "whatever": 1})),
    infer("a query string is ignored", "single/versions/1/infer?x=1", b"")
    | {"http": ("POST", "/v2/models/single/infer?x=1"), "body": json.dumps(GOOD).encode()},
    infer("content type does not matter", "single", GOOD, Content_Type="text/plain"),
    infer("gzip body", "single", gzip.compress(json.dumps(GOOD).encode(), mtime=0), Content_Encoding="gzip"),
    infer("deflate body", "single", zlib.compress(json.dumps(GOOD).encode()), Content_Encoding="deflate"),
    infer("identity body", "single", GOOD, Content_Encoding="identity"),
    infer("gzip asked for", "single", GOOD, Accept_Encoding="gzip"),
    infer("deflate preferred", "single", GOOD, Accept_Encoding="gzip;q=0.5, deflate;q=0.9"),
    infer("encodings unknown to the server", "single", GOOD, Accept_Encoding="br, zstd"),
    infer("any encoding", "single", GOOD, Accept_Encoding="*"),
    infer("gzip asked for a binary answer", "single", ask(tensor(), outputs=[out(binary_data=True)]), Accept_Encoding="gzip"),
    *[
        infer(f"{kind} in JSON", f"type_{kind.lower()}", ask(tensor(shape=[len(data)], datatype=kind, data=data)))
        for kind, data in [
            ("BOOL", [True, False]),
            ("UINT8", [0, 255]),
            ("UINT16", [0, 65535]),
            ("UINT32", [0, 4294967295]),
            ("UINT64", [0, 18446744073709551615]),
            ("INT8", [-128, 127]),
            ("INT16", [-32768, 32767]),
            ("INT32", [-2147483648, 2147483647]),
            ("INT64", [-9223372036854775808, 9223372036854775807]),
            ("FP32", [-0.0, 16777217]),
            ("FP64", [0.1, -1.7976931348623157e308, 5e-324]),
        ]
    ],
    infer("whole numbers as BOOL", "type_bool", ask(tensor(shape=[3], datatype="BOOL", data=[1, 0, 2]))),
    binary("FP16 in binary, both ways", "type_fp16", ask(tensor(shape=[2], datatype="FP16", data=None, binary_data_size=4), outputs=[out(binary_data=True)]), b"\x00\x3c\x00\x40"),
]

HTTP_CLASSES = [
    infer("classes", "single", ask(tensor(data=[1, 4, 2, 3]), outputs=[out(classification=2)])),
    infer("classes with labels", "labelled", ask(tensor(data=[1, 4, 2, 3]), outputs=[out(classification=3)])),
    infer("classes of a batch", "labelled", ask(tensor(shape=[2, 4], data=[1, 4, 2, 3, 9, 8, 7, 6]), outputs=[out(classification=1)])),
    infer("more classes than there are", "labelled", ask(tensor(data=[1, 4, 2, 3]), outputs=[out(classification=9)])),
    infer("binary classes", "labelled", ask(tensor(data=[1, 4, 2, 3]), outputs=[out(classification=2, binary_data=True)])),
    infer("classes of strings", "text", ask(tensor(shape=[1, 2], datatype="BYTES", data=["a", "b"]), outputs=[out(classification=1)])),
    infer("zero classes", "single", ask(tensor(), outputs=[out(classification=0)])),
    infer("classification of a wrong type", "single", ask(tensor(), outputs=[out(classification="two")])),
    infer("negative classification", "single", ask(tensor(), outputs=[out(classification=-1)])),
]

HTTP_REFUSED = [
    infer("unknown model", "nosuch", GOOD),
    infer("unknown version", "single/versions/9", GOOD),
    infer("version zero", "single/versions/0", GOOD),
    infer("version that is no number", "single/versions/abc", GOOD),
    infer("negative version", "single/versions/-1", GOOD),
    infer("version beyond 64 bits", "single/versions/99999999999999999999", GOOD),
    infer("version not served", "versions_specific/versions/2", GOOD),
    infer("no inputs", "single", ask()),
    infer("an input is missing", "two", GOOD),
    infer("an input is unknown", "single", ask(tensor("NOPE"))),
    infer("one input too many", "single", ask(tensor(), tensor("NOPE"))),
    infer("only the optional input", "optional", ask(tensor("INPUT1"))),
    infer("no input where one is optional", "optional", ask()),
    infer("a third input where one is optional", "optional", ask(tensor(), tensor("INPUT1"), tensor("INPUT2"))),
    infer("an input twice", "two", ask(tensor(), tensor())),
    infer("an output is unknown", "single", ask(tensor(), outputs=[out("NOPE")])),
    infer("an output twice", "single", ask(tensor(), outputs=[out(), out()])),
    infer("wrong data type", "single", ask(tensor(datatype="INT32"))),
    infer("wrong data type with id", "single", ask(tensor(datatype="INT32"), id="abc")),
    infer("unknown data type", "single", ask(tensor(datatype="FLOAT"))),
    infer("lower case data type", "single", ask(tensor(datatype="fp32"))),
    infer("empty data type", "single", ask(tensor(datatype=""))),
    infer("wrong shape", "single", ask(tensor(shape=[1, 5], data=[1, 2, 3, 4, 5]))),
    infer("wrong rank", "single", ask(tensor(shape=[4]))),
    infer("rank too high", "single", ask(tensor(shape=[1, 1, 4]))),
    infer("wrong shape without batching", "nobatch", ask(tensor(shape=[4, 1]))),
    infer("wrong shape of a variable dimension", "wildbatch", ask(tensor(shape=[1, 2, 4], datatype="INT32", data=list(range(8))))),
    infer("no shape at all", "single", ask(tensor(shape=[], data=[1]))),
    infer("batches differ", "two", ask(tensor(shape=[2, 4], data=list(range(8))), tensor("INPUT1"))),
    infer("batch too big", "single", ask(tensor(shape=[9, 4], data=list(range(36))))),
    infer("batch too big with id", "single", ask(tensor(shape=[9, 4], data=list(range(36))), id="abc")),
    infer("batch of zero", "single", ask(tensor(shape=[0, 4], data=[]))),
    infer("negative dimension", "single", ask(tensor(shape=[1, -1]))),
    infer("dimension that is no whole number", "single", ask(tensor(shape=[1, 4.0]))),
    infer("dimension as text", "single", ask(tensor(shape=["1", "4"]))),
    infer("dimensions that overflow", "wilder", ask(tensor(shape=[4294967296, 4294967296]))),
    infer("bytes that overflow", "wilder", ask(tensor(shape=[4294967296, 1073741824]))),
    infer("dimension beyond 63 bits", "wilder", ask(tensor(shape=[9223372036854775808, 1]))),
    infer("shape is no list", "single", ask(tensor(shape=4))),
    infer("too little data", "single", ask(tensor(data=[1, 2, 3]))),
    infer("too much data", "single", ask(tensor(data=[1, 2, 3, 4, 5]))),
    infer("no data elements", "single", ask(tensor(data=[]))),
    infer("data is no list", "single", ask(tensor(data=5))),
    infer("data is an object", "single", ask(tensor(data={"a": 1}))),
    infer("text as FP32", "single", ask(tensor(data=["a", "b", "c", "d"]))),
    infer("booleans as FP32", "single", ask(tensor(data=[True, False, True, False]))),
    infer("null as FP32", "single", ask(tensor(data=[None, 1, 2, 3]))),
    infer("object as FP32", "single", ask(tensor(data=[{}, 1, 2, 3]))),
    infer("fractions as INT32", "type_int32", ask(tensor(shape=[2], datatype="INT32", data=[1.5, 2]))),
    infer("whole fractions as INT32", "type_int32", ask(tensor(shape=[2], datatype="INT32", data=[1.0, 2.0]))),
    infer("too large for UINT8", "type_uint8", ask(tensor(shape=[1], datatype="UINT8", data=[256]))),
    infer("negative UINT8", "type_uint8", ask(tensor(shape=[1], datatype="UINT8", data=[-1]))),
    infer("too large for INT8", "type_int8", ask(tensor(shape=[1], datatype="INT8", data=[128]))),
    infer("too large for INT32", "type_int32", ask(tensor(shape=[1], datatype="INT32", data=[2147483648]))),
    infer("too large for INT64", "type_int64", ask(tensor(shape=[1], datatype="INT64", data=[9223372036854775808]))),
    infer("negative UINT64", "type_uint64", ask(tensor(shape=[1], datatype="UINT64", data=[-1]))),
    infer("text as BOOL", "type_bool", ask(tensor(shape=[1], datatype="BOOL", data=["true"]))),
    infer("numbers as BYTES", "text", ask(tensor(shape=[1, 2], datatype="BYTES", data=[1, 2]))),
    infer("FP16 in JSON", "type_fp16", ask(tensor(shape=[1], datatype="FP16", data=[1]))),
    infer("BF16 in JSON", "single", ask(tensor(datatype="BF16"))),
    binary("FP16 out in JSON", "type_fp16", ask(tensor(shape=[2], datatype="FP16", data=None, binary_data_size=4)), b"\x00\x3c\x00\x40"),
    infer("input without name", "single", ask(tensor(None))),
    infer("input without shape", "single", ask(tensor(shape=None))),
    infer("input without data type", "single", ask(tensor(datatype=None))),
    infer("input without data", "single", ask(tensor(data=None))),
    infer("name of a wrong type", "single", ask(tensor(name=7))),
    infer("data type of a wrong type", "single", ask(tensor(datatype=7))),
    infer("id of a wrong type", "single", ask(tensor(), id=7)),
    infer("parameters of a wrong type", "single", ask(tensor(), parameters=[1])),
    infer("parameters are null", "single", ask(tensor(), parameters=None)),
    infer("inputs are null", "single", {"inputs": None}),
    infer("inputs are an object", "single", {"inputs": {}}),
    infer("no member inputs", "single", {}),
    infer("an input is a number", "single", {"inputs": [1]}),
    infer("outputs are an object", "single", ask(tensor(), outputs={})),
    infer("an output is text", "single", ask(tensor(), outputs=["OUTPUT0"])),
    infer("an output without name", "single", ask(tensor(), outputs=[{}])),
    infer("reserved parameter", "single", ask(tensor(), parameters={"triton_thing": 1})),
    infer("parameter that is a list", "single", ask(tensor(), parameters={"a": [1]})),
    infer("parameter that is null", "single", ask(tensor(), parameters={"a": None})),
    infer("priority of a wrong type", "single", ask(tensor(), parameters={"priority": "high"})),
    infer("negative priority", "single", ask(tensor(), parameters={"priority": -1})),
    infer("timeout of a wrong type", "single", ask(tensor(), parameters={"timeout": "soon"})),
    infer("sequence_start of a wrong type", "single", ask(tensor(), parameters={"sequence_start": 1})),
    infer("sequence_id of a wrong type", "single", ask(tensor(), parameters={"sequence_id": 1.5})),
    infer("binary_data_output of a wrong type", "single", ask(tensor(), parameters={"binary_data_output": "yes"})),
    infer("binary_data of a wrong type", "single", ask(tensor(), outputs=[out(binary_data="yes")])),
    infer("data and a binary size", "single", ask(tensor(**RAW))),
    infer("binary size without the header", "single", ask(tensor(data=None, **RAW))),
    infer("shared memory region unknown", "single", ask(tensor(data=None, shared_memory_region="r", shared_memory_byte_size=16))),
    infer("output region unknown", "single", ask(tensor(), outputs=[out(shared_memory_region="r", shared_memory_byte_size=16)])),
    binary("binary data too short", "single", ask(tensor(data=None, **RAW)), ROW[:12]),
    binary("no binary data at all", "single", ask(tensor(data=None, **RAW))),
    binary("binary data too long", "single", ask(tensor(data=None, **RAW)), ROW, b"xx"),
    binary("binary data nobody asked for", "single", GOOD, ROW),
    binary("binary size below the shape", "single", ask(tensor(data=None, binary_data_size=12)), ROW[:12]),
    binary("binary size above the shape", "single", ask(tensor(data=None, binary_data_size=20)), ROW + ROW[:4]),
    binary("binary size negative", "single", ask(tensor(data=None, binary_data_size=-1)), ROW),
    binary("binary size of a wrong type", "single", ask(tensor(data=None, binary_data_size="16")), ROW),
    binary("strings too few", "text", ask(tensor(shape=[1, 2], datatype="BYTES", data=None, binary_data_size=7)), strings(b"abc")),
    binary("strings too many", "text", ask(tensor(shape=[1, 2], datatype="BYTES", data=None, binary_data_size=15)), strings(b"a", b"b", b"c")),
    binary("string length cut off", "text", ask(tensor(shape=[1, 2], datatype="BYTES", data=None, binary_data_size=7)), strings(b"a") + b"\x01\x00"),
    binary("header is no number", "single", GOOD, Inference_Header_Content_Length="abc"),
    binary("header is negative", "single", GOOD, Inference_Header_Content_Length="-5"),
    binary("header beyond the body", "single", GOOD, Inference_Header_Content_Length="100000"),
    binary("header beyond 64 bits", "single", GOOD, Inference_Header_Content_Length="99999999999999999999"),
    binary("header cuts the JSON", "single", GOOD, Inference_Header_Content_Length="20"),
    infer("raw request to two inputs", "two", ROW, Inference_Header_Content_Length="0"),
    infer("raw request, two unknown dimensions", "wilder", ROW, Inference_Header_Content_Length="0"),
    infer("raw request of a wrong size", "single", ROW[:10], Inference_Header_Content_Length="0"),
    infer("raw request of strings, wrong shape", "text", b"hello", Inference_Header_Content_Length="0"),
    infer("raw request without body", "single", b"", Inference_Header_Content_Length="0"),
    infer("unknown encoding", "single", GOOD, Content_Encoding="br"),
    infer("not the gzip it claims", "single", GOOD, Content_Encoding="gzip"),
]

MALFORMED = {
    "empty body": b"",
    "blanks only": b"   ",
    "open brace": b"{",
    "open list": b"[",
    "closing brace": b"}",
    "a list": b"[]",
    "null": b"null",
    "a number": b"5",
    "a text": b'"x"',
    "no value": b'{"inputs"}',
    "no value after the colon": b'{"inputs":}',
    "value missing at the end": b'{"inputs":',
    "list not closed": b'{"inputs":[',
    "object not closed": b'{"inputs":[]',
    "comma at the end of an object": b'{"inputs":[],}',
    "comma at the end of a list": b'{"inputs":[1,]}',
    "two commas": b'{"inputs":[1,,2]}',
    "no comma in a list": b'{"inputs":[1 2]}',
    "no comma in an object": b'{"a":1 "b":2}',
    "single quotes": b"{'inputs':[]}",
    "name without quotes": b"{inputs:[]}",
    "name that is a number": b"{1:2}",
    "text after the document": b'{"inputs":[]} x',
    "two documents": b'{"inputs":[]}{"inputs":[]}',
    "misspelt true": b'{"a":tru}',
    "misspelt null": b'{"a":nul}',
    "capital True": b'{"a":True}',
    "leading zero": b'{"a":01}',
    "point without digits": b'{"a":1.}',
    "no digit before the point": b'{"a":.5}',
    "plus sign": b'{"a":+1}',
    "minus alone": b'{"a":-}',
    "exponent without digits": b'{"a":1e}',
    "hexadecimal": b'{"a":0x10}',
    "number too big": b'{"a":1e999}',
    "text not closed": b'{"a":"x',
    "unknown escape": b'{"a":"\\x"}',
    "short unicode escape": b'{"a":"\\u12"}',
    "wrong unicode escape": b'{"a":"\\uzzzz"}',
    "lone high surrogate": b'{"a":"\\ud800"}',
    "lone low surrogate": b'{"a":"\\udc00"}',
    "control character in a text": b'{"a":"\x01"}',
    "line break in a text": b'{"a":"x\ny"}',
    "invalid UTF-8": b'{"a":"\xff"}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "a comment": b"{/* hello */}",
    "a zero byte": b"{\x00}",
    "binary junk": bytes(range(256)),
    "a form": b"a=1&b=2",
}

HTTP_MALFORMED = [infer(f"malformed: {name}", "single", body) for name, body in MALFORMED.items()] + [
    infer("malformed: nested too deep", "single", b'{"a":' + b"[" * 150 + b"]" * 150 + b"}"),
    infer("malformed: data nested too deep", "single", ask(tensor(data=[])) | {"inputs": [{**tensor(), "data": json.loads("[" * 150 + "]" * 150)}]}),
    infer("nested just within the limit", "single", ask({**tensor(), "data": json.loads("[" * 80 + "1,2,3,4" + "]" * 80)})),
    infer("a member twice", "single", b'{"id":"a","id":"b","inputs":[{"name":"INPUT0","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}'),
    infer("unknown model with malformed JSON", "nosuch", b"{"),
    infer("unknown version with malformed JSON", "single/versions/9", b"{"),
]

HTTP_RESOURCES = [
    http("server metadata", "GET", "/v2"),
    http("live", "GET", "/v2/health/live"),
    http("ready", "GET", "/v2/health/ready"),
    *[
        http(f"{what}: {name}", "GET", f"/v2/models/{name}{path}")
        for name in ("single", "two", "wildbatch", "nobatch", "text", "batched", "labelled", "versions_specific", "versions_all", "versions_latest")
        for what, path in (("metadata", ""), ("config", "/config"), ("model ready", "/ready"))
    ],
    *[http(f"metadata: type {kind}", "GET", f"/v2/models/type_{kind}") for kind in ("bool", "uint64", "fp16", "string")],
    *[
        http(f"{what} of {which}", "GET", f"/v2/models/{model}{path}")
        for which, model in (
            ("one version", "versions_specific/versions/1"),
            ("a version not served", "versions_specific/versions/2"),
            ("an unknown version", "single/versions/9"),
            ("version zero", "single/versions/0"),
            ("a version that is no number", "single/versions/x"),
            ("an unknown model", "nosuch"),
        )
        for what, path in (("metadata", ""), ("config", "/config"), ("ready", "/ready"), ("stats", "/stats"))
    ],
    http("stats of a fresh model", "GET", "/v2/models/single/stats"),
    infer("an inference to be counted", "batched", ask(tensor(shape=[3, 4], data=list(range(12))))),
    infer("a refused one, not counted", "batched", ask(tensor(shape=[9, 4], data=list(range(36))))),
    http("stats after one inference", "GET", "/v2/models/batched/stats"),
    http("stats of every version", "GET", "/v2/models/versions_specific/stats"),
    http("index", "POST", "/v2/repository/index"),
    http("index of ready models", "POST", "/v2/repository/index", {"ready": True}),
    http("index, ready false", "POST", "/v2/repository/index", {"ready": False}),
    http("index, ready of a wrong type", "POST", "/v2/repository/index", {"ready": "yes"}),
    http("index, malformed JSON", "POST", "/v2/repository/index", b"{"),
    http("index of a named repository", "POST", "/v2/repository/some/index"),
    http("load without model control", "POST", "/v2/repository/models/single/load"),
    http("unload without model control", "POST", "/v2/repository/models/single/unload"),
    http("load of a named repository", "POST", "/v2/repository/some/models/single/load"),
    http("unload of a named repository", "POST", "/v2/repository/some/models/single/unload"),
    http("unknown route", "GET", "/v2/nothing"),
    http("root", "GET", "/"),
    http("version one of the protocol", "GET", "/v1/models"),
    http("trailing slash", "GET", "/v2/"),
    http("trailing slash after a model", "GET", "/v2/models/single/"),
    http("two slashes", "GET", "/v2//health/live"),
    http("a base path", "GET", "/base/v2/health/live"),
    http("GET on infer", "GET", "/v2/models/single/infer"),
    http("PUT on infer", "PUT", "/v2/models/single/infer", GOOD),
    http("DELETE on a model", "DELETE", "/v2/models/single"),
    http("POST on metadata", "POST", "/v2/models/single", {}),
    http("POST on live", "POST", "/v2/health/live"),
    http("HEAD on live", "HEAD", "/v2/health/live"),
    http("GET on the index", "GET", "/v2/repository/index"),
    http("GET on load", "GET", "/v2/repository/models/single/load"),
    http("a percent in the name", "GET", "/v2/models/sing%6ce"),
]


# === gRPC ===


def rpc(name, method, message):
    return {"name": f"gRPC {name}", "rpc": (method, message)}


def stream(name, *requests):
    return {"name": f"gRPC stream: {name}", "stream": requests}


def tin(name="INPUT0", shape=(1, 4), datatype="FP32", contents=None, **parameters):
    message = pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)
    if contents:
        message.contents.CopyFrom(pb.InferTensorContents(**contents))
    put(message.parameters, parameters)
    return message


def tout(name="OUTPUT0", **parameters):
    message = pb.ModelInferRequest.InferRequestedOutputTensor(name=name)
    put(message.parameters, parameters)
    return message


def put(target, parameters):
    for key, value in parameters.items():
        if isinstance(value, bool):
            target[key].bool_param = value
        elif isinstance(value, int):
            target[key].int64_param = value
        elif isinstance(value, float):
            target[key].double_param = value
        else:
            target[key].string_param = value


def ginfer(name, model, *inputs, raw=None, outputs=(), version="", id="", **parameters):
    raw = [ROW] * len(inputs) if raw is None else raw
    message = pb.ModelInferRequest(model_name=model, model_version=version, id=id, inputs=inputs, outputs=outputs, raw_input_contents=raw)
    put(message.parameters, parameters)
    return rpc(name, "ModelInfer", message)


CONTENTS = {"fp32_contents": [1, 2, 3, 4]}

GRPC_INFER = [
    ginfer("one input", "single", tin()),
    ginfer("two inputs", "two", tin(), tin("INPUT1"), raw=[ROW, floats(5, 6, 7, 8)]),
    ginfer("an id is echoed", "single", tin(), id="my-id"),
    ginfer("typed contents", "single", tin(contents=CONTENTS), raw=[]),
    ginfer("outputs in the asked order", "two", tin(), tin("INPUT1"), outputs=[tout("OUTPUT1"), tout()]),
    ginfer("one of two outputs", "two", tin(), tin("INPUT1"), outputs=[tout("OUTPUT1")]),
    ginfer("version one", "single", tin(), version="1"),
    ginfer("request parameters are not echoed", "single", tin(), a=1, b="x", c=True, d=1.5),
    ginfer("strings", "text", tin(shape=[1, 2], datatype="BYTES"), raw=[strings(b"abc", b"")]),
    ginfer("typed strings", "text", tin(shape=[1, 2], datatype="BYTES", contents={"bytes_contents": [b"abc", b"\xff"]}), raw=[]),
    ginfer("no batching", "nobatch", tin(shape=[2, 2])),
    ginfer("dynamic batching", "batched", tin()),
    ginfer("variable dimension of zero", "wild", tin(shape=[0]), raw=[b""]),
    *[
        ginfer(f"typed {kind}", f"type_{kind.lower()}", tin(shape=[len(data)], datatype=kind, contents={f"{field}_contents": data}), raw=[])
        for kind, field, data in [
            ("BOOL", "bool", [True, False]),
            ("UINT8", "uint", [0, 255]),
            ("UINT16", "uint", [0, 65535]),
            ("UINT32", "uint", [0, 4294967295]),
            ("UINT64", "uint64", [0, 18446744073709551615]),
            ("INT8", "int", [-128, 127]),
            ("INT16", "int", [-32768, 32767]),
            ("INT32", "int", [-2147483648, 2147483647]),
            ("INT64", "int64", [-9223372036854775808, 9223372036854775807]),
            ("FP32", "fp32", [1.5, -2.5]),
            ("FP64", "fp64", [1.5, -2.5]),
        ]
    ],
    ginfer("FP16", "type_fp16", tin(shape=[2], datatype="FP16"), raw=[b"\x00\x3c\x00\x40"]),
    ginfer("typed value beyond the type", "type_uint8", tin(shape=[1], datatype="UINT8", contents={"uint_contents": [300]}), raw=[]),
    ginfer("more raw contents than inputs", "single", tin(), raw=[ROW, ROW]),
    ginfer("classes", "labelled", tin(), outputs=[tout(classification=2)]),
    ginfer("unknown model", "nosuch", tin()),
    ginfer("empty model name", "", tin()),
    ginfer("unknown version", "single", tin(), version="9"),
    ginfer("version zero", "single", tin(), version="0"),
    ginfer("negative version", "single", tin(), version="-1"),
    ginfer("version that is no number", "single", tin(), version="abc"),
    ginfer("version with a tail", "single", tin(), version="1x"),
    ginfer("version beyond 64 bits", "single", tin(), version="99999999999999999999"),
    ginfer("no inputs", "single"),
    ginfer("an input is missing", "two", tin()),
    ginfer("an input is unknown", "single", tin("NOPE")),
    ginfer("one input too many", "single", tin(), tin("NOPE")),
    ginfer("only the optional input", "optional", tin("INPUT1")),
    ginfer("an input twice", "two", tin(), tin()),
    ginfer("an output is unknown", "single", tin(), outputs=[tout("NOPE")]),
    ginfer("an output twice", "single", tin(), outputs=[tout(), tout()]),
    ginfer("wrong data type", "single", tin(datatype="INT32")),
    ginfer("wrong data type with id", "single", tin(datatype="INT32"), id="abc"),
    ginfer("unknown data type", "single", tin(datatype="FLOAT")),
    ginfer("empty data type", "single", tin(datatype="")),
    ginfer("wrong shape", "single", tin(shape=[1, 5]), raw=[floats(1, 2, 3, 4, 5)]),
    ginfer("wrong rank", "single", tin(shape=[4])),
    ginfer("wrong shape without batching", "nobatch", tin(shape=[4, 1])),
    ginfer("no shape at all", "single", tin(shape=[]), raw=[floats(1)]),
    ginfer("no shape without batching", "wild", tin(shape=[]), raw=[floats(1)]),
    ginfer("batches differ", "two", tin(shape=[2, 4]), tin("INPUT1"), raw=[ROW + ROW, ROW]),
    ginfer("batch too big", "single", tin(shape=[9, 4]), raw=[ROW * 9]),
    ginfer("batch of zero", "single", tin(shape=[0, 4]), raw=[b""]),
    ginfer("negative dimension", "single", tin(shape=[1, -1])),
    ginfer("negative dimension where one is variable", "wild", tin(shape=[-1])),
    ginfer("raw contents too short", "single", tin(), raw=[ROW[:12]]),
    ginfer("raw contents too long", "single", tin(), raw=[ROW + b"\0\0\0\0"]),
    ginfer("raw contents for the first input only", "two", tin(), tin("INPUT1"), raw=[ROW]),
    ginfer("no contents at all", "single", tin(), raw=[]),
    ginfer("raw and typed contents", "single", tin(contents=CONTENTS)),
    ginfer("typed contents of another type", "single", tin(contents={"int_contents": [1, 2, 3, 4]}), raw=[]),
    ginfer("typed contents twice", "single", tin(contents={**CONTENTS, "int_contents": [1, 2, 3, 4]}), raw=[]),
    ginfer("typed contents too few", "single", tin(contents={"fp32_contents": [1, 2]}), raw=[]),
    ginfer("typed contents for FP16", "type_fp16", tin(shape=[2], datatype="FP16", contents={"fp32_contents": [1, 2]}), raw=[]),
    ginfer("strings too few", "text", tin(shape=[1, 2], datatype="BYTES"), raw=[strings(b"a")]),
    ginfer("strings too many", "text", tin(shape=[1, 2], datatype="BYTES"), raw=[strings(b"a", b"b", b"c")]),
    ginfer("string length cut off", "text", tin(shape=[1, 2], datatype="BYTES"), raw=[strings(b"a") + b"\x01\x00"]),
    ginfer("typed strings too few", "text", tin(shape=[1, 2], datatype="BYTES", contents={"bytes_contents": [b"abc"]}), raw=[]),
    ginfer("reserved parameter", "single", tin(), triton_thing=1),
    ginfer("priority of a wrong type", "single", tin(), priority="high"),
    ginfer("negative priority", "single", tin(), priority=-1),
    ginfer("timeout of a wrong type", "single", tin(), timeout="soon"),
    ginfer("sequence_id of a wrong type", "single", tin(), sequence_id=True),
    ginfer("sequence_start of a wrong type", "single", tin(), sequence_start=1),
    ginfer("sequence_end of a wrong type", "single", tin(), sequence_end=1),
    ginfer("empty final response of a wrong type", "single", tin(), triton_enable_empty_final_response=1),
    ginfer("classification of a wrong type", "single", tin(), outputs=[tout(classification="two")]),
    ginfer("negative classification", "single", tin(), outputs=[tout(classification=-1)]),
    ginfer("shared memory region unknown", "single", tin(shared_memory_region="r", shared_memory_byte_size=16), raw=[]),
    ginfer("shared memory region of a wrong type", "single", tin(shared_memory_region=1, shared_memory_byte_size=16), raw=[]),
    ginfer("shared memory size without region", "single", tin(shared_memory_byte_size=16), raw=[]),
    ginfer("shared memory offset without region", "single", tin(shared_memory_offset=16), raw=[]),
    ginfer("shared memory region without size", "single", tin(shared_memory_region="r"), raw=[]),
]

GRPC_RESOURCES = [
    rpc("server live", "ServerLive", pb.ServerLiveRequest()),
    rpc("server ready", "ServerReady", pb.ServerReadyRequest()),
    rpc("server metadata", "ServerMetadata", pb.ServerMetadataRequest()),
    *[
        rpc(f"{call} of {which}", call, getattr(pb, f"{call}Request")(name=model, version=version))
        for which, model, version in (
            ("a model", "single", ""),
            ("a model of strings", "text", ""),
            ("one version", "versions_specific", "1"),
            ("all versions", "versions_specific", ""),
            ("a version not served", "versions_specific", "2"),
            ("an unknown version", "single", "9"),
            ("a version that is no number", "single", "x"),
            ("a negative version", "single", "-1"),
            ("an unknown model", "nosuch", ""),
        )
        for call in ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics")
    ],
    ginfer("an inference to be counted", "batched", tin(shape=[3, 4]), raw=[ROW * 3]),
    rpc("statistics after one inference", "ModelStatistics", pb.ModelStatisticsRequest(name="batched")),
    rpc("index", "RepositoryIndex", pb.RepositoryIndexRequest()),
    rpc("index of ready models", "RepositoryIndex", pb.RepositoryIndexRequest(ready=True)),
    rpc("index of a named repository", "RepositoryIndex", pb.RepositoryIndexRequest(repository_name="some")),
    rpc("load without model control", "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="single")),
    rpc("unload without model control", "RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="single")),
    rpc("health check", "grpc.health.v1.Health/Check", b""),
    rpc("health check of a service", "grpc.health.v1.Health/Check", b"\x0a\x04some"),
    rpc("unknown method", "inference.GRPCInferenceService/Nothing", b""),
    rpc("unknown service", "some.Service/Nothing", b""),
    rpc("a message that is none", "inference.GRPCInferenceService/ModelInfer", b"\xff\xff\xff"),
]


# === model control ===


def load(model, **body):
    return http(f"load {model}" + (" with " + ", ".join(body) if body else ""), "POST", f"/v2/repository/models/{model}/load", body or b"")


def unload(model, **body):
    return http(f"unload {model}" + (" with " + ", ".join(body) if body else ""), "POST", f"/v2/repository/models/{model}/unload", body or b"")


def named(case, name):
    return {**case, "name": name}


OVERRIDE = {"config": '{"backend":"BACKEND","max_batch_size":2,"input":[{"name":"INPUT0","data_type":"TYPE_FP32","dims":[4]}],"output":[{"name":"OUTPUT0","data_type":"TYPE_FP32","dims":[4]}]}'}

CONTROL = [
    http("ready with nothing loaded", "GET", "/v2/health/ready"),
    http("index with nothing loaded", "POST", "/v2/repository/index"),
    http("ready of a model not loaded", "GET", "/v2/models/single/ready"),
    http("metadata of a model not loaded", "GET", "/v2/models/single"),
    infer("infer on a model not loaded", "single", GOOD),
    unload("single") | {"name": "unload a model that is not loaded"},
    unload("nosuch") | {"name": "unload an unknown model"},
    load("single"),
    infer("infer after loading", "single", GOOD),
    named(load("single"), "load it again"),
    http("index with one loaded", "POST", "/v2/repository/index", {"ready": True}),
    load("nosuch"),
    named(load("%20"), "load a blank name"),
    named(load(".."), "load dots"),
    named(load("a%2Fb"), "load a name with an escaped slash"),
    *[
        case
        for broken in (
            "bad_field", "bad_syntax", "bad_enum", "bad_dims", "bad_batch", "bad_preferred", "zero_preferred", "bad_priority", "bad_reshape",
            "no_data_type", "no_dims", "no_input_name", "gpu_group", "cpu_group_gpus", "model_group_gpus",
            "no_version", "wrong_versions", "policy_unmet", "wrong_name", "no_backend", "bad_platform", "bad_pair", "nothing_said",
        )
        for case in (
            load(broken),
            http(f"ready of {broken}", "GET", f"/v2/models/{broken}/ready"),
            infer(f"infer on {broken}", broken, GOOD),
        )
    ],
    http("index after failed loads", "POST", "/v2/repository/index"),
    http("ready after failed loads", "GET", "/v2/health/ready"),
    http("live after failed loads", "GET", "/v2/health/live"),
    infer("the neighbour still answers", "single", GOOD),
    named(http("", "POST", "/v2/repository/models/two/load", b"{"), "load with malformed JSON"),
    named(http("", "POST", "/v2/repository/models/two/load", {"parameters": {"nonsense": "1"}}), "load with an unknown parameter"),
    named(http("", "POST", "/v2/repository/models/two/load", {"parameters": {"config": 5}}), "load with a config that is no text"),
    named(http("", "POST", "/v2/repository/models/two/load", {"parameters": {"config": "{"}}), "load with a malformed config"),
    named(http("", "POST", "/v2/repository/models/two/load", {"parameters": {"config": '{"nonsense":1}'}}), "load with an unknown config field"),
    named(http("", "POST", "/v2/repository/models/two/load", {"parameters": {"file:1/model.x": "AAAA"}}), "load with a file and no config"),
    named(http("", "POST", "/v2/repository/models/single/load", {"parameters": OVERRIDE}), "load with another config"),
    http("config after the override", "GET", "/v2/models/single/config"),
    infer("batch too big for the override", "single", ask(tensor(shape=[3, 4], data=list(range(12))))),
    named(load("single"), "a plain load keeps the override"),
    infer("the batch is too big for the kept override", "single", ask(tensor(shape=[3, 4], data=list(range(12))))),
    unload("single"),
    named(infer("", "single", GOOD), "infer after unloading"),
    http("metadata after unloading", "GET", "/v2/models/single"),
    http("model ready after unloading", "GET", "/v2/models/single/ready"),
    http("stats after unloading", "GET", "/v2/models/single/stats"),
    named(http("", "POST", "/v2/repository/models/single/unload", {"parameters": {"unload_dependents": True}}), "unload with dependents"),
    named(http("", "POST", "/v2/repository/models/single/unload", {"parameters": {"unload_dependents": "yes"}}), "unload with dependents of a wrong type"),
    named(http("", "POST", "/v2/repository/some/models/single/load", b""), "load from a named repository"),
    named(http("", "POST", "/v2/repository/some/models/single/unload", b""), "unload from a named repository"),
    rpc("load", "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="two")),
    rpc("load an unknown model", "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="nosuch")),
    rpc("load a broken model", "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="bad_dims")),
    rpc("load without a name", "RepositoryModelLoad", pb.RepositoryModelLoadRequest()),
    rpc("load with an unknown parameter", "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="two", parameters={"x": pb.ModelRepositoryParameter(string_param="1")})),
    rpc("load with a config that is no text", "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="two", parameters={"config": pb.ModelRepositoryParameter(int64_param=1)})),
    rpc("load from a named repository", "RepositoryModelLoad", pb.RepositoryModelLoadRequest(repository_name="some", model_name="two")),
    rpc("unload", "RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="two")),
    rpc("unload an unknown model", "RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="nosuch")),
    rpc("unload with dependents of a wrong type", "RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="two", parameters={"unload_dependents": pb.ModelRepositoryParameter(int64_param=1)})),
]

BROKEN_START = [
    http("live", "GET", "/v2/health/live"),
    http("ready", "GET", "/v2/health/ready"),
    http("index", "POST", "/v2/repository/index"),
    infer("infer on the good model", "single", GOOD),
    infer("infer on a broken model", "bad_dims", GOOD),
    http("ready of the good model", "GET", "/v2/models/single/ready"),
    http("ready of a broken model", "GET", "/v2/models/gpu_group/ready"),
    http("metadata of a broken model", "GET", "/v2/models/no_backend"),
    rpc("server ready", "ServerReady", pb.ServerReadyRequest()),
    rpc("infer on a broken model", "ModelInfer", pb.ModelInferRequest(model_name="no_backend", inputs=[tin()], raw_input_contents=[ROW])),
]

def x(shape=(1, 4), data=(1, 2, 3, 4), **more):
    return tensor("X", shape=shape, data=data, **more)


EIGHT = x((2, 4), (1, 2, 3, 4, 5, 6, 7, 8))
SERVED = (*pipelines.GOOD, "e_no_platform", "e_no_version", "e_two_versions")

ENSEMBLES = [
    http("index", "POST", "/v2/repository/index"),
    *[http(f"configuration of {name}", "GET", f"/v2/models/{name}/config") for name in SERVED],
    *[http(f"metadata of {name}", "GET", f"/v2/models/{name}") for name in ("e_one", "e_fan", "e_optional_given", "e_no_batch_itself", "e_two_versions")],
    *[infer(f"infer on {name}", name, ask(x())) for name in ("e_one", "e_chain", "e_steps_backwards", "e_same_twice", "e_inner_output", "e_part_of_outputs", "e_smaller_batch",
      "e_no_batch_itself", "e_no_batch_open", "e_open_over_fixed", "e_optional_not_mapped", "e_optional_given", "e_nested", "e_labels_of_member", "e_exact_version", "e_latest_version",
      "e_no_platform", "e_no_version", "e_two_versions")],
    infer("two rows", "e_chain", ask(EIGHT)),
    infer("two rows through steps of different batching", "e_no_batch_open", ask(EIGHT)),
    infer("two rows for a member without batching", "e_no_batch_member", ask(x((2, 2, 2), range(8)))),
    infer("one row for a member without batching", "e_no_batch_member", ask(x((1, 2, 2), range(4)))),
    infer("no batching at all", "e_wider", ask(x([3], [1, 2, 3]))),
    infer("a fan", "e_fan", ask(x(), tensor("W", data=[5, 6, 7, 8]))),
    infer("one output of a fan", "e_fan", ask(x(), tensor("W", data=[5, 6, 7, 8]), outputs=[out("Z")])),
    infer("both outputs in the other order", "e_fan", ask(x(), tensor("W", data=[5, 6, 7, 8]), outputs=[out("Z"), out("Y")])),
    infer("unequal rows", "e_fan", ask(x(), tensor("W", shape=(2, 4), data=range(8)))),
    infer("only the inner output", "e_inner_output", ask(x(), outputs=[out("A")])),
    infer("the optional input too", "e_optional_given", ask(x(), tensor("W", data=[5, 6, 7, 8]))),
    infer("strings", "e_text", ask(tensor("X", shape=(1, 2), datatype="BYTES", data=["a", "b"]))),
    infer("id and parameters", "e_chain", ask(x(), id="mine", parameters={"a": 1, "priority": 2, "timeout": 1000000})),
    infer("sequence parameters", "e_chain", ask(x(), parameters={"sequence_id": 5, "sequence_start": True, "sequence_end": True})),
    infer("sequence flags without an id", "e_chain", ask(x(), parameters={"sequence_start": True})),
    infer("classes by the labels of a member", "e_labels_of_member", ask(x(), outputs=[out("Y", classification=2)])),
    infer("classes", "e_one", ask(x(), outputs=[out("Y", classification=1)])),
    binary("binary in and out", "e_chain", ask(x(data=None, **RAW), outputs=[out("Y", binary_data=True)]), ROW),
    infer("raw", "e_one", ROW, Inference_Header_Content_Length="0"),
    infer("too many rows", "e_chain", ask(x((9, 4), range(36)))),
    infer("too many rows for the ensemble alone", "e_smaller_batch", ask(x((3, 4), range(12)))),
    infer("a missing input", "e_fan", ask(x())),
    infer("an unknown input", "e_one", ask(tensor("Q"))),
    infer("an unknown output", "e_one", ask(x(), outputs=[out("Q")])),
    infer("an inner tensor as output", "e_chain", ask(x(), outputs=[out("a")])),
    infer("a wrong type", "e_one", ask(x(datatype="INT32"))),
    infer("a wrong shape", "e_one", ask(x((1, 5), range(5)))),
    infer("a shape that the member refuses", "e_open_over_fixed", ask(x((1, 5), range(5)))),
    infer("a shape that the member refuses, with id", "e_open_over_fixed", ask(x((1, 5), range(5)), id="mine")),
    infer("rows that the member refuses", "e_no_batch_open", ask(x((9, 4), range(36)))),
    infer("an unknown version", "e_one/versions/7", ask(x())),
    infer("generate", "e_one", b"") | {"http": ("POST", "/v2/models/e_text/generate"), "body": b'{"X": ["a", "b"], "id": "mine", "a": 1}'},
    rpc("infer", "ModelInfer", pb.ModelInferRequest(model_name="e_chain", id="mine", inputs=[tin("X")], raw_input_contents=[ROW])),
    rpc("a shape that the member refuses", "ModelInfer", pb.ModelInferRequest(model_name="e_open_over_fixed", inputs=[tin("X", (1, 5))], raw_input_contents=[ROW + ROW[:4]])),
    rpc("configuration", "ModelConfig", pb.ModelConfigRequest(name="e_fan")),
    rpc("metadata", "ModelMetadata", pb.ModelMetadataRequest(name="e_fan")),
    stream("one request", pb.ModelInferRequest(model_name="e_chain", id="mine", inputs=[tin("X")], raw_input_contents=[ROW])),
    stream("a request that a member refuses", pb.ModelInferRequest(model_name="e_open_over_fixed", inputs=[tin("X", (1, 5))], raw_input_contents=[ROW + ROW[:4]])),
    stream(
        "an empty final response is asked for",
        pb.ModelInferRequest(model_name="e_chain", inputs=[tin("X")], raw_input_contents=[ROW], parameters={"triton_enable_empty_final_response": pb.InferParameter(bool_param=True)}),
    ),
    *[http(f"statistics of {name}", "GET", f"/v2/models/{name}/stats") for name in ("e_chain", "e_fan", "e_nested", "e_open_over_fixed", "e_same_twice")],
]

ENSEMBLE_CONTROL = [
    load("e_chain"),
    http("index", "POST", "/v2/repository/index", {"ready": True}),
    infer("infer after loading", "e_chain", ask(x())),
    unload("e_chain"),
    http("index after unloading", "POST", "/v2/repository/index", {"ready": True}),
    named(load("e_chain"), "load it again"),
    unload("e_chain", parameters={"unload_dependents": True}),
    http("index after unloading with its parts", "POST", "/v2/repository/index", {"ready": True}),
    load("e_nested"),
    http("index with a nested one", "POST", "/v2/repository/index", {"ready": True}),
    unload("single"),
    named(infer("", "e_one", ask(x())), "infer when its only part is unloaded"),
    named(infer("", "e_nested", ask(x())), "infer on the nested one"),
    http("index after a part was unloaded", "POST", "/v2/repository/index"),
    http("ready of an ensemble without its part", "GET", "/v2/models/e_one/ready"),
    http("server ready without a part", "GET", "/v2/health/ready"),
    named(load("single"), "load the part again"),
    named(infer("", "e_one", ask(x())), "infer when the part is back"),
    named(load("e_one"), "load the ensemble again"),
    named(infer("", "e_one", ask(x())), "infer on the ensemble loaded again"),
    load("e_labels_of_member"),
    named(
        http("", "POST", "/v2/repository/models/labelled/load", {"parameters": {"config": OVERRIDE["config"].replace('"dims":[4]', '"dims":[5]').replace('"max_batch_size":2', '"max_batch_size":4')}}),
        "load the part with another shape",
    ),
    named(infer("", "e_labels_of_member", ask(x())), "infer after the part changed"),
    http("index after the part changed", "POST", "/v2/repository/index", {"ready": True}),
    *[case for name in pipelines.BROKEN for case in (load(name), http(f"ready of {name}", "GET", f"/v2/models/{name}/ready"))],
    http("index after failed loads", "POST", "/v2/repository/index"),
]

def member(name, model, value, shape=(1, 1), id_=None, start=None, end=None, **more):
    """One request of a sequence."""
    given = {"sequence_id": id_, "sequence_start": start, "sequence_end": end}
    parameters = {key: one for key, one in given.items() if one is not None}
    return infer(name, model, ask(tensor("INPUT", shape=shape, datatype="INT32", data=[value] * math.prod(shape)), **({"parameters": parameters} if parameters else {}), **more))


def rpc_member(name, model, value, **parameters):
    message = pb.ModelInferRequest(model_name=model, inputs=[tin("INPUT", (1, 1), "INT32")], raw_input_contents=[struct.pack("<i", value)])
    put(message.parameters, parameters)
    return rpc(name, "ModelInfer", message)


SEQUENCES = [
    *[http(f"configuration of {name}", "GET", f"/v2/models/{name}/config") for name in stateful.SEQUENCES],
    *[http(f"metadata of {name}", "GET", f"/v2/models/{name}") for name in ("s_direct", "s_oldest")],
    *[
        case
        for model, shape in (("s_direct", (1, 1)), ("s_direct_named", (1, 1)), ("s_direct_one", (1,)), ("s_oldest", (1, 1)), ("s_oldest_bare", (1, 1)))
        for case in (
            member(f"{model}: no id", model, 1, shape),
            member(f"{model}: id zero", model, 1, shape, 0, True),
            member(f"{model}: empty id", model, 1, shape, "", True),
            member(f"{model}: no start", model, 1, shape, 7),
            member(f"{model}: no start, with request id", model, 1, shape, 7, id="mine"),
            member(f"{model}: first", model, 1, shape, 7, True),
            member(f"{model}: second", model, 2, shape, 7),
            member(f"{model}: start again", model, 5, shape, 7, True),
            member(f"{model}: after starting again", model, 6, shape, 7),
            member(f"{model}: last", model, 3, shape, 7, False, True),
            member(f"{model}: after the last", model, 1, shape, 7),
            member(f"{model}: first and last", model, 9, shape, 8, True, True),
            member(f"{model}: after first and last", model, 1, shape, 8),
            member(f"{model}: the id as text", model, 1, shape, "7", True, True),
        )
    ],
    *[
        case
        for model in ("s_direct", "s_oldest")
        for case in (
            member(f"{model}: two rows", model, 1, (2, 1), 9, True),
            member(f"{model}: ids are large", model, 1, (1, 1), 18446744073709551615, True, True),
            member(f"{model}: a text of 128", model, 1, (1, 1), "x" * 128, True, True),
            member(f"{model}: a text of 129", model, 1, (1, 1), "x" * 129, True, True),
            member(f"{model}: a negative id", model, 1, (1, 1), -1, True, True),
            member(f"{model}: a fractional id", model, 1, (1, 1), 1.5, True, True),
            member(f"{model}: start is a number", model, 1, (1, 1), 5, 1, True),
            member(f"{model}: controls given by the caller", model, 1, (1, 1), 5, True, True)
            | {"body": json.dumps(ask(tensor("INPUT", (1, 1), "INT32", [1]), tensor("START", (1, 1), "INT32", [1]), parameters={"sequence_id": 5, "sequence_start": True, "sequence_end": True})).encode()},
            rpc_member(f"{model}: no id", model, 1),
            rpc_member(f"{model}: no start", model, 1, sequence_id=70),
            rpc_member(f"{model}: first", model, 1, sequence_id=70, sequence_start=True),
            rpc_member(f"{model}: last", model, 4, sequence_id=70, sequence_end=True),
            rpc_member(f"{model}: an id of text", model, 4, sequence_id="abc", sequence_start=True, sequence_end=True),
            stream(
                f"{model}: a whole sequence",
                *[
                    pb.ModelInferRequest(
                        model_name=model,
                        inputs=[tin("INPUT", (1, 1), "INT32")],
                        raw_input_contents=[struct.pack("<i", value)],
                        parameters={"sequence_id": pb.InferParameter(int64_param=99), "sequence_start": pb.InferParameter(bool_param=value == 1), "sequence_end": pb.InferParameter(bool_param=value == 3)},
                    )
                    for value in (1, 2, 3)
                ],
            ),
        )
    ],
    *[http(f"statistics of {name}", "GET", f"/v2/models/{name}/stats") for name in stateful.SEQUENCES],
]

SEQUENCE_CONTROL = [
    *[case for name in stateful.BROKEN_SEQUENCES for case in (load(name), infer(f"infer on {name}", name, ask(tensor("INPUT", (1, 1), "INT32", [1]))))],
    http("index", "POST", "/v2/repository/index"),
    load("s_direct"),
    member("first", "s_direct", 1, id_=5, start=True),
    unload("s_direct"),
    named(load("s_direct"), "load it again"),
    member("the sequence is gone", "s_direct", 1, id_=5),
]


def repeat_request(values, model="repeat", delays=None, **parameters):
    delays = delays or [0] * len(values)
    message = pb.ModelInferRequest(
        model_name=model,
        inputs=[tin("IN", (len(values),), "INT32"), tin("DELAY", (len(values),), "UINT32"), tin("WAIT", (1,), "UINT32")],
        raw_input_contents=[struct.pack(f"<{len(values)}i", *values), struct.pack(f"<{len(values)}I", *delays), struct.pack("<I", 0)],
    )
    if "id" in parameters:
        message.id = parameters.pop("id")
    put(message.parameters, parameters)
    return message


def repeat_json(values):
    return {"IN": values, "DELAY": [0] * len(values), "WAIT": 0}


def generate(name, model, body, stream=False):
    return http(name, "POST", f"/v2/models/{model}/generate{'_stream' if stream else ''}", body)


DECOUPLED = [
    *[http(f"configuration of {name}", "GET", f"/v2/models/{name}/config") for name in ("repeat", *stateful.OVER_REPEATS)],
    *[
        case
        for model in ("repeat", *stateful.OVER_REPEATS)
        for case in (
            infer(f"{model}: infer", model, ask(tensor("IN", [1], "INT32", [1]), tensor("DELAY", [1], "UINT32", [0]), tensor("WAIT", [1], "UINT32", [0]))),
            rpc(f"{model}: infer", "ModelInfer", repeat_request([1], model)),
            stream(f"{model}: one response", repeat_request([7], model)),
            stream(f"{model}: three responses", repeat_request([7, 8, 9], model, id="mine")),
            stream(f"{model}: no response", repeat_request([], model)),
            stream(f"{model}: three responses and an empty final one", repeat_request([7, 8, 9], model, triton_enable_empty_final_response=True)),
            stream(f"{model}: no response and an empty final one", repeat_request([], model, triton_enable_empty_final_response=True)),
            generate(f"{model}: generate one", model, repeat_json([7])),
            generate(f"{model}: generate three", model, repeat_json([7, 8, 9])),
            generate(f"{model}: generate none", model, repeat_json([])),
            generate(f"{model}: stream one", model, repeat_json([7]), True),
            generate(f"{model}: stream three", model, {**repeat_json([7, 8, 9]), "id": "mine"}, True),
            generate(f"{model}: stream none", model, repeat_json([]), True),
            generate(f"{model}: stream without an input", model, {"IN": [1]}, True),
            generate(f"{model}: stream of a wrong type", model, {**repeat_json([7]), "WAIT": "x"}, True),
        )
    ],
    stream("a missing input", pb.ModelInferRequest(model_name="repeat", inputs=[tin("IN", (1,), "INT32")], raw_input_contents=[struct.pack("<i", 1)])),
    stream("an unknown model, then a known one", repeat_request([1], "nosuch"), repeat_request([1])),
    stream(
        "ordinary with an empty final response", pb.ModelInferRequest(model_name="single", inputs=[tin()], raw_input_contents=[ROW], parameters={"triton_enable_empty_final_response": pb.InferParameter(bool_param=True)}),
    ),
    *[http(f"statistics of {name}", "GET", f"/v2/models/{name}/stats") for name in ("repeat", *stateful.OVER_REPEATS)],
]

RATE_LIMITS = [
    *[case for name in repository.RATE_LIMITED for case in (load(name), infer(f"infer on {name}", name, GOOD))],
    http("index", "POST", "/v2/repository/index"),
    http("configuration", "GET", "/v2/models/r_declared_global/config"),
    unload("r_declared"),
    named(load("r_declared"), "load it again"),
    named(infer("", "r_declared", GOOD), "infer after loading again"),
]

# scene -> what it serves, its flags, its cases
SCENES = {
    "http_infer": {"good": True, "flags": [], "cases": HTTP_ANSWERED + HTTP_CLASSES + HTTP_REFUSED + HTTP_MALFORMED},
    "grpc_infer": {"good": True, "flags": [], "cases": GRPC_INFER},
    "resources": {"good": True, "flags": [], "cases": HTTP_RESOURCES + GRPC_RESOURCES},
    "control": {"good": True, "broken": True, "flags": ["--model-control-mode=explicit"], "cases": CONTROL},
    "ensembles": {"good": True, "ensembles": True, "flags": ["--exit-on-error=false"], "cases": ENSEMBLES},
    "ensemble_control": {
        "good": True,
        "broken": True,
        "ensembles": True,
        "broken_ensembles": True,
        "flags": ["--model-control-mode=explicit"],
        "cases": ENSEMBLE_CONTROL,
    },
    "sequences": {"sequences": True, "flags": [], "cases": SEQUENCES},
    "sequence_control": {"sequences": True, "broken_sequences": True, "flags": ["--model-control-mode=explicit"], "cases": SEQUENCE_CONTROL},
    "decoupled": {"good": True, "repeats": True, "flags": [], "cases": DECOUPLED},
    "rate_limits": {
        "rate_limited": True,
        "flags": ["--model-control-mode=explicit", "--rate-limit=execution_count", "--rate-limit-resource=R1:3", "--rate-limit-resource=G:3"],
        "cases": RATE_LIMITS,
    },
    "rate_limits_default": {"rate_limited": True, "flags": ["--model-control-mode=explicit", "--rate-limit=execution_count"], "cases": RATE_LIMITS},
    "rate_limits_off": {"rate_limited": True, "flags": ["--model-control-mode=explicit"], "cases": RATE_LIMITS},
    "broken_start": {
        "good": True,
        "broken": True,
        "flags": ["--exit-on-error=false"],
        "cases": BROKEN_START,
    },
}
