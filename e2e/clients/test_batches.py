"""What our batchers make of requests that wait together: the same batches, answers and order as recorded from a real Triton."""

import json
from pathlib import Path

import batches
import pytest
import repository
import sequence_batches

from serving import Server

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "golden"


def recorded(name):
    return json.loads((FIXTURES / f"{name}.json").read_text())["scenarios"]


def served(folder, module):
    """A server with the models of all scenarios, run by the test backends that do what the recorded Python models did."""
    for name, (config, _) in module.SCENARIOS.items():
        backend, config = ("identity", config) if isinstance(config, str) else config
        repository.write_model(folder, name, config, backend)
    return Server(folder, env=module.ENVIRONMENT)


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory):
    with served(tmp_path_factory.mktemp("batches"), batches) as server:
        yield server


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    with served(tmp_path_factory.mktemp("sequence_batches"), sequence_batches) as server:
        yield server


@pytest.mark.parametrize("scenario", batches.SCENARIOS)
def test_the_dynamic_batcher_forms_what_triton_forms(dynamic, scenario):
    assert batches.play(dynamic, scenario) == recorded("batches")[scenario]


@pytest.mark.parametrize("scenario", sequence_batches.SCENARIOS)
def test_the_sequence_batchers_form_what_triton_forms(sequences, scenario):
    assert sequence_batches.play(sequences, scenario) == recorded("sequence_batches")[scenario]
