"""Requests that run together: which may, and how their inputs become one batch. Knows tensors and no requests."""

import torch


def groups(signatures):
    """Which requests can be one batch: lists of their numbers, in the order of the first of each.

    ``signatures``: of each request, what has to be the same; ``None`` for one that runs alone.
    """
    found = {}
    for number, signature in enumerate(signatures):
        found.setdefault(number if signature is None else signature, []).append(number)
    return list(found.values())


def signature_of(inputs):
    """What inputs of a batch have to have in common: their types and all dimensions but the first, and which there are."""
    return tuple(
        None if value is None else "strings" if isinstance(value, list) else (value.dtype, value.shape[1:]) for value in inputs
    )


def joined(values):
    """One input of several requests as one, along the first dimension. Strings are lists."""
    first = values[0]
    if len(values) == 1 or first is None:
        return first
    if isinstance(first, list):
        return [text for value in values for text in value]
    return torch.cat(values, 0)


def rows_of(inputs):
    """How many rows a request has: the length of its inputs along the first dimension."""
    return next((len(value) for value in inputs if value is not None), 0)
