"""One batch: ``execute`` is called, and what it returns is checked and written for the server."""

from ._errors import TritonModelException
from ._response import NOTHING, RESCHEDULED, InferenceResponse, result_of

RELEASE_RESCHEDULE = 2


def results_of(model, requests, large):
    """The results of a batch, one for each request, as the server reads them.

    Raises: whatever the model raises; ``TritonModelException`` if it returns what it may not.
    """
    responses = model.execute(requests)
    if responses is None:
        return [_without_response(request) for request in requests]
    if model.is_decoupled:
        raise TritonModelException(
            "Python model '%s' is using the decoupled mode and the execute function must return None." % model.name
        )
    if type(responses) is not list:
        raise TritonModelException(
            "Expected a list in the execute return, found type '%s'." % type(responses).__name__
        )
    if len(responses) != len(requests):
        raise TritonModelException(
            "Number of InferenceResponse objects do not match the number of InferenceRequest objects. "
            "InferenceRequest(s) size is:%d, and InferenceResponse(s) size is:%d\n" % (len(requests), len(responses))
        )
    return [_result(request, response, large) for request, response in zip(requests, responses)]


def _result(request, response, large):
    if request._release_flags == RELEASE_RESCHEDULE:
        if response is not None:
            raise TritonModelException(
                "Expected a None object in the execute function return list for reschduled request, found type '%s'."
                % type(response).__name__
            )
        return (RESCHEDULED,)
    if response is None:
        return (NOTHING,)
    if not isinstance(response, InferenceResponse):
        raise TritonModelException(
            "Expected an 'InferenceResponse' object in the execute function return list, found type '%s'."
            % type(response).__name__
        )
    return result_of(response, large)


def _without_response(request):
    return (RESCHEDULED,) if request._release_flags == RELEASE_RESCHEDULE else (NOTHING,)
