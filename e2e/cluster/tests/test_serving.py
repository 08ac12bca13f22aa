"""From resources to answers: in any order, several at once, over both protocols, and from the sample as documented."""

import re
import sys

import pytest

from kube import ECHO, ROOT, SERVER, inside, until


@pytest.mark.parametrize("order", ["server_first", "model_first"])
def test_a_server_and_its_model_find_each_other(namespace, order):
    if order == "model_first":
        namespace.apply(ECHO)
        namespace.wait("tmod/echo", status="False", reason="ServerNotFound")
        namespace.apply(SERVER)
    else:
        namespace.apply(SERVER)
        namespace.wait("tsrv/vision")
        namespace.apply(ECHO)
    namespace.wait("tmod/echo")
    namespace.wait("tsrv/vision")
    assert namespace.infer() == [1, 2]

    status = namespace.get("tmod/echo")["status"]
    assert (status["loadedReplicas"], status["activeVersions"]) == ("1/1", [1])
    assert status["urls"]["http"].endswith("/v2/models/echo")
    all_loaded = {"desired": 1, "loaded": 1, "failed": 0}
    status = until(lambda: (it := namespace.get("tsrv/vision")["status"])["models"] == all_loaded and it, "the server to count its model")
    for condition in status["conditions"]:
        assert condition["reason"] and condition["observedGeneration"] == status["observedGeneration"], condition


def test_printed_columns_show_the_state(namespace):
    namespace.apply(SERVER, ECHO)
    namespace.wait("tmod/echo")
    namespace.wait("tsrv/vision")
    columns = until(lambda: columns_of(namespace, "tsrv"), "the columns")
    assert (columns["READY"], columns["REPLICAS"], columns["MODELS"]) == ("True", "1", "1")
    columns = columns_of(namespace, "tmod")
    assert (columns["SERVER"], columns["READY"], columns["REASON"], columns["LOADED"]) == ("vision", "True", "Loaded", "1/1")


def columns_of(namespace, kind):
    head, row = namespace.kubectl("get", kind).splitlines()
    cells = re.split(r"\s{2,}", row.strip())
    names = re.split(r"\s{2,}", head.strip())
    # an empty cell leaves no trace in the row: only full rows are read
    return dict(zip(names, cells)) if len(names) == len(cells) else dict(zip(names, row.split()))


def test_each_transition_is_one_event_and_reconciling_alone_is_none(namespace):
    namespace.apply(SERVER, ECHO)
    namespace.wait("tmod/echo")
    namespace.wait("tsrv/vision")

    def events():
        """How often each event of our kinds was written, by object, reason and text."""
        found = {}
        for event in namespace.items("events.events.k8s.io"):
            if event["regarding"]["kind"].startswith("Triton"):
                key = (event["regarding"]["kind"], event["reason"], event["note"])
                found[key] = found.get(key, 0) + event.get("series", {}).get("count", 1)
        return found

    both = {("TritonServer", "AllReplicasReady"), ("TritonModel", "Loaded")}
    until(lambda: both <= {key[:2] for key in events()}, "the events of what became ready")
    until(namespace.has_settled, "its content to be proven")
    before = events()
    # the ConfigMap may have changed more than once: with the content, and when that had settled and was proven
    changed = ("TritonServer", "Updated", "ConfigMap vision-models")
    assert {count for key, count in before.items() if key != changed} == {1} and before.get(changed, 1) <= 3, before
    # each of these is a reconcile more; only the one that writes something is an event
    for number in range(3):
        namespace.kubectl("annotate", "tsrv/vision", "tmod/echo", f"touched={number}", "--overwrite")
    namespace.patch("tsrv/vision", service={"annotations": {"ours": "too"}})
    new = lambda: {key: count - before.get(key, 0) for key, count in events().items() if count != before.get(key, 0)}
    until(lambda: [key[1] for key in new()] == ["Updated"], "the event of the change, and no other")
    assert list(new().values()) == [1], new()


