"""The load of servers, as the operator tells it to the API server and to KEDA: who may ask, what is answered, and that a real
horizontal pod autoscaler follows it."""

import json
import subprocess
import sys

from kube import CLUSTER, ECHO, OPERATOR, ROOT, SERVER, helm, inside, kubectl, until

API = "/apis/custom.metrics.k8s.io/v1beta2"
SLOW = ECHO.replace("metadata: {name: echo}", "metadata: {name: slow}").replace(
    "    backend: identity\n", '    backend: identity\n    parameters: {execute_delay_ms: "200"}\n'
)
SCALER = """
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: by-hand}
spec:
  scaleTargetRef: {apiVersion: triton-operator.dev/v1alpha1, kind: TritonServer, name: vision}
  minReplicas: 1
  maxReplicas: 2
  metrics:
    - type: Pods
      pods:
        metric: {name: triton_pending_requests, selector: {matchLabels: {model: slow}}}
        target: {type: AverageValue, averageValue: "2"}
"""
READER = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: load-reader}
rules: [{apiGroups: [custom.metrics.k8s.io], resources: [pods/triton_pending_requests], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: load-reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: load-reader}
subjects: [{kind: User, name: jane}]
"""


def values(namespace, metric, *arguments, pod="*", query="labelSelector=app.kubernetes.io%2Finstance%3Dvision"):
    """Value of each pod, by name."""
    path = f"{API}/namespaces/{namespace.name}/pods/{pod}/{metric}?{query}"
    items = json.loads(kubectl("get", "--raw", path, *arguments))["items"]
    assert all(it["windowSeconds"] >= 1 and it["metric"]["name"] == metric for it in items), items
    return {it["describedObject"]["name"]: it["value"] for it in items}


def test_the_load_is_served_to_those_who_may_read_it_and_scales(namespace):
    namespace.apply(SERVER, SLOW, READER)
    namespace.wait("tmod/slow")

    # the first question makes the operator ask the pods
    idle = until(lambda: values(namespace, "triton_pending_requests"), "the load", 30)
    (pod,) = namespace.pods()
    assert idle == {pod: "0"}, "idle is 0, not absent"
    for metric in ("triton_queue_latency_us", "triton_queued_requests", "triton_saturation_percent"):
        assert values(namespace, metric, pod=pod, query="") == {pod: "0"}
    listed = json.loads(kubectl("get", "--raw", API))["resources"]
    assert {it["name"] for it in listed} >= {"pods/triton_queue_latency_us", "pods/triton_saturation_percent"}

    # the API server's roles decide who may ask
    refused, said = kubectl("get", "--raw", f"{API}/namespaces/{namespace.name}/pods/*/triton_pending_requests", "--as=mallory", check=False)
    assert refused and "forbidden" in said.lower(), said
    assert values(namespace, "triton_pending_requests", "--as=jane") == idle
    unknown, said = kubectl("get", "--raw", f"{API}/namespaces/{namespace.name}/pods/{pod}/cpu", check=False)
    assert unknown and "there is no metric 'cpu' of pods" in said, said

    # nobody but the API server is believed, whatever he says he is
    address = Namespaced(OPERATOR).service("triton-operator-metrics-api")
    curl = ["curl", "-sk", "-m", "5", "-H", "X-Remote-User: system:admin", "-H", "X-Remote-Group: system:masters"]
    answer = json.loads(inside(*curl, f"https://{address}{API}/namespaces/{namespace.name}/pods/*/triton_pending_requests"))
    assert (answer["code"], answer["reason"]) == (401, "Unauthorized")

    # a real autoscaler
    namespace.apply(SCALER)
    client = [CLUSTER / "inside", sys.executable, ROOT / "e2e/cluster/tests/steady_grpc.py", namespace.address(port="grpc"), "slow"]
    load = subprocess.Popen([str(part) for part in client], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: values(namespace, "triton_pending_requests")[pod] != "0", "requests that wait", 30)
        assert asked(namespace, "triton_pending_requests", 1) > 0
        until(lambda: namespace.get("tsrv/vision")["spec"].get("replicas") == 2, "a second replica", 60)
    finally:
        load.stdin.close()
        load.wait(timeout=60)
    conditions = {it["type"]: it for it in namespace.get("hpa/by-hand")["status"]["conditions"]}
    assert conditions["ScalingActive"]["status"] == "True", conditions


def test_an_api_of_somebody_else_is_left_alone(chart_flags):
    """The chart says so before it changes anything."""
    other = ["--namespace", "default", "--dry-run=server", "--set", "crds.install=false", "--set", "metricsApi.enabled=true"]
    code, said = helm("install", "another", ROOT / "charts" / "triton-operator", *other, check=False)
    assert code and f"leads to Service {OPERATOR}/triton-operator-metrics-api already" in said, said


class Namespaced:
    """Services of a namespace."""

    def __init__(self, name):
        self.name = name

    def service(self, name):
        return json.loads(kubectl("-n", self.name, "get", "service", name, "-o", "json"))["spec"]["clusterIP"]


# --- KEDA's side of the external scaler, in as few bytes as it takes ------------------------------------------------------------------------


def asked(namespace, metric, target):
    """What KEDA would be told, by a client of gRPC in the cluster's network."""
    address = Namespaced(OPERATOR).service("triton-operator-scaler")
    program = ROOT / "e2e/cluster/tests/ask_scaler.py"
    answer = inside(sys.executable, program, f"{address}:9090", namespace.name, "vision", metric, str(target))
    return json.loads(answer)["value"]
