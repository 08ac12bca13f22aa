"""A server of minReplicas 0: it rests, is woken by a request and loses none, whichever protocol they come by."""

import json
import sys
import time

import pytest

from kube import CLUSTER, ECHO, OPERATOR, ROOT, SERVER, helm, inside, run, until
from test_tls import SERVED, TLS, address_of, ask, authority  # noqa: F401 - a fixture

AFTER = 10
RESTING = SERVER.replace("  replicas: 1\n", f"  autoscaling: {{minReplicas: 0, maxReplicas: 2, scaleToZero: {{after: {AFTER}s}}}}\n")


@pytest.fixture(scope="module", autouse=True)
def activators(operator, chart_flags):
    chart = ROOT / "charts" / "triton-operator"
    helm("upgrade", OPERATOR, chart, *chart_flags, "--set", "activator.enabled=true", deadline=240)
    yield
    helm("upgrade", OPERATOR, chart, *chart_flags, deadline=240)


def burst(namespace, count):
    """Requests at once, all of which are answered; the seconds that took."""
    program = CLUSTER / "tests" / "burst.py"
    addresses = [namespace.address(port=port) for port in ("http", "grpc")]
    result = json.loads(run(CLUSTER / "inside", sys.executable, program, *addresses, "echo", count))
    assert result["failures"] == [], result
    return result["seconds"]


def replicas(namespace):
    return namespace.get("deployment/vision")["spec"]["replicas"]


def rests(namespace, deadline=60):
    until(lambda: replicas(namespace) == 0, "the server to rest", deadline)


def led_to(namespace):
    """Where its Service leads beside its pods."""
    found = namespace.get("endpointslice/vision-activator")
    return [address for endpoint in found["endpoints"] or [] for address in endpoint["addresses"]]


def test_a_server_rests_and_no_request_is_lost_when_it_is_woken(namespace, operator):
    namespace.apply(RESTING, ECHO)
    namespace.wait("tmod/echo")
    rests(namespace)
    condition = namespace.wait("tsrv/vision", reason="ScaledToZero")
    until(lambda: not namespace.items("pods"), "no pods", 30)
    activators = operator.items("pods", "-l", "app.kubernetes.io/component=activator")
    assert sorted(led_to(namespace)) == sorted(pod["status"]["podIP"] for pod in activators), condition

    # a load balancer's probes do not wake it
    health = f"http://{namespace.address()}/v2/health/ready"
    for _ in range(10):
        assert inside("curl", "-sS", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", health) == "200"
        time.sleep(0.2)
    assert replicas(namespace) == 0 and not namespace.items("pods")

    print(f"50 requests at once, answered {burst(namespace, 50):.1f} s after they were sent to a server at rest")
    until(lambda: led_to(namespace) == [], "requests to go to the pod alone", 30)
    namespace.wait("tsrv/vision", reason="AllReplicasReady")
    assert burst(namespace, 12) < 10

    # at the very moment that it goes to rest
    rests(namespace)
    print(f"while its pod ended: {burst(namespace, 30):.1f} s")

    # an activator is replaced, and the pod of a server whose slice was changed by hand is found all the same
    rests(namespace)
    until(lambda: not namespace.items("pods"), "no pods", 60)
    namespace.kubectl("patch", "endpointslice/vision-activator", "--type=json", "-p", '[{"op": "replace", "path": "/endpoints", "value": []}]')
    until(lambda: led_to(namespace), "the slice to be healed", 30)
    operator.restart(f"{OPERATOR}-activator")
    print(f"while activators were replaced: {burst(namespace, 30):.1f} s")
    operator.kubectl("rollout", "status", f"deployment/{OPERATOR}-activator", "--timeout=60s")

    # one replica for good
    rests(namespace, 90)
    namespace.patch("tsrv/vision", autoscaling={"minReplicas": 1, "scaleToZero": None})
    until(lambda: replicas(namespace) == 1, "a replica", 30)
    until(lambda: "vision-activator" not in namespace.kubectl("get", "endpointslices"), "the slice to go", 30)


def test_a_server_that_speaks_tls_rests_and_is_woken_by_connections_that_nobody_on_the_way_can_read(namespace, authority):  # noqa: F811
    namespace.apply(authority.secret(*authority.certificate("first", "DNS:vision.example.com")), RESTING + TLS, ECHO)
    namespace.wait("tmod/echo")
    # the address of the Service stands in the next one, which pods that start later have from the start
    namespace.apply(authority.secret(*authority.certificate("second", f"IP:{address_of(namespace)}")))
    rests(namespace)
    until(lambda: not namespace.items("pods"), "no pods", 60)
    began = time.monotonic()
    assert ask(namespace, authority) == SERVED
    print(f"over HTTPS and gRPC with TLS, answered {time.monotonic() - began:.1f} s after the first was sent to a server at rest")
    until(lambda: led_to(namespace) == [], "connections to go to the pod alone", 30)
    namespace.wait("tsrv/vision", reason="AllReplicasReady")
    assert ask(namespace, authority) == SERVED
