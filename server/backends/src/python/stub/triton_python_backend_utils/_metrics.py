"""``MetricFamily`` and ``Metric``: what a model shows on the server's metrics page.

All of them talk to the server through one call channel, in order. What changes a number goes there without an answer.

Source: Triton Python backend, "Custom Metrics".
"""

import os
from _thread import RLock

from . import _calls
from ._calls import METRIC, answer_on, connected, value_of
from ._constants import Choice
from ._errors import TritonModelException
from ._models import texts

# Kinds of calls for metrics; `wire.rs` names the same.
FAMILY, SERIES, INCREMENT, SET, OBSERVE, VALUE, DROP_FAMILY, DROP_SERIES = range(8)


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
    """One series of a family, known by its labels. It goes from the metrics page with the last object that has it."""

    __slots__ = ("_family", "_number", "__weakref__")

    def __init__(self, *arguments):
        raise TypeError("c_python_backend_utils.%s: No constructor defined!" % type(self).__name__)

    def increment(self, value):
        """Adds to a counter or gauge.

        Raises: ``TritonModelException`` for a histogram, or a counter and a negative value.
        """
        value = number_of(value)
        kind = self._family._kind
        is_sure = kind == MetricKind.GAUGE or (kind == MetricKind.COUNTER and value >= 0)
        self._change(INCREMENT, value, is_sure, "Failed to increment metric value: ")

    def set(self, value):
        """Sets a gauge.

        Raises: ``TritonModelException`` for any other kind.
        """
        self._change(SET, number_of(value), self._family._kind == MetricKind.GAUGE, "Failed to set metric value: ")

    def observe(self, value):
        """Adds an observation to a histogram.

        Raises: ``TritonModelException`` for any other kind.
        """
        is_sure = self._family._kind == MetricKind.HISTOGRAM
        self._change(OBSERVE, number_of(value), is_sure, "Failed to observe metric value: ")

    def value(self):
        """The value of a counter or gauge.

        Raises: ``TritonModelException`` for a histogram.
        """
        try:
            return line.ask(VALUE, self._number)
        except TritonModelException as error:
            raise TritonModelException("Failed to get metric value: %s" % error) from None

    def _change(self, what, value, is_sure, failed):
        if is_sure:
            line.tell(what, self._number, value, False)
            return
        try:
            line.ask(what, self._number, value, True)
        except TritonModelException as error:
            raise TritonModelException("%s%s" % (failed, error)) from None

    def __del__(self):
        forget(DROP_SERIES, self)


class MetricFamily(object):
    """Metrics of one name and kind.

    Families of the same name and kind are one, whoever made them; so are metrics of the same labels.

    Raises: ``TritonModelException`` if there is a family of that name and another kind, or Prometheus has no such names.
    """

    __slots__ = ("_kind", "_number", "__weakref__")

    MetricKind = MetricKind
    COUNTER = MetricKind.COUNTER
    GAUGE = MetricKind.GAUGE
    HISTOGRAM = MetricKind.HISTOGRAM

    def __init__(self, name, description, kind):
        texts(name=name, description=description)
        if not isinstance(kind, MetricKind):
            raise TypeError("kind: expected a MetricKind, found '%s'" % type(kind).__name__)
        self._kind = kind
        try:
            self._number = line.define(FAMILY, name, description, int(kind))
        except TritonModelException as error:
            raise TritonModelException("Error when creating MetricFamily: %s" % error) from None

    def Metric(self, labels=None, buckets=None):
        """The metric of those labels, a ``dict`` of ``str`` to ``str``. ``buckets`` are the upper bounds of a histogram,
        ascending.

        Raises: ``TritonModelException`` if Prometheus has no such labels, or the buckets do not fit.
        """
        labels = {} if labels is None else dict(labels)
        for name, value in labels.items():
            texts(name=name)
            if not isinstance(value, str):
                raise TritonModelException(
                    "Error when creating Metric: label '%s' must be a str, found '%s'" % (name, type(value).__name__)
                )
        buckets = tuple(map(float, buckets)) if buckets else None
        metric = Metric.__new__(Metric)
        metric._family = self
        try:
            metric._number = line.define(SERIES, self._number, labels, buckets)
        except TritonModelException as error:
            raise TritonModelException("Error when creating Metric: %s" % error) from None
        return metric

    def __del__(self):
        forget(DROP_FAMILY, self)


def number_of(value):
    if isinstance(value, float):
        return float(value)
    if hasattr(value, "__float__") or hasattr(value, "__index__"):
        return float(value)
    raise TypeError("value: expected a number, found '%s'" % type(value).__name__)


def forget(kind, holder):
    """The object is gone: the server need not know it any more."""
    number = getattr(holder, "_number", None)
    if number is None or _calls.calls is None:
        return
    try:
        line.tell(kind, number)
    except OSError:
        pass  # the server is gone
