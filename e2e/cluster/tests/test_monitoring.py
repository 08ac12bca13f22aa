"""The ServiceMonitor: made where the cluster knows the kind, whenever it comes to know it."""

import pytest

from kube import ECHO, SERVER, kubectl, until

DEFINITION = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: servicemonitors.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  scope: Namespaced
  names: {kind: ServiceMonitor, plural: servicemonitors, singular: servicemonitor}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""


@pytest.fixture
def no_definition():
    if kubectl("get", "crd", "servicemonitors.monitoring.coreos.com", check=False)[0] == 0:
        pytest.skip("the cluster has the Prometheus operator's definitions")
    yield
    kubectl("delete", "crd", "servicemonitors.monitoring.coreos.com", "--ignore-not-found")


def test_a_monitor_appears_when_the_cluster_learns_the_kind(namespace, no_definition):
    always = "  monitoring: {serviceMonitor: {enabled: Always, interval: 30s, labels: {release: prometheus}}}\n"
    namespace.apply(SERVER, ECHO, SERVER.replace("vision", "speech") + always)
    namespace.wait("tsrv/vision")
    condition = namespace.wait("tsrv/speech")
    assert "monitoring.coreos.com/v1" in condition["message"], "the kind that is missing is named"

    kubectl("apply", "-f", "-", stdin=DEFINITION)
    kubectl("wait", "--for=condition=Established", "crd/servicemonitors.monitoring.coreos.com", "--timeout=20s")
    names = lambda: sorted(it["metadata"]["name"] for it in namespace.items("servicemonitors"))
    until(lambda: names() == ["speech", "vision"], "the monitors", 120)
    monitor = namespace.get("servicemonitor/speech")
    assert monitor["spec"]["endpoints"] == [{"port": "metrics", "path": "/metrics", "interval": "30s"}]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    selected = ",".join(f"{key}={value}" for key, value in monitor["spec"]["selector"]["matchLabels"].items())
    assert [it["metadata"]["name"] for it in namespace.items("services", "-l", selected)] == ["speech"]

    namespace.patch("tsrv/speech", monitoring={"serviceMonitor": {"enabled": "Never"}})
    until(lambda: names() == ["vision"], "the disabled monitor to be removed")
