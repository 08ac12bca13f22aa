"""Models come, change and go in running pods; a bad one hurts nobody but itself."""

import base64
import json
import sys

import pytest

from kube import ECHO, OPERATOR, ROOT, SERVER, Failed, first_process, kill, kubectl, until

sys.path.insert(0, str(ROOT / "e2e" / "models"))

import graphs  # noqa: E402

BROKEN = ECHO.replace("name: echo", "name: broken").replace("backend: identity", "backend: nowhere")


def test_models_come_change_and_go_without_a_restart(namespace):
    namespace.apply(SERVER, ECHO)
    namespace.wait("tmod/echo")
    namespace.wait("tsrv/vision")
    before = namespace.lives()

    namespace.apply(ECHO.replace("name: echo", "name: second"))
    namespace.wait("tmod/second")
    assert namespace.infer("second") == [1, 2]

    content = namespace.get("tmod/second")["status"]["contentHash"]
    namespace.patch("tmod/second", source={"inline": {"files": {"3/about.txt": "a later version"}}}, versions={"policy": {"all": {}}})
    until(lambda: namespace.get("tmod/second")["status"]["activeVersions"] == [1, 3], "both versions")
    assert namespace.wait("tmod/second") and namespace.get("tmod/second")["status"]["contentHash"] != content

    namespace.kubectl("delete", "tmod/second")
    until(lambda: is_unknown(namespace, "second"), "the model to go")
    assert namespace.infer() == [1, 2]
    assert namespace.lives() == before


def is_unknown(namespace, model):
    try:
        namespace.infer(model)
    except Failed as error:
        return "unknown model" in str(error) or "is not found" in str(error) or "not ready" in str(error)
    return False


def test_invariant_10_a_bad_new_version_leaves_the_old_one_serving_and_says_why(namespace):
    namespace.apply(SERVER, ECHO)
    namespace.wait("tmod/echo")
    namespace.patch("tmod/echo", config={"backend": "nowhere"})
    condition = namespace.wait("tmod/echo", status="False", reason="LoadFailed")
    assert "nowhere" in condition["message"], condition
    assert namespace.condition("tmod/echo", "Servable")["status"] == "True"
    assert namespace.infer() == [1, 2]
    status = namespace.get("tmod/echo")["status"]
    assert status["failures"][0]["pod"] in namespace.pods()
    assert "nowhere" in status["lastFailure"]["message"]
    namespace.wait("tsrv/vision", "ModelsLoaded", "False")
    assert namespace.condition("tsrv/vision")["status"] == "True", "the server itself is as it was asked for"

    namespace.patch("tmod/echo", config={"backend": "identity"})
    namespace.wait("tmod/echo")
    namespace.wait("tsrv/vision", "ModelsLoaded")


def test_a_model_that_exhausts_the_servers_memory_is_given_up_and_the_others_go_on(namespace):
    namespace.apply(SERVER.replace("resources: {", "resources: {limits: {memory: 400Mi}, "), ECHO)
    namespace.wait("tmod/echo")
    namespace.wait("tsrv/vision")
    content = base64.b64encode(graphs.greedy(500_000_000).SerializeToString()).decode()
    namespace.apply(
        f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: greedy}}\nbinaryData: {{model.onnx: {content}}}",
        "apiVersion: triton-operator.dev/v1alpha1\nkind: TritonModel\nmetadata: {name: greedy}\nspec:\n  serverRef: {name: vision}\n  "
        "format: onnx\n  source: {configMap: {name: greedy}}\n  loadPolicy: {retry: {limit: 50, backoff: 1s}}",
    )
    condition = namespace.wait("tmod/greedy", kind="Stalled", reason="OOMKilled", deadline=180)
    assert "limits.memory" in condition["message"], condition
    namespace.wait("tmod/echo", deadline=120)
    assert namespace.infer() == [1, 2]
    before = namespace.lives()
    # another manifest begins nothing anew
    namespace.apply(ECHO.replace("name: echo", "name: second"))
    namespace.wait("tmod/second")
    assert namespace.lives() == before
    assert namespace.condition("tmod/greedy", "Stalled")["reason"] == "OOMKilled"
    assert namespace.infer() == [1, 2]


@pytest.fixture
def any_priority():
    """The definition takes anything as a priority, as another version of it might."""
    path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/priority"
    definition = "crd/tritonmodels.triton-operator.dev"
    replace = lambda value: kubectl("patch", definition, "--type=json", "-p", json.dumps([{"op": "replace", "path": path, "value": value}]))
    before = json.loads(kubectl("get", definition, "-o", "json"))
    for key in path.strip("/").split("/"):
        before = before[int(key) if key.isdigit() else key]
    replace({"x-kubernetes-preserve-unknown-fields": True})
    yield
    replace(before)


