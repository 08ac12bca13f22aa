"""What is done to the operator and to nodes while requests flow through the Service: nothing else may run beside it. Each test with traffic
sends at least 2,000, in a soak run 20,000, and none may fail; two replicas, on a node each, or one."""

import time

import pytest

from kube import ECHO, OPERATOR, OPERATORS, ROOT, SERVER, Namespace, first_process, helm, kill, kubectl, load, load_over_grpc, recovered, until


@pytest.mark.our_cluster
def test_nobody_notices_a_killed_operator(serving, operator):
    with load(serving):
        (pod,) = operator.items("pods", *OPERATORS)
        kill(first_process(pod, "operator"))
        serving.apply(ECHO.replace("name: echo", "name: second"))
        serving.wait("tmod/second", deadline=120)


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
