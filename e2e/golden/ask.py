"""Sends one recorded case to a server, and writes down what came back in a form two servers can be compared by."""

import base64
import gzip
import http.client
import json
import re
import zlib

import grpc
from google.protobuf import json_format
from tritonclient.grpc import service_pb2

KEPT_HEADERS = ("content-type", "inference-header-content-length", "content-encoding", "accept-encoding", "allow")
VOLATILE = [(re.compile(rf'"{key}":\s*"?\d+"?'), f'"{key}":0') for key in ("ns", "last_inference")]
ADDRESS = re.compile("0x[0-9a-f]{9,}")  # of an object in an error's text


def ask(case, http_port, grpc_port, metrics_port=None, deadline=20):
    """The answer to one case: HTTP status, headers that matter and body; or gRPC code and message, or reply; or lines of the metrics page."""
    if "metrics" in case:
        return ask_metrics(case, metrics_port, deadline)
    if "rpc" in case:
        return ask_grpc(case, grpc_port, deadline)
    if "stream" in case:
        return ask_stream(case, grpc_port, deadline)
    return ask_http(case, http_port, deadline)


def ask_http(case, port, deadline):
    method, path = case["http"]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=deadline)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        body = case.get("body", b"")
        headers = header_pairs(case)
        if (body or method == "POST") and not any(name == "Content-Length" for name, _ in headers):
            headers.append(("Content-Length", str(len(body))))
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders(body or None)
        response = connection.getresponse()
        data = response.read()
    except (http.client.RemoteDisconnected, ConnectionResetError):
        return {"closed": "the server closed the connection without an answer"}
    except TimeoutError:
        return {"silent": "no answer within the deadline"}
    finally:
        connection.close()
    kept = {k.lower(): v for k, v in response.getheaders() if k.lower() in KEPT_HEADERS}
    data = {"gzip": gzip.decompress, "deflate": zlib.decompress}.get(kept.get("content-encoding"), bytes)(data)
    split = int(kept.get("inference-header-content-length", len(data)))
    answer = {"status": response.status, "headers": kept, "body": data[:split].decode("utf-8", "backslashreplace")}
    if data[split:]:
        answer["binary"] = base64.b64encode(data[split:]).decode()
    for pattern, calm in VOLATILE:
        answer["body"] = pattern.sub(calm, answer["body"])
    answer["body"] = ADDRESS.sub("0x", answer["body"])
    return answer


def header_pairs(case):
    """The headers of a case, which are a dictionary, or pairs where a name may come twice."""
    headers = case.get("headers", {})
    return list(headers.items() if isinstance(headers, dict) else headers)


def ask_metrics(case, port, deadline):
    """The sorted lines of the metrics page that tell of families with the case's prefix."""
    page = ask_http({"http": ("GET", "/metrics")}, port, deadline)["body"]
    about = re.compile(rf"(# (HELP|TYPE) )?{case['metrics']}")
    return {"lines": sorted(line for line in page.splitlines() if about.match(line))}


def ask_grpc(case, port, deadline):
    service, method, request, reply = rpc_types(case)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(f"/{service}/{method}", request.SerializeToString, reply.FromString)
        try:
            message = call(request, timeout=deadline, metadata=case.get("metadata"))
        except grpc.RpcError as error:
            return {"code": error.code().name, "message": ADDRESS.sub("0x", error.details())}
    text = json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None)
    for pattern, calm in VOLATILE:
        text = pattern.sub(calm, text)
    return {"code": "OK", "reply": json.loads(text)}


def ask_stream(case, port, deadline):
    """Every response of one ModelStreamInfer call whose requests are sent at once, until the server ends it."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            service_pb2.ModelInferRequest.SerializeToString,
            service_pb2.ModelStreamInferResponse.FromString,
        )
        replies = []
        try:
            for message in call(iter(case["stream"]), timeout=deadline, metadata=case.get("metadata")):
                replies.append(json.loads(json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None)))
        except grpc.RpcError as error:
            return {"code": error.code().name, "message": error.details(), "replies": replies}
    return {"code": "OK", "replies": replies}


class RawReply:
    """Reads any reply as bytes."""

    @staticmethod
    def FromString(data):
        return service_pb2.InferTensorContents(bytes_contents=[data])


def rpc_types(case):
    method, request = case["rpc"]
    if isinstance(request, bytes):
        service, _, method = method.rpartition("/")
        return service or "inference.GRPCInferenceService", method, RawRequest(request), RawReply
    return "inference.GRPCInferenceService", method, Typed(request), getattr(service_pb2, f"{method}Response")


class Typed:
    """A generated message as grpc wants it: a serializer that takes the message as its argument."""

    def __init__(self, message):
        self.message = message

    def SerializeToString(self, _self):
        return self.message.SerializeToString()


class RawRequest:
    """Plain bytes in place of a message."""

    def __init__(self, data):
        self.data = data

    def SerializeToString(self, _self):
        return self.data


def describe(case):
    """One line a reader of the recording can understand."""
    if "metrics" in case:
        return f"metrics of {case['metrics']}"
    if "rpc" in case:
        method, request = case["rpc"]
        text = request.hex() if isinstance(request, bytes) else " ".join(str(request).split())
        return f"{method}{metadata_of(case)} {shorten(text)}"
    if "stream" in case:
        return f"ModelStreamInfer{metadata_of(case)} {shorten(' | '.join(' '.join(str(request).split()) for request in case['stream']))}"
    headers = "".join(f" [{k}: {v}]" for k, v in header_pairs(case))
    return f"{' '.join(case['http'])}{headers} {shorten(repr(case.get('body', b''))[2:-1])}".rstrip()


def metadata_of(case):
    return "".join(f" [{key}: {value}]" for key, value in case.get("metadata", ()))


def shorten(text, limit=300):
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"
