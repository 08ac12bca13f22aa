"""The same load over time against ways of autoscaling; see `run` beside this."""

import argparse
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "cluster" / "tests"), str(HERE.parents[1] / "common")]

import kube  # noqa: E402
from kube import CLUSTER, STATE, Namespace, inside, kubectl, until  # noqa: E402

SECONDS = 0.05  # of one execution, in which an accelerator works and the processor waits: a replica serves 20 requests a second
MOST = 4
STEPS = [(20, 5), (80, 50), (40, 8), (40, 30), (60, 5)]  # (seconds, requests per second)
# How fast steps are followed, which are short. Under noise each way has its own defaults.
STEPS_BEHAVIOR = {
    "scaleUp": {"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 2, "periodSeconds": 15}]},
    "scaleDown": {"stabilizationWindowSeconds": 60, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 15}]},
}
SERVER = """
apiVersion: triton-operator.dev/v1alpha1
kind: TritonServer
metadata: {name: vision}
spec:
  %s
  resources: {requests: {cpu: 100m, memory: 64Mi}}
  probes: {startup: {periodSeconds: 1}, readiness: {periodSeconds: 1, failureThreshold: 1}}
  server: {drainDelay: 3s, drainTimeout: 20s, exitTimeout: 10s}
"""
MODEL = kube.ECHO.replace("    backend: identity\n", f'    backend: identity\n    parameters: {{execute_delay_ms: "{int(SECONDS * 1000)}"}}\n')
CPU = {
    "apiVersion": "autoscaling/v2",
    "kind": "HorizontalPodAutoscaler",
    "metadata": {"name": "by-cpu"},
    "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "vision"},
        "minReplicas": 1,
        "maxReplicas": MOST,
        # the container's own: the agent beside it does not serve
        "metrics": [
            {"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "server", "target": {"type": "Utilization", "averageUtilization": 70}}}
        ],
    },
}
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: bench-cpu-metrics, namespace: kube-system}
spec: {ports: [{port: 443, targetPort: %(port)d}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: bench-cpu-metrics, namespace: kube-system, labels: {kubernetes.io/service-name: bench-cpu-metrics}}
addressType: IPv4
ports: [{port: %(port)d}]
endpoints: [{addresses: [%(address)s]}]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.metrics.k8s.io}
spec:
  group: metrics.k8s.io
  version: v1beta1
  groupPriorityMinimum: 100
  versionPriority: 100
  insecureSkipTLSVerify: true
  service: {name: bench-cpu-metrics, namespace: kube-system}
