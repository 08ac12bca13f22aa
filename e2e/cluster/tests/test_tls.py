"""TLS at the ports of the pods (spec.tls), with the public clients, which check the certificate that they are shown."""

import base64
import json
import sys

import pytest

from kube import CLUSTER, ECHO, MARK, ROOT, SERVER, inside, run, until
from test_metrics_api import values

TLS = "  tls: {secretName: vision-serving}\n"
MUTUAL = "  tls: {secretName: vision-serving, clientCertificates: Required}\n"
SERVED = {"http": [1.0, 2.0], "grpc": [1.0, 2.0]}


class Authority:
    """Makes certificates, in files of a folder."""

    def __init__(self, folder):
        self.folder = folder
        self.root = folder / "ca.crt"
        self.openssl("req", "-x509", "-subj", "/CN=root", "-days", "2", "-keyout", folder / "ca.key", "-out", self.root)

    def openssl(self, command, *arguments):
        return run("openssl", command, "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", *arguments)

    def certificate(self, name, *alternatives):
        """Files of a certificate that names `alternatives`, and of its key."""
        request, certificate, key = (self.folder / f"{name}.{ending}" for ending in ("csr", "crt", "key"))
        self.openssl("req", "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName = {','.join(alternatives)}\n")
        signer = ["-CA", self.root, "-CAkey", self.folder / "ca.key", "-CAcreateserial", "-days", "2"]
        run("openssl", "x509", "-req", "-in", request, "-out", certificate, "-extfile", extensions, *signer)
        return certificate, key

    def secret(self, certificate, key):
        """The Secret that a certificate manager would make of them."""
        files = {"tls.crt": certificate, "tls.key": key, "ca.crt": self.root}
        data = {name: base64.b64encode(file.read_bytes()).decode() for name, file in files.items()}
        labels = dict([MARK.split("=")])
        return json.dumps({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": "vision-serving", "labels": labels}, "data": data})


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def ask(namespace, authority, *own):
    program = ROOT / "e2e" / "cluster" / "tests" / "ask_tls.py"
    addresses = [namespace.address(port=port) for port in ("http", "grpc")]
    return json.loads(run(CLUSTER / "inside", sys.executable, program, *addresses, "echo", authority.root, *own))


def address_of(namespace):
    return namespace.get("service/vision")["spec"]["clusterIP"]


def test_every_port_is_encrypted_and_a_renewed_certificate_is_taken_without_a_restart(namespace, authority):
    namespace.apply(authority.secret(*authority.certificate("first", "DNS:vision.example.com")), SERVER + TLS, ECHO)
    namespace.wait("tsrv/vision")
    namespace.wait("tmod/echo")
    status = namespace.get("tsrv/vision")["status"]
    assert status["endpoints"]["http"].startswith("https://") and status["endpoints"]["metrics"].startswith("https://"), status
    before = namespace.lives()
    refused = ask(namespace, authority)
    assert "certificate verify failed" in refused["http"] and "UNAVAILABLE" in refused["grpc"], refused

    # the address of the Service stands in the next one
    namespace.apply(authority.secret(*authority.certificate("second", f"IP:{address_of(namespace)}")))
    until(lambda: ask(namespace, authority) == SERVED, "the renewed certificate to be shown", 120)
    assert namespace.lives() == before

    # without TLS nothing is served, metrics included; the operator and Prometheus ask with it
    for port, path in (("http", "v2/health/ready"), ("metrics", "metrics")):
        plain, said = inside("curl", "-sSf", "-m", "5", f"http://{namespace.address(port=port)}/{path}", check=False)
        assert plain, said
    page = inside("curl", "-sS", "-m", "5", "--cacert", authority.root, f"https://{namespace.address(port='metrics')}/metrics")
    assert 'nv_inference_request_success{model="echo"' in page
    (pod,) = namespace.pods()
    assert until(lambda: values(namespace, "triton_pending_requests"), "the load", 30) == {pod: "0"}


def test_clients_without_a_certificate_are_refused_where_one_is_required(namespace, authority):
    namespace.apply(authority.secret(*authority.certificate("first", "DNS:vision.example.com")), SERVER + MUTUAL, ECHO)
    namespace.wait("tsrv/vision")
    namespace.wait("tmod/echo")
    namespace.apply(authority.secret(*authority.certificate("second", f"IP:{address_of(namespace)}")))
    own = authority.certificate("client", "DNS:client.example.com")
    until(lambda: ask(namespace, authority, *own) == SERVED, "the renewed certificate to be shown", 120)
    refused = ask(namespace, authority)
    assert all(isinstance(answer, str) for answer in refused.values()), refused
    page = inside("curl", "-sS", "-m", "5", "--cacert", authority.root, f"https://{namespace.address(port='metrics')}/metrics")
    assert 'nv_inference_request_success{model="echo"' in page

    # probes see that a server is not well although they have no certificate
    (pod,) = namespace.pods().values()
    namespace.kubectl("exec", pod["metadata"]["name"], "-c", "server", "--", "triton-agent", "health", "ready")
    name = pod["metadata"]["name"]
    wrong, said = namespace.kubectl("exec", name, "-c", "server", "--", "triton-agent", "health", "ready", "--server=unix:/run/triton/none.sock", check=False)
    assert wrong and "is not ready" in said, said


def test_a_secret_that_its_owner_has_not_marked_is_not_shown(namespace, authority):
    secret = json.loads(authority.secret(*authority.certificate("first", "DNS:vision.example.com")))
    del secret["metadata"]["labels"]
    namespace.apply(json.dumps(secret), SERVER + TLS)
    condition = namespace.wait("tsrv/vision", status="False", reason="CredentialsMissing")
    assert "spec.tls.secretName: there is no Secret 'vision-serving' with the label" in condition["message"], condition
    assert not namespace.pods()
    namespace.kubectl("label", "secret/vision-serving", MARK)
    namespace.wait("tsrv/vision")
