"""The guides: every field they name exists, every file they name is there, every manifest in them is YAML."""

import re

import pytest
import yaml

from tools import ROOT, Loader

GUIDES = [ROOT / "deploy" / name for name in ("migrate.md", "gitops.md", "versions.md")] + [ROOT / "charts/triton-operator/README.md"]

# Fields of kinds of Kubernetes that they speak of.
OF_OTHERS = {"spec.caBundle"}

KINDS = {}
for file in (ROOT / "crds" / "yaml").glob("triton*.yaml"):
    definition = yaml.load(file.read_text(), Loader)
    KINDS[definition["spec"]["names"]["kind"]] = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def has(schema, path):
    for name in path:
        schema = schema.get("items", schema)
        schema = schema.get("properties", {}).get(name)
        if schema is None:
            return False
    return True


def fields(text):
    """(kind or None, path) of each field in code quotes: spec.…, status.…, source.…, TritonModel.spec.…"""
    for kind, path in re.findall(r"`(?:(Triton\w+)\.)?((?:spec|status|source)\.[A-Za-z]+(?:\.[A-Za-z]+)*)`", text):
        yield kind or None, (["spec", *path.split(".")] if path.startswith("source.") else path.split("."))


@pytest.mark.parametrize("guide", GUIDES, ids=lambda it: it.name)
def test_a_guide_names_fields_and_files_that_exist(guide):
    text = guide.read_text()
    ours = text if guide.name != "migrate.md" else "\n".join(re.sub(r"^\| [^|]* \|", "", line) for line in text.splitlines())  # the left column is theirs
    for kind, path in fields(ours):
        if ".".join(path) in OF_OTHERS:
            continue
        assert any(has(schema, path) for name, schema in KINDS.items() if kind in (None, name)), f"{kind or ''} {'.'.join(path)}"
    for name in re.findall(r"`((?:deploy|crds|e2e|operator|charts)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\]\(([\w./-]+)\)", text):
        assert (guide.parent / name).exists(), name
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        assert list(yaml.load_all(block, Loader))


def test_guides_name_many_fields():
    assert sum(len(list(fields(guide.read_text()))) for guide in GUIDES) > 40


@pytest.mark.parametrize("sample", ["from-kserve.yaml", "from-deployment.yaml"])
def test_what_a_sample_comes_from_is_a_manifest_too(sample):
    lines = (ROOT / "deploy" / "samples" / sample).read_text().splitlines()
    theirs = "\n".join(line[4:] for line in lines if re.match(r"#   ", line))
    [before] = list(yaml.load_all(theirs, Loader))
    assert before["kind"] in ("InferenceService", "Deployment")
