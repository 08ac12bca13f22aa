"""The chart: what it installs, what the operator is allowed, what an upgrade leaves alone."""

import json
import re

import pytest
import yaml

from kube import ECHO, OPERATOR, ROOT, SERVER, Failed, helm, inside, kubectl, until

CHART = ROOT / "charts" / "triton-operator"
ACCOUNT = f"system:serviceaccount:{OPERATOR}:{OPERATOR}"


def may(verb, what, namespace="default"):
    return kubectl("auth", "can-i", verb, what, "-n", namespace, f"--as={ACCOUNT}", check=False)[1].strip().endswith("yes")


def test_the_operator_is_ready_and_its_definitions_are_established(operator):
    deployment = operator.get(f"deployment/{OPERATOR}")
    assert deployment["status"]["availableReplicas"] == 1
    for plural in ("tritonservers", "tritonmodels"):
        kubectl("wait", "--for=condition=Established", f"crd/{plural}.triton-operator.dev", "--timeout=10s")
    assert "TritonServer runs replicas" in kubectl("explain", "tritonserver")
    assert "serverRef" in kubectl("explain", "tmod.spec")


def test_rights_are_named_one_by_one_and_of_secrets_one_that_can_be_left_out():
    roles = json.loads(kubectl("get", "clusterroles,roles", "-A", "-l", f"app.kubernetes.io/instance={OPERATOR},app.kubernetes.io/managed-by=Helm", "-o", "json"))["items"]
    names = sorted(it["metadata"]["name"].removeprefix(OPERATOR) for it in roles)
    assert names == ["", "-edit", "-leader", "-metrics-api", "-view"]
    for role in roles:
        for rule in role["rules"]:
            words = [word for part in ("apiGroups", "resources", "verbs") for word in rule.get(part, [])]
            assert "*" not in words, role["metadata"]["name"]
            assert "secrets" not in words or rule["verbs"] == ["get"], role["metadata"]["name"]
    assert "[secrets]" not in helm("template", "other", CHART, "--kube-version", "1.33.0", "--set", "modelSecrets.enabled=false")
    for verb, what in [("list", "secrets"), ("watch", "secrets"), ("create", "pods/exec"), ("create", "pods"), ("update", "tritonservers"), ("get", "nodes")]:
        assert not may(verb, what), f"{verb} {what}"
    assert may("patch", "deployments") and may("watch", "tritonmodels")


def test_the_clusters_own_roles_speak_of_our_kinds(namespace):
    for role, verb, expected in [("view", "get", True), ("view", "create", False), ("edit", "create", True), ("edit", "patch", True)]:
        namespace.kubectl("create", "rolebinding", f"{role}-{verb}", f"--clusterrole={role}", f"--user={role}")
        answer = namespace.kubectl("auth", "can-i", verb, "tmod", f"--as={role}", check=False)[1]
        assert answer.strip().endswith("yes") is expected, (role, verb, answer)


def test_health_and_metrics_of_the_operator_are_served(operator, namespace):
    namespace.apply(SERVER, ECHO)
    namespace.wait("tmod/echo")
    namespace.wait("tsrv/vision")
    spec = operator.get(f"service/{OPERATOR}-metrics")["spec"]
    counted = ['resources{kind="TritonServer",ready="true"}', 'resources{kind="TritonModel",ready="true"}', 'reconcile_total{outcome="done"}', "leader"]

    def are_served():
        page = inside("curl", "-sS", "-m", "5", f"http://{spec['clusterIP']}:8080/metrics")
        return all(re.search(rf"^triton_operator_{re.escape(sample)} [1-9]", page, re.MULTILINE) for sample in counted)

    until(are_served, f"{counted} on the page of metrics")  # the operator counts what its watch has told
    assert inside("curl", "-sS", "-m", "5", f"http://{spec['clusterIP']}:8080/readyz").strip() == "ok"