def test_a_model_that_cannot_be_read_goes_on_serving_and_says_so(namespace, operator, any_priority):
    namespace.apply(SERVER, ECHO, ECHO.replace("name: echo", "name: second"))
    namespace.wait("tmod/echo")
    namespace.wait("tmod/second")
    until(lambda: namespace.patch("tmod/echo", priority="high"), "the API server to take it")
    condition = namespace.wait("tmod/echo", status="False", reason="InvalidSpec")
    assert "cannot be read" in condition["message"] and "goes on" in condition["message"], condition
    # neither a change beside it nor another operator takes it for deleted
    operator.restart(OPERATOR)
    operator.kubectl("rollout", "status", f"deployment/{OPERATOR}", "--timeout=60s")
    namespace.kubectl("delete", "tmod/second")
    until(lambda: is_unknown(namespace, "second"), "the other model to go")
    assert namespace.infer() == [1, 2]
    namespace.patch("tmod/echo", priority=3)
    namespace.wait("tmod/echo")
    # a deletion is one all the same
    namespace.patch("tmod/echo", priority="high")
    namespace.wait("tmod/echo", status="False", reason="InvalidSpec")
    namespace.kubectl("delete", "tmod/echo")
    until(lambda: is_unknown(namespace, "echo"), "the model to go", 90)


def test_a_bad_model_added_later_leaves_pods_and_other_models_alone(namespace):
    namespace.apply(SERVER, ECHO)
    namespace.wait("tmod/echo")
    namespace.wait("tsrv/vision")
    before, since = namespace.lives(), namespace.condition("tsrv/vision")["lastTransitionTime"]
    namespace.apply(BROKEN)
    namespace.wait("tmod/broken", status="False", reason="LoadFailed")
    assert "broken" in namespace.wait("tsrv/vision", "ModelsLoaded", "False")["message"]
    assert namespace.infer() == [1, 2]
    assert namespace.condition("tmod/echo")["status"] == "True"
    assert namespace.lives() == before
    condition = namespace.condition("tsrv/vision")
    assert (condition["status"], condition["lastTransitionTime"]) == ("True", since), "the server was ready all the time"


@pytest.mark.our_cluster
def test_a_restarted_server_is_ready_without_a_model_that_never_worked(namespace):
    namespace.apply(SERVER, ECHO)
    namespace.wait("tmod/echo")
    namespace.apply(BROKEN)
    namespace.wait("tmod/broken", status="False", reason="LoadFailed")
    (pod,) = namespace.pods().values()
    kill(first_process(pod, "server"))
    restarted = lambda: [life for life in namespace.lives() if life[1] == "server" and life[2] == 1]
    until(restarted, "the server to start anew")
    until(lambda: namespace.infer() == [1, 2], "answers from the restarted server")
    namespace.wait("tsrv/vision")


def test_an_optional_model_does_not_keep_a_new_pod_waiting(namespace):
    namespace.apply(SERVER, ECHO, BROKEN + "  readiness: Optional\n")
    namespace.wait("tsrv/vision")
    namespace.wait("tmod/broken", status="False", reason="LoadFailed")
    assert namespace.infer() == [1, 2]


@pytest.mark.parametrize("cure", ["mend", "remove"])
@pytest.mark.parametrize("fault", ["load", "fetch"])
def test_a_required_model_keeps_a_new_pod_unready_until_it_is_mended_or_gone(namespace, fault, cure):
    bad = {"config": {"backend": "nowhere"}, "source": None}
    reason = "LoadFailed"
    text = BROKEN
    if fault == "fetch":
        reason = "SourceNotFound"
        text = BROKEN.replace("backend: nowhere", "backend: identity").replace(
            'source: {inline: {files: {"1/about.txt": "gives back what it gets"}}}', "source: {configMap: {name: absent}}"
        )
    namespace.apply(SERVER, ECHO, text)
    namespace.wait("tmod/broken", status="False", reason=reason)
    namespace.wait("tsrv/vision", status="False")
    if cure == "remove":
        namespace.kubectl("delete", "tmod/broken")
    elif fault == "load":
        namespace.patch("tmod/broken", config={"backend": "identity"})
    else:
        namespace.kubectl("create", "configmap", "absent", "--from-literal=about.txt=here")
        namespace.patch("tmod/broken", source={"configMap": {"name": "absent", "items": [{"key": "about.txt", "path": "1/about.txt"}]}})
    namespace.wait("tsrv/vision", deadline=120)
    assert namespace.infer() == [1, 2]


def test_a_config_map_may_come_after_its_model_and_is_followed_when_it_changes(namespace):
    source = "source: {configMap: {name: files, items: [{key: one, path: 1/one}]}}"
    inline = 'source: {inline: {files: {"1/about.txt": "gives back what it gets"}}}'
    namespace.apply(SERVER, ECHO.replace("name: echo", "name: other"))
    namespace.wait("tmod/other")
    namespace.apply(ECHO.replace(inline, source))
    namespace.wait("tmod/echo", status="False", reason="SourceNotFound")
    # much sooner than the kubelet would come round to it
    namespace.kubectl("create", "configmap", "files", "--from-literal=one=1")
    namespace.wait("tmod/echo", deadline=30)
    content = namespace.get("tmod/echo")["status"]["contentHash"]
    namespace.kubectl("patch", "configmap/files", "--type=merge", "-p", '{"data":{"one":"another"}}')
    until(lambda: namespace.get("tmod/echo")["status"]["contentHash"] != content, "the new content", 30)
    assert namespace.infer() == [1, 2]
