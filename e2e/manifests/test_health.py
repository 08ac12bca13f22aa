"""How delivery tools read our statuses: kstatus by its own library (Flux, kpt), Argo CD's scripts in the interpreter it uses. The
statuses are those that the tests of operator-core come to, all of them."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tools import ROOT, Loader, run

HEALTH = ROOT / "deploy" / "argocd" / "triton-operator.dev"
KINDS = ["TritonServer", "TritonModel"]


@pytest.fixture(scope="session")
def statuses(tmp_path_factory):
    """Every resource with a status: of STATUSES, where the tests of operator-core have been run with it, or of a run of them."""
    file = Path(os.environ.get("STATUSES") or tmp_path_factory.mktemp("statuses") / "statuses.jsonl")
    if not file.exists():
        command = ["cargo", "test", "--quiet", "-p", "operator-core", "--test", "status"]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "STATUSES": str(file)}, check=True, capture_output=True)
    found = [json.loads(line) for line in sorted(set(file.read_text().splitlines()))]
    assert len(found) > 60 and {it["kind"] for it in found} == set(KINDS)
    return found


def judge(objects):
    answer = run("judge", HEALTH, stdin="".join(json.dumps(it) + "\n" for it in objects))
    return [json.loads(line) for line in answer.splitlines()]


def expected(resource):
    """What kstatus and Argo CD shall say, by the rules our conditions are written by."""
    status = resource["status"]
    if status.get("observedGeneration") != resource["metadata"]["generation"]:
        return "InProgress", "Progressing"
    conditions = {it["type"]: it for it in status["conditions"]}
    holds = {type for type, it in conditions.items() if it["status"] == "True"}
    ready = conditions["Ready"]
    if "Ready" in holds:
        return "Current", "Healthy"
    if "Reconciling" in holds:
        return "InProgress", "Progressing"
    if "Stalled" in holds:
        return "Failed", "Degraded"
    # nothing is under way: kstatus knows no such state and goes on waiting
    return "InProgress", {"ScaledToZero": "Healthy", "ServerNotFound": "Progressing", "InsufficientGPUMemory": "Degraded"}[ready["reason"]]


def test_every_status_is_read_as_it_is_meant(statuses):
    seen = set()
    for resource, found in zip(statuses, judge(statuses), strict=True):
        verdict = found["kstatus"], found["argo"]
        assert verdict == expected(resource), (resource, found)
        seen.add((resource["kind"], *verdict))
        ready = next(it for it in resource["status"]["conditions"] if it["type"] == "Ready")
        if resource["status"].get("observedGeneration") == resource["metadata"]["generation"]:
            assert found["argoMessage"] == f"{ready['reason']}: {ready['message']}"
    for kind in KINDS:
        for verdict in (("Current", "Healthy"), ("InProgress", "Progressing"), ("Failed", "Degraded")):
            assert (kind, *verdict) in seen, (kind, verdict)


def test_what_was_not_looked_at_yet_is_under_way(statuses):
    """New, with the status that the definition gives it; with a spec newer than its status; and with none of what a status has."""
    for resource in [next(it for it in statuses if it["kind"] == kind) for kind in KINDS]:
        new = {**resource, "status": {"observedGeneration": -1}}
        edited = {**resource, "metadata": {**resource["metadata"], "generation": 99}}
        assert [(it["kstatus"], it["argo"]) for it in judge([new, edited])] == [("InProgress", "Progressing")] * 2
        for status in (None, {}, {"conditions": []}, {"conditions": [], "observedGeneration": resource["metadata"]["generation"]}):
            assert judge([{**resource, "status": status}])[0]["argo"] == "Progressing"


@pytest.mark.parametrize("kind", KINDS)
def test_the_scripts_pass_the_tests_that_argo_cd_asks_for(kind):
    """health_test.yaml and testdata, in the form of Argo CD's own resource_customizations."""
    tests = yaml.load((HEALTH / kind / "health_test.yaml").read_text(), Loader)["tests"]
    assert {it["healthStatus"]["status"] for it in tests} == {"Healthy", "Progressing", "Degraded"}
    for test in tests:
        resource = yaml.load((HEALTH / kind / test["inputPath"]).read_text(), Loader)
        found = judge([resource])[0]
        assert {"status": found["argo"], "message": found["argoMessage"]} == test["healthStatus"], test["inputPath"]
