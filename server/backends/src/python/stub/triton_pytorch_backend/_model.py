"""The class that the Python backend runs: requests in, one call of the module for each batch, responses out."""

import json

import torch
import triton_python_backend_utils as pb_utils

from . import _batch, _parameters
from ._load import load
from ._tensors import Port, values_of


class TritonPythonModel(object):
    """One instance of a module."""

    def initialize(self, args):
        """Loads the module.

        Raises: ``TritonModelException`` for a configuration that does not fit; whatever the model's own code raises.
        """
        config = json.loads(args["model_config"])
        self._name = args["model_name"]
        if config.get("model_transaction_policy", {}).get("decoupled"):
            raise pb_utils.TritonModelException(
                "model '%s' is decoupled, and a torch.nn.Module answers each request once" % self._name
            )
        self._is_batched = config["max_batch_size"] > 0
        self._inputs = [Port(settings, "input") for settings in config["input"]]
        self._outputs = [Port(settings, "output") for settings in config["output"]]
        torch.set_num_threads(_parameters.threads(config, _parameters.THREADS))
        torch.set_num_interop_threads(_parameters.threads(config, _parameters.INTEROP_THREADS))
        device = _device(args["model_instance_kind"], args["model_instance_device_id"])
        with torch.inference_mode():
            self._module, self._device = load(self._name, pb_utils.get_model_dir(), config, device)

    def execute(self, requests):
        """Answers requests: those that fit together by one call of the module. Where it fails, only those of that call fail; a request
        whose inputs cannot be read fails alone."""
        inputs, responses = {}, [None] * len(requests)
        for number, request in enumerate(requests):
            try:
                inputs[number] = self._read(request)
            except Exception as error:
                responses[number] = _failed(error)
        readable = list(inputs)
        groups = _batch.groups([_batch.signature_of(inputs[number]) if self._is_batched else None for number in readable])
        for group in groups:
            numbers = [readable[place] for place in group]
            try:
                answers = self._run([requests[number] for number in numbers], [inputs[number] for number in numbers])
            except Exception as error:
                if len(numbers) == len(requests):
                    raise
                answers = [_failed(error) for _ in numbers]
            for number, answer in zip(numbers, answers):
                responses[number] = answer
        return responses

    def finalize(self):
        """Lets go of the module."""
        self._module = None

    def _read(self, request):
        tensors = {tensor.name(): tensor for tensor in request.inputs()}
        return [port.read(tensors.get(port.name), self._device) for port in self._inputs]

    def _run(self, requests, inputs):
        """The responses of one batch."""
        with torch.inference_mode():
            result = self._module(*(_batch.joined(values) for values in zip(*inputs)))
        values = values_of(result, self._outputs, self._name)
        rows = [_batch.rows_of(values) for values in inputs]
        wanted = [request.requested_output_names() for request in requests]
        written = {
            port: self._checked(port, port.write(values[port.name], sum(rows) if self._is_batched else None), sum(rows))
            for port in self._outputs
            if any(port.name in names for names in wanted)
        }
        responses, start = [], 0
        for count, names in zip(rows, wanted):
            part = slice(start, start + count) if self._is_batched else slice(None)
            tensors = [port.tensor(value[part]) for port, value in written.items() if port.name in names]
            responses.append(pb_utils.InferenceResponse(tensors))
            start += count
        return responses

    def _checked(self, port, value, rows):
        if self._is_batched and len(value) != rows:
            raise pb_utils.TritonModelException("%s has %d rows for a batch of %d" % (port.what, len(value), rows))
        return value


def _failed(error):
    return pb_utils.InferenceResponse(error=pb_utils.TritonError("%s: %s" % (type(error).__name__, error)))


def _device(kind, number):
    """Where a module is put; ``None`` for one that chooses by itself.

    Raises: ``TritonModelException`` for a GPU if this PyTorch has none.
    """
    if kind == "MODEL":
        return None
    if kind != "GPU":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise pb_utils.TritonModelException(
            "the instance is to run on GPU %s, and PyTorch %s sees no GPU: install a build for CUDA, or set KIND_CPU"
            % (number, torch.__version__)
        )
    return torch.device("cuda:%s" % number)
