"""``MetricFamily`` and ``Metric``: what a model shows on the server's metrics page.

All of them talk to the server through one call channel, in order. What changes a number goes there without an answer.

Source: Triton Python backend, "Custom Metrics".
"""

import os
from _thread import RLock

from . import _calls
from ._arguments import incompatible_arguments, incompatible_function, text_of
from ._calls import METRIC, answer_on, connected, value_of
from ._constants import Choice
from ._errors import TritonModelException

# Kinds of calls for metrics; `wire.rs` names the same.
FAMILY, SERIES, INCREMENT, SET, OBSERVE, VALUE, DROP_FAMILY = range(7)

FAMILY_GONE = (
    "Invalid metric operation as the corresponding 'MetricFamily' has been deleted. The 'MetricFamily' object should be "
    "deleted AFTER its corresponding 'Metric' objects have been deleted."
)


class MetricKind(Choice):
    """What a metric is."""

    COUNTER = 0
    GAUGE = 1
    HISTOGRAM = 2


class Line(object):
    """The call channel of all metrics."""

    def __init__(self):
        self._channel = None
        self._last = 0
        # Metrics are dropped when objects are collected, in the middle of anything.
        self._lock = RLock()

    def define(self, kind, *rest):
        """Has something made; returns the number it is known by."""
        with self._lock:
            self._last += 1
            number = self._last
            self.ask(kind, number, *rest)
        return number

    def ask(self, *message):
        """Has something done; returns the answer.

        Raises: ``TritonModelException`` with the server's words.
        """
        with self._lock:
            channel = self._connected()
            try:
                channel.send((METRIC,) + message)
                answer = answer_on(channel)
            except BaseException:
                self._channel = None
                os.close(channel.fd)
                raise
        return value_of(answer)

    def tell(self, *message):
        """Has something done that cannot fail, and does not wait for it."""
        with self._lock:
            self._connected().send((METRIC,) + message)

    def _connected(self):
        if self._channel is None:
            self._channel = connected().extra()
        return self._channel


line = Line()


class Metric(object):
    """One series of a family, known by its labels. It stays on the metrics page as long as the family is there."""

    __slots__ = ("_state", "_number", "__weakref__")

    def __init__(self, *arguments):
        raise TypeError("c_python_backend_utils.%s: No constructor defined!" % type(self).__name__)

    def increment(self, value):
        """Adds to a counter or gauge.

        Raises: ``TritonModelException`` for a histogram, or a counter and a negative value.
        """
        value = float_of(value, "increment", self)
        kind = self._state.kind
        is_sure = kind == MetricKind.GAUGE or (kind == MetricKind.COUNTER and value >= 0)
        self._change(INCREMENT, value, is_sure, "Failed to increment metric value: ")

    def set(self, value):
        """Sets a gauge.

        Raises: ``TritonModelException`` for any other kind.
        """
        value = float_of(value, "set", self)
        self._change(SET, value, self._state.kind == MetricKind.GAUGE, "Failed to set metric value: ")

    def observe(self, value):
        """Adds an observation to a histogram.

        Raises: ``TritonModelException`` for any other kind.
        """
        value = float_of(value, "observe", self)
        self._change(OBSERVE, value, self._state.kind == MetricKind.HISTOGRAM, "Failed to observe metric value: ")

    def value(self):
        """The value of a counter or gauge.

        Raises: ``TritonModelException`` for a histogram.
        """
        return self._ask("Failed to get metric value: ", VALUE, self._number)

    def _change(self, what, value, is_sure, failed):
        if is_sure and not self._state.is_gone:
            line.tell(what, self._number, value, False)
        else:
            self._ask(failed, what, self._number, value, True)

    def _ask(self, failed, *message):
        if self._state.is_gone:
            raise TritonModelException(failed + FAMILY_GONE)
        try:
            return line.ask(*message)
        except TritonModelException as error:
            raise TritonModelException("%s%s" % (failed, error)) from None


