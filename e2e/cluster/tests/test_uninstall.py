"""The end, which is also the last test: pods outlive the operator, the definitions outlive the release, and a release that keeps
nothing leaves nothing. An operator that serves some namespaces only is tried on the way."""

import pytest

from kube import ECHO, OPERATOR, ROOT, SERVER, Namespace, helm, kubectl, until

CHART = ROOT / "charts" / "triton-operator"


def test_operators_of_one_namespace_each_serve_no_other(namespaces, chart_flags):
    helm("uninstall", OPERATOR, "--namespace", OPERATOR, "--wait")
    mine, other = namespaces(), namespaces()
    helm("upgrade", "--install", OPERATOR, CHART, *chart_flags, "--set", f"watchNamespaces={{{mine.name}}}", deadline=240)
    assert not kubectl("get", "clusterroles", "-l", f"app.kubernetes.io/instance={OPERATOR}", "-o", "name").count(f"/{OPERATOR}\n")
    for namespace in (mine, other):
        namespace.apply(SERVER, ECHO)
    mine.wait("tmod/echo")
    assert mine.infer() == [1, 2]
    assert other.get("tsrv/vision")["status"].get("conditions", []) == []
    assert not other.items("deployments")
    # a second release beside the first, for the other namespace
    try:
        helm("upgrade", "--install", "second", CHART, *chart_flags, "--set", f"watchNamespaces={{{other.name}}}", "--set", "crds.install=false", "--set", "metricsApi.enabled=false", deadline=240)
        other.wait("tmod/echo")
        assert other.infer() == [1, 2]
        leases = {it["metadata"]["name"]: it["spec"].get("holderIdentity") for it in Namespace(OPERATOR).items("leases")}
        assert leases[OPERATOR] and leases["second-triton-operator"], leases
    finally:
        helm("uninstall", "second", "--namespace", OPERATOR, "--wait", "--ignore-not-found")


def test_pods_and_resources_outlive_an_uninstall(namespace, chart_flags):
    helm("uninstall", OPERATOR, "--namespace", OPERATOR, "--wait")
    helm("upgrade", "--install", OPERATOR, CHART, *chart_flags, deadline=240)
    namespace.apply(SERVER, ECHO)
    namespace.wait("tmod/echo")
    before = namespace.lives()
    helm("uninstall", OPERATOR, "--namespace", OPERATOR, "--wait")
    # one that leads nowhere would keep namespaces from being deleted
    assert "NotFound" in kubectl("get", "apiservice", "v1beta2.custom.metrics.k8s.io", check=False)[1]
    assert namespace.infer() == [1, 2]
    assert namespace.lives() == before
    # and an install finds them again
    helm("upgrade", "--install", OPERATOR, CHART, *chart_flags, deadline=240)
    namespace.wait("tmod/echo")
    assert namespace.lives() == before


def test_a_release_that_keeps_nothing_leaves_nothing(request, chart_flags):
    if request.config.getoption("--keep"):
        pytest.skip("asked to keep what is there")
    helm("upgrade", "--install", OPERATOR, CHART, *chart_flags, "--set", "crds.keep=false", deadline=240)
    helm("uninstall", OPERATOR, "--namespace", OPERATOR, "--wait")
    left = lambda: kubectl("get", "crds,clusterroles,clusterrolebindings", "-o", "name").count("triton")
    until(lambda: left() == 0, "everything to be gone", 120)
    kubectl("delete", "namespace", OPERATOR, "--timeout=60s")
