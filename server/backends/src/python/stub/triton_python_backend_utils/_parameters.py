"""Parameters of requests and responses: names with a ``bool``, ``int``, ``float`` or ``str`` each."""

from ._errors import TritonModelException

NO_PARAMETERS = "{}"


def checked_parameters(parameters):
    """The same parameters in a ``dict`` of plain types; ``None`` if there are none.

    Raises: ``TritonModelException`` if a name or value has another type; ``TypeError`` if it is no ``dict``.
    """
    if parameters is None:
        return None
    if not isinstance(parameters, dict):
        raise TypeError("parameters have to be a dict, found type %s" % type(parameters))
    checked = {}
    for name, value in parameters.items():
        if not isinstance(name, str):
            raise TritonModelException("Expect parameters keys to have type str, found type %s" % type(name))
        for kind in (bool, int, float, str):
            if isinstance(value, kind):
                checked[str(name)] = kind(value)
                break
        else:
            raise TritonModelException(
                "Expect parameters values to have type bool/int/float/str, found type %s" % type(value)
            )
    return checked or None


def json_of(parameters):
    """The JSON text of checked parameters."""
    if parameters is None:
        return NO_PARAMETERS
    from json import dumps

    return dumps(parameters)
