"""A new content of a model comes to one replica first. What fails there, or takes its server down, goes no further, and is undone by the next
content."""

import json
import textwrap

import pytest

from kube import ECHO, SERVER, load, until

THREE = SERVER.replace("replicas: 1", "replicas: 3")

MODEL = """
apiVersion: triton-operator.dev/v1alpha1
kind: TritonModel
metadata: {name: worded}
spec:
  serverRef: {name: vision}
  config:
    backend: python
    inputs: [{name: INPUT0, dataType: TYPE_FP32, dims: [-1]}]
    outputs: [{name: OUTPUT0, dataType: TYPE_FP32, dims: [-1]}]
  source: {inline: {files: {}}}
  loadPolicy: {retry: {limit: 2, backoff: 1s}}
"""


def code(factor, at_load="pass", at_request="pass"):
    """A Python model that multiplies, and does something when it is loaded and at each request."""
    text = f"""
        import os, pathlib, signal, threading
        import triton_python_backend_utils as pb_utils

        def end_the_server():
            for process in pathlib.Path("/proc").iterdir():
                if process.name.isdigit() and (process / "comm").read_text().strip() == "tritonserver":
                    os.kill(int(process.name), signal.SIGKILL)

        class TritonPythonModel:
            def initialize(self, args):
                {at_load}

            def execute(self, requests):
                {at_request}
                tensors = [pb_utils.get_input_tensor_by_name(it, "INPUT0").as_numpy() for it in requests]
                return [pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", it * {factor})]) for it in tensors]
        """
    return {"inline": {"files": {"1/model.py": textwrap.dedent(text)}}}


def events(namespace, name, reason):
    found = namespace.items("events.events.k8s.io")
    return [it for it in found if it["regarding"]["name"] == name and it["reason"] == reason]


@pytest.mark.our_cluster
def test_a_content_that_takes_its_server_down_is_tried_by_one_replica_and_never_again(namespace):
    image = "  image: {repository: localhost/tritonserver-python}\n"
    namespace.apply(THREE + image, ECHO, MODEL.replace("source: {inline: {files: {}}}", f"source: {json.dumps(code(2))}"))
    for what in ("tsrv/vision", "tmod/echo", "tmod/worded"):
        namespace.wait(what, deadline=150)
    pods = namespace.pods()

    with load(namespace, may_fail=True) as result:
        namespace.patch("tmod/worded", source=code(3, "end_the_server()"))
        condition = namespace.wait("tmod/worded", status="False", reason="ServerCrashed")
        condition = until(
            lambda: (it := namespace.condition("tmod/worded"))["reason"] == "ServerCrashed" and "no replica loads" in it["message"] and it,
            "it to be in quarantine",
        )
    (failure,) = namespace.get("tmod/worded")["status"]["failures"]
    assert failure["pod"] in pods and failure["pod"] in condition["message"], condition
    assert namespace.condition("tmod/worded", "Stalled")["status"] == "True"
    until(lambda: events(namespace, "worded", "ServerCrashed"), "the event")  # written beside the statuses
    assert result["failed"] <= result["requests"] / 20, "two replicas went on"
    namespace.wait("tsrv/vision")
    until(lambda: namespace.infer("worded") == [2, 4], "the content before to serve")

    # what is in quarantine stays there when its pod is replaced, and holds no new pod back
    namespace.kubectl("delete", "pod", failure["pod"], "--wait=false")
    namespace.patch("tsrv/vision", replicas=4)
    until(lambda: len(namespace.pods()) == 4 and failure["pod"] not in namespace.pods(), "four pods")
    namespace.wait("tsrv/vision", deadline=120)
    assert namespace.condition("tmod/worded")["reason"] == "ServerCrashed"
    assert namespace.infer("worded") == [2, 4]

    namespace.patch("tmod/worded", source=code(5))
    namespace.wait("tmod/worded", deadline=120)
    assert namespace.get("tmod/worded")["status"]["loadedReplicas"] == "4/4"
    assert namespace.infer("worded") == [5, 10]
    until(
        lambda: not any("triton-operator.dev/adopt" in it["metadata"].get("annotations", {}) for it in namespace.pods().values()),
        "nothing in rollout to be left on a pod",
    )


