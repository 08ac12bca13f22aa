"""Traces: settings, files in Triton's form, and spans for a collector, of requests over both protocols, of ensembles and of models that ask models."""

import http.server
import json
import queue
import re
import threading
import time
from pathlib import Path

import decoupled
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from tritonclient.utils import InferenceServerException

import python_model
from serving import Server, free_ports, until

TENSORS = python_model.tensors(["IN FP32 2"], ["OUT FP32 2"])
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

ECHO = """
class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            print("CONTEXT", request.request_id(), request.trace().get_context(), flush=True)
            values = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", values)]))
        return responses
"""

ASKS = """
class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            asked = pb_utils.InferenceRequest(
                model_name="echo", requested_output_names=["OUT"], trace=request.trace(),
                inputs=[pb_utils.get_input_tensor_by_name(request, "IN")],
            )
            values = pb_utils.get_output_tensor_by_name(asked.exec(), "OUT").as_numpy()
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", values)]))
        return responses
"""

STEPS = """
platform: "ensemble"
input [ { name: "IN" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "OUT" data_type: TYPE_FP32 dims: [ 2 ] } ]
ensemble_scheduling {
  step [
    { model_name: "echo" model_version: -1 input_map { key: "IN" value: "IN" } output_map { key: "OUT" value: "between" } },
    { model_name: "echo" model_version: -1 input_map { key: "IN" value: "between" } output_map { key: "OUT" value: "OUT" } }
  ]
}
"""

RUN = ["REQUEST_START", "QUEUE_START", "COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START", "COMPUTE_END", "REQUEST_END"]
HTTP = ["HTTP_RECV_START", "HTTP_RECV_END", "INFER_RESPONSE_COMPLETE", "HTTP_SEND_START", "HTTP_SEND_END"]
GRPC = ["GRPC_WAITREAD_START", "GRPC_WAITREAD_END", "INFER_RESPONSE_COMPLETE", "GRPC_SEND_START", "GRPC_SEND_END"]


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    python_model.write(folder, "echo", ECHO, TENSORS)
    python_model.write(folder, "asks", ASKS, TENSORS)
    (folder / "steps" / "1").mkdir(parents=True)
    (folder / "steps" / "config.pbtxt").write_text(STEPS)
    return folder


class Collector:
    """What a collector does: takes spans, decodes them, and answers."""

    def __init__(self, status=200, delay=0):
        self.spans, self.resources, self.requests = [], [], 0
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                time.sleep(delay)
                collector.take(self.path, self.headers["content-type"], body)
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/traces"

    def take(self, path, content_type, body):
        assert (path, content_type) == ("/v1/traces", "application/x-protobuf")
        self.requests += 1
        for spans in trace_service_pb2.ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append({pair.key: pair.value.string_value for pair in spans.resource.attributes})
            self.spans += [span for scope in spans.scope_spans for span in scope.spans]

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def flags(self):
        settings = ["mode=opentelemetry", f"opentelemetry,url={self.url}", "opentelemetry,bsp_schedule_delay=100", "opentelemetry,resource=team=a"]
        return [f"--trace-config={setting}" for setting in settings]


def configured(*settings):
    return [f"--trace-config={setting}" for setting in settings]


def infer(server, model, request_id, headers=None):
    with httpclient.InferenceServerClient(server.url) as client:
        tensor = httpclient.InferInput("IN", [2], "FP32")
        tensor.set_data_from_numpy(np.array([1, 2.5], np.float32))
        return client.infer(model, [tensor], request_id=request_id, headers=headers)


def grpc_tensor():
    tensor = grpcclient.InferInput("IN", [2], "FP32")
    tensor.set_data_from_numpy(np.array([1, 2.5], np.float32))
    return tensor


def parts(document):
    """The parts of the requests in a trace file, by number: what is known of each, the points it reached in time, and its tensors."""
    found = {}
    for piece in document:
        part = found.setdefault(piece["id"], {"points": [], "tensors": []})
        part.update({key: value for key, value in piece.items() if key not in ("timestamps", "tensor", "activity")})
        part["points"] += [(point["ns"], point["name"]) for point in piece.get("timestamps", [])]
        if "tensor" in piece:
            part["tensors"].append((piece["activity"], piece["tensor"]))
    for part in found.values():
        part["points"] = [name for _, name in sorted(part["points"], key=lambda point: point[0])]
    return found


