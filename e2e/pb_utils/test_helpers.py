"""Looking things up by name."""

import pytest
from triton_python_backend_utils import _helpers as pb_utils


class Named:
    """A tensor as far as these functions are concerned; also a request and a response of such tensors."""

    def __init__(self, name, *tensors):
        self.name = lambda: name
        self.inputs = self.output_tensors = lambda: list(tensors)


CONFIG = {
    "name": "m",
    "input": [{"name": "A", "dims": [1]}, {"name": "B", "dims": [2]}],
    "output": [{"name": "A", "dims": [3]}],
    "model_transaction_policy": {"decoupled": True},
}


@pytest.mark.parametrize("find", (pb_utils.get_input_tensor_by_name, pb_utils.get_output_tensor_by_name))
def test_a_tensor_is_found_by_name(find):
    a, b = Named("A"), Named("B")
    assert find(Named("", a, b), "B") is b and find(Named("", a, b, Named("A")), "A") is a
    assert find(Named("", a), "B") is None and find(Named(""), "A") is None


def test_the_entry_of_a_tensor_is_found_by_name():
    assert pb_utils.get_input_config_by_name(CONFIG, "B") is CONFIG["input"][1]
    assert pb_utils.get_output_config_by_name(CONFIG, "A") is CONFIG["output"][0]
    assert pb_utils.get_output_config_by_name(CONFIG, "B") is None
    assert pb_utils.get_input_config_by_name({}, "A") is None and pb_utils.get_output_config_by_name({}, "A") is None


@pytest.mark.parametrize(
    "config, expected",
    (
        (CONFIG, True),
        ({}, False),
        ({"model_transaction_policy": {"decoupled": False}}, False),
        ({"model_transaction_policy": {}}, False),
    ),
)
def test_whether_a_model_is_decoupled(config, expected):
    assert pb_utils.using_decoupled_model_transaction_policy(config) is expected
