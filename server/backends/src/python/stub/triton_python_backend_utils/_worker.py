"""The loop of a worker: it loads the model when it is told to, and runs what the server sends until it is over."""

import os
import sys
from _collections import deque
from _thread import start_new_thread

from . import _calls, _channel, _rings, _sender
from ._channel import (
    COMPLETE,
    EXECUTE,
    EXECUTE_EACH,
    FAILED,
    FINALIZE,
    INITIALIZE,
    LOAD,
    OK,
    READY,
    RELEASED,
    START,
    Channel,
    Events,
    dumps,
)
from ._execute import answer_of
from ._model import Model
from ._request import request_of_wire
from ._response import Large
from ._segments import Segments
from ._traceback import describe


def run(execute_fd, events_fd, status_fd, rings_fd, extension_fd, prefix, smallest, growth):
    """Serves one model instance until the server ends it or is gone."""
    segments = Segments(prefix, smallest, growth)
    _sender.read_status_from(status_fd)
    _channel.events = Events(Channel(events_fd, segments))
    rings = _rings.attach(rings_fd, extension_fd, execute_fd)
    worker = Worker(Channel(execute_fd, segments), rings)
    _calls.calls = _calls.Calls(worker.leases, worker.run_in_call)
    os.register_at_fork(after_in_child=lambda: cut_off([execute_fd, events_fd] + _calls.calls.idle_descriptors(), rings))
    worker.run()


def cut_off(descriptors, rings):
    """Nothing that a process forked by the model says reaches the server, which would take it for the worker's; and such a
    process ends when it comes back to the worker's loop. The channels end with the worker, whoever still has them.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        os.dup2(null, descriptor)
    os.close(null)
    if rings is not None:
        rings.detach()


class Worker(object):
    """One model instance, and the execute channel it is driven through."""

    def __init__(self, channel, rings=None):
        self._channel = channel
        self._rings = rings
        self.leases = Leases(channel.segments)
        self._model = None
        self._handlers = {
            START: self._start,
            LOAD: self._load,
            COMPLETE: self._complete,
            INITIALIZE: self._initialize,
            READY: self._ready,
            FINALIZE: self._finalize,
        }

    def run(self):
        """Runs until the server says FINALIZE or is gone."""
        receive = self._channel.receive
        while True:
            message = receive()
            if message is None:
                os._exit(0)
            kind = message[0]
            if kind == EXECUTE:
                self._execute(message[1])
            elif kind == EXECUTE_EACH:
                for _, wires in message[1]:
                    self._execute(wires)
            else:
                self._answer(self._handlers[kind], message, self._channel)
                if kind == START and self._rings is not None:
                    self._channel.use(self._rings)
                if kind == FINALIZE:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    return

    def _execute(self, wires):
        leases = self.leases
        leases.is_batch_running = True
        data = self._results(wires, self._channel)
        # By now requests and responses are gone, and with them the inputs that nobody kept.
        released = leases.take_released()
        self._channel.send_encoded(data, dumps(released, 2) if released else b"")
        leases.is_batch_running = False
        leases.flush()  # what was let go of meanwhile

    def run_in_call(self, channel, message, loop=None, done=None):
        """Runs a batch in the middle of the call on ``channel``, and answers it there. Where an event loop waits for the call,
        the batch has a thread of its own, and ``done`` is called on the loop afterwards.
        """
        _calls.calls.make_room()
        if loop is not None:
            start_new_thread(self._run_beside, (channel, message, loop, done))
            return
        token = _calls.execution.set(message[1])
        try:
            data = self._results(message[2], channel)
        finally:
            _calls.execution.reset(token)
        released = self.leases.take_released()
        channel.send_encoded(data, dumps(released, 2) if released else b"")

    def _run_beside(self, channel, message, loop, done):
        from . import _async

        _async.here.loop = loop
        try:
            self.run_in_call(channel, message)
        finally:
            loop.call_soon_threadsafe(done)

    def _results(self, wires, channel):
        """The encoded answer for a batch, to be sent on ``channel``."""
        try:
            requests = [request_of_wire(wire, self._model, self.leases) for wire in wires]
        except BaseException as error:
            return dumps((FAILED,) + describe(error), 2)
        return answer_of(self._model, requests, Large(channel, is_answer=True))

    def _answer(self, handler, message, channel):
        try:
            answer = (OK, handler(*message[1:]))
        except BaseException as error:
            answer = (FAILED,) + describe(error)
        channel.send_encoded(dumps(answer, 2))

    def _start(self):
        return self._rings is not None  # then this answer is the last one on the socket alone

    def _load(self, settings):
        self._model = Model(settings)

    def _complete(self, config, normalised):
        return self._model.complete(config, normalised)

    def _initialize(self, args, settings):
        _calls.calls.most = settings["calls"]
        is_probed = self._model.initialize(args, settings)
        _calls.calls.may_exec = True
        return is_probed

    def _ready(self):
        """From here on ``is_ready`` is asked for on a channel of its own, also while a batch runs."""
        channel = Channel(self._channel.receive_descriptor(), self._channel.segments)
        start_new_thread(self._answer_readiness, (channel,))

    def _answer_readiness(self, channel):
        while True:
            message = channel.receive()
            if message is None:
                return
            self._answer(self._model.is_ready, message, channel)

    def _finalize(self):
        _calls.calls.may_exec = False
        self._model.finalize()


class Leases(object):
    """Which inputs in shared memory the worker is done with. The server hears of them with the answer of a batch or, while
    none is running, through the events channel.
    """

    def __init__(self, segments):
        self._segments = segments
        self._released = deque()
        self._answered = deque()  # those that an answer speaks of: only an answer, or who comes after it, may tell of them
        self.is_batch_running = False

    def lease(self, data):
        """The memory of an input as it stands in a message: handle, segment, offset, length."""
        return self._segments.lease(*data, released=self.released)

    def released(self, lease):
        """Nobody looks at that input any more. Called from any thread, in the middle of anything: it never waits."""
        (self._answered if lease.is_in_answer else self._released).append(lease.handle)
        if not self.is_batch_running:
            self.flush()

    def flush(self):
        """Tells the server at once."""
        released = self.take_released()
        if released:
            _channel.events.send_soon((RELEASED, released))

    def take_released(self, with_answer=True):
        """What was released since the last time; ``None`` for nothing. Of what answers speak of only ``with_answer``."""
        if not self._released and not self._answered:
            return None
        handles = []
        for released in (self._released, self._answered) if with_answer else (self._released,):
            try:
                while released:
                    handles.append(released.popleft())
            except IndexError:
                pass  # another thread was quicker
        return tuple(handles) if handles else None
