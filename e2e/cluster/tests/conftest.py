"""Every test gets a namespace of its own with the restricted Pod Security standard; all share one operator, installed from the
chart at the beginning and uninstalled at the end."""

import fcntl
import hashlib
import os
import re
import shlex
import shutil
import uuid
from pathlib import Path

import pytest

from kube import ECHO, IS_OURS, NEXT_SERVER_IMAGE, OPERATOR, ROOT, SERVER_IMAGE, STATE, TWO_REPLICAS, Namespace, helm, kubectl, run, until

RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"
OUR_CLUSTER = pytest.mark.skipif(not IS_OURS, reason="only in a cluster of our own")


def pytest_configure(config):
    config.addinivalue_line("markers", "our_cluster: looks below Kubernetes, which only a cluster of our own allows")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("our_cluster"):
            item.add_marker(OUR_CLUSTER)
    # the uninstall ends what all others use, and before it all that the operator does has been done
    last = ["test_rights.py", "test_uninstall.py"]
    items.sort(key=lambda item: last.index(item.path.name) if item.path.name in last else -1)


@pytest.fixture(scope="session")
def chart_flags():
    """The images of this checkout, and a mark that changes with them: the same tag may stand for new content. An adopted
    cluster may need more, such as E2E_CHART_FLAGS="--set registry=registry.example"."""
    switched_on = ",".join(f"{part}.enabled=true" for part in ("metricsApi", "externalScaler"))
    flags = ["--namespace", OPERATOR, "--wait", "--timeout", "3m", "--set", switched_on, *shlex.split(os.environ.get("E2E_CHART_FLAGS", ""))]
    archive = ROOT / "target" / "images" / "triton-operator.oci.tar"
    if IS_OURS:
        flags += ["--set", f"podAnnotations.content={hashlib.sha256(archive.read_bytes()).hexdigest()[:16]}"]
    return flags


@pytest.fixture(scope="session", autouse=True)
def operator(chart_flags):
    """The chart, installed as its README says. The namespace is made with it and keeps the operator restricted, too."""
    STATE.mkdir(parents=True, exist_ok=True)
    with open(STATE / "operator.lock", "w") as lock:  # one process of several at a time
        fcntl.flock(lock, fcntl.LOCK_EX)
        kubectl("create", "namespace", OPERATOR, check=False)
        kubectl("label", "namespace", OPERATOR, RESTRICTED, "--overwrite")
        helm("upgrade", "--install", OPERATOR, ROOT / "charts" / "triton-operator", *chart_flags, deadline=240)
    return Namespace(OPERATOR)


@pytest.fixture
def namespaces(request):
    """Makes namespaces; they are gone after the test."""
    made = []

    def make():
        stem = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:40].strip("-")
        name = f"{stem}-{uuid.uuid4().hex[:6]}"
        kubectl("create", "namespace", name)
        kubectl("label", "namespace", name, RESTRICTED)
        until(lambda: kubectl("-n", name, "get", "serviceaccount", "default"), "the default account")
        made.append(name)
        return Namespace(name)

    yield make
    if request.session.config.getoption("--keep"):
        return
    for name in made:
        kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")


@pytest.fixture
def namespace(namespaces):
    return namespaces()


@pytest.fixture
def serving(namespace):
    """Two replicas with a model, on a node each."""
    namespace.apply(TWO_REPLICAS, ECHO)
    namespace.wait("tsrv/vision")
    namespace.wait("tmod/echo")
    assert {pod["spec"]["nodeName"] for pod in namespace.pods().values()} == {"kn1", "kn2"}
    return namespace


VOLUME = """
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {name}}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteMany]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: by-hand
  claimRef: {{namespace: {namespace}, name: models}}
  hostPath: {{path: {path}}}
"""


@pytest.fixture
def folder(namespace):
    """A folder that both nodes see, and a volume made of it for a claim `models`."""
    name = f"models-{uuid.uuid4().hex[:8]}"
    folder = Path("/var/tmp") / name
    folder.mkdir()
    folder.chmod(0o777)
    yield folder, VOLUME.format(name=name, namespace=namespace.name, path=folder)
    kubectl("delete", "pv", name, "--wait=false", "--ignore-not-found")
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def next_image():
    """The server's image under another name, for rollouts."""
    if IS_OURS:
        for node in (1, 2):
            ctr = ["ctr", "-a", STATE / f"node{node}" / "containerd.sock", "-n", "k8s.io", "images"]
            run(*ctr, "tag", "--force", SERVER_IMAGE, NEXT_SERVER_IMAGE)
    repository, tag = NEXT_SERVER_IMAGE.rsplit(":", 1)
    return {"repository": repository, "tag": tag}


def pytest_addoption(parser):
    parser.addoption("--keep", action="store_true", help="leave the namespaces of the tests behind, to look at")
