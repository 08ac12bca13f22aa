"""One model's trouble is never another's: a model that never worked beside others when their pod is replaced, sources that trickle, and
what somebody else has a server load."""

import base64
import json
import subprocess
import sys

import pytest

from kube import CLUSTER, ECHO, ROOT, SERVER, inside, until

pytestmark = pytest.mark.our_cluster

sys.path.insert(0, str(ROOT / "e2e" / "models"))

import graphs  # noqa: E402

HOST = "10.89.0.1"  # where pods reach the control plane's namespace

# 404 for everything but these: /slow/ brings one byte a second and never ends, /endless/ as much as is taken, /long/ says that it has a hundred
# gigabytes, /elsewhere/ leads to the pod itself
WEB = f"""
import http.server, time

class Trickle(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        kind = self.path.split("/")[1]
        if kind == "elsewhere":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:8003/state")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if kind not in ("slow", "endless", "long"):
            return self.send_error(404)
        self.send_response(200)
        if kind != "endless":
            self.send_header("Content-Length", "1000000" if kind == "slow" else str(100 << 30))
        self.end_headers()
        try:
            while True:
                self.wfile.write(bytes(1 if kind == "slow" else 1 << 20))
                time.sleep(1 if kind == "slow" else 0.01)
        except OSError:
            self.close_connection = True

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("{HOST}", 0), Trickle)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def web():
    """Address of a web server whose files are lost or never come."""
    with subprocess.Popen([str(CLUSTER / "inside"), sys.executable, "-c", WEB], stdout=subprocess.PIPE, text=True) as process:
        yield f"http://{HOST}:{process.stdout.readline().strip()}"
        process.terminate()


def from_address(name, uri, policy):
    return (
        f"apiVersion: triton-operator.dev/v1alpha1\nkind: TritonModel\nmetadata: {{name: {name}}}\nspec:\n  serverRef: {{name: vision}}\n"
        f"  format: onnx\n  source: {{http: {{uri: '{uri}'}}}}\n  loadPolicy: {policy}\n"
    )


def named(name):
    return ECHO.replace("{name: echo}", f"{{name: {name}}}")


def test_a_model_that_never_worked_keeps_no_pod_from_being_replaced(namespace, web):
    namespace.apply(SERVER, ECHO)
    namespace.wait("tmod/echo")
    namespace.apply(from_address("dead", f"{web}/lost.onnx", "{retry: {limit: 1, backoff: 1s}}"))
    namespace.wait("tmod/dead", status="False", reason="SourceNotFound")
    before = set(namespace.pods())
    namespace.kubectl("delete", "pod", *before, "--wait=false")
    until(lambda: namespace.pods() and not before & set(namespace.pods()), "another pod")
    namespace.wait("tsrv/vision", deadline=60)
    assert namespace.infer() == [1, 2]
    assert namespace.condition("tmod/dead")["status"] == "False"
    loaded = namespace.wait("tsrv/vision", "ModelsLoaded", "False")
    assert "dead" in loaded["message"], loaded


def test_sources_that_trickle_hold_up_no_other_model_and_end_with_their_time(namespace, web):
    namespace.apply(SERVER, ECHO)
    namespace.wait("tmod/echo")
    slow = [from_address(f"slow-{number}", f"{web}/slow/{number}.onnx", "{timeout: 10s, retry: {limit: 0}}") for number in range(9)]
    namespace.apply(*slow)
    # some of them at a time, ten seconds each
    until(lambda: "Downloading" in {namespace.condition(f"tmod/slow-{number}").get("reason") for number in range(9)}, "a download")
    namespace.apply(named("good"))
    namespace.wait("tmod/good", deadline=8)
    namespace.kubectl("delete", "tmod/echo", "--wait=false")
    until(lambda: "unknown model" in ask(namespace, "echo"), "the deleted model to be gone", 8)
    assert "10s" in namespace.wait("tmod/slow-0", status="False", reason="DownloadFailed", deadline=40)["message"]


def test_a_model_is_ready_while_others_are_added(namespace):
    namespace.apply(SERVER, ECHO)
    namespace.wait("tmod/echo")
    namespace.apply(named("first"))
    others = []

    def is_ready():
        others.append(f"other-{len(others)}")
        namespace.apply(named(others[-1]))
        return namespace.condition("tmod/first").get("status") == "True"

    until(is_ready, "it to be ready while the manifest goes on changing", 20)
    for name in others:
        namespace.wait(f"tmod/{name}")


def test_what_no_pod_may_fetch_is_refused_and_harms_nobody(namespace, web):
    small = SERVER.replace("  replicas: 1\n", "  replicas: 1\n  modelStore: {emptyDir: {sizeLimit: 60Mi}}\n")
    namespace.apply(small, ECHO)
    namespace.wait("tmod/echo")
    before, once = namespace.lives(), "{retry: {limit: 0}}"
    namespace.apply(
        from_address("endless", f"{web}/endless/m.onnx", once),
        from_address("long", f"{web}/long/m.onnx", once),
        from_address("elsewhere", f"{web}/elsewhere/m.onnx", once),
        from_address("metadata", "http://169.254.169.254/latest/m.onnx", once),
        from_address("itself", "http://localhost:8003/state", once),
    )
    for name in ("elsewhere", "metadata", "itself"):
        message = namespace.wait(f"tmod/{name}", status="False", reason="AddressRefused")["message"]
        assert "--allow-source-addresses" in message, message
    for name in ("endless", "long"):
        message = namespace.wait(f"tmod/{name}", status="False", reason="StoreFull")["message"]
        assert "sizeLimit" in message, message
    assert namespace.infer() == [1, 2]
    assert namespace.lives() == before


def test_what_somebody_else_has_a_server_load_is_undone_and_told(namespace):
    namespace.apply(SERVER + "  control: Public\n", ECHO)
    namespace.wait("tmod/echo")
    namespace.wait("tsrv/vision")
    config = json.dumps({"backend": "onnxruntime", "max_batch_size": 0})
    graph = base64.b64encode(graphs.add(1000).SerializeToString()).decode()
    body = json.dumps({"parameters": {"config": config, "file:1/model.onnx": graph}})
    for name in ("theirs", "echo"):
        url = f"http://{namespace.address()}/v2/repository/models/{name}/load"
        assert inside("curl", "-sS", "-m", "20", url, "-d", body) == ""
    until(lambda: "unknown model" in ask(namespace, "theirs"), "the model of nobody to go", 10)
    until(lambda: '"backend":"identity"' in ask(namespace, "echo"), "the model as its resource says", 10)
    assert namespace.infer() == [1, 2]

    def told():
        events = namespace.items("events")
        return [event.get("note") or event.get("message") for event in events if event.get("reason") == "ForeignLoad"]

    until(lambda: any("theirs" in note or "echo" in note for note in told()), "an event")
    namespace.wait("tmod/echo")


def ask(namespace, model):
    return inside("curl", "-sS", "-m", "10", f"http://{namespace.address()}/v2/models/{model}/config")
