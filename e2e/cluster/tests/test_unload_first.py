"""Models that are unloaded before their successors are loaded: a replica leaves the Service first where another one serves the model, and nobody
notices."""

import json

from kube import ECHO, SERVER, load, until

TWO = SERVER.replace("replicas: 1", "replicas: 2")


def part(name):
    """A model that gives back what it gets, unloaded before the next one is loaded."""
    return ECHO.replace("metadata: {name: echo}", f"metadata: {{name: {name}}}").replace("loadPolicy: {", "loadPolicy: {order: UnloadFirst, ")


STEP = """
    {{ model_name: "{model}" model_version: -1
      input_map {{ key: "INPUT0" value: "{source}" }}
      output_map {{ key: "OUTPUT0" value: "{target}" }} }}"""

CONFIG = f"""platform: "ensemble"
input [{{ name: "INPUT0" data_type: TYPE_FP32 dims: [ -1 ] }}]
output [{{ name: "OUTPUT0" data_type: TYPE_FP32 dims: [ -1 ] }}]
ensemble_scheduling {{ step [{STEP.format(model="first", source="INPUT0", target="between")},{STEP.format(model="second", source="between", target="OUTPUT0")}
] }}"""

CHAIN = f"""
apiVersion: triton-operator.dev/v1alpha1
kind: TritonModel
metadata: {{name: chain}}
spec:
  serverRef: {{name: vision}}
  configPbtxt: {json.dumps(CONFIG)}
  source: {{inline: {{files: {{"1/about.txt": "of two parts"}}}}}}
  loadPolicy: {{retry: {{limit: 5, backoff: 1s}}}}
"""


def change(namespace, model, text):
    namespace.patch(f"tmod/{model}", source={"inline": {"files": {"1/about.txt": text}}})


def test_nobody_notices_models_that_are_unloaded_before_their_successors_come(namespace):
    namespace.apply(TWO, part("echo"))
    namespace.wait("tsrv/vision")
    namespace.wait("tmod/echo")
    lives = namespace.lives()
    with load(namespace):
        change(namespace, "echo", "another")
        condition = namespace.wait("tsrv/vision", status="False", reason="ReloadingModels")
        assert "gets no requests while it unloads a model" in condition["message"], condition
        namespace.wait("tmod/echo")
    assert namespace.lives() == lives
    nothing_is_left(namespace)


def test_nobody_notices_that_parts_of_an_ensemble_are_unloaded_first(namespace):
    namespace.apply(TWO, part("first"), part("second"), CHAIN)
    namespace.wait("tsrv/vision")
    for model in ("first", "second", "chain"):
        namespace.wait(f"tmod/{model}")
    with load(namespace, "chain"):
        change(namespace, "first", "another")
        change(namespace, "second", "another")
        for model in ("first", "second", "chain"):
            namespace.wait(f"tmod/{model}")
        # what does not load is put back, with nobody there either
        namespace.patch("tmod/second", config={"backend": "nowhere"})
        namespace.wait("tmod/second", status="False", reason="LoadFailed")
        namespace.patch("tmod/second", config={"backend": "identity"})
        namespace.wait("tmod/second")
        namespace.wait("tmod/chain")
        namespace.wait("tsrv/vision")
    nothing_is_left(namespace)


def nothing_is_left(namespace):
    """Nothing is in rollout any more."""
    until(
        lambda: not any("triton-operator.dev/adopt" in it["metadata"].get("annotations", {}) for it in namespace.pods().values()),
        "nothing in rollout to be left on a pod",
    )


def test_nobody_notices_that_a_content_is_called_back_by_its_author(namespace):
    """Changed again and back while it is tried and while it spreads: whoever has it goes back with nobody there."""
    namespace.apply(TWO, part("echo"))
    namespace.wait("tsrv/vision")
    namespace.wait("tmod/echo")
    first = "gives back what it gets"
    with load(namespace):
        for has_come_so_far in (1, 2):
            change(namespace, "echo", "another")
            until(lambda count=has_come_so_far: follow(namespace, count), f"{has_come_so_far} replicas to have it")
            change(namespace, "echo", first)
            namespace.wait("tmod/echo")
            namespace.wait("tsrv/vision")
    nothing_is_left(namespace)


def follow(namespace, count):
    """Whether so many replicas serve what the resource asks for."""
    found = namespace.get("tmod/echo")
    is_of_this = found["status"].get("observedGeneration") == found["metadata"]["generation"]
    return is_of_this and found["status"].get("loadedReplicas") == f"{count}/2"


def test_the_only_replica_does_not_leave_the_service(namespace):
    namespace.apply(SERVER, part("echo"))
    namespace.wait("tmod/echo")
    change(namespace, "echo", "another")
    namespace.wait("tmod/echo", deadline=30)
    assert namespace.condition("tsrv/vision")["status"] == "True"
    events = namespace.items("events.events.k8s.io")
    assert not [it for it in events if it["reason"] == "ReloadingModels"], events