# Recorded of Triton 2.51. Tensors are told of where they are asked for.
HEAD = ["model", "REQUEST_START", "QUEUE_START", "TENSOR_QUEUE_INPUT", "TENSOR_BACKEND_OUTPUT"]
TAIL = ["COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START", "COMPUTE_END", "REQUEST_END"]
HTTP_ORDER = ["HTTP_RECV_START", "HTTP_RECV_END", *HEAD, "INFER_RESPONSE_COMPLETE", *TAIL, "HTTP_SEND_START", "HTTP_SEND_END"]
GRPC_ORDER = [*HEAD, *TAIL, *GRPC]


def order(document, number):
    """What a trace file tells of a part, as it stands there."""
    pieces = [piece for piece in document if piece["id"] == number]
    return ["model" if "model_name" in it else it.get("activity") or " ".join(point["name"] for point in it["timestamps"]) for it in pieces]


def by_request(path):
    return {part["request_id"]: part for part in parts(json.loads(Path(path).read_text())).values() if "parent_id" not in part}


def test_a_file_tells_when_requests_reached_which_point(repository, tmp_path):
    file = tmp_path / "trace.json"
    with Server(repository, *configured(f"triton,file={file}", "level=TIMESTAMPS", "rate=1")) as server:
        infer(server, "echo", "h")
        with grpcclient.InferenceServerClient(server.grpc_url) as client:
            client.infer("echo", [grpc_tensor()], request_id="g")
            answers = queue.Queue()
            client.start_stream(lambda result, error: answers.put((result, error)))
            client.async_stream_infer("echo", [grpc_tensor()], request_id="s")
            assert answers.get(timeout=30)[1] is None
            client.stop_stream()
        assert server.request("POST", "/v2/models/echo/generate", json.dumps({"id": "f", "IN": [1, 2]}))[0] == 200
        infer(server, "steps", "e")
        infer(server, "asks", "a")
        with pytest.raises(InferenceServerException):
            infer(server, "nothing", "n")
    document = json.loads(file.read_text())
    found = parts(document)
    own = by_request(file)
    assert set(own) == {"h", "g", "s", "f", "e", "a"}
    assert all((part["model_version"], part["tensors"]) == (1, []) for part in found.values())
    for request, front_end in (("h", HTTP), ("f", HTTP), ("a", HTTP), ("g", GRPC), ("s", GRPC)):
        assert sorted(own[request]["points"]) == sorted(RUN + front_end), request
        assert [name for name in own[request]["points"] if name in RUN] == RUN
        assert [name for name in own[request]["points"] if name in front_end] == front_end
    assert sorted(own["e"]["points"]) == sorted(["REQUEST_START", "QUEUE_START", "REQUEST_END", *HTTP])
    children = {name: [part for part in found.values() if part.get("parent_id") == own[name]["id"]] for name in ("e", "a")}
    assert [(part["model_name"], part["points"]) for part in children["e"]] == [("echo", RUN)] * 2
    assert [(part["model_name"], part["points"]) for part in children["a"]] == [("echo", RUN)]


def test_a_file_has_the_order_of_triton(repository, tmp_path):
    file = tmp_path / "trace.json"
    with Server(repository, *configured(f"triton,file={file}", "level=TIMESTAMPS", "level=TENSORS", "rate=1")) as server:
        infer(server, "echo", "h")
        with grpcclient.InferenceServerClient(server.grpc_url) as client:
            client.infer("echo", [grpc_tensor()], request_id="g")
    document = json.loads(file.read_text())
    assert [order(document, number) for number in (1, 2)] == [HTTP_ORDER, GRPC_ORDER]


def test_a_file_has_only_tensors_where_the_level_asks_for_no_more(repository, tmp_path):
    file = tmp_path / "trace.json"
    with Server(repository, *configured(f"triton,file={file}", "level=TENSORS", "rate=1")) as server:
        infer(server, "echo", "h")
    part = parts(json.loads(file.read_text()))[1]
    tensor = {"data": "1,2.5", "shape": "2", "dtype": "FP32"}
    assert set(part) == {"id", "points", "tensors"} and part["points"] == []
    assert part["tensors"] == [("TENSOR_QUEUE_INPUT", {"name": "IN", **tensor}), ("TENSOR_BACKEND_OUTPUT", {"name": "OUT", **tensor})]


def test_rate_count_and_frequency_decide_what_lies_in_which_file(repository, tmp_path):
    file = tmp_path / "t"
    with Server(repository, *configured(f"triton,file={file}", "level=TIMESTAMPS", "rate=2", "triton,log-frequency=2")) as server:
        for number in range(1, 11):
            infer(server, "echo", str(number))
        until(lambda: Path(f"{file}.1").exists(), "the second file", 30)
        assert server.request("POST", "/v2/trace/setting", json.dumps({"trace_count": "1", "trace_rate": "1"}))[0] == 200
        for number in range(11, 14):
            infer(server, "echo", str(number))
        until(lambda: Path(f"{file}.3").exists(), "the file with the only one of a count of one", 30)
        _, _, answer = server.request("GET", "/v2/trace/setting")
        assert json.loads(answer)["trace_count"] == "0"
    files = {path.name: sorted(by_request(path), key=int) for path in tmp_path.iterdir()}
    assert files.pop("t.0") == ["2", "4"] and files.pop("t.1") == ["6", "8"]
    assert sorted(files.values()) == [["10"], ["11"]]


