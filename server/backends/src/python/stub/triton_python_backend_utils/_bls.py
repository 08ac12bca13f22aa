"""Requests that a model makes to ask another model, or itself.

Source: Triton Python backend, "Business Logic Scripting".
"""

from _thread import allocate_lock
from json import loads as loads_json

from . import _calls, _channel
from ._arguments import incompatible_function
from ._calls import CANCEL, EXEC, NEXT, AsyncCall, answer_on, connected, value_of
from ._channel import CANCEL_CALL
from ._errors import ErrorCode, TritonError, TritonModelException
from ._response import ERROR, NOTHING, OUTPUTS, InferenceResponse, Large, wires_of
from ._tensor import tensor_of_wire


def execute(request, decoupled):
    """Runs a request, and returns its response, or an iterator over its responses. Blocks until the first of them is there."""
    calls = ready_calls("exec", request, decoupled)
    decoupled = bool(decoupled)
    channel = calls.take_now()
    try:
        calls.send(channel, message_of(request, decoupled, channel, calls.current_execution()))
        answer = answer_on(channel)
    except BaseException:
        calls.discard(channel)
        raise
    return result_on(channel, answer, decoupled)


def execute_async(request, decoupled):
    """As :func:`execute`, as a future of the event loop that runs here. The request is on its way when this returns."""
    from asyncio import get_running_loop

    calls = ready_calls("async_exec", request, decoupled)
    loop = get_running_loop()
    decoupled = bool(decoupled)
    execution = _calls.execution.get(None)
    if execution is None:
        execution = 0 if calls.is_batch_running() else None

    def write(channel):
        return message_of(request, decoupled, channel, execution)

    def read(channel, answer):
        return result_on(channel, answer, decoupled)

    return AsyncCall(loop, write, read).start()


def ready_calls(function, request, decoupled):
    """The calls of the worker.

    Raises: ``TritonModelException`` if the model may not ask others now; ``TypeError`` if ``decoupled`` says neither yes nor no.
    """
    if decoupled is not None and not hasattr(decoupled, "__bool__"):
        signature = "(self: c_python_backend_utils.InferenceRequest, decoupled: bool = False)"
        raise incompatible_function(function, signature, request, decoupled)
    calls = connected()
    if not calls.may_exec:
        raise TritonModelException("BLS is only supported during the 'execute' function.")
    return calls


def message_of(request, decoupled, channel, execution):
    """The call that runs a request."""
    large = Large(channel)
    try:
        inputs = wires_of(request._inputs, large)
        large.write()
    except BaseException:
        large.discard()
        raise
    parameters = request._parameters
    called = (
        request._model_name,
        request._model_version if request._model_version >= 0 else None,
        request._id,
        inputs,
        tuple(request._outputs),
        request._correlation_id,
        request._flags,
        request._timeout,
        None if parameters == "{}" else loads_json(parameters),
        request._trace._number,
    )
    channel.requests += 1
    return (EXEC, execution, decoupled, called)


def result_on(channel, answer, decoupled):
    """What a call for a request returns, given its answer."""
    calls = _calls.calls
    try:
        is_last, result = value_of(answer)
        response = response_of_wire(result)
    except BaseException:
        calls.discard(channel)
        raise
    if not decoupled:
        calls.give_back(channel)
        return response
    if is_last:
        calls.give_back(channel)
        channel = None
    else:
        calls.keep(channel)
    return iterator_of(channel, response)


def response_of_wire(result):
    """A response as the server writes it; an empty one for the end without a response."""
    kind = result[0]
    if kind == OUTPUTS:
        lease = _calls.calls.leases.lease
        tensors = [
            tensor_of_wire(name, kind, shape, data if type(data) is bytes else lease(data))
            for name, kind, shape, data in result[1]
        ]
        return InferenceResponse(tensors, None, result[2])
    if kind == ERROR:
        return InferenceResponse((), TritonError(result[1], ErrorCode(result[2])))
    assert kind == NOTHING, kind
    return InferenceResponse()


class ResponseIterator(object):
    """The responses of a request, as they come. One that has had all of them begins again when it is iterated anew.

    When it is dropped before, or cancelled, the request is cancelled.
    """

    __slots__ = ("_channel", "_responses", "_position", "_is_asking", "_lock", "__weakref__")

    def __init__(self, *arguments):
        raise TypeError("c_python_backend_utils.%s: No constructor defined!" % type(self).__name__)

    def __iter__(self):
        if self._channel is None:
            self._position = 0
        return self

    def __next__(self):
        with self._lock:
            if self._position < len(self._responses):
                response = self._responses[self._position]
            elif self._channel is None:
                raise StopIteration("Iteration is done for the responses.")
            else:
                response = self._ask()
                self._responses.append(response)
            self._position += 1
            return response

    def __aiter__(self):
        return self.__iter__()

    async def __anext__(self):
        if self._position < len(self._responses) or self._channel is None:
            try:
                return self.__next__()
            except StopIteration:
                raise StopAsyncIteration from None
        from asyncio import get_running_loop

        channel = self._channel

        def read(channel, answer):
            try:
                return self._take(answer)
            except BaseException:
                self._give_up()
                raise

        self._is_asking = True
        try:
            response = await AsyncCall(get_running_loop(), lambda channel: (NEXT,), read).start(channel)
        except BaseException:
            self._channel = None  # the call has given it up
            raise
        finally:
            self._is_asking = False
        self._responses.append(response)
        self._position += 1
        return response

    def cancel(self):
        """No more responses are wanted: the model that was asked is told, and the next response is an error that says so."""
        if self._channel is None:
            return
        if not self._is_asking and self._lock.acquire(False):
            try:
                channel = self._channel
                if channel is not None:
                    _calls.calls.send(channel, (CANCEL,))
                    value_of(answer_on(channel))
            finally:
                self._lock.release()
            return
        channel = self._channel
        if channel is not None:
            _channel.events.send((CANCEL_CALL, channel.number, channel.requests))  # somebody waits for the next response just now

    def _ask(self):
        channel = self._channel
        try:
            _calls.calls.send(channel, (NEXT,))
            return self._take(answer_on(channel))
        except BaseException:
            self._give_up()
            raise

    def _take(self, answer):
        is_last, result = value_of(answer)
        response = response_of_wire(result)
        if is_last:
            channel, self._channel = self._channel, None
            _calls.calls.give_back(channel)
        return response

    def _give_up(self):
        channel, self._channel = self._channel, None
        if channel is not None:
            _calls.calls.discard(channel)

    def __del__(self):
        self._give_up()


ResponseIterator.__module__ = "c_python_backend_utils"  # as it shows itself in Triton


def iterator_of(channel, response):
    """An iterator that has had its first response; without a channel that was the only one."""
    iterator = ResponseIterator.__new__(ResponseIterator)
    iterator._channel = channel
    iterator._responses = [response]
    iterator._position = 0
    iterator._is_asking = False
    iterator._lock = allocate_lock()
    return iterator
