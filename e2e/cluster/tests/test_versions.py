"""Versions of one model with requests split between them: the split follows the resource, in the pods that serve, without a load."""

import json
from collections import Counter

from kube import SERVER, Failed, inside, until

SPLIT = """
apiVersion: triton-operator.dev/v1alpha1
kind: TritonModel
metadata: {name: split}
spec:
  serverRef: {name: vision}
  config:
    backend: identity
    inputs: [{name: INPUT0, dataType: TYPE_FP32, dims: [-1]}]
    outputs: [{name: OUTPUT0, dataType: TYPE_FP32, dims: [-1]}]
  source: {inline: {files: {"1/about.txt": one, "2/about.txt": two, "3/about.txt": three}}}
  versions:
    weights: {"1": 90, "2": 10}
    canary: {version: 3, key: x-group, value: beta}
"""

BODY = json.dumps({"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [1.0]}]})


def versions(namespace, count, *flags):
    """Which version answered how many of `count` requests, sent one after the other over the Service."""
    url = f"http://{namespace.address()}/v2/models/split/infer"
    answers = inside("curl", "-sS", "-m", "30", *flags, "-d", BODY, *[url] * count, "-w", "\n")
    answers = [json.loads(line) for line in answers.splitlines() if line.strip()]
    assert len(answers) == count and all("error" not in answer for answer in answers), answers
    return Counter(answer["model_version"] for answer in answers)


def counts(namespace):
    """Requests each version has answered since it was loaded."""
    answer = inside("curl", "-sS", "-m", "10", f"http://{namespace.address()}/v2/models/split/stats")
    return {one["version"]: one["inference_stats"]["success"]["count"] for one in json.loads(answer)["model_stats"]}


def weights(namespace):
    """The weights that the server goes by."""
    answer = inside("curl", "-sS", "-m", "10", f"http://{namespace.address()}/v2/models/split/config")
    return json.loads(answer)["parameters"]["version_weights"]["string_value"]


def test_weights_reach_the_pods_that_serve_without_a_load(namespace):
    namespace.apply(SERVER, SPLIT)
    namespace.wait("tmod/split")
    namespace.wait("tsrv/vision")
    assert namespace.get("tmod/split")["status"]["activeVersions"] == [1, 2, 3]
    before = namespace.lives()
    assert versions(namespace, 40) == {"1": 36, "2": 4}
    assert versions(namespace, 3, "-H", "X-Group: beta") == {"3": 3}

    namespace.patch("tmod/split", versions={"weights": {"1": 25, "2": 75}})
    until(lambda: weights(namespace) == "1:25,2:75", "the new weights")
    assert versions(namespace, 40) == {"1": 10, "2": 30}
    namespace.wait("tmod/split")
    assert counts(namespace) == {"1": 46, "2": 34, "3": 3}, "no version was loaded anew"

    # a mistake changes nothing, and is reported at its field
    namespace.patch("tmod/split", versions={"weights": {"1": 0, "2": 0}})
    condition = namespace.wait("tmod/split", status="False", reason="InvalidConfig")
    assert "spec.versions.weights" in condition["message"] and "weight 0" in condition["message"], condition
    assert versions(namespace, 4) == {"1": 1, "2": 3}
    assert namespace.lives() == before


def test_the_api_server_knows_the_form(namespace):
    for wrong, said in {
        'weights: {"1": 90, "2": 10}\n    canary: {version: 3, key: x-group, value: beta}': None,
        "canary: {version: 3}": "versions has a policy or weights",
        'weights: {"1": -1}': "greater than or equal to 0",
        "policy: {all: {}}\n    shadow: {}": "at least 1 propert",
        "policy: {all: {}}\n    canary: {version: 3, key: X-Group}": "should match",
    }.items():
        text = SPLIT.split("versions:\n")[0] + f"versions:\n    {wrong}\n"
        try:
            namespace.apply(text)
            assert said is None, f"{wrong} was taken"
        except Failed as error:
            assert said and said in str(error), error
