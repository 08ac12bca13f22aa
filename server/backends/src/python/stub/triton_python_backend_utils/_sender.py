"""``InferenceResponseSender``: responses of one request at any time, from any thread; and what is read of a request's state
without asking the server: its status page.
"""

from collections import deque
from marshal import dumps
from time import sleep

from . import _channel
from ._arguments import incompatible_function, is_integer
from ._channel import RESPONSE
from ._errors import TritonModelException
from ._response import DROPPED, NOTHING, RAISED, RESCHEDULED, InferenceResponse, Large, result_of
from ._traceback import describe

COMPLETE_FINAL = 1

# Bits of a slot's byte on the status page; `open_requests/status.rs` names the same.
CANCELLED, FULL = 1, 2

FIRST_PAUSE, LONGEST_PAUSE = 50e-6, 5e-3
"""Seconds between looks at the status page while the reader of a request is behind; each pause is twice the one before."""

MOST_KEPT = 1024
"""Responses that a sender keeps between two turns of its request."""

MOST_WAITING = 4096
"""Senders that are kept for a next turn: no more requests are open at a time."""

between_turns = {}
"""Senders of requests that wait for their next turn, by correlation id, the longest first. Of a request that ended meanwhile, which
nobody says, one stays until there are too many.
"""

status_of = b"\0".__getitem__
"""The byte of a slot on the status page. Set when the worker starts."""


def read_status_from(fd, length=4096):
    """Maps the status page, and closes its file descriptor."""
    global status_of
    import mmap
    import os

    status_of = mmap.mmap(fd, length, prot=mmap.PROT_READ).__getitem__
    os.close(fd)


class TurnOver(Exception):
    """What was to be sent in a turn of its request came after it."""