"""


def steps():
    return [rate for seconds, rate in STEPS for _ in range(seconds)]


def noise(seconds):
    """About what one and a half replicas serve, never the same for two seconds."""
    chance = random.Random(7)
    return [max(0, round(30 * (0.6 + 0.8 * chance.random()))) for _ in range(seconds)]


@contextlib.contextmanager
def resource_metrics():
    """metrics.k8s.io, where the cluster has none."""
    if kubectl("get", "apiservice", "v1beta1.metrics.k8s.io", "--ignore-not-found"):
        yield
        return
    address, port = "10.89.0.1", 10443
    with tempfile.TemporaryDirectory() as folder:
        pair = [f"{folder}/tls.crt", f"{folder}/tls.key"]
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=bench", "-out", pair[0], "-keyout", pair[1]], check=True, capture_output=True)
        command = [CLUSTER / "inside", sys.executable, HERE / "cpu_metrics.py", CLUSTER / "kubectl", "0.0.0.0", port, *pair]
        process = subprocess.Popen([str(part) for part in command])
        texts = SERVICE % {"address": address, "port": port}
        try:
            kubectl("apply", "-f", "-", stdin=texts)
            until(lambda: json.loads(kubectl("get", "apiservice", "v1beta1.metrics.k8s.io", "-o", "json"))["status"]["conditions"][0]["status"] == "True", "metrics.k8s.io")
            yield
        finally:
            kubectl("delete", "-f", "-", "--ignore-not-found", stdin=texts)
            process.terminate()
            process.wait()


@contextlib.contextmanager
def counted(namespace):
    """Replicas that exist, looked at each second."""
    over, seen = threading.Event(), []

    def look():
        while not over.wait(1.0):
            with contextlib.suppress(kube.Failed):
                found = namespace.get("deployment/vision")
                seen.append((found["spec"]["replicas"], found["status"].get("replicas", 0)))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def changes(seen):
    """How often the wanted number changed, and how often it turned from up to down or back."""
    wanted = [wanted for wanted, _ in seen]
    moves = [after - before for before, after in zip(wanted, wanted[1:]) if after != before]
    return len(moves), sum((one > 0) != (other > 0) for one, other in zip(moves, moves[1:]))


def measure(way, trace, behavior):
    namespace = Namespace(f"bench-{way}-{uuid.uuid4().hex[:6]}")
    kubectl("create", "namespace", namespace.name)
    try:
        if way == "queue":
            scaling = "autoscaling: " + json.dumps({"minReplicas": 1, "maxReplicas": MOST} | behavior)
            namespace.apply(SERVER % scaling, MODEL)
            namespace.wait("tsrv/vision", "AutoscalingActive", deadline=120)
        else:
            namespace.apply(SERVER % "replicas: 1", MODEL)
            namespace.wait("tmod/echo")
            namespace.patch("tsrv/vision", replicas=None)
            namespace.kubectl("apply", "-f", "-", stdin=json.dumps(CPU | {"spec": CPU["spec"] | behavior}))
            active = lambda: any(it["type"] == "ScalingActive" and it["status"] == "True" for it in namespace.get("hpa/by-cpu")["status"]["conditions"])  # noqa: E731
            until(active, "the autoscaler by processor time", 120)
        namespace.wait("tmod/echo")
        body = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]}]}
        with tempfile.TemporaryDirectory() as folder, counted(namespace) as seen:
            Path(folder, "body").write_text(json.dumps(body))
            Path(folder, "trace").write_text(json.dumps(trace))
            url = f"http://{namespace.address()}/v2/models/echo/infer"
            result = json.loads(inside(sys.executable, HERE / "trace_load.py", url, f"{folder}/body", f"{folder}/trace", deadline=len(trace) + 120))
        result["pod_seconds"] = sum(exist for _, exist in seen)
        result["most"] = max(wanted for wanted, _ in seen)
        result["changes"], result["turns"] = changes(seen)
        return result
    finally:
        kubectl("delete", "namespace", namespace.name, "--wait=false")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ways", default="queue,cpu")
    parser.add_argument("--trace", choices=["steps", "noise"], default="steps")
    parser.add_argument("--seconds", type=int, default=240, help="length of the noise (240)")
    parser.add_argument("--full", action="store_true", help="30 minutes of noise")
    options = parser.parse_args()
    trace = steps() if options.trace == "steps" else noise(1800 if options.full else options.seconds)
    behavior = {"behavior": STEPS_BEHAVIOR} if options.trace == "steps" else {}
    print(f"{options.trace}: {sum(trace)} requests in {len(trace)} s; one replica serves {1 / SECONDS:.0f} a second; cluster {STATE}")
    print(f"{'':8}{'sent':>8}{'lost':>6}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'pod s':>8}{'most':>6}{'changes':>9}{'turns':>7}")
    for way in options.ways.split(","):
        with resource_metrics() if way == "cpu" else contextlib.nullcontext():
            it = measure(way, trace, behavior)
        numbers = f"{it['sent']:>8}{it['lost']:>6}{it['p50_ms']:>9.0f}{it['p95_ms']:>9.0f}{it['p99_ms']:>9.0f}"
        print(f"{way:8}{numbers}{it['pod_seconds']:>8}{it['most']:>6}{it['changes']:>9}{it['turns']:>7}", flush=True)
        if it["failures"]:
            print(f"        lost: {it['failures']}")


main()