def test_events_are_responses_and_what_is_refused_is_no_trace(tmp_path):
    decoupled.repeat(tmp_path / "models")
    settings = [f"triton,file={tmp_path}/t", "level=TIMESTAMPS", "rate=1", "triton,log-frequency=1"]
    with Server(tmp_path / "models", *configured(*settings)) as server:
        assert server.request("POST", "/v2/models/repeat/generate_stream", json.dumps({"IN": "x"}))[0] == 500
        body = json.dumps({"IN": [1, 2], "DELAY": [0, 0], "WAIT": 0})
        assert server.request("POST", "/v2/models/repeat/generate_stream", body)[0] == 200
        until((tmp_path / "t.0").exists, "the file", 30)
    assert not (tmp_path / "t.1").exists()
    points = [point["name"] for piece in json.loads((tmp_path / "t.0").read_text()) for point in piece.get("timestamps", [])]
    assert points.count("INFER_RESPONSE_COMPLETE") == 3, "the end comes alone, and nothing is sent of it"
    assert points.count("HTTP_SEND_START") == points.count("HTTP_SEND_END") == 2, points
    assert points.count("HTTP_RECV_START") == points.count("REQUEST_END") == 1


def test_settings_are_changed_over_both_protocols_and_cleared(repository, tmp_path):
    with Server(repository, *configured(f"triton,file={tmp_path}/t", "triton,log-frequency=3")) as server:
        shown = {
            "trace_level": ["OFF"], "trace_rate": "1000", "trace_count": "-1", "log_frequency": "3", "trace_file": f"{tmp_path}/t", "trace_mode": "triton",
        }
        with httpclient.InferenceServerClient(server.url) as client, grpcclient.InferenceServerClient(server.grpc_url) as grpc:
            assert client.get_trace_settings() == client.get_trace_settings("echo") == shown
            own = {"trace_level": ["TIMESTAMPS", "TENSORS"], "trace_rate": "5"}
            assert client.update_trace_settings("echo", own) == {**shown, **own}
            assert client.update_trace_settings(settings={"trace_rate": "7", "log_frequency": "9"}) == {**shown, "trace_rate": "7", "log_frequency": "9"}
            assert client.get_trace_settings("echo") == {**shown, **own, "log_frequency": "9"}
            answer = grpc.update_trace_settings("echo", {"trace_rate": None, "trace_level": None}, as_json=True)["settings"]
            assert (answer["trace_rate"]["value"], answer["trace_level"]["value"]) == (["7"], ["OFF"])
            client.update_trace_settings(settings={"trace_rate": None, "log_frequency": None})
            assert client.get_trace_settings() == client.get_trace_settings("echo") == shown


# Recorded: what Triton 2.51 answers. Its HTTP refuses numbers that are no texts; here they are taken.
WRONG = [
    ({"trace_level": ["OFF", "TIMESTAMPS"]}, 400, "Expect only one trace level 'OFF' is specified"),
    ({"trace_level": "TIMESTAMPS"}, 500, "attempt to access JSON non-array as array"),
    ({"trace_level": [1]}, 500, "attempt to access JSON non-string as string"),
    ({"trace_rate": "x"}, 400, "Unable to parse 'trace_rate', got: x"),
    ({"trace_rate": ["5"]}, 500, "attempt to access JSON non-string as string"),
    ({"trace_rate": True}, 500, "attempt to access JSON non-string as string"),
    ({"trace_rate": "4294967296"}, 400, "Unable to parse 'trace_rate', value is out of range [ 0, 4294967295 ], got: 4294967296"),
    ({"trace_count": "-2"}, 400, "Unable to parse 'trace_count'. Expecting value >= -1, got:-2"),
    ({"trace_count": "2147483648"}, 400, "Unable to parse 'trace_count', value is out of range [ -1, 2147483647 ], got: 2147483648"),
    ({"log_frequency": "x"}, 400, "Unable to parse 'log_frequency', got: x"),
    ({"trace_level": ["TIMESTAMPS"]}, 400, "Attempting to set invalid trace setting :trace file name is not given"),
    ({"trace_level": ["TENSORS"], "trace_rate": "0"}, 400, "Attempting to set invalid trace setting :sample rate must be non-zero"),
    ({"trace_file": "x"}, 501, "trace file location can not be updated through network protocol"),
    ({"trace_file": None}, 501, "trace file location can not be updated through network protocol"),
]


