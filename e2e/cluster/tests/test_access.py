"""Who may use what: a tenant who may write our two kinds and nothing else gets at no Secret of others, no model replaces a pod, and what
was allowed ends when its owner says so."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from kube import CLUSTER, ECHO, MARK, SERVER, until

pytestmark = pytest.mark.our_cluster

HOST = "10.89.0.1"  # where pods reach the control plane's namespace
INLINE = 'source: {inline: {files: {"1/about.txt": "gives back what it gets"}}}'

# answers every request with a model of one file, and writes down what it was sent
LISTENER = f"""
import http.server, sys

class Listener(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with open(sys.argv[1], "a") as log:
            log.write(self.path + " " + str(self.headers.get("Authorization")) + "\\n")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    do_HEAD = do_GET

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("{HOST}", 0), Listener)
print(server.server_port, flush=True)
server.serve_forever()
"""

TENANT = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: tenant}
rules:
  - apiGroups: [triton-operator.dev]
    resources: [tritonmodels, tritonservers]
    verbs: [get, list, watch, create, update, patch, delete]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: tenant}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: tenant}
subjects: [{kind: User, name: tenant, apiGroup: rbac.authorization.k8s.io}]
---
apiVersion: v1
kind: Secret
metadata: {name: another}
stringData: {token: precious}
"""


