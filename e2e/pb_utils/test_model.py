"""A model's class, as the worker finds, completes and makes it."""

import json
import sys

import pytest
from triton_python_backend_utils import _model
from triton_python_backend_utils._errors import ReturnError

CONFIG = {"name": "m", "max_batch_size": 0, "input": [], "output": []}
NORMALISED = dict(CONFIG, instance_group=[{"kind": "KIND_CPU"}], version_policy={"latest": {"num_versions": 1}})
HEAD = "class TritonPythonModel:\n"
COMPLETE = HEAD + "    @staticmethod\n    def auto_complete_config(config):\n"


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Loads a model of that text."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def load(text):
        name = "model_{}".format(abs(hash(tmp_path)))
        (tmp_path / (name + ".py")).write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return _model.Model({"name": "m", "version": 1, "folder": str(tmp_path), "path": [str(tmp_path)], "module": name})

    return load


def completed(load, body):
    return json.loads(load(COMPLETE + body).complete(json.dumps(CONFIG), json.dumps(NORMALISED)))


def test_a_model_without_the_function_completes_nothing(load):
    assert load(HEAD + "    pass\n").complete(json.dumps(CONFIG), json.dumps(NORMALISED)) is None


def test_a_model_sees_the_configuration_with_its_defaults(load):
    body = """
        assert config.as_dict()["instance_group"] == [{"kind": "KIND_CPU"}]
        return config
"""
    assert completed(load, body) == CONFIG


def test_what_a_model_adds_is_part_of_the_configuration(load):
    body = """
        config.set_max_batch_size(4)
        config.set_dynamic_batching()
        config.add_input({"name": "IN", "data_type": "TYPE_FP32", "dims": [1]})
        config.set_model_transaction_policy({"decoupled": True})
        return config
"""
    tensor = {"name": "IN", "data_type": "TYPE_FP32", "dims": [1]}
    policy = {"decoupled": True}
    assert completed(load, body) == dict(CONFIG, max_batch_size=4, dynamic_batching={}, input=[tensor], model_transaction_policy=policy)


def test_nothing_else_that_a_model_writes_counts(load):
    body = """
        config.as_dict().update(name="another", instance_group=[], nonsense=1, max_batch_size=2)
        del config.as_dict()["output"]
        return config
"""
    assert completed(load, body) == dict(CONFIG, max_batch_size=2)


def test_what_is_no_json_is_refused(load):
    with pytest.raises(TypeError, match="JSON"):
        completed(load, "        config.as_dict()['more'] = {1, 2}\n        return config\n")


@pytest.mark.parametrize("returned", ("None", "config.as_dict()", "'text'"))
def test_a_model_returns_the_configuration_it_was_given(load, returned):
    message = "auto_complete_config function in model 'm' must return a valid pb.ModelConfig object."
    with pytest.raises(ReturnError) as caught:
        completed(load, "        return {}\n".format(returned))
    assert str(caught.value) == message


@pytest.mark.parametrize("text", (HEAD + "    pass\n", "def TritonPythonModel():\n    return None\n"))
def test_a_model_without_execute_is_refused(load, text):
    with pytest.raises(ReturnError, match=r"^Python model .*[.]py does not implement `execute` method[.]$"):
        load(text).initialize({}, {"outputs": (), "decoupled": False, "iterative": False})


@pytest.mark.parametrize("answer, ready", (("True", True), ("False", False), ("1", None), ("None", None)))
@pytest.mark.parametrize("kind", ("def", "async def"))
def test_a_model_says_whether_it_is_ready(load, kind, answer, ready):
    model = load(HEAD + "    def execute(self, requests):\n        pass\n    {} is_ready(self):\n        return {}\n".format(kind, answer))
    model.initialize({}, {"outputs": (), "decoupled": False, "iterative": False})
    if ready is not None:
        assert model.is_ready() is ready
        return
    with pytest.raises(ReturnError, match=r"^is_ready\(\) must return a boolean value$"):
        model.is_ready()
