"""The operator's rights, when everything else that it does has been done: by the API's record of its requests, of each cluster it ran on."""

import json

import pytest

from kube import OPERATOR, RECORD, RECORDS, kubectl, requests_of

pytestmark = pytest.mark.our_cluster

# Rights that no request shows: asked for on behalf of the operator while it writes owner references.
SILENT = {("triton-operator.dev", "tritonservers/finalizers", "update")}


def roles():
    selector = f"app.kubernetes.io/instance={OPERATOR},app.kubernetes.io/managed-by=Helm"
    found = json.loads(kubectl("get", "clusterroles,roles", "-A", "-l", selector, "-o", "json"))["items"]
    return [role for role in found if not role["metadata"]["name"].endswith(("-view", "-edit"))]  # those are for users


def test_invariant_23_the_operator_needs_no_other_right():
    installed = max(role["metadata"]["creationTimestamp"] for role in roles())
    _, refused = requests_of(OPERATOR, RECORD, installed)
    assert refused == []


def test_invariant_23_the_operator_uses_each_of_its_rights():
    given = {
        (group, resource, verb)
        for role in roles()
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    done = set().union(*(requests_of(OPERATOR, record)[0] for record in RECORDS))
    unused = given - done - SILENT
    if not any(verb == "list" for *_, verb in done):
        print("skipped: rights to read are not compared, this cluster was brought up with a record of writes only")
        unused = {right for right in unused if right[2] not in ("get", "list", "watch")}
    assert unused == set()
