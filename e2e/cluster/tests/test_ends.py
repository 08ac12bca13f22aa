"""How a server ends that nobody asked to, and what is said of it: its own last words, or that it ran out of memory."""

import json
import struct

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
