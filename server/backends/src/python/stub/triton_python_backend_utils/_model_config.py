"""``ModelConfig``: the configuration of a model as its ``auto_complete_config`` sees it and may complete it."""

from json import loads


class ModelConfig(object):
    """A model's configuration. What its author wrote down can be completed, not contradicted.

    ``model_config`` is the configuration as JSON text.
    Source: Triton Python backend, "auto_complete_config".
    """

    def __init__(self, model_config):
        self._model_config = loads(model_config)

    def as_dict(self):
        """The configuration as a dictionary, to look at."""
        return self._model_config

    def set_max_batch_size(self, max_batch_size):
        """Raises the largest batch the model takes.

        Raises: ``ValueError`` if the configuration has a larger one.
        """
        configured = self._model_config.get("max_batch_size", 0)
        if configured > max_batch_size:
            raise ValueError(
                "configuration specified max_batch_size %s, but in auto-complete-config function for model '%s' "
                "specified max_batch_size %s" % (configured, self._name(), max_batch_size)
            )
        self._model_config["max_batch_size"] = max_batch_size

    def set_dynamic_batching(self):
        """Turns the dynamic batcher on, where the configuration has no settings for it.

        Raises: ``ValueError`` if the configuration has another scheduler.
        """
        for other in ("sequence_batching", "ensemble_scheduling"):
            if other in self._model_config:
                raise ValueError(
                    "Configuration specified scheduling_choice as '%s', but auto-complete-config function for model '%s' "
                    "tries to set scheduling_choice as 'dynamic_batching'" % (other, self._name())
                )
        self._model_config.setdefault("dynamic_batching", {})

    def add_input(self, input):
        """Adds or completes an input: a dictionary of ``name``, ``data_type``, ``dims``, and possibly ``optional``.

        Raises: ``ValueError`` if one of the first three is missing, if there is another property, or if the configuration
        says something else about the input.
        """
        self._add("input", input, ("name", "data_type", "dims", "optional"))

    def add_output(self, output):
        """Adds or completes an output: a dictionary of ``name``, ``data_type`` and ``dims``.

        Raises: ``ValueError`` if one of them is missing, if there is another property, or if the configuration says
        something else about the output.
        """
        self._add("output", output, ("name", "data_type", "dims"))

    def set_model_transaction_policy(self, transaction_policy_dict):
        """Says whether the model is decoupled: a dictionary of ``decoupled``.

        Raises: ``ValueError`` if there is another property, or if the configuration says something else.
        """
        if any(key != "decoupled" for key in transaction_policy_dict):
            raise ValueError(
                "model transaction property in auto-complete-config function for model '%s' contains property other than "
                "'decoupled'." % self._name()
            )
        policy = self._model_config.setdefault("model_transaction_policy", {})
        for decoupled in transaction_policy_dict.values():
            if policy.get("decoupled", decoupled) != decoupled:
                raise ValueError(
                    "trying to change decoupled property in auto-complete-config for model '%s', which is already set to "
                    "'%s'." % (self._name(), policy["decoupled"])
                )
            policy["decoupled"] = decoupled

    def _name(self):
        return self._model_config.get("name", "")

    def _add(self, kind, new, properties):
        """Adds an input or output, or completes the one of that name; ``kind`` says which, as the configuration calls them."""
        where = "in auto-complete-config function for model '%s'" % self._name()
        if "name" not in new:
            raise ValueError("%s %s is missing 'name' property." % (kind, where))
        if any(key not in properties for key in new):
            raise ValueError("%s '%s' %s contains property other than %s." % (kind, new["name"], where, _listed(properties)))
        for needed in ("data_type", "dims"):
            if needed not in new:
                raise ValueError("%s '%s' %s is missing '%s' property." % (kind, new["name"], where, needed))

        new = dict(new, dims=list(new["dims"]))
        tensors = self._model_config.setdefault(kind, [])
        for configured in tensors:
            if configured["name"] == new["name"]:
                self._check_same(kind, configured, new)
                configured.update(new)
                return
        tensors.append(new)

    def _check_same(self, kind, configured, new):
        name, data_type = new["name"], configured.get("data_type", "TYPE_INVALID")
        if data_type not in ("TYPE_INVALID", new["data_type"]):
            raise ValueError(
                "unable to load model '%s', configuration expects datatype %s for %s '%s', model provides %s"
                % (self._name(), data_type, kind, name, new["data_type"])
            )
        dims = configured.get("dims")
        if dims and dims != new["dims"]:
            self._contradiction(name, "dims", new["dims"], dims)
        if "optional" in new and configured.get("optional", new["optional"]) != new["optional"]:
            self._contradiction(name, "optional", new["optional"], configured["optional"])

    def _contradiction(self, name, what, of_model, of_configuration):
        raise ValueError(
            "model '%s', tensor '%s': the model expects %s %s but the model configuration specifies %s %s"
            % (self._name(), name, what, of_model, what, of_configuration)
        )


def _listed(words):
    """``'a', 'b' and 'c'``"""
    quoted = ["'%s'" % word for word in words]
    return ", ".join(quoted[:-1]) + " and " + quoted[-1]
