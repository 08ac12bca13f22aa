"""The owner's last word about the pods (spec.podTemplate), and GPUs by dynamic resource allocation."""

import pytest

from kube import ECHO, SERVER, environment, until

PAUSE = "localhost/pause:1"
TEMPLATE = """
  podTemplate:
    metadata: {annotations: {example.com/note: hello}}
    spec:
      containers:
        - {name: log, image: "localhost/pause:1", resources: {requests: {cpu: 1m}}}
        - name: server
          env: [{name: FROM_MAP, valueFrom: {configMapKeyRef: {name: settings, key: key}}}]
          volumeMounts: [{name: extra, mountPath: /extra}]
      volumes: [{name: extra, configMap: {name: settings}}]
"""
SETTINGS = "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {key: from the map}}"


@pytest.mark.our_cluster
def test_a_sidecar_a_volume_and_environment_are_added_and_what_breaks_the_pods_is_refused(namespace):
    namespace.apply(SETTINGS, SERVER + TEMPLATE, ECHO)
    namespace.wait("tsrv/vision")
    namespace.wait("tmod/echo")
    before = namespace.lives()
    (pod,) = namespace.pods().values()
    assert sorted(it["name"] for it in pod["spec"]["containers"]) == ["log", "server"]
    assert pod["metadata"]["annotations"]["example.com/note"] == "hello"
    assert environment(pod)["FROM_MAP"] == "from the map"

    # drift of what the owner added is healed as well
    deployment = lambda: namespace.get("deployment/vision")["spec"]["template"]["spec"]["containers"]
    namespace.kubectl("patch", "deployment/vision", "-p", '{"spec": {"template": {"spec": {"containers": [{"name": "log", "image": "localhost/pause:2"}]}}}}')
    until(lambda: next(it for it in deployment() if it["name"] == "log")["image"] == PAUSE, "the image to be put back")

    for patch, said in [
        ({"spec": {"hostNetwork": True}}, "spec.podTemplate.spec.hostNetwork: is refused"),
        (
            {"spec": {"containers": [{"name": "log", "livenessProbe": {"tcpSocket": {"host": "127.0.0.1", "port": 10250}}}]}},
            "spec.podTemplate.spec.containers[log].livenessProbe.tcpSocket.host: is refused",
        ),
        ({"spec": {"volumes": [{"name": "files", "nfs": {"server": "nfs.example", "path": "/"}}]}}, "spec.podTemplate.spec.volumes[files].nfs: is refused"),
        ({"spec": {"containers": [{"name": "server", "command": ["sh"]}]}}, "spec.podTemplate.spec.containers[server].command: cannot be changed"),
        ({"spec": {"containers": [{"name": "log", "imag": "x"}]}}, "spec.podTemplate.spec.containers[log].imag: is no field"),
        ({"spec": {"containers": [{"name": "log", "envFrom": [{"secretRef": {"name": "another"}}]}]}}, "Secret 'another'"),
    ]:
        namespace.patch("tsrv/vision", podTemplate=patch)
        condition = namespace.wait("tsrv/vision", status="False")
        until(lambda said=said: said in namespace.condition("tsrv/vision", "Ready")["message"], f"{said} in {condition}")
    assert namespace.infer() == [1, 2]
    until(lambda: set(namespace.lives()) == set(before), "the pods to be as they were", 90)


CLAIM = """
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: one-gpu}
spec: {spec: {devices: {requests: [{name: gpu, exactly: {deviceClassName: gpu.example.com}}]}}}
---
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: gpu.example.com}
spec: {}
"""


def test_devices_of_claims_that_no_driver_offers_are_told_in_the_schedulers_words(namespace):
    namespace.apply(CLAIM, SERVER + "  gpu: {resourceClaims: [{name: gpu, resourceClaimTemplateName: one-gpu}]}\n", ECHO)
    condition = namespace.wait("tsrv/vision", status="False", reason="Unschedulable")
    assert "cannot allocate all claims" in condition["message"], condition
    (pod,) = namespace.pods().values()
    assert pod["spec"]["resourceClaims"] == [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}]
    server = next(it for it in pod["spec"]["containers"] if it["name"] == "server")
    assert server["resources"]["claims"] == [{"name": "gpu"}]
    # a spec that fits gets its pods
    namespace.patch("tsrv/vision", gpu=None)
    namespace.wait("tmod/echo")
    assert namespace.infer() == [1, 2]
