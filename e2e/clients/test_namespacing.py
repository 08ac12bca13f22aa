"""Models of one name in two repositories, with --model-namespacing, over both protocols."""

import make
import pytest
from tritonclient.utils import InferenceServerException

from serving import Server, until
from talking import PROTOCOLS, add_one, connect, is_ready

AMBIGUOUS = "There are 2 identifiers of model 'dup' in global map, model namespace must be provided to resolve ambiguity."
ENSEMBLE = """
platform: "ensemble"
max_batch_size: 8
input { name: "INPUT0" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 4 ] }
ensemble_scheduling { step {
  model_name: "dup" model_version: -1
  input_map { key: "INPUT0" value: "INPUT0" } output_map { key: "OUTPUT0" value: "OUTPUT0" }
} }
"""


@pytest.fixture
def repositories(tmp_path):
    """Two folders with a model `dup`, which adds 1 in the first and 2 in the second, and an ensemble of it in each."""
    folders = [tmp_path / name for name in ("one", "two")]
    for number, folder in enumerate(folders, 1):
        make.versions(folder, name="dup", numbers=(1,))
        make.write(folder, "dup", None, {"1": make.graphs.add(number)})
        make.write(folder, f"ensemble{number}", ENSEMBLE, {"1": None})
        make.versions(folder, name=f"own{number}", numbers=(1,))
    return folders


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_models_of_one_name_stand_side_by_side(repositories, protocol):
    flags = ("--model-namespacing=true", "--model-control-mode=explicit", "--load-model=*")
    with Server(repositories, *flags) as server:
        client = connect(protocol, server)
        assert [add_one(protocol, client, f"ensemble{number}") for number in (1, 2)] == [1, 2]
        assert add_one(protocol, client, "own2") == 1
        for ask in (lambda: add_one(protocol, client, "dup"), lambda: client.get_model_metadata("dup")):
            with pytest.raises(InferenceServerException) as caught:
                ask()
            assert caught.value.message() == AMBIGUOUS
            assert caught.value.status() == {"http": "400", "grpc": "StatusCode.INVALID_ARGUMENT"}[protocol]
        assert not is_ready(client, "dup") and is_ready(client, "own1")
        with pytest.raises(InferenceServerException, match="Request for unknown model: 'nobody' is not found") as caught:
            add_one(protocol, client, "nobody")
        assert caught.value.status() == {"http": "400", "grpc": "StatusCode.INVALID_ARGUMENT"}[protocol]
        _, _, page = server.request("GET", "/metrics", port=server.metrics)
        for number, folder in enumerate(repositories, 1):
            line = f'nv_inference_request_success{{model="ensemble{number}",namespace="{folder}",version="1"}} 1'
            assert line in page.decode().splitlines()

        client.unload_model("dup")
        until(lambda: not is_ready(client, "ensemble1") and not is_ready(client, "ensemble2"), "both ensembles to leave")
        client.load_model("dup")
        assert [add_one(protocol, client, f"ensemble{number}") for number in (1, 2)] == [1, 2]
        assert server.status("/v2/health/ready") == 200
