"""How a server ends that nobody asked to, or why it is not ready, and what is said of it: its own last words, that it ran out of memory, which probe
fails."""

import json
import struct
import textwrap

import pytest

from kube import ECHO, SERVER, inside, until

LIMIT = "96Mi"

CACHED = """
apiVersion: triton-operator.dev/v1alpha1
kind: TritonModel
metadata: {name: echo}
spec:
  serverRef: {name: vision}
  configPbtxt: |
    backend: "identity"
    input [{ name: "INPUT0", data_type: TYPE_FP32, dims: [-1] }]
    output [{ name: "OUTPUT0", data_type: TYPE_FP32, dims: [-1] }]
    response_cache { enable: true }
  source: {inline: {files: {"1/about.txt": "gives back what it gets"}}}
"""


def test_a_server_that_does_not_understand_its_flags_says_so_in_its_status(namespace):
    server = SERVER.replace("server: {", 'server: {extraArgs: ["--no-such-flag"], ')
    namespace.apply(server, ECHO)
    condition = namespace.wait("tsrv/vision", status="False", reason="CrashLoopBackOff")
    assert "unrecognized option '--no-such-flag'" in condition["message"], condition
    assert len(condition["message"]) < 1000 and "\n" not in condition["message"], condition
    namespace.patch("tsrv/vision", server={"extraArgs": None})
    namespace.wait("tmod/echo")


# One mounts a ConfigMap that does not exist yet; the other has a probe that nobody answers.
WITHOUT_CONFIG_MAP = """
  podTemplate:
    spec:
      containers:
        - name: log
          image: localhost/pause:1
          resources: {requests: {cpu: 1m}}
          volumeMounts: [{name: extra, mountPath: /extra}]
      volumes: [{name: extra, configMap: {name: settings}}]
"""
WITH_PROBE = """
  podTemplate:
    spec:
      containers:
        - name: log
          image: localhost/pause:1
          resources: {requests: {cpu: 1m}}
          readinessProbe: {tcpSocket: {port: 9}, periodSeconds: 1}
"""


@pytest.mark.our_cluster
def test_a_pod_that_is_not_ready_says_what_it_waits_for_and_since_when(namespace):
    def said(server, *words):
        message = namespace.condition(f"tsrv/{server}")["message"]
        (pod,) = namespace.get(f"tsrv/{server}")["status"]["pods"]
        has = all(word in text for word in words for text in (message, pod["message"]))
        return has and message

    speech, echo = (text.replace("name: vision", "name: speech").replace("name: echo", "name: speech") for text in (SERVER, ECHO))
    namespace.apply(SERVER + WITHOUT_CONFIG_MAP, ECHO, speech + WITH_PROBE, echo)
    message = until(lambda: said("vision", "not ready since 20", "does not exist yet"), "the container that does not exist yet", 120)
    (name,) = namespace.pods()
    assert f"kubectl describe pod {name} -n {namespace.name} says more" in message, message
    until(lambda: said("speech", "the readiness probe of container log (connection to port 9) fails"), "the probe that fails", 120)
    namespace.wait("tsrv/speech", status="False", reason="ReplicaNotReady")
    for server in ("vision", "speech"):
        namespace.patch(f"tsrv/{server}", podTemplate=None)
    for server in ("vision", "speech"):
        namespace.wait(f"tsrv/{server}")
        assert not any("message" in pod for pod in namespace.get(f"tsrv/{server}")["status"]["pods"])


LATE = """
apiVersion: triton-operator.dev/v1alpha1
kind: TritonModel
metadata: {name: late}
spec:
  serverRef: {name: vision}
  config:
    backend: python
    inputs: [{name: INPUT0, dataType: TYPE_FP32, dims: [-1]}]
    outputs: [{name: OUTPUT0, dataType: TYPE_FP32, dims: [-1]}]
  source: {inline: {files: {1/model.py: SOURCE}}}
"""

