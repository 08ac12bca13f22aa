"""Wrong specs: refused at admission where the definition can decide, reported on the status where only the operator can, while what
runs stays unchanged."""

import pytest

from kube import ECHO, SERVER, Failed, until


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (SERVER.replace("replicas: 1", "replicas: -1"), "spec.replicas"),
        (SERVER.replace("replicas: 1", "replcas: 1"), "replcas"),
        (SERVER + "  rollout: {maxSurge: 0, maxUnavailable: 0}\n", "maxUnavailable"),
        (SERVER.replace("10m", "banana"), "cpu"),
        (SERVER.replace("vision", "v" * 60), "name"),
        (ECHO.replace("source: {inline:", "source: {configMap: {name: a}, inline:"), "source"),
        (ECHO.replace("  source: {inline", "  sauce: {inline"), "sauce"),
        (ECHO.replace("serverRef: {name: vision}", "serverRef: {}"), "serverRef"),
        (ECHO.replace("TYPE_FP32", "FP32"), "TYPE_FP32"),
    ],
)
def test_the_definition_refuses_what_cannot_be(namespace, text, word):
    with pytest.raises(Failed) as refused:
        namespace.apply(text)
    assert word in str(refused.value)


def test_the_name_on_the_wire_cannot_change(namespace):
    namespace.apply(ECHO + "  modelName: Echo_1\n")
    with pytest.raises(Failed, match="modelName"):
        namespace.patch("tmod/echo", modelName="other")
    with pytest.raises(Failed, match="modelName"):
        namespace.patch("tmod/echo", modelName=None)


def test_a_wrong_server_is_told_and_its_pods_run_on(namespace):
    namespace.apply(SERVER, ECHO)
    namespace.wait("tsrv/vision")
    before = namespace.lives()
    namespace.patch("tsrv/vision", server={"extraArgs": ["--http-port=9000"]}, replicas=2)
    condition = namespace.wait("tsrv/vision", status="False", reason="InvalidSpec")
    assert "spec.server.extraArgs[0]" in condition["message"], condition
    assert namespace.condition("tsrv/vision", "Stalled")["status"] == "True"
    assert namespace.condition("tsrv/vision", "Available")["status"] == "True"
    assert namespace.infer() == [1, 2]
    assert namespace.lives() == before
    namespace.patch("tsrv/vision", server={"extraArgs": []}, replicas=1)
    namespace.wait("tsrv/vision")
    until(lambda: not namespace.condition("tsrv/vision", "Stalled"), "Stalled to go")
    assert namespace.lives() == before


def test_a_wrong_model_is_told_and_its_last_good_form_serves(namespace):
    namespace.apply(SERVER, ECHO)
    namespace.wait("tmod/echo")
    namespace.patch("tmod/echo", config={"maxBatchSize": 4, "dynamicBatching": {"preferredBatchSize": [8]}})
    condition = namespace.wait("tmod/echo", status="False", reason="InvalidConfig")
    assert "preferredBatchSize" in condition["message"], condition
    assert namespace.condition("tmod/echo", "Stalled")["status"] == "True"
    assert namespace.infer() == [1, 2]


def test_of_two_models_with_one_name_that_which_serves_goes_on(namespace):
    twin = ECHO.replace("metadata: {name: echo}", "metadata: {name: twin}") + "  modelName: echo\n"
    parked = twin.replace("{name: twin}", "{name: parked}").replace("serverRef: {name: vision}", "serverRef: {name: none}")
    namespace.apply(SERVER, parked)
    namespace.wait("tmod/parked", status="False", reason="ServerNotFound")
    namespace.apply(ECHO)
    namespace.wait("tmod/echo")
    namespace.apply(twin)
    namespace.patch("tmod/parked", serverRef={"name": "vision"})
    for model in ("twin", "parked"):
        condition = namespace.wait(f"tmod/{model}", status="False", reason="NameConflict")
        assert "serves TritonModel echo" in condition["message"], condition
        status = namespace.get(f"tmod/{model}")["status"]
        assert (status["loadedReplicas"], status.get("activeVersions", [])) == ("0/1", []), status
    assert namespace.condition("tmod/echo")["status"] == "True"
    # the older of the two that wait
    namespace.kubectl("delete", "tmod/echo")
    namespace.wait("tmod/parked")
    assert namespace.condition("tmod/twin")["reason"] == "NameConflict"


def test_what_the_cluster_refuses_is_told_in_its_words(namespace):
    # a restricted namespace takes no such pod
    namespace.kubectl("label", "namespace", namespace.name, "pod-security.kubernetes.io/enforce-version=latest")
    namespace.apply(SERVER.replace("spec:\n", "spec:\n  priorityClassName: no-such-class\n"))
    condition = namespace.wait("tsrv/vision", status="False", reason="FailedCreate")
    assert "no-such-class" in condition["message"], condition


def test_an_image_nobody_has_is_told(namespace):
    namespace.apply(SERVER + "  image: {repository: localhost/nothing, tag: none, pullPolicy: Never}\n")
    condition = namespace.wait("tsrv/vision", status="False", reason="ErrImageNeverPull")
    assert "localhost/nothing" in condition["message"], condition
