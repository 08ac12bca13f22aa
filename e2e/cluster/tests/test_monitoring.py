"""Objects of kinds that other projects bring: made where the cluster knows the kind, whenever it comes to know it, and again after it
did not; by the definitions of the Prometheus operator and of the Gateway API themselves."""

import json

import pytest
import yaml

from kube import ECHO, IS_OURS, ROOT, SERVER, Audit, kubectl, run, until

FILES = ROOT / "target" / "manifests" / "definitions"
DEFINITIONS = {
    "monitoring.coreos.com": ["servicemonitors", "podmonitors", "prometheusrules"],
    "gateway.networking.k8s.io": ["httproutes", "grpcroutes"],
}
ALL = [f"{plural}.{group}" for group, plurals in DEFINITIONS.items() for plural in plurals]

SPEECH = (
    SERVER.replace("vision", "speech")
    + """
  monitoring:
    podMonitor: {enabled: Always, interval: 30s, labels: {release: prometheus}}
    prometheusRule: {enabled: Always}
  routes:
    http:
      parentRefs: [{name: public, namespace: gateways}]
      hostnames: [speech.example.com]
      rules: [{matches: [{path: {value: /v2}}], timeouts: {request: 30s}}]
    grpc: {parentRefs: [{name: public, namespace: gateways}], hostnames: [grpc.example.com]}
    ingress: {className: nginx, host: speech.example.com, tls: {secretName: speech-tls}}
"""
)


def define(*names):
    for name in names:
        plural, group = name.split(".", 1)
        kubectl("apply", "--server-side", "-f", FILES / f"{group}_{plural}.yaml")
    kubectl("wait", "--for=condition=Established", *(f"crd/{name}" for name in names), "--timeout=30s")


@pytest.fixture
def no_definitions():
    if kubectl("get", "crd", *ALL, check=False)[0] == 0:
        pytest.skip("the cluster has the definitions")
    run(ROOT / "e2e" / "manifests" / "build", deadline=600)
    yield
    kubectl("delete", "crd", *ALL, "--ignore-not-found")


def test_invariant_4_objects_of_kinds_that_come_later_are_made_then(namespace, no_definitions):
    namespace.apply(SERVER, ECHO, SPEECH)
    namespace.wait("tsrv/vision")
    condition = namespace.wait("tsrv/speech")
    for kind in ("PodMonitor", "PrometheusRule", "HTTPRoute", "GRPCRoute"):
        assert f"no {kind} is made" in condition["message"], condition
    ingress = namespace.get("ingress/speech")["spec"]
    assert ingress["rules"][0]["http"]["paths"][0]["backend"]["service"] == {"name": "speech", "port": {"name": "http"}}

    define(*ALL)
    names = lambda plural: sorted(it["metadata"]["name"] for it in namespace.items(plural))
    for name in ALL:
        expected = ["vision"] if name.startswith("servicemonitors") else ["speech"]
        until(lambda name=name, expected=expected: names(name) == expected, f"{name}: {expected}", 60)
    until(lambda: "is made" not in namespace.condition("tsrv/speech", "Ready")["message"], "nothing to be missing")
    if IS_OURS:
        until(lambda: namespace.has_settled("speech"), "its contents to be proven")
        Audit(namespace).quiet(3)
        audit = Audit(namespace)
        namespace.kubectl("annotate", "httproute/speech", "prometheusrule/speech", "ingress/speech", "somebody=looked")
        audit.quiet(5)
        assert audit.writes() == [], "what the API server fills in is no drift"
    monitor = namespace.get("podmonitor/speech")
    assert monitor["spec"]["podMetricsEndpoints"] == [{"port": "metrics", "path": "/metrics", "interval": "30s"}]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    found = namespace.items("pods", "-l", ",".join(f"{key}={value}" for key, value in monitor["spec"]["selector"]["matchLabels"].items()))
    assert found and all(pod["metadata"]["name"].startswith("speech-") for pod in found)
    by_service = namespace.get("servicemonitor/vision")["spec"]["selector"]["matchLabels"]
    found = namespace.items("services", "-l", ",".join(f"{key}={value}" for key, value in by_service.items()))
    assert [it["metadata"]["name"] for it in found] == ["vision"]
    rule = namespace.get("httproute/speech")["spec"]["rules"][0]
    assert (rule["backendRefs"][0]["name"], rule["backendRefs"][0]["port"]) == ("speech", 8000)
    assert namespace.get("grpcroute/speech")["spec"]["rules"][0]["backendRefs"][0]["port"] == 8001

    # what a Gateway says of it, as one that is there would write it
    parent = {"parentRef": {"name": "public", "namespace": "gateways"}, "controllerName": "example.com/gateway"}
    said = {"type": "Accepted", "status": "False", "reason": "NoMatchingListenerHostname", "message": "no listener takes it"}
    said |= {"lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": namespace.get("httproute/speech")["metadata"]["generation"]}
    status = json.dumps({"status": {"parents": [{**parent, "conditions": [said]}]}})
    namespace.kubectl("patch", "httproute/speech", "--subresource=status", "--type=merge", "-p", status)
    until(lambda: "Gateway public does not follow HTTPRoute speech: NoMatchingListenerHostname" in namespace.condition("tsrv/speech", "Ready")["message"], "the word of the Gateway")

    # changed by hand; switched off; refused by the rules of the definition itself
    namespace.kubectl("patch", "httproute/speech", "--type=merge", "-p", '{"spec": {"hostnames": ["other.example.com"]}}')
    until(lambda: namespace.get("httproute/speech")["spec"]["hostnames"] == ["speech.example.com"], "the host name to be put back")
    wrong = {"http": {"parentRefs": [{"name": "public"}], "rules": [{"matches": [{"path": {"type": "Prefix", "value": "/"}}]}]}}
    namespace.patch("tsrv/speech", routes={**wrong, "grpc": None, "ingress": None})
    condition = namespace.wait("tsrv/speech", status="False", reason="ApplyRefused")
    assert "HTTPRoute speech" in condition["message"] and "spec.rules[0].matches[0].path.type" in condition["message"], condition
    until(lambda: not names(ALL[4]) and not names("ingresses"), "what is not asked for to go, whatever is refused")
    namespace.patch("tsrv/speech", routes={"http": {"parentRefs": [{"name": "public"}], "rules": None}})
    namespace.wait("tsrv/speech")

    # gone, and there again
    kubectl("delete", "crd", "httproutes.gateway.networking.k8s.io")
    until(lambda: "no HTTPRoute is made" in namespace.condition("tsrv/speech", "Ready")["message"], "it to be missed", 60)
    define("httproutes.gateway.networking.k8s.io")
    until(lambda: names("httproutes.gateway.networking.k8s.io") == ["speech"], "the route to be there again", 60)
    namespace.patch("tsrv/speech", monitoring=None, routes=None)
    until(lambda: names(ALL[0]) == ["speech", "vision"] and not any(map(names, ALL[1:])), "one monitor for the other")
    namespace.patch("tsrv/vision", monitoring={"serviceMonitor": {"enabled": "Never"}})
    until(lambda: names(ALL[0]) == ["speech"], "the disabled monitor to be removed")


def test_definitions_are_those_that_objects_are_checked_against():
    """The files of this test are there, under the names that it looks for."""
    run(ROOT / "e2e" / "manifests" / "build", deadline=600)
    for group, plurals in DEFINITIONS.items():
        for plural in plurals:
            assert yaml.safe_load((FILES / f"{group}_{plural}.yaml").read_text().lstrip("-\n"))["spec"]["group"] == group