class InferenceResponseSender(object):
    """Sends the responses of one request, in the order of the calls. Of a request that gets another turn it may be used on: what
    is sent before that turn has begun goes out when it begins.

    Source: Triton Python backend, "Decoupled mode" and "Response Sender".
    """

    __slots__ = ("_slot", "_is_decoupled", "_count", "_is_closed", "_is_used", "_was_cancelled", "_kept", "__weakref__")

    def __init__(self, *arguments):
        raise TypeError("c_python_backend_utils.%s: No constructor defined!" % type(self).__name__)

    def send(self, response=None, flags=0):
        """Sends a response. With ``flags=TRITONSERVER_RESPONSE_COMPLETE_FINAL`` nothing follows, and the response may be left
        out. Waits while the reader of the request is behind: the server ends its request if it stays behind for too long.

        Raises: ``TritonModelException`` if nothing may be sent (any more), or if the flags are none.
        """
        is_known = response is None or isinstance(response, InferenceResponse)
        if not is_known or not is_integer(flags, 0, (1 << 32) - 1):
            raise incompatible_function(
                "send",
                "(self: c_python_backend_utils.InferenceResponseSender, response: c_python_backend_utils.InferenceResponse = "
                "None, flags: int = 0) -> None",
                *(response, flags)
            )
        is_final = bool(flags == COMPLETE_FINAL)
        if not is_final and flags != 0:
            raise TritonModelException("Unable to send response. Unsupported flag provided.")
        if response is None and not is_final:
            raise TritonModelException("Inference Response object must be provided when the response flags is set to zero.")
        while self._kept is None or not self._keep(response, is_final):
            try:
                return self._send_now(response, is_final)
            except TurnOver:
                pass  # the next one may have begun

    def _send_now(self, response, is_final):
        if response is None:
            self._send((NOTHING,), False, is_final)
            return
        if not self._is_closed and status_of(self._slot) & FULL:
            self._wait_for_room()
        large = Large(_channel.events)
        try:
            result = result_of(response, large)
            large.write()
            self._send(result, True, is_final)
        except BaseException:
            large.discard()
            raise

    def is_cancelled(self):
        """Whether the caller has left, so that nobody reads further responses."""
        if self._is_closed:
            return self._was_cancelled
        return status_of(self._slot) & CANCELLED != 0

    def _send(self, result, has_response, is_final):
        slot = self._slot
        data = dumps((RESPONSE, slot, result, is_final), 2)
        events = _channel.events
        with events.lock:  # so that responses go out in the order in which they are counted
            if self._slot != slot or (self._is_closed and self._kept is not None):
                raise TurnOver
            self._check(has_response)
            self._count += 1
            self._is_used = True
            if is_final:
                self._close()
            events.send_encoded(data)
        events.flush()

    def _check(self, has_response):
        """Raises: ``TritonModelException`` if such a response, or an end without one, may not be sent (any more)."""
        if self._is_decoupled is None:
            raise TritonModelException(
                "Unable to send response. Response sender has no reference to the decoupled state of the model."
            )
        if not self._is_decoupled:
            if has_response and self._count > 0:
                raise TritonModelException(
                    "Unable to send response. Non-decoupled model cannot send more than one response."
                )
            if not has_response and self._count == 0:
                raise TritonModelException(
                    "Unable to send response. Non-decoupled model cannot send complete final before sending a response."
                )
        if self._is_closed:
            raise TritonModelException("Unable to send response. Response sender has been closed.")

    def _close(self):
        """Nothing follows: from now on the slot may be another request's."""
        self._was_cancelled = status_of(self._slot) & CANCELLED != 0
        self._is_closed = True

    def _wait_for_room(self):
        pause = FIRST_PAUSE
        while not self._is_closed and status_of(self._slot) & FULL:
            sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    # === between two turns of its request ===

    def _give_back(self, correlation_id, is_announced):
        """The end of a turn: from now on the slot may be another request's, and what is sent is kept until the next turn.

        Returns whether that was said to the server, as it is after responses that were sent in this turn, or if nobody else says
        it: it ``is_announced`` that the end comes this way.
        """
        events = _channel.events
        with events.lock:
            if self._is_closed:
                return True
            is_said = is_announced or self._is_used
            if is_said:
                events.send_encoded(dumps((RESPONSE, self._slot, (RESCHEDULED,), True), 2))
            self._close()
            if self._is_decoupled:
                self._kept = deque()
                between_turns.pop(correlation_id, None)
                between_turns[correlation_id] = self
                if len(between_turns) > MOST_WAITING:
                    del between_turns[next(iter(between_turns))]
        if is_said:
            events.flush()
        return is_said

    def _keep(self, response, is_final):
        """Returns whether it is kept: the next turn has not begun.

        Raises: ``TritonModelException`` if nothing may follow what is kept, or too much is.
        """
        with _channel.events.lock:
            kept = self._kept
            if kept is None:
                return False
            if kept and kept[-1][1]:
                raise TritonModelException("Unable to send response. Response sender has been closed.")
            if len(kept) == MOST_KEPT:
                raise TritonModelException(
                    "Unable to send response. The request waits for its next turn, and %d responses for it are kept, the most "
                    "that may be: send in its turns." % MOST_KEPT
                )
            kept.append((response, is_final))
            return True

    def _begin_turn(self, slot):
        """Its request is in that slot now. Sends what was kept, before whatever is sent from now on."""
        self._slot = slot
        self._is_closed = self._is_used = self._was_cancelled = False
        while True:
            with _channel.events.lock:
                if not self._kept:
                    self._kept = None
                    return
                response, is_final = self._kept.popleft()
            try:
                self._send_now(response, is_final)
            except Exception as error:  # it cannot be sent, and who sent it is not here
                self._raised(describe(error)[0])

    # === ends that the worker says, not the model ===

    def _end(self, result):
        """The end of a request whose sender was used: it comes after its responses. Nothing if it was sent before."""
        events = _channel.events
        data = dumps((RESPONSE, self._slot, result, True), 2)
        with events.lock:
            if self._is_closed:
                return
            self._close()
            events.send_encoded(data)
        events.flush()

    def _raised(self, text):
        self._end((RAISED, text))

    def __del__(self):
        # The last that could answer the request is gone. Called in the middle of anything: it waits for no lock.
        if not self._is_closed:
            try:
                _channel.events.send_soon((RESPONSE, self._slot, (DROPPED,), True))
            except OSError:
                pass  # so is the server


InferenceResponseSender.__module__ = "c_python_backend_utils"  # as it shows itself in Triton


def sender_of(slot, is_decoupled):
    """A sender of the request in that slot; a request that is over, or the model's own, has none, and its sender is closed."""
    sender = InferenceResponseSender.__new__(InferenceResponseSender)
    sender._slot = 0 if slot is None else slot
    sender._is_decoupled = is_decoupled
    sender._count = 0
    sender._is_closed = slot is None
    sender._is_used = sender._was_cancelled = False
    sender._kept = None
    return sender


def sender_of_next_turn(correlation_id, slot):
    """The sender of the turn before, for the turn of the request in that slot; ``None`` if there was none."""
    with _channel.events.lock:
        sender = between_turns.pop(correlation_id, None)
    if sender is not None:
        sender._begin_turn(slot)
    return sender