def test_the_sample_recognises_digits(namespace):
    namespace.kubectl("apply", "-f", ROOT / "deploy" / "samples" / "digits")
    namespace.wait("tmod/digits", deadline=120)
    said = inside(sys.executable, ROOT / "deploy" / "samples" / "digits" / "ask.py", namespace.address("digits"))
    right = float(re.search(r"\(([\d.]+)%\)", said).group(1))
    assert right > 90, said


GRPC = """
import sys, numpy, tritonclient.grpc as grpc
client = grpc.InferenceServerClient(sys.argv[1])
assert client.is_server_ready()
tensor = grpc.InferInput("INPUT0", [3], "FP32")
tensor.set_data_from_numpy(numpy.array([1, 2, 3], dtype=numpy.float32))
print(client.infer("echo", [tensor]).as_numpy("OUTPUT0").tolist())
"""


def test_both_protocols_and_the_metrics_are_reached_through_the_service(namespace):
    namespace.apply(SERVER, ECHO)
    namespace.wait("tmod/echo")
    assert inside(sys.executable, "-c", GRPC, namespace.address(port="grpc")).strip() == "[1.0, 2.0, 3.0]"
    page = inside("curl", "-sS", "-m", "5", f"http://{namespace.address(port='metrics')}/metrics")
    assert re.search(r'nv_inference_request_success\{[^}]*model="echo"[^}]*\} 1', page), page


def test_several_servers_in_several_namespaces_do_not_meet(namespaces):
    made = [namespaces(), namespaces()]
    for namespace in made:
        for name in ("vision", "speech"):
            namespace.apply(
                SERVER.replace("vision", name),
                ECHO.replace("vision", name).replace("{name: echo}", f"{{name: echo-{name}}}"),
            )
    for namespace in made:
        for name in ("vision", "speech"):
            namespace.wait(f"tmod/echo-{name}", deadline=150)
            assert namespace.infer(f"echo-{name}", server=name) == [1, 2]
            namespace.wait(f"tsrv/{name}")
            assert namespace.get(f"tsrv/{name}")["status"]["models"]["desired"] == 1
    with pytest.raises(AssertionError, match="unknown model"):
        made[0].infer("echo-speech", server="vision")


def test_a_model_moves_to_another_server(namespace):
    namespace.apply(SERVER, SERVER.replace("vision", "speech"), ECHO)
    namespace.wait("tmod/echo")
    namespace.patch("tmod/echo", serverRef={"name": "speech"})
    namespace.wait("tmod/echo")
    assert namespace.infer(server="speech") == [1, 2]
    until(lambda: namespace.get("tsrv/vision")["status"]["models"]["desired"] == 0, "the old server to forget it")


def test_suspended_servers_run_nothing_and_come_back(namespace):
    namespace.apply(SERVER, ECHO)
    namespace.wait("tmod/echo")
    namespace.patch("tsrv/vision", suspend=True)
    namespace.wait("tsrv/vision", reason="ScaledToZero")
    until(lambda: not namespace.pods(), "the pods to go")
    assert namespace.wait("tmod/echo", status="False", reason="ScaledToZero")
    for what in ("tsrv/vision", "tmod/echo"):
        conditions = {it["type"] for it in namespace.get(what)["status"]["conditions"]}
        assert not {"Reconciling", "Stalled"} & conditions, f"{what} is at rest"
    namespace.patch("tsrv/vision", suspend=None)
    namespace.wait("tmod/echo")
    assert namespace.infer() == [1, 2]


def test_the_scale_of_a_server_can_be_set_from_outside(namespace):
    namespace.apply(SERVER.replace("  replicas: 1\n", ""), ECHO)
    namespace.wait("tmod/echo")
    namespace.kubectl("scale", "tsrv/vision", "--replicas=2")
    namespace.wait("tsrv/vision")
    until(lambda: namespace.get("tmod/echo")["status"]["loadedReplicas"] == "2/2", "both replicas")
    until(lambda: namespace.get("tsrv/vision")["status"]["readyReplicas"] == 2, "the server's count of them")
