"""What is done to agents, servers and models while requests flow through the Service. Each test sends at least 2,000, in a soak run 20,000,
and none may fail; two replicas, on a node each."""

import json
import signal

import pytest

from kube import ECHO, child, first_process, kill, load, load_over_grpc, recovered, until


@pytest.mark.our_cluster
def test_nobody_notices_a_killed_agent(serving):
    before = serving.lives()
    with load(serving):
        kill(first_process(next(iter(serving.pods().values())), "agent"))
        recovered(serving, before)
        serving.apply(ECHO.replace("name: echo", "name: second"))
        serving.wait("tmod/second")


@pytest.mark.our_cluster
def test_nobody_notices_a_server_that_is_terminated(serving):
    before = serving.lives()
    with load(serving):
        kill(first_process(next(iter(serving.pods().values())), "server"), signal.SIGTERM)
        recovered(serving, before)


CALLERS = 16  # of `load`: each has one request in flight at most


def lost_in_flight(result, of_replicas):
    """Requests in flight at a process that is killed are lost; no others may fail."""
    print(json.dumps(result, indent=1))
    assert result["failed"] <= CALLERS * of_replicas / 2
    assert not [it for it in result["first_failures"] if not it["what"].startswith(("sending", "reading"))], result


@pytest.mark.our_cluster
def test_a_killed_server_process_loses_only_what_was_in_flight(serving):
    before = serving.lives()
    with load(serving, may_fail=True) as result:
        for pod in serving.pods().values():
            kill(child(pod, "server"))
    lost_in_flight(result, of_replicas=2)
    assert serving.lives() == before, "it is started again in its container"
    serving.kubectl("annotate", "tsrv/vision", "somebody=looks")
    crashes = lambda: [it for it in serving.items("events.events.k8s.io") if it["reason"] == "ServerCrashed"]
    until(lambda: len(crashes()) == 2, "an event for each", 90)
    serving.wait("tsrv/vision")


@pytest.mark.our_cluster
def test_a_killed_server_container_loses_only_what_was_in_flight_of_clients_that_retry_refused_connections(serving):
    before = serving.lives()
    with load(serving, may_fail=True, retry_refused=True) as result:
        kill(first_process(next(iter(serving.pods().values())), "server"))
        recovered(serving, before)
    lost_in_flight(result, of_replicas=1)


def test_nobody_notices_that_one_of_two_pods_is_deleted_and_then_not_wanted(serving):
    with load(serving), load_over_grpc(serving):
        before = serving.lives()
        serving.kubectl("delete", "pod", next(iter(serving.pods())), "--wait=false")
        recovered(serving, before)
        serving.patch("tsrv/vision", replicas=1)
        until(lambda: len(serving.items("pods")) == 1, "one pod")


def test_nobody_notices_a_new_image_of_the_server(serving, next_image):
    before = {pod["metadata"]["uid"] for pod in serving.pods().values()}
    with load(serving):
        serving.patch("tsrv/vision", image=next_image)
        until(lambda: not before & {pod["metadata"]["uid"] for pod in serving.pods().values()}, "new pods", 150)
        serving.wait("tsrv/vision", deadline=120)
    for pod in serving.pods().values():
        assert pod["spec"]["containers"][0]["image"].endswith(next_image["tag"])


def test_invariant_9_nobody_notices_models_that_come_change_and_go(serving):
    before = serving.lives()
    with load(serving):
        serving.apply(ECHO.replace("name: echo", "name: second"))
        serving.wait("tmod/second")
        for text in ("once", "twice", "thrice"):
            content = serving.get("tmod/echo")["status"]["contentHash"]
            serving.patch("tmod/echo", source={"inline": {"files": {"1/about.txt": text}}})
            until(lambda: serving.get("tmod/echo")["status"].get("contentHash") not in (None, content), "the new content")
            serving.wait("tmod/echo")
        serving.patch("tmod/echo", config={"backend": "nowhere"})
        serving.wait("tmod/echo", status="False", reason="LoadFailed")
        serving.kubectl("delete", "tmod/second")
    assert serving.lives() == before
