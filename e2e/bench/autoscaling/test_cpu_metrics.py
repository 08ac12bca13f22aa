"""What the stand-in for metrics-server makes of the pages of kubelets, and how it answers. No cluster: `kubectl` is replaced."""

import http.client
import json
import sys
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import cpu_metrics  # noqa: E402


class Kubelets:
    """Two nodes; `seconds` of processor time by (pod, container), all in namespace `ml`."""

    def __init__(self):
        self.seconds, self.listed, self.asked = {}, [], []

    def __call__(self, *arguments):
        self.asked.append(arguments)
        if arguments[:2] == ("get", "nodes"):
            return "node/a\nnode/b\n"
        if arguments[:2] == ("get", "--raw"):
            if "/nodes/b/" in arguments[2]:
                return 'node_cpu_usage_seconds_total 99 1700000000000\n'
            return "".join(
                f'container_cpu_usage_seconds_total{{container="{container}",namespace="ml",pod="{pod}"}} {value} 1700000000000\n'
                for (pod, container), value in self.seconds.items()
            )
        return "".join(f"pod/{name}\n" for name in self.listed)


@pytest.fixture
def kubelets(monkeypatch):
    kubelets, clock = Kubelets(), [1000.0]
    monkeypatch.setattr(cpu_metrics, "kubectl", kubelets)
    monkeypatch.setattr(cpu_metrics, "looks", [])
    monkeypatch.setattr(cpu_metrics.time, "monotonic", lambda: clock[0])

    def look(after, **seconds):
        clock[0] += after
        kubelets.seconds = {tuple(name.split("_")): value for name, value in seconds.items()}
        cpu_metrics.look()

    kubelets.look = look
    return kubelets


def cpu(items):
    return {(item["metadata"]["name"], of["name"]): of["usage"]["cpu"] for item in items for of in item["containers"]}


def test_one_look_says_nothing(kubelets):
    kubelets.listed = ["p"]
    kubelets.look(0, p_server=3)
    assert cpu_metrics.usage("ml", "app=x") == []


def test_usage_is_the_mean_between_the_oldest_and_the_newest_look(kubelets):
    kubelets.listed = ["p", "q"]
    kubelets.look(0, p_server=10, p_agent=1, q_server=5)
    kubelets.look(5, p_server=11, p_agent=1, q_server=7.5)
    kubelets.look(5, p_server=15, p_agent=2, q_server=10)
    assert cpu(cpu_metrics.usage("ml", "app=x")) == {("p", "server"): "500000000n", ("p", "agent"): "100000000n", ("q", "server"): "500000000n"}
    assert kubelets.asked[-1] == ("-n", "ml", "get", "pods", "-l", "app=x", "-o", "name")


def test_pods_that_are_not_selected_or_of_another_namespace_are_left_out(kubelets):
    kubelets.listed = ["p"]
    kubelets.look(0, p_server=0, q_server=0)
    kubelets.look(5, p_server=5, q_server=5)
    assert cpu(cpu_metrics.usage("ml", "app=x")) == {("p", "server"): "1000000000n"}
    assert cpu_metrics.usage("other", "app=x") == []


def test_a_container_that_began_again_uses_nothing_and_a_new_one_is_not_known_yet(kubelets):
    kubelets.listed = ["p", "new"]
    kubelets.look(0, p_server=100)
    kubelets.look(5, p_server=1, new_server=50)
    assert cpu(cpu_metrics.usage("ml", "")) == {("p", "server"): "0n"}


def test_looks_older_than_the_window_are_forgotten(kubelets):
    kubelets.listed = ["p"]
    kubelets.look(0, p_server=0)
    for _ in range(20):
        kubelets.look(5, p_server=1000)
    spanned = cpu_metrics.looks[-1][0] - cpu_metrics.looks[0][0]
    assert cpu_metrics.WINDOW <= spanned < cpu_metrics.WINDOW + cpu_metrics.PERIOD + 0.1
    assert cpu(cpu_metrics.usage("ml", "")) == {("p", "server"): "0n"}


def test_it_answers_as_the_resource_metrics_api_does(kubelets):
    kubelets.listed = ["p"]
    kubelets.look(0, p_server=0)
    kubelets.look(5, p_server=1)
    server = ThreadingHTTPServer(("127.0.0.1", 0), cpu_metrics.Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def ask(path):
        connection = http.client.HTTPConnection(*server.server_address, timeout=20)
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())

    try:
        found = ask("/apis/metrics.k8s.io/v1beta1/namespaces/ml/pods?labelSelector=app%3Dx%2Ctier%3Dy")
        assert (found["kind"], cpu(found["items"])) == ("PodMetricsList", {("p", "server"): "200000000n"})
        assert kubelets.asked[-1][5] == "app=x,tier=y"
        assert [of["name"] for of in ask("/apis/metrics.k8s.io/v1beta1")["resources"]] == ["pods"]
        assert ask("/apis/metrics.k8s.io/v1beta1/namespaces/ml/pods/p") == {}
    finally:
        server.shutdown()
        server.server_close()
