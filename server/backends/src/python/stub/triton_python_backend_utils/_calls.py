"""Calls: questions to the server that it answers. Each call under way has a channel of its own, so that an answer needs no
number and no thread that waits for all of them.

While a call waits, the server may have the worker run a batch in its middle: another model, which this one waits for, asks
this one.
"""

import os
from _contextvars import ContextVar
from _socket import AF_UNIX, SOCK_SEQPACKET, socketpair
from _thread import RLock, allocate_lock, get_ident
from collections import deque

from . import _channel
from ._channel import CANCEL_CALL, EXECUTE, FAILED, OK, OPEN_CALL_CHANNEL, Channel, dumps
from ._errors import TritonModelException

# Kinds of calls; `wire.rs` names the same.
EXEC, NEXT, CANCEL, LOAD_MODEL, UNLOAD_MODEL, IS_READY, METRIC = range(40, 47)

execution = ContextVar("execution")
"""Number of the batch that runs here in the middle of a call; not set elsewhere."""

LEVELS = 100
"""Models that may wait for each other in a row, as the server counts them."""

FRAMES = 24
"""Frames of Python that each of them may need beyond the model's own."""

MOST_CHANNELS = 512
"""Call channels that a worker may have open. Each is a thread of the server, which refuses more than twice as many: it may learn
late that some are closed.
"""

calls = None
"""The worker's :class:`Calls`; ``None`` where the package is used without a server."""


class Calls(object):
    """The call channels of this worker.

    ``run_batch(channel, message)`` runs a batch in the middle of a call and answers it. ``leases`` makes inputs of what the
    server shows, and knows whether a batch is running. At most ``most`` calls are under way, and more only in the middle of
    others; further ones wait. Iterators over responses keep their channels beside these, and never wait for one.
    """

    def __init__(self, leases, run_batch, most=32):
        self.leases = leases
        self.run_batch = run_batch
        self.may_exec = False
        self.most = most
        self.main_thread = get_ident()
        self._idle = []
        self._open = 0
        self._kept = 0
        self._made = 0
        self._waiting = deque()
        # Channels are given back when objects are collected, in the middle of anything, also in the middle of this.
        self._lock = RLock()
        self._has_room = False

    def idle_descriptors(self):
        """Descriptors of the channels that no call uses."""
        return [channel.fd for channel in self._idle]

    def take(self, receiver):
        """A channel, or ``None``: then ``receiver(channel)`` is called later, from any thread. It is given a channel, or ``None``,
        and then calls :meth:`make` for one.

        Raises: ``TritonModelException`` if the worker has too many.
        """
        is_nested = execution.get(None) is not None
        with self._lock:
            if self._idle:
                return self._idle.pop()
            if self._open >= self.most and not is_nested:
                self._waiting.append(receiver)
                return None
            self._open += 1
        return self.make()

    def take_now(self):
        """A channel. Waits for one if need be."""
        got = []
        is_there = allocate_lock()
        is_there.acquire()

        def receive(channel):
            got.append(channel)
            is_there.release()

        channel = self.take(receive)
        if channel is None:
            is_there.acquire()
            channel = got[0] or self.make()
        return channel

    def make(self):
        """A new channel for a call that has its place among those under way; without one the place is free again.

        Raises: ``TritonModelException`` if the worker has too many.
        """
        try:
            if self._open + self._kept > MOST_CHANNELS:
                raise TritonModelException(
                    "too many requests to other models: %d are under way, %d of which have iterators over their responses that were "
                    "neither read to the end nor dropped; the limit is %d"
                    % (self._open + self._kept - 1, self._kept, MOST_CHANNELS)
                )
            return self._make()
        except BaseException:
            self.free_place()
            raise

    def extra(self):
        """A channel that is counted nowhere, and stays with who asks for it."""
        return self._make()

    def keep(self, channel):
        """The call has had its answer, and its channel is kept for more of them: it takes no place from other calls."""
        channel.is_kept = True
        with self._lock:
            self._kept += 1
        self.free_place()

    def give_back(self, channel):
        """The call has had its answer, the last of them if its channel was kept."""
        with self._lock:
            if channel.is_kept:
                channel.is_kept = False
                self._kept -= 1
                self._open += 1
            receiver = None
            if self._open <= self.most:
                receiver = self._waiting.popleft() if self._waiting else None
                if receiver is None:
                    self._idle.append(channel)
                    return
            else:
                self._open -= 1
        if receiver is None:
            os.close(channel.fd)
        else:
            receiver(channel)

    def discard(self, channel):
        """The call is given up in its middle: what comes of it is of no use any more."""
        _channel.events.send_soon((CANCEL_CALL, channel.number, channel.requests))
        os.close(channel.fd)
        if channel.is_kept:
            with self._lock:
                self._kept -= 1
        else:
            self.free_place()

    def free_place(self):
        """A call is over whose channel is of no use to others: the next one that waits gets its place."""
        receiver = None
        with self._lock:
            self._open -= 1
            if self._waiting and self._open < self.most:
                receiver = self._waiting.popleft()
                self._open += 1
        if receiver is not None:
            receiver(None)

    def send(self, channel, message):
        """Sends a call, and with it what was let go of the server's memory since the last."""
        released = self.leases.take_released(with_answer=False)
        channel.send_encoded(dumps(message, 2), dumps(released, 2) if released else b"")

    def current_execution(self):
        """The batch that a call from here belongs to; ``None`` for the latest one, where that is not known."""
        number = execution.get(None)
        if number is not None:
            return number
        return 0 if get_ident() == self.main_thread else None

    def is_batch_running(self):
        """Whether the instance's own thread runs a batch."""
        return self.leases.is_batch_running

    def make_room(self):
        """Has Python allow the frames of models that ask each other, as deep as the server allows it."""
        if not self._has_room:
            import sys

            self._has_room = True
            sys.setrecursionlimit(sys.getrecursionlimit() + LEVELS * FRAMES)

    def _make(self):
        ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
        with self._lock:
            self._made += 1
            number = self._made
        channel = Channel(ours.detach(), _channel.events.segments)
        channel.number = number
        channel.requests = 0
        channel.is_kept = False
        try:
            _channel.events.send_with_descriptor((OPEN_CALL_CHANNEL, number), theirs.fileno())
        except BaseException:
            os.close(channel.fd)
            raise
        finally:
            theirs.close()
        return channel