@pytest.fixture
def listener():
    """Address of a web server, and what it was asked so far."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        log.touch()
        command = [str(CLUSTER / "inside"), sys.executable, "-c", LISTENER, str(log)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            yield f"http://{HOST}:{process.stdout.readline().strip()}", log.read_text
            process.terminate()


def named(name, source="", server="vision"):
    return ECHO.replace("name: echo", f"name: {name}").replace("name: vision", f"name: {server}").replace(INLINE, source or INLINE)


def opened_with(name, uri, secret, server="vision"):
    source = f"source: {{http: {{uri: '{uri}/about.txt', secretRef: {{name: {secret}}}}}}}"
    text = named(name, source, server)
    return text.replace("backend: identity", "backend: identity\n    defaultModelFilename: about.txt")


def test_a_tenant_gets_no_secret_of_others(namespace, listener):
    address, asked = listener
    namespace.apply(SERVER, ECHO, TENANT)
    namespace.wait("tmod/echo")
    before = namespace.lives()
    as_tenant = lambda *texts: namespace.kubectl("apply", "--as=tenant", "-f", "-", stdin="\n---\n".join(texts))
    # his model on the server of others
    as_tenant(opened_with("thief", address, "another"))
    condition = namespace.wait("tmod/thief", status="False", reason="AccessDenied")
    assert "spec.modelAccess.secrets" in condition["message"], condition
    # a server of his own, which lists the Secret: its owner has not marked it
    his = SERVER.replace("name: vision", "name: his")
    as_tenant(his + "  modelAccess: {secrets: [another]}\n", opened_with("second", address, "another", "his"))
    condition = namespace.wait("tmod/second", status="False", reason="CredentialsMissing")
    assert "triton-operator.dev/model-access" in condition["message"], condition
    volumes = [volume for pod in namespace.pods("his").values() for volume in pod["spec"]["volumes"]]
    assert volumes and not [volume for volume in volumes if "secret" in volume], "he chooses what runs in the pod, so it is not even mounted"
    # and one whose environment would have it
    env = "env: [{name: STOLEN, valueFrom: {secretKeyRef: {name: another, key: token}}}]"
    as_tenant(his.replace("name: his", "name: reader").replace("drainDelay: 3s", f"drainDelay: 3s, {env}"))
    condition = namespace.wait("tsrv/reader", status="False", reason="CredentialsMissing")
    assert "spec.server.env[0]" in condition["message"], condition
    assert not namespace.pods("reader")
    assert namespace.lives() == before
    assert asked() == "", "nothing was sent, not even a request"


def test_access_ends_when_the_owner_of_the_secret_says_so(namespace, listener):
    address, asked = listener
    namespace.kubectl("create", "secret", "generic", "token", "--from-literal=token=precious")
    namespace.kubectl("label", "secret", "token", MARK)
    namespace.apply(SERVER + "  modelAccess: {secrets: [token]}\n", opened_with("echo", address, "token"))
    namespace.wait("tmod/echo")
    assert "Bearer precious" in asked()
    before, sent = namespace.lives(), asked()
    namespace.kubectl("label", "secret", "token", MARK.split("=")[0] + "-")
    namespace.wait("tmod/echo", status="False", reason="CredentialsMissing", deadline=150)
    assert namespace.infer() == [1, 2], "what was fetched goes on"
    manifest = lambda: json.loads(namespace.get("configmap/vision-models")["data"]["manifest.json"])
    assert manifest()["sources"]["secrets"] == []
    assert (namespace.lives(), asked()) == (before, sent)
    namespace.kubectl("label", "secret", "token", MARK)
    namespace.wait("tmod/echo")


def test_no_model_replaces_a_pod_unless_the_server_allows_it(namespace, listener):
    server = SERVER + "  gpu: {count: 1}\n"
    namespace.apply(server + "  modelAccess: {secrets: [not-there]}\n", ECHO)
    namespace.wait("tmod/echo")
    before = namespace.lives()
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder, "about.txt")
        large.write_text("x" * (300 << 10))
        namespace.kubectl("create", "configmap", "large", f"--from-file={large}")
    on_map = "source: {configMap: {name: large, items: [{key: about.txt, path: 1/about.txt}]}}"
    namespace.apply(
        opened_with("not-listed", listener[0], "other"),
        opened_with("not-there", listener[0], "not-there"),
        named("claim", "source: {pvc: {claimName: models}}"),
        named("large", on_map),
    )
    for model, reason in [("not-listed", "AccessDenied"), ("not-there", "CredentialsMissing"), ("claim", "AccessDenied"), ("large", "NotMounted")]:
        namespace.wait(f"tmod/{model}", status="False", reason=reason)
    assert "allowPodRestart" in namespace.condition("tmod/large")["message"]
    assert namespace.lives() == before
    namespace.patch("tsrv/vision", modelAccess={"allowPodRestart": True})
    namespace.wait("tmod/large", deadline=150)
    assert {uid for uid, *_ in namespace.lives()}.isdisjoint({uid for uid, *_ in before})
    # once there, a mount stays: neither the model nor the word that allowed it takes pods along
    after = namespace.lives()
    namespace.kubectl("delete", "tmod/large")
    namespace.patch("tsrv/vision", modelAccess=None)
    namespace.wait("tsrv/vision")
    namespace.wait("tmod/echo")
    assert namespace.lives() == after


QUOTA = """
apiVersion: v1
kind: ResourceQuota
metadata: {name: limits}
spec: {hard: {limits.cpu: "1", limits.memory: 1Gi, requests.cpu: "1", requests.memory: 1Gi}}
---
apiVersion: v1
kind: LimitRange
metadata: {name: limits}
spec: {limits: [{type: Container, max: {cpu: 800m, memory: 768Mi}}]}
"""


def test_pods_fit_a_quota_of_limits_and_can_be_guaranteed(namespace):
    namespace.apply(QUOTA)
    same = "{limits: {cpu: %s, memory: %s}, requests: {cpu: %s, memory: %s}}"
    resources = "resources: " + same % ("200m", "512Mi", "200m", "512Mi")
    agent = "  agent: {resources: {limits: {cpu: 50m, memory: 64Mi}}}\n"
    namespace.apply(SERVER.replace("resources: {requests: {cpu: 10m, memory: 64Mi}}", resources) + agent, ECHO)
    namespace.wait("tmod/echo")
    assert [pod["status"]["qosClass"] for pod in namespace.pods().values()] == ["Guaranteed"]
    assert namespace.infer() == [1, 2]


def test_a_network_policy_is_made_healed_and_removed(namespace, operator):
    peer = {"podSelector": {"matchLabels": {"app": "cart"}}}
    namespace.apply(SERVER, ECHO)
    namespace.patch("tsrv/vision", networkPolicy={"enabled": True, "clients": [peer]})
    namespace.wait("tmod/echo")
    rules = lambda: namespace.get("networkpolicy/vision")["spec"]["ingress"]
    until(rules, "the policy")
    ports = lambda rule: [port["port"] for port in rule["ports"]]
    assert [ports(rule) for rule in rules()] == [[8000, 8001], [8002], [8003]]
    assert [rule.get("from") for rule in rules()[:2]] == [[peer], None]
    assert rules()[2]["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": operator.name}}}]
    opened = [*rules()[:2], {**rules()[2], "ports": [*rules()[2]["ports"], {"port": 8004, "protocol": "TCP"}]}]
    namespace.kubectl("patch", "networkpolicy/vision", "--type=merge", "-p", json.dumps({"spec": {"ingress": opened}}))
    until(lambda: ports(rules()[2]) == [8003], "the rule to be put back")
    # an account of the user's own, and no policy: what was made for the server goes
    namespace.kubectl("create", "serviceaccount", "mine")
    namespace.patch("tsrv/vision", networkPolicy=None, serviceAccountName="mine")
    until(lambda: not namespace.items("networkpolicies"), "the policy to go")
    gone = lambda: "vision" not in [it["metadata"]["name"] for it in namespace.items("serviceaccounts")]
    until(gone, "the account that was made to go")
    namespace.wait("tsrv/vision")
    assert namespace.infer() == [1, 2]
