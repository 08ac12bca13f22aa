"""What goes wrong, as a model sees it: errors that belong to a response, and the exception that pb_utils raises."""

from ._arguments import incompatible_arguments, text_of
from ._constants import Choice

class ErrorCode(Choice):
    """Kinds of errors; their numbers are those of ``TRITONSERVER_Error_Code``. Each is an attribute of ``TritonError``."""

    UNKNOWN = 0
    INTERNAL = 1
    NOT_FOUND = 2
    INVALID_ARG = 3
    UNAVAILABLE = 4
    UNSUPPORTED = 5
    ALREADY_EXISTS = 6
    CANCELLED = 7


ErrorCode.__name__ = ErrorCode.__qualname__ = "__ErrorCode"  # as it shows itself in Triton


class TritonError(object):
    """The error of one response: a message and one of the codes ``TritonError.INTERNAL``, ``TritonError.NOT_FOUND``, ...

    Raises: ``TypeError`` if the message is no string or the code is not one of those.
    Source: Triton Python backend, "Error Handling".
    """

    __slots__ = ("_message", "_code")

    def __init__(self, message, code=ErrorCode.INTERNAL):
        text = text_of(message)
        if text is None or not isinstance(code, ErrorCode):
            raise incompatible_arguments(
                "TritonError(message: str, code: ErrorCode = ErrorCode.INTERNAL)",
                2,
                ("message", message),
                ("code", code, ErrorCode.INTERNAL),
            )
        self._message = text
        self._code = code

    def message(self):
        """What went wrong."""
        return self._message

    def code(self):
        """Its kind."""
        return self._code

    def __str__(self):
        return self._message

    def __repr__(self):
        return "TritonError(%r, TritonError.%s)" % (self._message, self._code.name)


for _code in ErrorCode:
    setattr(TritonError, _code.name, _code)
del _code


class TritonModelException(Exception):
    """Raised by everything in this package, and by models that want to fail in the same way."""

    def message(self):
        """The text it was raised with."""
        return str(self)


class ReturnError(TritonModelException):
    """A function of the model returned what it may not; callers read the text alone."""


# Tracebacks and pickles name the module that has it in Triton; that name leads to this package.
TritonModelException.__module__ = "c_python_backend_utils"
