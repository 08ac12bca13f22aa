"""Completing a configuration: what fits is added, what contradicts is refused in Triton's words."""

import json

import pytest
from triton_python_backend_utils._model_config import ModelConfig

GIVEN = {
    "name": "m",
    "max_batch_size": 4,
    "input": [{"name": "A", "data_type": "TYPE_FP32", "dims": [4]}, {"name": "OPEN", "data_type": "TYPE_INVALID", "dims": []}],
    "output": [{"name": "A", "data_type": "TYPE_FP32", "dims": [4]}],
}
WHERE = "in auto-complete-config function for model 'm'"


def config(**more):
    return ModelConfig(json.dumps(dict(GIVEN, **more)))


def check(step, section, expected, **given):
    """`step` changes this section of the configuration, and nothing else."""
    made = config(**given)
    step(made)
    assert made.as_dict() == dict(GIVEN, **dict(given, **{section: expected}))


def refused(step, message, **given):
    """`step` is refused with that message, and changes nothing."""
    made = config(**given)
    with pytest.raises(ValueError) as caught:
        step(made)
    assert str(caught.value) == message
    assert made.as_dict() == dict(GIVEN, **given)


# === batches and schedulers ===


@pytest.mark.parametrize("size", (4, 8))
def test_a_larger_batch_is_taken(size):
    check(lambda it: it.set_max_batch_size(size), "max_batch_size", size)


def test_a_smaller_batch_is_refused():
    message = "configuration specified max_batch_size 4, but in auto-complete-config function for model 'm' specified max_batch_size 2"
    refused(lambda it: it.set_max_batch_size(2), message)


def test_dynamic_batching_is_turned_on_and_its_settings_stay():
    check(ModelConfig.set_dynamic_batching, "dynamic_batching", {})
    check(ModelConfig.set_dynamic_batching, "dynamic_batching", {"preferred_batch_size": [2]}, dynamic_batching={"preferred_batch_size": [2]})


@pytest.mark.parametrize("scheduler", ("sequence_batching", "ensemble_scheduling"))
def test_a_second_scheduler_is_refused(scheduler):
    message = (
        "Configuration specified scheduling_choice as '{}', but auto-complete-config function for model 'm' "
        "tries to set scheduling_choice as 'dynamic_batching'"
    )
    refused(ModelConfig.set_dynamic_batching, message.format(scheduler), **{scheduler: {}})


# === inputs and outputs ===

KINDS = pytest.mark.parametrize("kind", ("input", "output"))


def add(kind, entry):
    return lambda made: getattr(made, "add_" + kind)(entry)


def entry(name="B", **more):
    return dict({"name": name, "data_type": "TYPE_INT64", "dims": [-1, 2]}, **more)


@KINDS
def test_a_new_tensor_is_added(kind):
    check(add(kind, entry()), kind, GIVEN[kind] + [entry()])


@KINDS
def test_the_first_tensor_is_added(kind):
    check(add(kind, entry()), kind, [entry()], **{kind: []})
    made = ModelConfig('{"name": "m"}')
    add(kind, entry())(made)
    assert made.as_dict() == {"name": "m", kind: [entry()]}


def test_what_is_open_is_completed():
    check(add("input", entry("OPEN", optional=True)), "input", [GIVEN["input"][0], entry("OPEN", optional=True)])


@KINDS
def test_saying_the_same_again_changes_nothing(kind):
    check(add(kind, dict(GIVEN[kind][0])), kind, GIVEN[kind])
    check(add(kind, dict(GIVEN[kind][0], dims=(4,))), kind, [dict(GIVEN[kind][0], dims=[4])] + GIVEN[kind][1:])


@KINDS
@pytest.mark.parametrize("missing", ("data_type", "dims"))
def test_a_missing_property_is_named(kind, missing):
    given = entry()
    del given[missing]
    refused(add(kind, given), "{} 'B' {} is missing '{}' property.".format(kind, WHERE, missing))


@KINDS
def test_a_missing_name_is_named(kind):
    refused(add(kind, {"data_type": "TYPE_INT64", "dims": [1]}), "{} {} is missing 'name' property.".format(kind, WHERE))
    refused(add(kind, {"label": 1}), "{} {} is missing 'name' property.".format(kind, WHERE))


def test_other_properties_are_refused():
    message = "input 'B' {} contains property other than 'name', 'data_type', 'dims' and 'optional'."
    refused(add("input", entry(is_shape_tensor=True)), message.format(WHERE))
    message = "output 'B' {} contains property other than 'name', 'data_type' and 'dims'."
    refused(add("output", entry(optional=True)), message.format(WHERE))


@KINDS
def test_another_type_is_refused(kind):
    message = "unable to load model 'm', configuration expects datatype TYPE_FP32 for {} 'A', model provides TYPE_INT64"
    refused(add(kind, entry("A")), message.format(kind))


@KINDS
def test_other_dims_are_refused(kind):
    message = "model 'm', tensor 'A': the model expects dims [4, 1] but the model configuration specifies dims [4]"
    refused(add(kind, {"name": "A", "data_type": "TYPE_FP32", "dims": [4, 1]}), message)


def test_another_optional_is_refused():
    given = [dict(GIVEN["input"][0], optional=False)]
    message = "model 'm', tensor 'A': the model expects optional True but the model configuration specifies optional False"
    refused(add("input", dict(given[0], optional=True)), message, input=given)
    check(add("input", dict(GIVEN["input"][0])), "input", given, input=given)


# === decoupled ===


@pytest.mark.parametrize("decoupled", (True, False))
def test_a_model_says_whether_it_is_decoupled(decoupled):
    policy = {"decoupled": decoupled}
    check(lambda it: it.set_model_transaction_policy(policy), "model_transaction_policy", policy)
    check(lambda it: it.set_model_transaction_policy(policy), "model_transaction_policy", policy, model_transaction_policy=policy)
    check(lambda it: it.set_model_transaction_policy({}), "model_transaction_policy", policy, model_transaction_policy=policy)


def test_a_change_of_mind_is_refused():
    message = "trying to change decoupled property in auto-complete-config for model 'm', which is already set to 'False'."
    refused(lambda it: it.set_model_transaction_policy({"decoupled": True}), message, model_transaction_policy={"decoupled": False})


def test_other_policies_are_refused():
    message = "model transaction property {} contains property other than 'decoupled'.".format(WHERE)
    refused(lambda it: it.set_model_transaction_policy({"decoupled": True, "ordered": True}), message)
