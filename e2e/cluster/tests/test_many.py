"""Many at once, and others who change the same objects."""

import json
import random

import pytest

from kube import ECHO, SERVER, until

SIDECAR = {
    "name": "mesh",
    "image": "localhost/pause:1",  # waits for ever
    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True, "runAsUser": 1000},
}


def test_invariant_3_fifty_models_and_their_server_are_applied_at_once_in_any_order(namespace):
    texts = [SERVER, *(ECHO.replace("name: echo", f"name: m{number}") for number in range(50))]
    random.Random(3).shuffle(texts)
    namespace.apply(*texts)
    ready = lambda: [it["metadata"]["name"] for it in namespace.items("tmod") if any(c["type"] == "Ready" and c["status"] == "True" for c in it.get("status", {}).get("conditions", []))]
    until(lambda: len(ready()) == 50, "all of them to be ready", 120)
    namespace.wait("tsrv/vision", "ModelsLoaded", reason="AllModelsLoaded")
    assert namespace.get("tsrv/vision")["status"]["models"] == {"desired": 50, "loaded": 50, "failed": 0}
    assert namespace.infer("m7") == [1, 2]


@pytest.mark.our_cluster
def test_invariant_7_what_other_managers_add_stays_and_what_is_ours_is_healed(namespace):
    namespace.apply(SERVER, ECHO)
    namespace.wait("tmod/echo")
    ours = namespace.get("deployment/vision")["spec"]["template"]["spec"]["containers"][0]
    added = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "vision", "labels": {"cost": "centre"}, "annotations": {"team": "a"}},
        "spec": {"template": {"metadata": {"annotations": {"mesh": "on"}}, "spec": {"containers": [SIDECAR]}}},
    }
    namespace.kubectl("apply", "--server-side", "--field-manager=mesh", "-f", "-", stdin=json.dumps(added))

    def containers():
        return {it["name"]: it for it in namespace.get("deployment/vision")["spec"]["template"]["spec"]["containers"]}

    until(lambda: len(namespace.pods()) == 1 and "mesh" in [it["name"] for pod in namespace.pods().values() for it in pod["spec"]["containers"]], "the sidecar", 90)
    namespace.wait("tsrv/vision", deadline=120)
    # somebody changes what is ours, and the operator applies something new
    namespace.kubectl("set", "image", "deployment/vision", f"{ours['name']}=localhost/other:1")
    until(lambda: containers()[ours["name"]]["image"] == ours["image"], "our image to be put back")
    namespace.patch("tsrv/vision", replicas=2)
    until(lambda: namespace.get("deployment/vision")["spec"]["replicas"] == 2, "the replicas")
    assert containers()["mesh"]["image"] == SIDECAR["image"]
    found = namespace.get("deployment/vision")
    assert (found["metadata"]["labels"]["cost"], found["metadata"]["annotations"]["team"]) == ("centre", "a")
    assert found["spec"]["template"]["metadata"]["annotations"]["mesh"] == "on"
    namespace.wait("tsrv/vision", deadline=120)
    assert namespace.infer() == [1, 2]