# Ends the server as a fault in a backend would: on the thread that executes the model.
SEGFAULT = """
import ctypes, pathlib, signal
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for name in pathlib.Path("/proc").glob("[0-9]*/task/*/comm"):
            process, thread = int(name.parts[2]), int(name.parts[4])
            try:
                is_it = name.read_text().strip() == "late_0"
            except OSError:  # it has ended
                continue
            if is_it:
                ctypes.CDLL(None).syscall(234, process, thread, int(signal.SIGSEGV))  # tgkill
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", pb_utils.get_input_tensor_by_name(it, "INPUT0").as_numpy())]) for it in requests]
"""


@pytest.mark.our_cluster
def test_a_crash_of_a_content_that_is_proven_names_the_signal_and_the_model(namespace):
    """Nothing is held against what is proven, so the event says what the server was doing."""
    server = SERVER + "  image: {repository: localhost/tritonserver-python}\n"
    namespace.apply(server, ECHO, LATE.replace("SOURCE", json.dumps(textwrap.dedent(SEGFAULT))))
    for what in ("tsrv/vision", "tmod/echo", "tmod/late"):
        namespace.wait(what)
    is_proven = lambda: not any("triton-operator.dev/adopt" in it["metadata"].get("annotations", {}) for it in namespace.pods().values())
    until(is_proven, "it to be proven")
    url = f"http://{namespace.address()}/v2/models/late/infer"
    body = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [1]}]}
    code, _ = inside("curl", "-sS", "-m", "10", url, "-d", json.dumps(body), check=False)
    assert code, "it answers"
    told = lambda: [it for it in namespace.items("events.events.k8s.io") if it["reason"] == "ServerCrashed"]
    (event,) = until(told, "an event", 30)
    assert event["regarding"]["kind"] == "TritonServer", event
    assert "SIGSEGV, executing instance 'late_0' of model 'late'" in event["note"], event
    for what in ("tsrv/vision", "tmod/echo", "tmod/late"):
        namespace.wait(what)


@pytest.mark.our_cluster
def test_a_server_that_runs_out_of_memory_says_so_with_its_limit_and_serves_again(namespace, tmp_path):
    # responses are kept in a cache that may grow beyond the memory of the container
    cache = 'server: {extraArgs: ["--cache-config=local,size=1000000000"], '
    server = SERVER.replace("memory: 64Mi}", f"memory: 64Mi}}, limits: {{memory: {LIMIT}}}").replace("server: {", cache)
    namespace.apply(server, CACHED)
    namespace.wait("tmod/echo")
    url = f"http://{namespace.address()}/v2/models/echo/infer"

    def ended():
        (pod,) = namespace.pods().values()
        (status,) = pod["status"]["containerStatuses"]
        return status["lastState"].get("terminated")

    size = 1 << 20
    binary = {"parameters": {"binary_data_size": 4 * size}}
    head = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [size], **binary}]}
    head = json.dumps({**head, "outputs": [{"name": "OUTPUT0", "parameters": {"binary_data": True}}]}).encode()
    length = f"Inference-Header-Content-Length: {len(head)}"
    for number in range(100):
        (tmp_path / "body").write_bytes(head + struct.pack("<I", number) * size)
        body = ["--data-binary", f"@{tmp_path / 'body'}"]
        code, _ = inside("curl", "-sS", "-f", "-m", "10", "-o", tmp_path / "answer", "-H", length, *body, url, check=False)
        if code:
            break
    assert until(ended, "the end of the container")["reason"] == "OOMKilled"
    told = lambda: [it for it in namespace.items("events.events.k8s.io") if it["reason"] == "OOMKilled"]
    (event, *_) = until(told, "an event", 30)
    assert f"container server needed more memory than its limit of {LIMIT}" in event["note"], event
    assert "spec.resources.limits.memory" in event["note"], event
    namespace.wait("tsrv/vision")
    until(lambda: namespace.infer() == [1, 2], "an answer")
