"""Whatever is deleted, in whatever order and way: nothing is left behind, nothing hangs, and what comes after under the same name is
whole."""

import json

import pytest

from kube import ECHO, SERVER, until

MADE = "deployments,replicasets,pods,services,poddisruptionbudgets"
SECOND = ECHO.replace("name: echo", "name: second")


@pytest.fixture
def serving(namespace):
    namespace.apply(SERVER, ECHO, SECOND)
    namespace.wait("tsrv/vision")
    for model in ("echo", "second"):
        namespace.wait(f"tmod/{model}")
    return namespace


def is_empty(namespace):
    """Nothing of ours is left, and nothing is on its way out."""
    names = {it["metadata"]["name"] for it in namespace.items("configmaps,serviceaccounts")}
    return not namespace.items(f"{MADE},tsrv,tmod") and names == {"kube-root-ca.crt", "default"}


def test_invariant_19_a_server_goes_with_its_models_in_any_order(namespaces):
    first, second, third = (namespaces() for _ in range(3))
    for namespace in (first, second, third):
        namespace.apply(SERVER, ECHO)
    for namespace in (first, second, third):
        namespace.wait("tmod/echo")
    first.kubectl("delete", "tsrv/vision", "--timeout=30s")
    first.kubectl("delete", "tmod/echo", "--timeout=30s")
    second.kubectl("delete", "tmod/echo", "--timeout=30s")
    second.kubectl("delete", "tsrv/vision", "--timeout=30s")
    third.kubectl("delete", "tsrv,tmod", "--all", "--timeout=30s")
    for namespace in (first, second, third):
        until(lambda: is_empty(namespace), "everything to be gone", 60)


def test_invariant_20_deletion_in_the_foreground_waits_and_orphans_are_left_alone(serving):
    serving.kubectl("delete", "tsrv/vision", "--cascade=foreground", "--timeout=60s")
    assert not serving.items("deployments"), "what is owned goes first"
    # made again, and this time its objects are to stay
    serving.apply(SERVER)
    serving.wait("tmod/echo")
    lives = serving.lives()
    serving.kubectl("delete", "tsrv/vision", "--cascade=orphan", "--timeout=30s")
    serving.wait("tmod/echo", status="False", reason="ServerNotFound")
    assert serving.lives() == lives and serving.infer() == [1, 2]
    assert "ownerReferences" not in serving.get("deployment/vision")["metadata"]


def test_invariant_20_a_server_made_while_its_namesake_goes_is_whole(serving):
    old = serving.get("tsrv/vision")["metadata"]["uid"]
    # somebody's finalizer holds the Deployment of the first one back
    hold = lambda names: serving.kubectl("patch", "deployment/vision", "--type=merge", "-p", json.dumps({"metadata": {"finalizers": names}}))
    hold(["example.org/hold"])
    serving.kubectl("delete", "tsrv/vision", "--timeout=30s")
    until(lambda: serving.get("deployment/vision")["metadata"].get("deletionTimestamp"), "the Deployment to be on its way")
    serving.apply(SERVER)
    new = serving.get("tsrv/vision")["metadata"]["uid"]
    assert new != old
    serving.wait("tsrv/vision", status="False", reason="WaitingForRemoval")
    hold(None)
    serving.wait("tsrv/vision")
    serving.wait("tmod/echo")
    owners = [owner["uid"] for it in serving.items("deployments,services,configmaps") for owner in it["metadata"].get("ownerReferences", [])]
    assert owners and set(owners) == {new}
    assert serving.infer() == [1, 2]