class FamilyState(object):
    """What a family and its metrics have in common. Metrics do not keep their family."""

    __slots__ = ("kind", "is_gone")

    def __init__(self, kind):
        self.kind = kind
        self.is_gone = False


class MetricFamily(object):
    """Metrics of one name and kind. They go from the metrics page with the family.

    Families of the same name and kind are one, whoever made them; so are metrics of the same labels.

    Raises: ``TritonModelException`` if there is a family of that name and another kind, or Prometheus has no such names.
    """

    __slots__ = ("_state", "_number", "_series", "__weakref__")

    MetricKind = MetricKind
    COUNTER = MetricKind.COUNTER
    GAUGE = MetricKind.GAUGE
    HISTOGRAM = MetricKind.HISTOGRAM

    def __init__(self, name=None, description=None, kind=None, **others):
        called, text = text_of(name), text_of(description)
        if called is None or text is None or not isinstance(kind, MetricKind) or others:
            signature = "MetricFamily(name: str, description: str, kind: c_python_backend_utils.MetricFamily.MetricKind)"
            given = (("name", name, None), ("description", description, None), ("kind", kind, None))
            raise incompatible_arguments(signature, 0, *given, *others.items())
        self._state = FamilyState(kind)
        self._series = {}
        try:
            self._number = line.define(FAMILY, called, text, int(kind))
        except TritonModelException as error:
            raise TritonModelException("Error when creating MetricFamily: %s" % error) from None

    def Metric(self, labels=None, buckets=None):
        """The metric of those labels, a ``dict`` of ``str`` to ``str``. ``buckets`` are the upper bounds of a histogram,
        ascending.

        Raises: ``TritonModelException`` if Prometheus has no such labels, or the buckets do not fit.
        """
        if labels is not None and not isinstance(labels, dict):
            raise TritonModelException("Failed to create metric. Labels must be a dictionary.")
        labels = {label_of(name): label_of(value) for name, value in (labels or {}).items()}
        if self._state.kind == MetricKind.HISTOGRAM:
            if buckets is None:
                raise TritonModelException("Failed to create metric. Missing required buckets.")
            buckets = bounds_of(buckets)
        elif buckets is not None:
            raise TritonModelException("Failed to create metric. Unexpected buckets found.")
        key = (tuple(sorted(labels.items())), buckets)
        metric = Metric.__new__(Metric)
        metric._state = self._state
        number = self._series.get(key)
        if number is None:
            try:
                number = self._series[key] = line.define(SERIES, self._number, labels, buckets)
            except TritonModelException as error:
                raise TritonModelException("Error when creating Metric: %s" % error) from None
        metric._number = number
        return metric

    def __del__(self):
        """Nobody holds it any more: the server need not know it, nor its metrics."""
        number = getattr(self, "_number", None)
        if number is None or _calls.calls is None:
            return
        self._state.is_gone = True
        try:
            line.tell(DROP_FAMILY, number)
        except OSError:
            pass  # the server is gone


def float_of(value, function, metric):
    """Raises: ``TypeError`` if it is no number."""
    if isinstance(value, (str, bytes)) or not (hasattr(value, "__float__") or hasattr(value, "__index__")):
        raise incompatible_function(function, "(self: c_python_backend_utils.Metric, value: float) -> None", metric, value)
    return float(value)


def bounds_of(buckets):
    """Raises: ``RuntimeError`` if one of them is no number."""
    bounds = []
    for bound in buckets:
        if isinstance(bound, (str, bytes)) or not (hasattr(bound, "__float__") or hasattr(bound, "__index__")):
            raise RuntimeError("Unable to cast Python instance to C++ type: a bound of a bucket is %r, and no number" % (bound,))
        bounds.append(float(bound))
    return tuple(bounds)


def label_of(value):
    """Raises: ``TritonModelException`` if it is no text."""
    text = text_of(value)
    if text is None:
        raise TritonModelException(
            "Error when creating Metric: names and values of labels must be str, found '%s'" % type(value).__name__
        )
    return text