def test_what_is_wrong_changes_nothing_and_is_told_in_tritons_words(repository):
    with Server(repository) as server:
        before = server.request("GET", "/v2/trace/setting")[2]
        for path in ("/v2/trace/setting", "/v2/models/echo/trace/setting"):
            for body, status, text in WRONG:
                answer = server.request("POST", path, json.dumps(body))
                assert (answer[0], json.loads(answer[2])) == (status, {"error": text}), body
            for junk in ("", "junk", '{"trace_rate":', "\x00\xff"):
                status, _, answer = server.request("POST", path, junk)
                assert status == 500 and json.loads(answer)["error"].startswith("failed to parse the request JSON buffer"), junk
            assert server.request("POST", path, '{"trace_level":[' * 200)[0] == 400
            for nothing in ("{}", "[]", "null", '{"unknown":1}', '{"trace_level":["MAX"]}'):
                assert server.request("POST", path, nothing)[2] == before
        assert server.request("GET", "/v2/models/nothing/trace/setting")[0] == 404
        assert server.request("GET", "/v2/models/echo/versions/1/trace/setting")[0] == 404
        with grpcclient.InferenceServerClient(server.grpc_url) as client:
            for settings, text in [
                ({"trace_rate": ["5", "6"]}, "expect only 1 value for 'trace_rate'"),
                ({"trace_count": "-2"}, "Unable to parse 'trace_count'. Expecting value >= -1, got: -2"),
                ({"trace_level": ["TIMESTAMPS"]}, "Attempting to set invalid trace setting :trace file name is not given"),
                ({"trace_file": "x"}, "trace file location can not be updated through network protocol"),
            ]:
                with pytest.raises(InferenceServerException) as failed:
                    client.update_trace_settings(settings=settings)
                assert failed.value.message() == text


def test_a_model_that_was_unloaded_has_no_settings(repository):
    with Server(repository, "--model-control-mode=explicit", "--load-model=echo") as server:
        path = "/v2/models/echo/trace/setting"
        assert server.request("GET", path)[0] == 200
        assert server.request("POST", "/v2/repository/models/echo/unload", "{}")[0] == 200
        until(lambda: server.request("GET", path)[0] == 400, "the model is gone", 30)
        for method in ("GET", "POST"):
            assert json.loads(server.request(method, path, "{}")[2]) == {"error": "Request for unknown model : echo"}


def test_a_file_that_cannot_be_written_is_told_once_and_costs_no_request(repository):
    with Server(repository, *configured("triton,file=/nowhere/t", "level=TIMESTAMPS", "rate=1")) as server:
        for number in range(5):
            infer(server, "echo", str(number))
        until(lambda: "tritonserver_trace_traces_dropped 5" in server.request("GET", "/metrics", port=server.metrics)[2].decode(), "five are counted", 30)
        assert server.log().count("cannot write traces to '/nowhere/t'") == 1


