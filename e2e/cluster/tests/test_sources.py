"""Models from an address and from a claim: with the right files and the wrong ones, with a Secret, and when what they name is not
there yet. The address is a web server in the cluster's network; the claim is a folder of the node."""

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

from kube import CLAIM, CLUSTER, ECHO, MARK, SERVER, kubectl, until

pytestmark = pytest.mark.our_cluster

HOST = "10.89.0.1"  # where pods reach the control plane's namespace
INLINE = 'source: {inline: {files: {"1/about.txt": "gives back what it gets"}}}'
TOKEN = "s3cret"

WEB = f"""
import functools, http.server, sys

class Files(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if "private" in self.path and self.headers.get("Authorization") != "Bearer {TOKEN}":
            return self.send_error(401)
        super().do_GET()

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("{HOST}", 0), functools.partial(Files, directory=sys.argv[1]))
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def web():
    """Address of a web server with `model.tar.gz`, and the archive's sum."""
    with tempfile.TemporaryDirectory() as folder:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            info = tarfile.TarInfo("1/about.txt")
            info.size = 5
            tar.addfile(info, io.BytesIO(b"hello"))
        for name in ("model.tar.gz", "private.tar.gz"):
            Path(folder, name).write_bytes(archive.getvalue())
        command = [str(CLUSTER / "inside"), sys.executable, "-c", WEB, folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            yield f"http://{HOST}:{process.stdout.readline().strip()}", hashlib.sha256(archive.getvalue()).hexdigest()
            process.terminate()


def from_address(uri, extra=""):
    return ECHO.replace(INLINE, f"source: {{http: {{uri: '{uri}'{extra}}}}}")


def test_an_archive_is_fetched_checked_and_served(namespace, web):
    address, checksum = web
    namespace.apply(SERVER, from_address(f"{address}/model.tar.gz") + f"  checksum: {{sha256: {checksum}}}\n")
    namespace.wait("tmod/echo")
    assert namespace.infer() == [1, 2]


def test_other_files_than_those_of_the_checksum_are_not_served(namespace, web):
    address, checksum = web
    wrong = "0" * 64
    namespace.apply(SERVER, from_address(f"{address}/model.tar.gz") + f"  checksum: {{sha256: '{wrong}'}}\n")
    condition = namespace.wait("tmod/echo", status="False", reason="ChecksumMismatch")
    assert checksum in condition["message"], condition
    assert namespace.condition("tmod/echo", "Stalled")["status"] == "True"
    namespace.patch("tmod/echo", checksum={"sha256": checksum})
    namespace.wait("tmod/echo")
    namespace.wait("tsrv/vision")


def test_an_address_with_nothing_behind_it_is_told(namespace, web):
    namespace.apply(SERVER, from_address(f"{web[0]}/absent.tar.gz"))
    namespace.wait("tmod/echo", status="False", reason="SourceNotFound")
    namespace.patch("tmod/echo", source={"http": {"uri": f"{web[0]}/model.tar.gz"}})
    namespace.wait("tmod/echo")


def test_a_secret_opens_a_source_and_is_told_when_it_is_missing(namespace, web):
    namespace.apply(SERVER + "  modelAccess: {secrets: [token]}\n", from_address(f"{web[0]}/private.tar.gz", ", secretRef: {name: token}"))
    condition = namespace.wait("tmod/echo", status="False", reason="CredentialsMissing")
    assert "token" in condition["message"]
    namespace.kubectl("create", "secret", "generic", "token", f"--from-literal=token={TOKEN}")
    namespace.kubectl("label", "secret", "token", MARK)
    namespace.wait("tmod/echo", deadline=180)
    assert TOKEN not in namespace.kubectl("get", "all,configmaps,tsrv,tmod", "-o", "yaml")


def test_a_claim_may_come_after_the_model_that_names_it(namespace, folder):
    folder, volume = folder
    (folder / "echo" / "1").mkdir(parents=True)
    (folder / "echo" / "1" / "about.txt").write_text("from a claim")
    access = "  modelAccess: {claims: [models], allowPodRestart: true}\n"
    namespace.apply(SERVER + access, ECHO.replace("name: echo", "name: other"))
    namespace.wait("tmod/other")
    namespace.apply(ECHO.replace(INLINE, "source: {pvc: {claimName: models, path: echo}}"))
    condition = namespace.wait("tmod/echo", status="False", reason="SourceNotFound")
    assert "models" in condition["message"], condition
    assert namespace.infer("other") == [1, 2], "a claim that is missing hurts nobody else"
    kubectl("apply", "-f", "-", stdin=volume)
    namespace.apply(CLAIM)
    namespace.wait("tmod/echo", deadline=150)
    assert namespace.infer() == [1, 2]


def test_replicas_keep_their_models_on_one_claim_and_the_next_pods_find_them(namespace, folder, web):
    folder, volume = folder
    kubectl("apply", "-f", "-", stdin=volume)
    two = SERVER.replace("replicas: 1", "replicas: 2") + "  modelStore: {persistentVolumeClaim: {claimName: models}}\n"
    namespace.apply(CLAIM, two, from_address(f"{web[0]}/model.tar.gz"))
    namespace.wait("tsrv/vision")
    namespace.wait("tmod/echo")
    assert namespace.infer() == [1, 2]
    kept = lambda: sorted((path.name, path.stat().st_ino) for path in folder.glob("store/*"))
    before = kept()
    assert len(before) == 1, "fetched once, for both"
    assert len(list(folder.glob("replica-*/repository/echo"))) == 2, "each replica has a repository of its own"
    # pods that come soon after others take slots of their own, and find the content all the same
    namespace.patch("tsrv/vision", suspend=True)
    until(lambda: not namespace.items("pods"), "the pods to go")
    namespace.patch("tsrv/vision", suspend=None)
    namespace.wait("tmod/echo", deadline=120)
    namespace.wait("tsrv/vision")
    assert namespace.infer() == [1, 2]
    assert kept() == before
