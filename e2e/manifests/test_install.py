"""Invariant 24: what installs the operator without Helm says what the chart says, and a client-side `kubectl apply` has room for the
definitions."""

import json
import subprocess

import pytest
import yaml

from tools import INSTALL, ROOT, Loader, by_name, objects, run, template

ANNOTATION_MAX = 262_144  # what an API server takes of annotations; kubectl apply keeps the whole object in one

OVERLAYS = sorted(it.name for it in (INSTALL / "overlays").iterdir())

# What Helm alone has a use for.
HELMS = {"app.kubernetes.io/managed-by", "helm.sh/chart"}


def from_chart(*arguments):
    items = objects(template("--no-hooks", "--set", "crds.install=false", *arguments))
    for it in items:
        for labels in (it["metadata"]["labels"], it.get("spec", {}).get("template", {}).get("metadata", {}).get("labels", {})):
            for name in HELMS:
                labels.pop(name, None)
    return by_name(items)


def around():
    """What an install has beside what the chart makes: the namespace and the definitions."""
    files = [INSTALL / "base" / "namespace.yaml", *sorted((ROOT / "crds" / "yaml").glob("triton*.yaml"))]
    return by_name(it for file in files for it in objects(file.read_text()))


def test_24_generated_files_are_as_charts_sync_makes_them():
    done = subprocess.run([ROOT / "charts" / "sync", "--check"], capture_output=True, text=True)
    assert done.returncode == 0 and "skipped" not in done.stdout, done.stdout + done.stderr


def test_24_kustomize_and_install_yaml_say_what_the_chart_says():
    expected = {**around(), **from_chart()}
    assert by_name(objects(run("kubectl", "kustomize", INSTALL))) == expected
    assert by_name(objects((ROOT / "deploy" / "install.yaml").read_text())) == expected


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_24_an_overlay_is_what_the_chart_makes_of_its_values(overlay):
    folder = INSTALL / "overlays" / overlay
    expected = {**around(), **from_chart("-f", folder / "values.yaml")}
    assert expected != {**around(), **from_chart()}
    assert by_name(objects(run("kubectl", "kustomize", folder))) == expected


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_24_no_patch_removes_two_objects(overlay):
    """Programs of kustomize up to 5.6, and so kubectl up to 1.33, end with a panic there."""
    for file in (INSTALL / "overlays" / overlay).glob("*.yaml"):
        assert sum("$patch" in it for it in objects(file.read_text())) <= 1, file


@pytest.mark.parametrize("file", sorted((ROOT / "crds" / "yaml").glob("triton*.yaml")), ids=lambda it: it.name)
def test_24_a_client_side_apply_has_room_for_a_definition(file):
    definition = yaml.load(file.read_text(), Loader)
    assert len(json.dumps(definition, separators=(",", ":"))) < ANNOTATION_MAX * 0.8


def test_every_image_is_named_for_those_who_mirror_them():
    named = (ROOT / "deploy" / "images.txt").read_text().split()
    used = set()
    for it in objects((ROOT / "deploy" / "install.yaml").read_text()) + objects(template()):
        pod = it["spec"] if it["kind"] == "Pod" else it.get("spec", {}).get("template", {}).get("spec", {})
        for container in pod.get("containers", []):
            used.add(container["image"])
            used |= {word.removeprefix("--image=") for word in container.get("args", []) if word.startswith("--image=")}
    assert used and used <= set(named)
    assert not [it for it in named if it.endswith(":latest") or ":" not in it.rsplit("/", 1)[1]]
