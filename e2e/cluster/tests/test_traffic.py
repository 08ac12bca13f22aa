"""What is done to operator, agent, servers and nodes while requests flow through the Service. Each test sends at
least 2,000, in a soak run 20,000, and none may fail; two replicas, on a node each, or one."""

import json
import signal
import time

import pytest

from kube import ECHO, OPERATOR, OPERATORS, ROOT, SERVER, Namespace, child, first_process, helm, kill, kubectl, load, load_over_grpc, until

# the drain outlasts the time until every node has learned that a pod leaves
TWO = SERVER.replace("replicas: 1", "replicas: 2").replace("drainDelay: 3s", "drainDelay: 5s")


@pytest.fixture
def serving(namespace):
    namespace.apply(TWO, ECHO)
    namespace.wait("tsrv/vision")
    namespace.wait("tmod/echo")
    assert {pod["spec"]["nodeName"] for pod in namespace.pods().values()} == {"kn1", "kn2"}
    return namespace


def recovered(namespace, before):
    """Two ready replicas again, and not the ones of before."""
    until(lambda: namespace.lives() != before, "something to have happened")
    namespace.wait("tsrv/vision", deadline=120)
    until(lambda: namespace.get("tmod/echo")["status"]["loadedReplicas"] == "2/2", "the model on both replicas", 120)


@pytest.mark.our_cluster
def test_nobody_notices_a_killed_operator(serving, operator):
    with load(serving):
        (pod,) = operator.items("pods", *OPERATORS)
        kill(first_process(pod, "operator"))
        serving.apply(ECHO.replace("name: echo", "name: second"))
        serving.wait("tmod/second", deadline=120)


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


def replaced(namespace, before):
    """Other pods than before, and all of those gone: nobody asked them any more."""
    until(lambda: namespace.pods() and not before & set(namespace.pods()), "another pod")
    namespace.wait("tsrv/vision")
    until(lambda: not before & {pod["metadata"]["name"] for pod in namespace.items("pods")}, "the old pod to end", 15)


def test_nobody_notices_that_the_only_pod_is_deleted_rolled_and_drained(namespace, next_image):
    namespace.apply(SERVER, ECHO)
    namespace.wait("tmod/echo")
    with load(namespace), load_over_grpc(namespace):
        before = set(namespace.pods())
        namespace.kubectl("delete", "pod", *before, "--wait=false")
        replaced(namespace, before)
        before = set(namespace.pods())
        namespace.patch("tsrv/vision", image=next_image)
        replaced(namespace, before)
        ((name, pod),) = namespace.pods().items()
        node = pod["spec"]["nodeName"]
        try:
            drain = ["drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s"]
            kubectl(*drain, "--pod-selector=app.kubernetes.io/instance=vision")
            replaced(namespace, {name})
        finally:
            kubectl("uncordon", node)


def test_nobody_notices_that_one_of_two_pods_is_deleted_and_then_not_wanted(serving):
    with load(serving), load_over_grpc(serving):
        before = serving.lives()
        serving.kubectl("delete", "pod", next(iter(serving.pods())), "--wait=false")
        recovered(serving, before)
        serving.patch("tsrv/vision", replicas=1)
        until(lambda: len(serving.items("pods")) == 1, "one pod")


def test_nobody_notices_a_drained_node(serving):
    before = serving.lives()
    try:
        with load(serving):
            drain = ["drain", "kn2", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=90s"]
            drain += [f"--pod-selector=app.kubernetes.io/instance=vision"]
            kubectl(*drain)
            recovered(serving, before)
            assert {pod["spec"]["nodeName"] for pod in serving.pods().values()} == {"kn1"}
    finally:
        kubectl("uncordon", "kn2")


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


def test_invariant_11_nobody_notices_an_upgrade_of_the_operator(serving, chart_flags):
    before = serving.lives()
    chart = ROOT / "charts" / "triton-operator"
    try:
        with load(serving):
            helm("upgrade", OPERATOR, chart, *chart_flags, "--set", "replicas=2,logLevel=debug", deadline=240)
            serving.wait("tsrv/vision")
    finally:
        helm("upgrade", OPERATOR, chart, *chart_flags, deadline=240)
    assert serving.lives() == before


@pytest.mark.our_cluster
def test_an_operator_that_loses_its_lease_goes_on_as_one_that_waits_for_it(serving):
    operator = Namespace(OPERATOR)
    pods = lambda: {pod["metadata"]["name"]: pod["status"]["containerStatuses"][0]["restartCount"] for pod in operator.items("pods", *OPERATORS)}
    holder = lambda: operator.get("lease/triton-operator")["spec"].get("holderIdentity")
    until(lambda: holder() in pods(), "a leader", 60)
    before = pods()
    operator.kubectl("patch", "lease/triton-operator", "--type=merge", "-p", '{"spec": {"holderIdentity": "somebody-else"}}')
    until(lambda: holder() in before, "the lease to have run out", 90)
    serving.apply(ECHO.replace("name: echo", "name: second"))
    serving.wait("tmod/second", deadline=60)
    assert pods() == before, "neither the pod nor its container is another one"


@pytest.mark.our_cluster
def test_a_second_operator_takes_over_from_a_killed_one(serving, chart_flags):
    chart = ROOT / "charts" / "triton-operator"
    operator = Namespace(OPERATOR)
    helm("upgrade", OPERATOR, chart, *chart_flags, "--set", "replicas=2", deadline=240)
    try:
        lease = lambda: operator.get("lease/triton-operator")["spec"].get("holderIdentity")
        pods = {pod["metadata"]["name"]: pod for pod in operator.items("pods", *OPERATORS) if "deletionTimestamp" not in pod["metadata"]}
        leader = until(lambda: next((name for name in pods if lease() == name), None), "a leader", 30)
        began = time.monotonic()
        operator.kubectl("delete", "pod", leader, "--force", "--grace-period=0")
        serving.apply(ECHO.replace("name: echo", "name: second"))
        serving.wait("tmod/second", deadline=60)
        print(f"another operator had finished {time.monotonic() - began:.0f} s after the leader was gone")
    finally:
        helm("upgrade", OPERATOR, chart, *chart_flags, deadline=240)