def call(*message):
    """Asks the server something, and returns its answer.

    Raises: ``TritonModelException`` with the server's words.
    """
    channel = connected().take_now()
    try:
        calls.send(channel, message)
        answer = answer_on(channel)
    except BaseException:
        calls.discard(channel)
        raise
    calls.give_back(channel)
    return value_of(answer)


def connected():
    """The worker's :class:`Calls`.

    Raises: ``TritonModelException`` outside a worker.
    """
    if calls is None:
        raise TritonModelException("there is no server: this Python runs no model of it")
    return calls


def answer_on(channel):
    """The answer to a call that was sent; meanwhile runs what the server wants to have run in its middle."""
    while True:
        message = channel.receive()
        if message is None:
            raise TritonModelException("the server has closed the channel of a call")
        if message[0] != EXECUTE:
            return message
        calls.run_batch(channel, message)


def value_of(answer):
    """What an answer says.

    Raises: ``TritonModelException`` if it says that the call failed.
    """
    if answer[0] == OK:
        return answer[1]
    raise TritonModelException(answer[1])


class AsyncCall(object):
    """A call whose answer an event loop waits for, without a thread.

    ``write(channel)`` makes the message. The answer goes to ``future`` through ``read(channel, answer)``, which gives the
    channel back or keeps it.
    """

    __slots__ = ("_loop", "_future", "_write", "_read", "_channel")

    def __init__(self, loop, write, read):
        self._loop = loop
        self._future = loop.create_future()
        self._write = write
        self._read = read
        self._channel = None

    def start(self, channel=None):
        """Sends it as soon as there is a channel, which may be given. Returns the future."""
        self._future.add_done_callback(self._over)
        if channel is None:
            channel = calls.take(self._channel_came)
        if channel is not None:
            self._begin(channel)
        return self._future

    def _channel_came(self, channel):
        try:
            self._loop.call_soon_threadsafe(self._begin, channel)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self._not_needed(channel)

    def _not_needed(self, channel):
        if channel is None:
            calls.free_place()
        else:
            calls.give_back(channel)

    def _begin(self, channel):
        if self._future.done():
            self._not_needed(channel)
            return
        try:
            self._channel = channel = channel or calls.make()
            calls.send(channel, self._write(channel))
            self._loop.add_reader(channel.fd, self._readable)
        except BaseException as error:
            self._fail(error)

    def _readable(self):
        channel = self._channel
        try:
            message = channel.receive()
            if message is None:
                raise TritonModelException("the server has closed the channel of a call")
        except BaseException as error:
            self._fail(error)
            return
        if message[0] == EXECUTE:
            self._loop.remove_reader(channel.fd)
            calls.run_batch(channel, message, self._loop, self._batch_done)
            return
        self._loop.remove_reader(channel.fd)
        self._channel = None
        try:
            value = self._read(channel, message)
        except BaseException as error:
            self._set(self._future.set_exception, error)
        else:
            self._set(self._future.set_result, value)

    def _batch_done(self):
        channel = self._channel
        if channel is None:
            return
        if self._future.done():
            self._give_up()
        else:
            self._loop.add_reader(channel.fd, self._readable)

    def _fail(self, error):
        self._give_up()
        self._set(self._future.set_exception, error)

    def _set(self, setter, value):
        if not self._future.done():
            setter(value)

    def _over(self, future):
        if future.cancelled() and self._channel is not None:
            self._give_up()

    def _give_up(self):
        channel, self._channel = self._channel, None
        if channel is not None:
            self._loop.remove_reader(channel.fd)
            calls.discard(channel)