@pytest.mark.our_cluster
def test_a_content_that_ends_its_server_after_its_load_or_at_a_request_goes_no_further(namespace):
    """Proven models beside it are never accused, the former content serves on, and a repair is tried at once."""
    image = "  image: {repository: localhost/tritonserver-python}\n"
    models = {name: MODEL.replace("name: worded", f"name: {name}") for name in ("worded", "beside")}
    first = {name: text.replace("source: {inline: {files: {}}}", f"source: {json.dumps(code(2))}") for name, text in models.items()}
    namespace.apply(SERVER.replace("replicas: 1", "replicas: 2") + image, ECHO, *first.values())
    for what in ("tsrv/vision", "tmod/echo", "tmod/worded", "tmod/beside"):
        namespace.wait(what, deadline=150)

    def contained(what, **patch):
        """Patches the model with what ends its server, and waits until that is in quarantine."""
        with load(namespace, model="worded", may_fail=True) as result:
            namespace.patch("tmod/worded", source=code(3, **patch))
            condition = until(
                lambda: (it := namespace.condition("tmod/worded")).get("reason") == "ServerCrashed" and "no replica loads" in it["message"] and it,
                f"what ends its server {what} to be in quarantine",
                120,
            )
        assert "2 server processes" in condition["message"] and "the former one goes on" in condition["message"], condition
        (failure,) = namespace.get("tmod/worded")["status"]["failures"]
        assert failure["pod"] in condition["message"] and failure["state"] == "Failed", failure
        assert result["failed"] <= result["requests"] / 10, (what, result)
        until(lambda: [namespace.infer("worded") for _ in range(4)] == [[2, 4]] * 4, "the former content to serve")
        return failure["pod"]

    pod = contained("after its load", at_load="threading.Timer(2.0, end_the_server).start()")
    crashed = {name for name in namespace.pods() for it in events(namespace, "vision", "ServerCrashed") if name in it["note"]}
    assert crashed == {pod}, "one replica tried it"
    # a repair that is good, and then one that is not
    namespace.patch("tmod/worded", source=code(2, at_load="pass  # repaired"))
    namespace.wait("tmod/worded", deadline=120)
    contained("at its first request", at_request="end_the_server()")
    namespace.patch("tmod/worded", source=code(5))
    namespace.wait("tmod/worded", deadline=120)
    assert namespace.infer("worded") == [5, 10]
    for what in ("tsrv/vision", "tmod/echo", "tmod/beside"):
        namespace.wait(what, deadline=120)
    assert not events(namespace, "beside", "ServerCrashed") and not events(namespace, "echo", "ServerCrashed")


def test_a_content_that_does_not_load_stops_at_the_first_replica(namespace):
    namespace.apply(THREE, ECHO)
    namespace.wait("tsrv/vision")
    namespace.wait("tmod/echo")
    with load(namespace):
        namespace.patch("tmod/echo", config={"backend": "nowhere"})
        condition = namespace.wait("tmod/echo", status="False", reason="LoadFailed")
        assert "nowhere" in condition["message"] and "no further replica" in condition["message"], condition
        (failure,) = namespace.get("tmod/echo")["status"]["failures"]
        assert failure["pod"] in namespace.pods()
        # a new replica serves what is proven
        namespace.patch("tsrv/vision", replicas=4)
        until(lambda: len(namespace.pods()) == 4, "a fourth pod")
        namespace.wait("tsrv/vision")
        (still,) = namespace.get("tmod/echo")["status"]["failures"]
        assert still["pod"] == failure["pod"]
        namespace.patch("tmod/echo", config={"backend": "identity"})
        namespace.wait("tmod/echo")
    assert namespace.get("tmod/echo")["status"]["loadedReplicas"] == "4/4"


def test_invariant_16_one_replica_of_three_that_cannot_load_a_model_is_named(namespace):
    """The two that serve it go on, the third gets no requests, and the status says which and why."""
    namespace.apply(THREE + "  image: {repository: localhost/tritonserver-python}\n", ECHO)
    namespace.wait("tsrv/vision", deadline=150)
    known = sorted(namespace.pods())
    at_load = f"assert os.uname().nodename in {known}, 'this machine is not known'"
    namespace.apply(MODEL.replace("source: {inline: {files: {}}}", f"source: {json.dumps(code(2, at_load))}"))
    namespace.wait("tmod/worded")
    until(namespace.has_settled, "the content to be proven")
    namespace.kubectl("delete", "pod", known[0])
    condition = namespace.wait("tmod/worded", status="False", reason="LoadFailed", deadline=120)
    (new,) = set(namespace.pods()) - set(known)
    assert new in condition["message"] and "this machine is not known" in condition["message"], condition
    # while it is tried once more, nothing has failed
    status = until(lambda: (it := namespace.get("tmod/worded")["status"]).get("failures") and it, "the failure to be listed")
    assert status["loadedReplicas"] == "2/3" and [it["pod"] for it in status["failures"]] == [new], status
    slices = namespace.items("endpointslices", "-l", "kubernetes.io/service-name=vision")
    endpoints = [it for one in slices for it in one.get("endpoints") or [] if it["conditions"].get("ready")]
    assert sorted(it["targetRef"]["name"] for it in endpoints) == known[1:]
    assert [namespace.infer("worded") for _ in range(6)] == [[2, 4]] * 6
