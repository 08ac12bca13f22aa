"""Python models in the image with Python: the sample written in one resource, the one that understands sentences, and the one that finds
parts on pictures and needs a package of its own."""

import json
import re
import sys

import pytest

from kube import CLAIM, ROOT, inside, kubectl, run

SAMPLES = ROOT / "deploy/samples"

pytestmark = pytest.mark.our_cluster


def test_a_python_model_is_applied_as_one_file(namespace):
    namespace.kubectl("apply", "-f", SAMPLES / "inline-python.yaml")
    namespace.wait("tmod/summary", deadline=150)
    body = {"inputs": [{"name": "values", "datatype": "FP32", "shape": [4], "data": [1, 2, 4, 5]}]}
    url = f"http://{namespace.address('inline-python')}/v2/models/summary/infer"
    answer = json.loads(inside("curl", "-sS", "-m", "10", url, "-d", json.dumps(body)))
    assert {one["name"]: one["data"] for one in answer["outputs"]}["mean"] == [3.0], answer
    (pod,) = namespace.pods("inline-python")
    said = namespace.kubectl("logs", pod, "-c", "server")
    assert "another build of the server" not in said, "the files of workers in the image are those of its server"


def test_the_text_sample_finds_the_sentence_that_is_meant(namespace, folder):
    folder, volume = folder
    run(sys.executable, SAMPLES / "text/export.py", folder / "text")
    kubectl("apply", "-f", "-", stdin=volume)
    namespace.apply(CLAIM)
    namespace.kubectl("apply", "-f", SAMPLES / "text")
    namespace.wait("tmod/embedding", deadline=180)
    said = inside(sys.executable, SAMPLES / "text/ask.py", namespace.address("text"))
    assert said.splitlines()[1].endswith("To reset your password, follow the link on the sign-in page."), said


def test_the_detector_sample_finds_parts(namespace, folder):
    folder, volume = folder
    run(sys.executable, SAMPLES / "detector/train.py", folder / "detector", deadline=600)
    kubectl("apply", "-f", "-", stdin=volume)
    namespace.apply(CLAIM)
    namespace.kubectl("apply", "-f", SAMPLES / "detector")
    namespace.wait("tmod/inspect", deadline=180)
    said = inside(sys.executable, SAMPLES / "detector/measure.py", namespace.address("detector"), "8")
    precision, recall = (float(word) for word in re.search(r"precision ([0-9.]+), recall ([0-9.]+)", said).groups())
    assert precision > 0.85 and recall > 0.85, said
