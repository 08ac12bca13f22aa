"""Ways to find one tensor of a request or response, or one entry of a model's configuration."""


def get_input_tensor_by_name(inference_request, name):
    """The input of a request with that name; ``None`` if it has none."""
    return _tensor_by_name(inference_request.inputs(), name)


def get_output_tensor_by_name(inference_response, name):
    """The output of a response with that name; ``None`` if it has none."""
    return _tensor_by_name(inference_response.output_tensors(), name)


def get_input_config_by_name(model_config, name):
    """The entry of an input in a model's configuration, which is a dictionary; ``None`` if there is none."""
    return _entry_by_name(model_config, "input", name)


def get_output_config_by_name(model_config, name):
    """The entry of an output in a model's configuration, which is a dictionary; ``None`` if there is none."""
    return _entry_by_name(model_config, "output", name)


def using_decoupled_model_transaction_policy(model_config):
    """Whether a model's configuration, which is a dictionary, says that it is decoupled."""
    return model_config.get("model_transaction_policy", {}).get("decoupled", False)


def _tensor_by_name(tensors, name):
    for tensor in tensors:
        if tensor.name() == name:
            return tensor
    return None


def _entry_by_name(model_config, section, name):
    for entry in model_config.get(section, ()):
        if entry["name"] == name:
            return entry
    return None
