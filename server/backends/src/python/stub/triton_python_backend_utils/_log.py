"""``Logger``: lines in the server's log, with their place in the model's code."""

import sys

from . import _channel
from ._channel import BATCH_FAILED, LOG
from ._constants import Choice


class LogLevel(Choice):
    """How important a line of the log is."""

    INFO = 0
    WARNING = 1
    ERROR = 2
    VERBOSE = 3


class Logger(object):
    """The server's log.

    Source: Triton Python backend, "Logging".
    """

    LogLevel = LogLevel
    INFO = LogLevel.INFO
    WARNING = LogLevel.WARNING
    ERROR = LogLevel.ERROR
    VERBOSE = LogLevel.VERBOSE

    def __init__(self, *arguments):
        raise TypeError("c_python_backend_utils.%s: No constructor defined!" % type(self).__name__)

    @staticmethod
    def log(message, level=LogLevel.INFO):
        """Writes a line."""
        if not isinstance(level, LogLevel):
            raise TypeError("log(message, level): expected a LogLevel, found '%s'" % type(level).__name__)
        _write(level, message)

    @staticmethod
    def log_info(message):
        """Writes a line for everybody."""
        _write(LogLevel.INFO, message)

    @staticmethod
    def log_warn(message):
        """Writes a warning."""
        _write(LogLevel.WARNING, message)

    @staticmethod
    def log_error(message):
        """Writes an error."""
        _write(LogLevel.ERROR, message)

    @staticmethod
    def log_verbose(message):
        """Writes a line that is shown with ``--log-verbose=1``."""
        _write(LogLevel.VERBOSE, message)


def batch_failed(text):
    """Has the server log what came of a batch: ``text`` tells type, text and place of an exception."""
    _channel.events.send((BATCH_FAILED, text))


def _write(level, message):
    if isinstance(message, bytes):
        message = message.decode("utf-8")
    if not isinstance(message, str):
        raise TypeError("message: expected a str, found '%s'" % type(message).__name__)
    frame = sys._getframe(2)
    events = _channel.events
    if events is None:
        sys.stderr.write("%s: %s\n" % (level.name, message))
        return
    # Half of a pair of surrogates is no text that the server could write.
    message = message.encode("utf-8", "replace").decode("utf-8")
    events.send((LOG, int(level), frame.f_code.co_filename, frame.f_lineno, message))