def test_logs_of_the_operator_are_json(operator):
    lines = operator.kubectl("logs", f"deployment/{OPERATOR}", "--tail=50").splitlines()
    assert lines
    for line in lines:
        assert {"timestamp", "level"} <= json.loads(line).keys(), line


def test_an_upgrade_of_the_operator_leaves_pods_alone(namespace, chart_flags):
    namespace.apply(SERVER, ECHO)
    namespace.wait("tsrv/vision")
    before = namespace.lives()
    try:
        helm("upgrade", OPERATOR, CHART, *chart_flags, "--set", "replicas=2,logLevel=debug,serverImage.tag=another", deadline=240)
        # only a reconcile by the upgraded operator can load another model
        namespace.apply(ECHO.replace("name: echo", "name: second"))
        namespace.wait("tmod/second", deadline=120)
        assert namespace.infer() == [1, 2]
        assert namespace.lives() == before
    finally:
        helm("upgrade", OPERATOR, CHART, *chart_flags, deadline=240)


def test_wrong_values_are_refused_before_anything_is_installed():
    for wrong in ("replcas=2", "watchNamespaces={Upper}", "metrics.serviceMonitor.interval=soon"):
        with pytest.raises(Failed, match="don't meet the specifications"):
            helm("template", "other", CHART, "--set", wrong)


def test_what_helm_test_brings_up_serves_and_answers(operator):
    """The objects of the hook, one by one as helm makes them. Here they are led by address: this cluster resolves no names."""
    name = f"{OPERATOR}-test"
    made = [it for it in yaml.safe_load_all(helm("template", OPERATOR, CHART, "-n", OPERATOR, "--kube-version", "1.33.0", "-s", "templates/tests/serve.yaml")) if it]
    made.sort(key=lambda it: int(it["metadata"]["annotations"]["helm.sh/hook-weight"]))
    assert [it["kind"] for it in made] == ["TritonServer", "TritonModel", "Pod"]
    server, model, pod = made
    try:
        operator.apply(yaml.safe_dump_all([server, model]))
        address = until(lambda: operator.get(f"service/{name}")["spec"]["clusterIP"], "the Service of the server")
        [container] = pod["spec"]["containers"]
        container["args"] = [it.replace(f"{name}.{OPERATOR}.svc", address) for it in container["args"]]
        assert f"--url=http://{address}:8000" in container["args"]
        operator.apply(yaml.safe_dump(pod))
        ended = until(lambda: operator.get(f"pod/{name}")["status"]["phase"] in ("Succeeded", "Failed"), "the pod has asked", deadline=90)
        assert ended and operator.get(f"pod/{name}")["status"]["phase"] == "Succeeded", operator.kubectl("logs", name)
        assert "answers" in operator.kubectl("logs", name)
    finally:
        operator.kubectl("delete", f"pod/{name}", f"tsrv/{name}", f"tmod/{name}", "--ignore-not-found", "--wait=false")


def test_24_plain_manifests_are_taken_by_the_api_server(operator):
    # the namespace is there already, and everything is as helm installed it
    deploy = ROOT / "deploy"
    for what in (("-k", deploy / "manifests"), ("-k", deploy / "manifests/overlays/one-namespace"), ("-f", deploy / "install.yaml")):
        kubectl("apply", "--server-side", "--dry-run=server", "--force-conflicts", *what)


@pytest.mark.parametrize("plural", ["tritonservers", "tritonmodels"])
def test_24_a_client_side_apply_takes_a_definition(plural):
    # the annotation in which kubectl keeps the whole object is counted by the API server
    kubectl("create", "--dry-run=server", "--save-config", "-f", "-", stdin=renamed(ROOT / "crds" / "yaml" / f"{plural}.yaml"))


def renamed(file):
    """A definition of the same size under another group, so that it can be created."""
    return file.read_text().replace("triton-operator.dev", "triton-operator.xyz")
