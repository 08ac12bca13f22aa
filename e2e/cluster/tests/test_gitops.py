"""What is in Git is what is in the cluster: applying it again changes nothing, and what tools read in a live status is what it says."""

import json
import re

import pytest
import yaml

from kube import ECHO, ROOT, SERVER, run, until

SHOWN = ["deploy/samples/sources", "deploy/samples/digits", "deploy/samples/from-kserve.yaml", "deploy/samples/from-deployment.yaml", "crds/examples"]


@pytest.fixture
def still(namespace):
    """A namespace in which nothing starts: what is applied is looked at by the operator and no more."""
    namespace.kubectl("create", "quota", "none", "--hard=pods=0")
    return namespace


def versions(namespace):
    return {(it["kind"], it["metadata"]["name"]): it["metadata"]["generation"] for it in namespace.items("tsrv,tmod")}


def test_applying_samples_and_examples_again_changes_nothing(still):
    folders = [part for it in SHOWN for part in ("-f", ROOT / it)]
    still.kubectl("apply", *folders)
    until(lambda: all(it.get("status", {}).get("observedGeneration") == 1 for it in still.items("tsrv,tmod")), "everything was looked at")
    before = versions(still)
    assert len(before) > 20

    # on the client's side: kubectl diff ends with 0 where nothing would change
    code, said = still.kubectl("diff", *folders, check=False)
    assert code == 0, said
    assert "configured" not in still.kubectl("apply", *folders)
    # on the server's side, by the manager of a GitOps tool
    tool = ("--server-side", "--field-manager=gitops", "--force-conflicts")
    still.kubectl("apply", *tool, *folders)
    code, said = still.kubectl("diff", *tool, *folders, check=False)
    assert code == 0, said
    assert versions(still) == before, "no spec has changed by any of it"
    # no field in a spec that is not in Git
    live = {(it["kind"], it["metadata"]["name"]): it["spec"] for it in still.items("tsrv,tmod")}
    files = [file for it in SHOWN for file in ([ROOT / it] if it.endswith(".yaml") else (ROOT / it).glob("*.yaml"))]
    documents = [it for file in files for it in yaml.safe_load_all(file.read_text()) if it["kind"].startswith("Triton")]
    assert len(documents) == len(live)
    for it in documents:
        assert live[it["kind"], it["metadata"]["name"]] == it.get("spec", {}), it["metadata"]["name"]


def test_delivery_tools_read_live_statuses_as_they_are_meant(namespace):
    wrong = ECHO.replace("name: echo", "name: wrong").replace("backend: identity", "backend: unheard")
    namespace.apply(SERVER, ECHO, wrong)
    namespace.wait("tmod/echo")
    namespace.wait("tsrv/vision")
    until(lambda: namespace.condition("tmod/wrong", "Stalled").get("status") == "True", "the wrong model is given up", deadline=90)
    expected = {"vision": ("Current", "Healthy"), "echo": ("Current", "Healthy"), "wrong": ("Failed", "Degraded")}
    found = namespace.items("tsrv,tmod")
    programs = run("bash", "-c", f'source {ROOT}/e2e/cluster/lib/common.sh && echo "$programs"').strip()
    run(ROOT / "e2e" / "manifests" / "build", deadline=600)
    said = run(f"{programs}/judge", ROOT / "deploy/argocd/triton-operator.dev", stdin="".join(json.dumps(it) + "\n" for it in found))
    verdicts = {it["metadata"]["name"]: (one["kstatus"], one["argo"]) for it, one in zip(found, map(json.loads, said.splitlines()), strict=True)}
    assert verdicts == expected

    # one by one: where each replica stands, and which image runs
    until(lambda: [(it["modelsLoaded"], it["modelsFailed"]) for it in namespace.get("tsrv/vision")["status"]["pods"]] == [(1, 1)], "what each replica has")
    server = namespace.get("tsrv/vision")["status"]
    [pod] = namespace.pods().values()
    [listed] = server["pods"]
    assert (listed["name"], listed["node"], listed["ready"]) == (pod["metadata"]["name"], pod["spec"]["nodeName"], True)
    running = next(it for it in pod["status"]["containerStatuses"] if it["name"] == "server")["imageID"]
    assert running.endswith(server["imageDigest"]) and server["imageDigest"] == listed["imageDigest"]
    [on_pod] = namespace.get("tmod/echo")["status"]["pods"]
    assert (on_pod["name"], on_pod["state"], on_pod["versions"]) == (pod["metadata"]["name"], "Loaded", [1])


def test_what_a_model_holds_in_memory_is_measured(namespace):
    namespace.kubectl("apply", "-f", ROOT / "deploy" / "samples" / "digits")
    namespace.wait("tmod/digits")
    memory = until(lambda: namespace.get("tmod/digits")["status"]["memory"], "what the arenas of ONNX Runtime hold")
    assert re.fullmatch(r"\d+Mi", memory["cpu"]) and "gpu" not in memory, memory