def test_a_collector_gets_the_spans_of_requests_and_their_context_is_handed_on(repository):
    with Collector() as collector:
        with Server(repository, *collector.flags(), *configured("level=TIMESTAMPS", "rate=0")) as server:
            infer(server, "echo", "untraced")
            infer(server, "echo", "junk", {"traceparent": "junk"})
            infer(server, "echo", "traced", {"traceparent": PARENT, "tracestate": "a=1, b=2"})
            with grpcclient.InferenceServerClient(server.grpc_url) as client:
                client.infer("steps", [grpc_tensor()], request_id="steps", headers={"traceparent": PARENT, "tracestate": "c=3"})
            infer(server, "asks", "asks", {"traceparent": PARENT})
            until(lambda: len(collector.spans) >= 3 + 6 + 5, "the spans of three requests", 30)
            shown = json.loads(server.request("GET", "/v2/trace/setting")[2])
            assert "log_frequency" not in shown and (shown["trace_mode"], shown["resource"]) == ("opentelemetry", "team=a")
            log = server.log().replace('\\"', '"')
        assert len(collector.spans) == 14
    resource = collector.resources[0]
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", resource.pop("telemetry.sdk.version"))
    sdk = {"telemetry.sdk.language": "rust", "telemetry.sdk.name": "triton-operator"}
    assert resource == {"service.name": "triton-inference-server", "team": "a", **sdk}
    assert {span.trace_id.hex() for span in collector.spans} == {PARENT.split("-")[1]}
    roots = [span for span in collector.spans if span.parent_span_id.hex() == PARENT.split("-")[2]]
    assert [span.name for span in roots] == ["InferRequest"] * 3
    assert sorted(span.trace_state for span in roots) == ["", "a=1,b=2", "c=3"]

    def tree(span):
        inner = sorted((other for other in collector.spans if other.parent_span_id == span.span_id), key=lambda other: other.start_time_unix_nano)
        assert all(span.start_time_unix_nano <= other.start_time_unix_nano <= other.end_time_unix_nano for other in inner)
        assert all(other.trace_state == span.trace_state for other in inner)
        return span.name, [tree(other) for other in inner]

    run = ("echo", [("compute", [])])
    inner = [run, ("steps", [run, run]), ("asks", [("compute", []), run])]
    assert sorted(map(str, map(tree, roots))) == sorted(str(("InferRequest", [part])) for part in inner)
    own = {}
    for span in collector.spans:
        attributes = {pair.key: pair.value.string_value or pair.value.int_value for pair in span.attributes}
        if span.name not in ("InferRequest", "compute"):
            assert set(attributes) >= {"triton.model_name", "triton.model_version", "triton.trace_id", "triton.trace_parent_id"}
            own.setdefault(attributes.get("triton.request_id", ""), []).append(span)
    # what a model hears is the span of its own part
    context = json.dumps({"traceparent": f"00-{PARENT.split('-')[1]}-{own['traced'][0].span_id.hex()}-01", "tracestate": "a=1,b=2"}, separators=(",", ":"))
    assert f"CONTEXT traced {context}" in log and "CONTEXT untraced None" in log
    events = {span.name: [event.name for event in span.events] for span in collector.spans}
    assert set(events["compute"]) == {"COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START", "COMPUTE_END"}
    assert set(events["echo"]) == {"REQUEST_START", "QUEUE_START", "REQUEST_END"}


@pytest.mark.parametrize("kind", ["gone", "refuses", "slow"])
def test_a_collector_that_does_not_take_spans_costs_no_request(repository, kind):
    with Collector(status=503 if kind == "refuses" else 200, delay=30 if kind == "slow" else 0) as collector:
        flags = collector.flags()
        if kind == "gone":
            flags = [flag.replace(collector.url, f"http://127.0.0.1:{free_ports(1)[0]}/v1/traces") for flag in flags]
        flags += configured("level=TIMESTAMPS", "rate=1", "opentelemetry,bsp_max_queue_size=6")
        with Server(repository, *flags) as server:
            infer(server, "echo", "first")
            began = time.monotonic()
            for number in range(20):
                infer(server, "echo", str(number))
            assert time.monotonic() - began < 10
            page = lambda: server.request("GET", "/metrics", port=server.metrics)[2].decode()  # noqa: E731
            dropped = lambda: "tritonserver_trace_spans_dropped " in page() and "tritonserver_trace_spans_dropped 0" not in page()  # noqa: E731
            until(dropped, "spans that are dropped are counted", 60)
            if kind != "slow":
                until(lambda: "cannot export spans to the trace collector" in server.log(), "it is told", 30)
                assert server.log().count("cannot export spans to the trace collector") == 1


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (configured("level=x"), "OFF, TIMESTAMPS or TENSORS"),
        (configured("rate=x"), "a whole number from 0 to 2147483647"),
        (configured("count=-2"), "a whole number from -1 to 2147483647"),
        (configured("unknown=1"), "one of level, rate, count, mode"),
        (configured("mode=opentelemetry", "opentelemetry,url=:::junk"), "':::junk' is no address of a collector"),
    ],
)
def test_settings_of_the_command_line_that_are_wrong_end_the_server(repository, flags, text):
    with Server(repository, *flags, wait=None, expect_exit=1) as server:
        server.process.wait(60)
        assert text in server.log()


def test_older_flags_say_the_same(repository, tmp_path):
    flags = [f"--trace-file={tmp_path}/t", "--trace-level=TIMESTAMPS", "--trace-rate=5", "--trace-count=1", "--trace-log-frequency=1"]
    with Server(repository, *flags, *configured("rate=1")) as server:
        assert "Please use '--trace-config level=<OFF|TIMESTAMPS|TENSORS>' instead." in server.log()
        assert "Overriding deprecated '--trace-rate' in favor of provided rate value in --trace-config!" in server.log()
        infer(server, "echo", "1")
        until(lambda: (tmp_path / "t.0").exists(), "the file", 30)
    assert set(by_request(tmp_path / "t.0")) == {"1"}
