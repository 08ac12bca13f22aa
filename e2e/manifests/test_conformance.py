"""Invariant 22: everything that is rendered, built or shown as an example is what the API servers of every supported version
take, by their own schemas."""

import base64

import pytest

from tools import INSTALL, KUBERNETES, ROOT, Failed, objects, run, template

BUILT = sorted((ROOT / "operator" / "core" / "tests" / "built").glob("*.out"))
SHOWN = sorted(it for folder in ("deploy/samples", "crds/examples") for it in (ROOT / folder).rglob("*.yaml"))


@pytest.mark.parametrize("version", KUBERNETES)
def test_22_what_installs_the_operator_is_valid(conform, version):
    conform(template(kubernetes=version), version)
    conform((ROOT / "deploy" / "install.yaml").read_text(), version)
    for overlay in (INSTALL / "overlays").iterdir():
        conform(run("kubectl", "kustomize", overlay), version)


@pytest.mark.parametrize("version", KUBERNETES)
def test_22_what_the_operator_builds_is_valid(conform, version):
    assert BUILT
    conform("\n---\n".join(file.read_text() for file in BUILT), version)


def test_22_samples_and_examples_are_valid(conform):
    assert SHOWN
    conform("\n---\n".join(file.read_text() for file in SHOWN), KUBERNETES[0])


def test_samples_are_written_as_api_servers_keep_them():
    """Base64 with line breaks is taken, kept without them, and different at each apply from then on."""
    for file in SHOWN:
        for it in objects(file.read_text()):
            for text in {**it.get("binaryData", {}), **(it.get("data", {}) if it["kind"] == "Secret" else {})}.values():
                assert base64.b64encode(base64.b64decode(text)).decode() == text, file


@pytest.mark.parametrize(
    "wrong",
    [
        "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {prots: []}}",
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {replicas: many, selector: {}, template: {}}}",
        "{apiVersion: triton-operator.dev/v1alpha1, kind: TritonServer, metadata: {name: a}, spec: {replcas: 1}}",
        "{apiVersion: monitoring.coreos.com/v1, kind: ServiceMonitor, metadata: {name: a}, spec: {endpoint: []}}",
        "{apiVersion: v1, kind: Unheard, metadata: {name: a}}",
    ],
)
def test_what_is_wrong_does_not_pass(conform, wrong):
    with pytest.raises(Failed):
        conform(wrong, KUBERNETES[0])
