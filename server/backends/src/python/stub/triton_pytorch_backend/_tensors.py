"""Between tensors of requests and responses and those of PyTorch. Numbers that lie in the memory of the host are not copied."""

import numpy as np
import torch
import triton_python_backend_utils as pb_utils

STRINGS, BF16 = "TYPE_STRING", "TYPE_BF16"


class Port(object):
    """One input or output of the configuration."""

    def __init__(self, settings, what):
        """Raises: ``TritonModelException`` for a type that this PyTorch does not have."""
        self.name = settings["name"]
        self.data_type = settings["data_type"]
        reshape = settings.get("reshape")
        self.dims = settings["dims"] if reshape is None else reshape.get("shape", [])
        self.what = "%s '%s'" % (what, self.name)
        self.dtype = None
        if self.data_type not in (STRINGS, BF16):
            self.dtype = np.dtype(pb_utils.triton_string_to_numpy(self.data_type))
            try:
                torch.from_numpy(np.empty(0, self.dtype))
            except TypeError:
                raise pb_utils.TritonModelException(
                    "%s is %s, and PyTorch %s has no tensors of that type" % (self.what, self.data_type, torch.__version__)
                ) from None

    def read(self, tensor, device):
        """What ``forward`` gets: a tensor on that device; of strings a list of ``str``; ``None`` for an input that was left out.

        Raises: ``TritonModelException`` for strings of more than one dimension.
        """
        if tensor is None:
            return None
        if self.data_type == STRINGS:
            return self._read_strings(tensor.as_numpy())
        value = torch.from_dlpack(tensor.to_dlpack()) if self.data_type == BF16 else torch.from_numpy(tensor.as_numpy())
        return value if device.type == "cpu" else value.to(device)

    def _read_strings(self, array):
        if array.size != (array.shape[0] if array.ndim else 1):
            raise pb_utils.TritonModelException(
                "%s has shape %s: strings come to PyTorch as a list, so they have one dimension" % (self.what, list(array.shape))
            )
        return [text.decode("utf-8") for text in array.reshape(-1)]

    def write(self, value, rows):
        """What ``forward`` returned, as something that can be cut into rows: an array, of BF16 a tensor. ``rows``: how many a batch has;
        ``None`` where there are no batches.

        Raises: ``TritonModelException`` if it is of another type than the configuration says, or if there are more or fewer strings.
        """
        if self.data_type == STRINGS:
            return self._write_strings([str(text) for text in value], [] if rows is None else [rows])
        value = torch.as_tensor(value).detach().cpu().contiguous()
        value = value.reshape(1) if value.dim() == 0 else value
        if self.data_type == BF16 and value.dtype == torch.bfloat16:
            return value
        if value.dtype == torch.bfloat16 or self.dtype is None or value.numpy().dtype != self.dtype:
            raise pb_utils.TritonModelException(
                "%s is %s, and the configuration says %s" % (self.what, value.dtype, self.data_type)
            )
        return value.numpy()

    def _write_strings(self, texts, rows):
        array = np.array(texts, dtype=np.object_)
        try:
            return array.reshape(rows + self.dims)
        except ValueError:
            raise pb_utils.TritonModelException(
                "%s has %d strings, which are not of shape %s" % (self.what, len(texts), rows + self.dims)
            ) from None

    def tensor(self, rows):
        """The tensor of a response, of what :meth:`write` made or some rows of it."""
        if isinstance(rows, torch.Tensor):
            return pb_utils.Tensor.from_dlpack(self.name, rows)
        return pb_utils.Tensor(self.name, rows)


def values_of(result, outputs, model):
    """What ``forward`` returned, by the names of the configuration: in its order, or as a dictionary says.

    Raises: ``TritonModelException`` if an output is missing.
    """
    if isinstance(result, dict):
        missing = [port.name for port in outputs if port.name not in result]
        if missing:
            raise pb_utils.TritonModelException(
                "model '%s' returned no output '%s', only: %s" % (model, missing[0], ", ".join(map(str, result)))
            )
        return {port.name: result[port.name] for port in outputs}
    is_list_of_strings = isinstance(result, list) and len(outputs) == 1 and outputs[0].data_type == STRINGS
    if not isinstance(result, (tuple, list)) or (is_list_of_strings and all(isinstance(text, str) for text in result)):
        result = [result]
    if len(result) < len(outputs):
        raise pb_utils.TritonModelException(
            "model '%s' returned %d outputs, and its configuration has %d" % (model, len(result), len(outputs))
        )
    return {port.name: value for port, value in zip(outputs, result)}
