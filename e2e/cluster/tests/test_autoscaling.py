"""The load decides how many replicas run: a real HorizontalPodAutoscaler, the operator's own metrics, real requests. And who writes
the number of replicas when."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
import time

import pytest

import kube
from kube import CLUSTER, ECHO, IS_OURS, OPERATOR, ROOT, SERVER, Audit, inside, kubectl, until

SECONDS = 0.05  # that one execution takes: a replica serves 20 requests a second
SLOW = ECHO.replace("    backend: identity\n", f'    backend: identity\n    parameters: {{execute_delay_ms: "{int(SECONDS * 1000)}"}}\n')
QUICK = {
    "scaleUp": {"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 2, "periodSeconds": 15}]},
    "scaleDown": {"stabilizationWindowSeconds": 15, "policies": [{"type": "Pods", "value": 2, "periodSeconds": 15}]},
}


def server(**autoscaling):
    return SERVER.replace("  replicas: 1\n", f"  autoscaling: {json.dumps({'maxReplicas': 3, 'behavior': QUICK, **autoscaling})}\n")


@contextlib.contextmanager
def numbers_of(namespace):
    """Every number of replicas that the Deployment is to have, in order, from now until the end of the block."""
    command = [str(CLUSTER / "kubectl"), "-n", namespace.name, "get", "deployment", "vision", "--watch", "-o", "jsonpath={.spec.replicas}{'\\n'}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    seen = []

    def read():
        for line in process.stdout:
            if not seen or seen[-1] != int(line):
                seen.append(int(line))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        until(lambda: seen, "the watch")
        yield seen
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # with the program that the script has started
        process.wait(timeout=20)
        reader.join(timeout=20)


def replicas(namespace):
    return namespace.get("deployment/vision")["spec"]["replicas"]


def writers(namespace):
    """Who owns the number of replicas."""
    entries = namespace.get("deployment/vision", "--show-managed-fields")["metadata"]["managedFields"]
    return {entry["manager"] for entry in entries if "f:replicas" in entry["fieldsV1"].get("f:spec", {})}


def test_replicas_follow_the_load_and_no_request_is_lost(namespace):
    # requests of the load come several at a time and wait for each other, also where one replica can serve them all
    namespace.apply(server(metrics={"queueLatency": {"target": "600ms"}, "saturation": {}}), SLOW)
    namespace.wait("tmod/echo")
    namespace.wait("tsrv/vision", "AutoscalingActive", deadline=120)
    assert replicas(namespace) == 1
    audit = Audit(namespace) if IS_OURS else None
    with numbers_of(namespace) as seen:
        # more than one replica serves: its queue grows until there is another
        with kube.load(namespace, rate=35, at_least=400):
            began = time.monotonic()
            until(lambda: seen[-1] > 1, "another replica", 60)
            took = time.monotonic() - began
            print(f"took {took:.0f} s from the step of the load to the decision")
            until(lambda: len(namespace.pods()) > 1 and namespace.condition("tsrv/vision").get("status") == "True", "the replicas to be ready", 90)
        # a load that one replica serves: the others go while requests come
        with kube.load(namespace, rate=5, at_least=100):
            until(lambda: seen[-1] == 1, "the others to go", 120)
            until(lambda: len(namespace.pods()) == 1, "their pods to end", 60)
    assert seen[0] == seen[-1] == 1 and max(seen) <= 3, seen
    status = namespace.get("tsrv/vision")["status"]["autoscaling"]
    assert status["maxReplicas"] == 3 and status["desiredReplicas"] == 1 and "lastScaleTime" in status, status
    assert "triton-operator" not in writers(namespace)
    if audit:
        # statuses, pods and manifests are written, and the Deployment is the autoscaler's
        assert not [write for write in audit.writes() if "deployments" in write], audit.writes()
    reasons = {event["reason"] for event in namespace.items("events") if event["involvedObject"]["kind"] == "TritonServer"}
    assert "Rescaled" in reasons, reasons


def test_invariant_6_the_number_stays_whoever_has_it(namespace):
    namespace.apply(SERVER.replace("replicas: 1", "replicas: 2"), ECHO)
    namespace.wait("tmod/echo")
    with numbers_of(namespace) as seen:
        # from the spec to an autoscaler
        namespace.patch("tsrv/vision", replicas=None, autoscaling={"minReplicas": 2, "maxReplicas": 3})
        until(lambda: namespace.get("hpa/vision")["spec"]["minReplicas"] == 2, "the autoscaler")
        until(lambda: "triton-operator" not in writers(namespace), "the number to be nobody's of ours")
        code, said = namespace.kubectl("scale", "tsrv/vision", "--replicas=3", check=False)
        assert code != 0 and "the load decides how many run" in said, said
        # what others have scaled is left alone by the operator, whatever it reconciles
        namespace.kubectl("scale", "deployment/vision", "--replicas=3")
        namespace.patch("tsrv/vision", podMetadata={"labels": {"again": "yes"}})
        until(lambda: all(pod["metadata"]["labels"].get("again") for pod in namespace.pods().values()), "the pods to be replaced", 90)
        # suspended and back
        namespace.patch("tsrv/vision", suspend=True)
        until(lambda: seen[-1] == 0, "no replica")
        until(lambda: not namespace.items("hpa"), "no autoscaler")
        namespace.patch("tsrv/vision", suspend=None)
        until(lambda: seen[-1] > 0, "replicas")
        until(lambda: namespace.items("hpa"), "the autoscaler")
        # switched off: what there is stays, until the spec says otherwise
        namespace.patch("tsrv/vision", autoscaling=None)
        until(lambda: not namespace.items("hpa"), "no autoscaler")
        until(lambda: namespace.condition("tsrv/vision").get("status") == "True", "everything to settle")
        namespace.patch("tsrv/vision", replicas=2)
        until(lambda: seen[-1] == 2 and "triton-operator" in writers(namespace), "the replicas of the spec")
    assert 1 not in seen and seen[0] == 2, seen


def test_what_keeps_the_load_from_deciding_is_told(namespace):
    foreign = {"type": "Pods", "pods": {"metric": {"name": "of-nobody"}, "target": {"type": "AverageValue", "averageValue": "1"}}}
    namespace.apply(server(metrics={"raw": [foreign]}), ECHO)
    condition = namespace.wait("tsrv/vision", "AutoscalingActive", "False", "FailedGetPodsMetric", deadline=150)  # given 30 s to come, and looked at seldom
    assert "of-nobody" in condition["message"] and "spec.autoscaling.engine" in condition["message"]
    namespace.wait("tsrv/vision")  # it serves
    assert replicas(namespace) == 1
    code, said = namespace.kubectl("patch", "tsrv/vision", "--type=merge", "-p", '{"spec": {"replicas": 2}}', check=False)
    assert code != 0 and "replicas beside autoscaling" in said, said
    for wrong in ({"minReplicas": 4}, {"maxReplicas": 0}, {"engine": "HPA"}, {"metrics": {"queueLatency": {"target": "fast"}}}, {"scaleToZero": {}}):
        code, said = namespace.kubectl("patch", "tsrv/vision", "--type=merge", "-p", json.dumps({"spec": {"autoscaling": wrong}}), check=False)
        assert code != 0, (wrong, said)
    # what a HorizontalPodAutoscaler does not take, its own words refuse
    namespace.patch("tsrv/vision", autoscaling={"behavior": {"scaleUp": {"policies": [{"type": "Sheep", "value": 1, "periodSeconds": 5}]}}})
    assert "Sheep" in namespace.wait("tsrv/vision", status="False", reason="ApplyRefused")["message"]


SCALED_OBJECTS = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: scaledobjects.keda.sh}
spec:
  group: keda.sh
  scope: Namespaced
  names: {kind: ScaledObject, plural: scaledobjects, singular: scaledobject}
  versions:
    - name: v1alpha1
      served: true
      storage: true
      subresources: {status: {}}
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""


JUDGE = ROOT / "target" / "keda" / "judge"


def of_type(namespace, kind):
    """The ScaledObject, once all of its triggers are of that type."""
    found = namespace.get("scaledobject/vision")
    return all(trigger["type"] == kind for trigger in found["spec"]["triggers"]) and found


def asked_by_keda(scaled_object):
    """What KEDA's own client is told of each trigger. Fails with its words as long as it is told that nothing is known."""
    service = json.loads(kubectl("-n", OPERATOR, "get", "service", "triton-operator-scaler", "-o", "json"))
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(scaled_object, file)
        file.flush()
        said = inside(JUDGE, "ask", file.name, f"{service['spec']['clusterIP']}:9090")
    return json.loads(said)["metrics"]


