"""Whose fields are whose: nothing is written without a reason, our fields are healed, those of others are left alone, and what
is deleted leaves nothing behind."""

import json

import pytest

from kube import ECHO, OPERATOR, SERVER, Audit, kubectl, until

TWO = SERVER.replace("replicas: 1", "replicas: 2")


def settled(namespace, *texts):
    namespace.apply(*texts)
    namespace.wait("tsrv/vision")
    namespace.wait("tmod/echo")
    until(namespace.has_settled, "its content to be proven")


@pytest.mark.our_cluster
def test_invariant_1_nothing_is_written_while_nothing_changes(namespace):
    first = Audit(namespace)
    settled(namespace, SERVER, ECHO)
    assert first.quiet(10), "what the operator writes is in the record"
    audit = Audit(namespace)
    said = namespace.apply(SERVER, ECHO)
    assert said.count("unchanged") == 2, said
    # somebody touches our resources and what was made of them, without changing what is ours
    namespace.kubectl("annotate", "tsrv/vision", "tmod/echo", "somebody=looked")
    namespace.kubectl("annotate", "deployment/vision", "service/vision", "somebody=looked")
    audit.quiet(15)
    assert audit.writes() == []


@pytest.mark.our_cluster
def test_invariant_1_a_restarted_operator_writes_nothing(namespace, operator):
    first = Audit(namespace)
    settled(namespace, SERVER, ECHO)
    assert first.quiet(10), "what the operator writes is in the record"
    audit = Audit(namespace)
    operator.restart(OPERATOR)
    operator.kubectl("rollout", "status", f"deployment/{OPERATOR}", "--timeout=60s")
    audit.quiet(25)
    assert audit.writes() == []


def changed(namespace, what, change):
    namespace.kubectl("patch", what, "--type=merge", "-p", json.dumps(change))


