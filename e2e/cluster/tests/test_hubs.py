"""Models from a hub and from a registry, which stand in the cluster's network: named, opened by Secrets that their owner has marked, and told
where they are not there."""

import json
import shutil
import subprocess
import sys

import pytest

from kube import CLUSTER, ECHO, MARK, ROOT, SERVER

pytestmark = [pytest.mark.our_cluster, pytest.mark.skipif(not shutil.which("go"), reason="the registry is built from its Go module: go is missing")]

HOST = "10.89.0.1"  # where pods reach the control plane's namespace
INLINE = 'source: {inline: {files: {"1/about.txt": "gives back what it gets"}}}'

PLACES = f"""
import json, sys
from hubs import Hub, Registry

with Hub({HOST!r}) as hub, Registry({HOST!r}) as registry:
    hub.commit("tests/echo", {{"README.md": b"words", "1/about.bin": b"from a hub"}}, gated=True)
    system = {{"bin/sh": b"#!", "models/1/about.txt": b"from an image", "models/2/about.txt": b"gone"}}
    registry.push_image("models/echo:v1", system, {{"models/.wh.2": b""}})
    print(json.dumps([hub.endpoint, hub.TOKEN, registry.address]), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def places():
    """Address and token of a hub, address of a registry."""
    path = f"import sys; sys.path[:0] = {[str(ROOT / 'e2e' / part) for part in ('clients', 'common')]!r}\n"
    command = [str(CLUSTER / "inside"), sys.executable, "-c", path + PLACES]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield json.loads(process.stdout.readline())
        process.stdin.close()


def model(name, source):
    return ECHO.replace("name: echo", f"name: {name}").replace(INLINE, f"source: {json.dumps(source)}")


def test_models_of_a_hub_and_of_a_registry_are_served_and_another_tag_takes_their_place(namespace, places):
    endpoint, token, registry = places
    of_hub = {"huggingFace": {"repo": "tests/echo", "endpoint": endpoint, "secretRef": {"name": "hub-token"}}}
    image = lambda tag: {"oci": {"reference": f"{registry}/models/echo:{tag}", "plainHttp": True}}
    namespace.apply(SERVER + "  modelAccess: {secrets: [hub-token]}\n", model("hub", of_hub), model("image", image("v1")))
    namespace.wait("tmod/image")
    assert namespace.infer("image") == [1, 2]
    condition = namespace.wait("tmod/hub", status="False", reason="CredentialsMissing")
    assert "hub-token" in condition["message"], condition

    namespace.kubectl("create", "secret", "generic", "hub-token", f"--from-literal=token={token}")
    namespace.kubectl("label", "secret", "hub-token", MARK)
    namespace.wait("tmod/hub", deadline=180)
    assert namespace.infer("hub") == [1, 2]
    assert namespace.get("tmod/image")["status"]["activeVersions"] == [1], "the second layer took version 2 away"

    # what is not there is told, and what serves goes on
    namespace.patch("tmod/image", source=image("v9"))
    condition = namespace.wait("tmod/image", status="False", reason="SourceNotFound")
    assert f"{registry}/models/echo:v9" in condition["message"], condition
    assert namespace.infer("image") == [1, 2]
    namespace.patch("tmod/image", source=image("v1"))
    namespace.wait("tmod/image")
    assert token not in namespace.kubectl("get", "all,configmaps,tsrv,tmod", "-o", "yaml")