@pytest.mark.our_cluster
def test_a_scaled_object_is_made_where_keda_is_and_goes_with_its_engine(namespace):
    """The definition alone: whether there is a KEDA behind it, the operator does not see."""
    keda = {"engine": "KEDA", "prometheus": {"serverAddress": "http://prometheus:9090"}}
    namespace.apply(server(**keda), ECHO)
    assert "install KEDA" in namespace.wait("tsrv/vision", "AutoscalingActive", "False", "ScaledObjectMissing")["message"]
    kubectl("apply", "-f", "-", stdin=SCALED_OBJECTS)
    try:
        found = until(lambda: namespace.get("scaledobject/vision"), "the ScaledObject, of a kind that came later", 90)
        assert found["spec"]["triggers"][0]["type"] == "prometheus" and not namespace.items("hpa")
        namespace.kubectl("patch", "scaledobject/vision", "--type=merge", "-p", '{"spec": {"maxReplicaCount": 9}}')
        until(lambda: namespace.get("scaledobject/vision")["spec"]["maxReplicaCount"] == 3, "the change to be healed")
        status = {"conditions": [{"type": "Ready", "status": "False", "reason": "ScaledObjectCheckFailed", "message": "no answer"}]}
        namespace.kubectl("patch", "scaledobject/vision", "--type=merge", "--subresource=status", "-p", json.dumps({"status": status}))
        assert namespace.wait("tsrv/vision", "AutoscalingActive", "False", "ScaledObjectCheckFailed")["message"] == "no answer"

        # without a Prometheus KEDA asks the operator
        namespace.patch("tsrv/vision", autoscaling={"prometheus": None})
        namespace.wait("tmod/echo")
        external = until(lambda: of_type(namespace, "external"), "triggers that lead to the operator")
        if JUDGE.exists() or os.environ.get("CI"):
            told = until(lambda: asked_by_keda(external), "an answer to KEDA's own client", 60)
            names = [f"s{index}-{trigger['metadata']['metric']}" for index, trigger in enumerate(external["spec"]["triggers"])]
            assert [metric["name"] for metric in told] == names, told
            assert all(metric["value"] == "0" and metric["target"] != "0" and metric["active"] == metric["pushed"] for metric in told), told
        namespace.patch("tsrv/vision", autoscaling={"engine": None, "prometheus": None})
        until(lambda: namespace.items("hpa") and not namespace.items("scaledobjects"), "the other engine's object")
        assert replicas(namespace) == 1
    finally:
        kubectl("delete", "crd", "scaledobjects.keda.sh", "--wait=false", "--ignore-not-found")
