"""One batch: ``execute`` is called, and what it returns is checked and written for the server."""

from types import CoroutineType

from ._channel import OK, dumps
from ._errors import ReturnError, TritonModelException
from ._log import batch_failed
from ._response import NOTHING, RAISED, RESCHEDULED, InferenceResponse, result_of
from ._traceback import describe


def answer_of(model, requests, large):
    """Runs a batch: the encoded answer for the server, with a result for each request.

    Whatever the model raises is the result of all requests of the batch that are not over.
    """
    try:
        responses = model.execute(list(requests))
        if type(responses) is CoroutineType:
            from . import _async

            if model.is_decoupled:
                for request in requests:
                    request._leave_open()
                _async.loop().answer_later(model, responses, requests)
                return dumps((OK, [(NOTHING,)] * len(requests)), 2)
            responses = _async.loop().wait_for(responses)
        results = _results(model, requests, responses, large)
        large.write()
        return dumps((OK, results), 2)
    except BaseException as error:
        large.discard()
        text, _ = describe(error)
        batch_failed(text)
        return dumps((OK, [_raised(request, text) for request in requests]), 2)


def _results(model, requests, responses, large):
    if responses is None:
        return [_without_response(request) for request in requests]
    if model.is_decoupled:
        raise model.decoupled_return()
    if not isinstance(responses, list):
        raise ReturnError("Expected a list in the execute return, found type '%s'." % type(responses))
    if len(responses) != len(requests):
        raise ReturnError(
            "Number of InferenceResponse objects do not match the number of InferenceRequest objects. "
            "InferenceRequest(s) size is:%d, and InferenceResponse(s) size is:%d\n" % (len(requests), len(responses))
        )
    for request, response in zip(requests, responses):
        if response is not None and (
            type(response) is not InferenceResponse or request._release_flags or request._sender is not None
        ):
            _check(request, response)
    return [
        _without_response(request) if response is None else _with_response(request, response, large)
        for request, response in zip(requests, responses)
    ]


def _check(request, response):
    if request._is_rescheduled():
        raise ReturnError(
            "Expected a None object in the execute function return list for reschduled request, found type '%s'."
            % type(response)
        )
    if not isinstance(response, InferenceResponse):
        raise ReturnError(
            "Expected an 'InferenceResponse' object in the execute function return list, found type '%s'."
            % type(response)
        )
    sender = request._sender
    if sender is not None and not sender._is_closed:
        try:
            sender._check(True)
        except TritonModelException as error:
            raise ReturnError(str(error)) from None


def _with_response(request, response, large):
    if request._sender is not None and request._sender._is_closed:
        return (NOTHING,)  # what was sent is the answer
    result = result_of(response, large)
    request._close()
    return result


def _without_response(request):
    """What comes of a request for which nothing was returned. Where responses were sent, what follows goes the same way."""
    if request._is_rescheduled() and not request.get_response_sender()._is_closed:
        is_said = request._sender._give_back(request._correlation_id, False)
        return (NOTHING,) if is_said else (RESCHEDULED,)
    request._leave_open()
    return (NOTHING,)


def _raised(request, text):
    if request._is_answered():
        request._sender._raised(text)
        return (NOTHING,)
    request._close()
    return (RAISED, text)
