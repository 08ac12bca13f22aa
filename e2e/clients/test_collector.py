"""The spans of a server in a real OpenTelemetry collector, as it understands them."""

import contextlib
import os
import re
import signal
import subprocess
import tempfile

import make
import numpy as np
import pytest

from serving import ROOT, Server, everything_in, free_ports, scaled, until
from talking import connect, tensor

PROGRAM = ROOT / "target" / "collector" / "collector"
CONFIG = """\
receivers: {{ otlp: {{ protocols: {{ http: {{ endpoint: "127.0.0.1:{port}" }} }} }} }}
exporters: {{ debug: {{ verbosity: detailed }} }}
service:
  telemetry: {{ metrics: {{ level: none }} }}
  pipelines: {{ traces: {{ receivers: [ otlp ], exporters: [ debug ] }} }}
"""
IDENTITY = 'backend: "identity" input { name: "INPUT0" data_type: TYPE_INT32 dims: 1 } output { name: "OUTPUT0" data_type: TYPE_INT32 dims: 1 }'
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

pytestmark = pytest.mark.skipif(
    not PROGRAM.exists() and not os.environ.get("CI"), reason="skipped: no OpenTelemetry collector (e2e/collector/build builds it)"
)


@contextlib.contextmanager
def collector(folder):
    """A running one: its port, and a function that says what it has written so far."""
    (port,) = free_ports(1)
    (folder / "collector.yaml").write_text(CONFIG.format(port=port))
    with tempfile.TemporaryFile(mode="w+b") as output:
        process = subprocess.Popen([PROGRAM, folder / "collector.yaml"], stdout=output, stderr=subprocess.STDOUT)
        try:
            until(lambda: "Everything is ready" in everything_in(output), "the collector", 60, process)
            yield port, lambda: everything_in(output)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(scaled(30))


def spans(text):
    """The fields of each span that the collector has written, by name of the span."""
    found = {}
    for block in re.split(r"\n\s*Span #\d+\n", text)[1:]:
        fields = dict(re.findall(r"^\s*([A-Z][A-Za-z ]+?)\s*: (.*)$", block, re.M))
        fields["attributes"] = dict(re.findall(r"-> (triton\.\w+): \w+\((.*)\)$", block, re.M))
        fields["events"] = re.findall(r"-> Name: (\w+)", block)
        found[fields["Name"].strip()] = fields
    return found


def test_a_collector_understands_the_spans_of_a_request(tmp_path):
    make.write(tmp_path / "models", "m", IDENTITY, {1: None})
    with collector(tmp_path) as (port, text):
        settings = ["mode=opentelemetry", "level=TIMESTAMPS", "rate=0", f"opentelemetry,url=http://127.0.0.1:{port}/v1/traces",
                    "opentelemetry,resource=team=vision", "opentelemetry,bsp_schedule_delay=100"]  # fmt: skip
        with Server(tmp_path / "models", *(f"--trace-config={setting}" for setting in settings)) as server:
            with connect("http", server) as client:
                headers = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "vendor=1"}
                client.infer("m", [tensor("http", "INPUT0", np.array([7], np.int32), "INT32")], request_id="r", headers=headers)
            taken = b"tritonserver_trace_spans_exported 3\n"
            page = until(lambda: (page if taken in (page := server.request("GET", "/metrics", port=server.metrics)[2]) else None), "three spans", 60)
            found = until(lambda: spans(text()) if len(spans(text())) == 3 else None, "what the collector says of them", 60)
        said = text()
    request, model, compute = (found[name] for name in ("InferRequest", "m", "compute"))
    assert {it["Trace ID"] for it in found.values()} == {TRACE} and {it["TraceState"] for it in found.values()} == {"vendor=1"}
    assert (request["Parent ID"], model["Parent ID"], compute["Parent ID"]) == (CALLER, request["ID"], model["ID"])
    assert model["attributes"] == {
        "triton.model_name": "m", "triton.model_version": "1", "triton.trace_id": "1", "triton.trace_parent_id": "0", "triton.request_id": "r",
    }  # fmt: skip
    assert {"HTTP_RECV_START", "HTTP_SEND_END"} <= set(request["events"])
    assert {it["Kind"] for it in found.values()} == {"Server"} and request["Start time"] <= request["End time"]
    assert "team: Str(vision)" in said and "service.name: Str(triton-inference-server)" in said
    assert b"tritonserver_trace_spans_dropped 0\n" in page