def test_changes_by_hand_are_healed(namespace):
    settled(namespace, TWO, ECHO)
    changed(namespace, "deployment/vision", {"spec": {"replicas": 1}})
    until(lambda: namespace.get("deployment/vision")["spec"]["replicas"] == 2, "the replicas to be put back")
    changed(namespace, "deployment/vision", {"spec": {"paused": True}})
    until(lambda: not namespace.get("deployment/vision")["spec"].get("paused"), "the rollout to go on")
    changed(namespace, "service/vision", {"spec": {"selector": {"app.kubernetes.io/instance": "other"}}})
    until(lambda: namespace.get("service/vision")["spec"]["selector"]["app.kubernetes.io/instance"] == "vision", "the selector")
    changed(namespace, "configmap/vision-models", {"data": {"manifest.json": "{}"}})
    until(lambda: namespace.get("configmap/vision-models")["data"]["manifest.json"] != "{}", "the manifest")
    changed(namespace, "deployment/vision", {"metadata": {"labels": {"app.kubernetes.io/managed-by": "me"}}})
    until(lambda: namespace.get("deployment/vision")["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "triton-operator", "the label")
    namespace.wait("tmod/echo")
    assert namespace.infer() == [1, 2]


@pytest.mark.parametrize("what", ["service/vision", "configmap/vision-models", "poddisruptionbudget/vision", "serviceaccount/vision"])
def test_what_is_deleted_by_hand_comes_back(namespace, what):
    settled(namespace, TWO, ECHO)
    uid = namespace.get(what)["metadata"]["uid"]
    namespace.kubectl("delete", what)
    until(lambda: namespace.get(what)["metadata"]["uid"] != uid, f"{what} to come back")
    namespace.wait("tmod/echo")
    until(lambda: namespace.infer() == [1, 2], "answers")


def test_an_object_of_somebody_else_keeps_no_other_one_from_being_healed(namespace):
    settled(namespace, TWO, ECHO)
    # one that nothing of says that it is the operator's; made anew, it would race with the healing
    marks = {"ownerReferences": None, "labels": {"app.kubernetes.io/managed-by": None}, "annotations": {"triton-operator.dev/applied-hash": None}}
    changed(namespace, "service/vision", {"metadata": marks, "spec": {"selector": {"app": "theirs"}}})
    message = namespace.wait("tsrv/vision", status="False", reason="NameTaken")["message"]
    assert "Service vision exists" in message
    changed(namespace, "deployment/vision", {"spec": {"replicas": 1}})
    until(lambda: namespace.get("deployment/vision")["spec"]["replicas"] == 2, "the replicas to be put back")
    namespace.kubectl("delete", "poddisruptionbudget/vision")
    until(lambda: namespace.items("poddisruptionbudgets"), "the budget to come back")
    assert namespace.get("service/vision")["spec"]["selector"]["app"] == "theirs"
    namespace.kubectl("delete", "service/vision")
    namespace.wait("tsrv/vision")
    namespace.wait("tmod/echo")


def test_a_webhook_that_does_not_answer_is_told_and_not_any_more_once_it_is_gone(namespace):
    settled(namespace, SERVER, ECHO)
    name = f"nobody-{namespace.name}"
    rule = {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["deployments"]}
    hook = {
        "name": "nobody.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None", "timeoutSeconds": 1, "rules": [rule],
        "clientConfig": {"url": "https://127.0.0.1:1/"}, "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace.name}},
    }
    webhook = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": {"name": name}, "webhooks": [hook]}
    kubectl("apply", "-f", "-", stdin=json.dumps(webhook))
    try:
        namespace.patch("tsrv/vision", replicas=2)
        message = namespace.wait("tsrv/vision", status="False", reason="ReconcileFailed", deadline=30)["message"]
        assert message.startswith("applying Deployment vision: ") and "nobody.example.com" in message
        assert namespace.condition("tsrv/vision", "Available")["status"] == "True"
        told = lambda: [it for it in namespace.items("events.events.k8s.io") if it["reason"] == "ReconcileFailed"]
        until(told, "the event")
    finally:
        kubectl("delete", f"validatingwebhookconfiguration/{name}")
    namespace.wait("tsrv/vision")
    assert namespace.get("deployment/vision")["spec"]["replicas"] == 2


def test_fields_of_others_are_left_alone(namespace):
    settled(namespace, SERVER, ECHO)
    changed(namespace, "deployment/vision", {"metadata": {"annotations": {"team": "a"}, "labels": {"cost": "centre"}}})
    changed(namespace, "service/vision", {"spec": {"sessionAffinity": "ClientIP"}})
    # a change of ours, so that the operator applies anew
    namespace.patch("tsrv/vision", replicas=2, service={"annotations": {"ours": "too"}})
    until(lambda: namespace.get("service/vision")["metadata"]["annotations"].get("ours") == "too", "our annotation")
    namespace.wait("tsrv/vision")
    metadata = namespace.get("deployment/vision")["metadata"]
    assert (metadata["annotations"]["team"], metadata["labels"]["cost"]) == ("a", "centre")
    assert namespace.get("service/vision")["spec"]["sessionAffinity"] == "ClientIP"


def test_replicas_that_the_spec_sets_no_more_stay_and_are_free_to_be_scaled(namespace):
    settled(namespace, TWO, ECHO)
    owners = lambda: [
        entry["manager"]
        for entry in namespace.get("deployment/vision", "--show-managed-fields")["metadata"]["managedFields"]
        if "f:replicas" in entry["fieldsV1"].get("f:spec", {})
    ]
    assert owners() == ["triton-operator"]
    namespace.patch("tsrv/vision", replicas=None)
    until(lambda: "triton-operator" not in owners(), "the operator to let go of the field")
    assert namespace.get("deployment/vision")["spec"]["replicas"] == 2
    namespace.wait("tsrv/vision")
    # an autoscaler may have it now
    namespace.kubectl("scale", "deployment/vision", "--replicas=1")
    until(lambda: len(namespace.pods()) == 1, "one of the pods to go")
    # and the spec may take it back
    namespace.patch("tsrv/vision", replicas=2)
    until(lambda: namespace.get("deployment/vision")["spec"]["replicas"] == 2, "the replicas of the spec")


def test_invariant_8_objects_of_the_same_name_that_are_not_ours_are_left_alone_and_told(namespace):
    namespace.kubectl("create", "service", "clusterip", "vision", "--tcp=80")
    namespace.apply(SERVER, ECHO)
    condition = namespace.wait("tsrv/vision", status="False")
    until(lambda: "vision" in namespace.condition("tsrv/vision").get("message", ""), "a word about it")
    service = namespace.get("service/vision")
    assert [port["port"] for port in service["spec"]["ports"]] == [80], condition
    assert "ownerReferences" not in service["metadata"]
    namespace.kubectl("delete", "service/vision")
    namespace.wait("tsrv/vision")
    assert namespace.infer() == [1, 2]


def test_invariant_8_what_is_no_longer_wanted_is_removed(namespace):
    settled(namespace, TWO + "  service: {headless: true}\n", ECHO)
    namespace.get("service/vision-headless")
    namespace.get("poddisruptionbudget/vision")
    namespace.patch("tsrv/vision", replicas=1, service=None)
    until(lambda: not namespace.items("poddisruptionbudgets"), "the budget to go")
    names = lambda: [it["metadata"]["name"] for it in namespace.items("services")]
    until(lambda: names() == ["vision"], "the headless Service to go, and only that")


def test_a_deleted_server_leaves_nothing_and_its_model_waits(namespace):
    settled(namespace, TWO, ECHO)
    namespace.kubectl("delete", "tsrv/vision", "--timeout=30s")
    kinds = "deployments,replicasets,pods,services,poddisruptionbudgets,endpointslices"
    until(lambda: not namespace.items(kinds), "everything to go", 60)
    assert [it["metadata"]["name"] for it in namespace.items("configmaps")] == ["kube-root-ca.crt"]
    assert [it["metadata"]["name"] for it in namespace.items("serviceaccounts")] == ["default"]
    namespace.wait("tmod/echo", status="False", reason="ServerNotFound")
    # made again under the same name, it serves again
    namespace.apply(SERVER)
    namespace.wait("tmod/echo")
    assert namespace.infer() == [1, 2]


def test_a_namespace_with_everything_in_it_goes_at_once(namespaces):
    namespace = namespaces()
    settled(namespace, SERVER, ECHO)
    namespace.kubectl("delete", "namespace", namespace.name, "--timeout=60s")
