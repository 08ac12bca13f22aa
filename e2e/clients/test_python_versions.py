"""One server with models in every version of Python that this machine has, each in an environment of its own.

The environments are those that `e2e/pb_utils/versions` makes."""

import numpy as np
import processes
import pytest
import python_model

from serving import ROOT, Server
from talking import connect, tensor

VERSIONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14")
ENVIRONMENTS = {version: ROOT / "target/python-versions" / version for version in VERSIONS}
HERE = [version for version in VERSIONS if (ENVIRONMENTS[version] / ".installed").exists()]

# Doubles numbers, by way of the model of another version if one is named; turns words around.
MODEL = """
import json
import sys


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        config.add_input({"name": "NUMBERS", "data_type": "TYPE_FP32", "dims": [-1]})
        config.add_input({"name": "WORDS", "data_type": "TYPE_STRING", "dims": [-1]})
        config.add_output({"name": "DOUBLED", "data_type": "TYPE_FP32", "dims": [-1]})
        config.add_output({"name": "TURNED", "data_type": "TYPE_STRING", "dims": [-1]})
        config.add_output({"name": "SAID", "data_type": "TYPE_STRING", "dims": [1]})
        return config

    def initialize(self, args):
        self.family = pb_utils.MetricFamily("seen_" + args["model_name"], "Requests seen.", pb_utils.MetricFamily.COUNTER)
        self.seen = self.family.Metric()

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        self.seen.increment(1)
        other = json.loads(request.parameters()).get("other")
        numbers, words = request.inputs()
        if other:
            asked = pb_utils.InferenceRequest(model_name=other, requested_output_names=["DOUBLED"], inputs=[numbers, words])
            response = asked.exec()
            if response.has_error():
                return pb_utils.InferenceResponse(error=response.error())
            numbers = pb_utils.get_output_tensor_by_name(response, "DOUBLED")
        turned = np.array([word.decode()[::-1] for word in words.as_numpy()], object)
        said = "%d.%d %s" % (sys.version_info[:2] + (self.seen.value(),))
        return pb_utils.InferenceResponse([
            pb_utils.Tensor("DOUBLED", numbers.as_numpy() * 2),
            pb_utils.Tensor("TURNED", turned),
            pb_utils.Tensor("SAID", np.array([said], object)),
        ])
"""


def model(version):
    return "python_" + version.replace(".", "_")


@pytest.fixture(scope="module")
def server(folder):
    if not HERE:
        pytest.skip("skipped: e2e/pb_utils/versions has made no environments")
    for version in HERE:
        place = f'parameters: {{ key: "EXECUTION_ENV_PATH" value: {{ string_value: "{ENVIRONMENTS[version]}" }} }}'
        python_model.write(folder, model(version), MODEL, place)
    with Server(folder) as running:
        yield running


def ask(server, version, count, other=None):
    numbers, words = np.arange(count, dtype=np.float32), np.array(["abc", "", "né"], object)
    inputs = [tensor("http", "NUMBERS", numbers, "FP32"), tensor("http", "WORDS", words, "BYTES")]
    result = connect("http", server).infer(model(version), inputs, parameters={"other": model(other)} if other else None)
    np.testing.assert_array_equal(result.as_numpy("DOUBLED"), numbers * (4 if other else 2))
    assert [word.decode() for word in result.as_numpy("TURNED")] == ["cba", "", "én"]
    return result.as_numpy("SAID")[0].decode()


def test_workers_of_all_versions_load_the_extension_module(server):
    assert all(python_model.uses_rings(pid) for pid in processes.children(server.process.pid))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_model_runs_in_this_version(server, version):
    if version not in HERE:
        pytest.skip(f"skipped: Python {version} is not installed")
    first = float(ask(server, version, 3).split()[1])
    for times, count in enumerate((0, 4096, 4097, 1_000_000), 1):
        assert ask(server, version, count) == f"{version} {first + times}"


@pytest.mark.skipif(len(HERE) < 2, reason="skipped: there is only one version of Python")
@pytest.mark.parametrize("count", (3, 100_000))
def test_models_of_different_versions_ask_each_other(server, count):
    for version, other in zip(HERE, HERE[1:] + HERE[:1]):
        assert ask(server, version, count, other).startswith(version + " ")
