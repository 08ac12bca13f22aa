"""A node that is cut off: the status names its replica before the node controller knows, and is well again as soon as it is back."""

import contextlib
import time

import pytest

from kube import ECHO, NETWORK, OPERATORS, SERVER, run, until

pytestmark = pytest.mark.our_cluster

TWO = SERVER.replace("replicas: 1", "replicas: 2")
SOON = 5.0  # seconds


@contextlib.contextmanager
def cut_off(node):
    """Takes the cable out of a node."""
    link = lambda state: run("ip", "-n", NETWORK, "link", "set", node.replace("kn", "node"), state)
    link("down")
    try:
        yield
    finally:
        link("up")


def test_a_replica_that_cannot_be_reached_is_named_within_five_seconds(namespace, operator):
    namespace.apply(TWO, ECHO)
    namespace.wait("tsrv/vision")
    namespace.wait("tmod/echo")
    (own,) = (pod["spec"]["nodeName"] for pod in operator.items("pods", *OPERATORS) if "deletionTimestamp" not in pod["metadata"])
    name, node = next((name, pod["spec"]["nodeName"]) for name, pod in namespace.pods().items() if pod["spec"]["nodeName"] != own)

    def is_named():
        ready = namespace.condition("tsrv/vision")
        return ready.get("reason") == "ReplicaUnreachable" and f"{name} cannot be reached" in ready["message"] and ready["message"]

    with cut_off(node):
        began = time.monotonic()
        message = until(is_named, "the replica to be named", SOON)
        named = time.monotonic() - began
        assert node in message
        assert namespace.condition("tsrv/vision", "Available")["status"] == "True"
    began = time.monotonic()
    namespace.wait("tsrv/vision", deadline=2 * SOON)
    print(f"named after {named:.1f} s, well again {time.monotonic() - began:.1f} s after it was back")
    warned = [it["regarding"]["name"] for it in namespace.items("events.events.k8s.io") if it["reason"] == "ReplicaUnreachable"]
    assert warned == ["vision"]
