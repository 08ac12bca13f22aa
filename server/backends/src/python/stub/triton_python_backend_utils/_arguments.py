"""What models pass to the classes of this package: looked at, and refused with Triton's words."""


def incompatible_arguments(signature, positional, *arguments):
    """The ``TypeError`` for arguments that a class does not take; ``signature`` shows what it does.

    Each argument is its name, its value and, if it has one, its default; what has its default was not given. The first
    ``positional`` of them are shown without their names, as callers write them, up to one that was not given.
    """
    values, named = [], []
    for index, (name, value, *default) in enumerate(arguments):
        if default and value is default[0]:
            positional = 0
        elif index < positional:
            values.append(_shown(value))
        else:
            named.append("%s=%s" % (name, _shown(value)))
    groups = [", ".join(values)] if values else []
    if named:
        groups.append("kwargs: " + ", ".join(named))
    given = "; ".join(groups)
    return TypeError(
        "__init__(): incompatible constructor arguments. The following argument types are supported:\n"
        "    1. c_python_backend_utils.%s\n\nInvoked with: %s" % (signature, given)
    )


def incompatible_function(name, signature, *arguments):
    """The ``TypeError`` for arguments that a function does not take; ``signature`` shows what it does."""
    given = ", ".join(_shown(argument) for argument in arguments)
    return TypeError(
        "%s(): incompatible function arguments. The following argument types are supported:\n    1. %s\n\nInvoked with: %s"
        % (name, signature, given)
    )


def _shown(argument):
    try:
        text = repr(argument)
    except Exception:
        text = "<%s>" % type(argument).__name__
    return text if len(text) <= 200 else text[:200] + "..."


def text_of(value):
    """A ``str``, or that of ``bytes`` in UTF-8; ``None`` of anything else."""
    if isinstance(value, str):
        return value
    return value.decode("utf-8") if isinstance(value, bytes) else None


def items_of(value, kind):
    """A list of the items of a sequence, each of the type or ``None``; ``None`` if it is no such sequence."""
    if type(value) is not list and (isinstance(value, (str, bytes, dict)) or not hasattr(value, "__getitem__")):
        return None
    items = list(value)
    for item in items:
        if type(item) is not kind and item is not None and not isinstance(item, kind):
            return None
    return items


def is_integer(value, lowest, highest):
    """Whether it is an integer in that range, of Python's own or another type, such as one of NumPy."""
    return hasattr(value, "__index__") and lowest <= value.__index__() <= highest
