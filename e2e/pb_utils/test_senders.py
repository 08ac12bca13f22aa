"""A response sender between two turns of its request, without a server."""

from marshal import loads
from threading import Lock

import numpy as np
import pytest
from triton_python_backend_utils import InferenceResponse, Tensor, TritonModelException, _channel, _sender
from triton_python_backend_utils._response import NOTHING, OUTPUTS, RESCHEDULED

FINAL = _sender.COMPLETE_FINAL
CLOSED = "Unable to send response. Response sender has been closed."


class Events(object):
    """Keeps what would be sent to the server: slot, kind of the result, its numbers, whether it is the last."""

    def __init__(self):
        self.lock = Lock()
        self.sent = []

    def send_encoded(self, data):
        _, slot, result, is_last = loads(data)
        numbers = [np.frombuffer(data, np.int32).tolist() for _, _, _, data in result[1]] if result[0] == OUTPUTS else []
        self.sent.append((slot, result[0], sum(numbers, []), is_last))

    def send_soon(self, message):
        self.sent.append("forgotten")

    def flush(self):
        pass


@pytest.fixture
def events(monkeypatch):
    made = Events()
    monkeypatch.setattr(_channel, "events", made, raising=False)
    monkeypatch.setattr(_sender, "status_of", b"\0\0".__getitem__)
    monkeypatch.setattr(_sender, "between_turns", {})
    return made


def number(value):
    return InferenceResponse([Tensor("OUT", np.array([value], np.int32))])


def test_what_is_sent_between_two_turns_goes_out_when_the_next_begins(events):
    sender = _sender.sender_of(0, True)
    sender.send(number(1))
    assert sender._give_back(7, False), "it is said after the response"
    sender.send(number(2))
    sender.send(number(3))
    assert events.sent == [(0, OUTPUTS, [1], False), (0, RESCHEDULED, [], True)]
    assert _sender.sender_of_next_turn(8, 1) is None and _sender.sender_of_next_turn(7, 1) is sender
    sender.send(number(4), FINAL)
    assert events.sent[2:] == [(1, OUTPUTS, [2], False), (1, OUTPUTS, [3], False), (1, OUTPUTS, [4], True)]
    with pytest.raises(TritonModelException, match=CLOSED):
        sender.send(number(5))


def test_a_turn_without_responses_is_given_back_by_its_answer(events):
    sender = _sender.sender_of(0, True)
    assert not sender._give_back(7, False) and events.sent == []
    _sender.sender_of_next_turn(7, 1)
    assert sender._give_back(7, True) and events.sent == [(1, RESCHEDULED, [], True)], "unless nobody else says it"


def test_nothing_follows_an_end_that_is_kept(events):
    sender = _sender.sender_of(0, True)
    sender._give_back(7, False)
    sender.send(flags=FINAL)
    with pytest.raises(TritonModelException, match=CLOSED):
        sender.send(number(1))
    _sender.sender_of_next_turn(7, 1)
    assert events.sent == [(1, NOTHING, [], True)]
    assert sender._give_back(7, False), "the request is over, whatever else is said of it"


def test_what_is_kept_is_bounded(events):
    sender = _sender.sender_of(0, True)
    sender._give_back(7, False)
    for value in range(_sender.MOST_KEPT):
        sender.send(number(value))
    with pytest.raises(TritonModelException, match="waits for its next turn, and 1024 responses for it are kept"):
        sender.send(number(0))


def test_what_is_kept_is_sent_also_if_the_model_lets_go_of_the_sender(events):
    sender = _sender.sender_of(0, True)
    sender._give_back(7, False)
    sender.send(number(1))
    del sender
    assert _sender.sender_of_next_turn(7, 1) is not None and events.sent == [(1, OUTPUTS, [1], False)]


def test_senders_of_requests_that_do_not_come_back_are_bounded(events):
    for correlation_id in range(1, _sender.MOST_WAITING + 3):
        _sender.sender_of(0, True)._give_back(correlation_id, False)
    assert len(_sender.between_turns) == _sender.MOST_WAITING
    assert _sender.sender_of_next_turn(2, 0) is None and _sender.sender_of_next_turn(3, 0) is not None


def test_a_model_that_answers_once_has_a_sender_for_each_turn(events):
    sender = _sender.sender_of(0, False)
    sender._give_back(7, False)
    with pytest.raises(TritonModelException, match=CLOSED):
        sender.send(number(1))
    assert _sender.sender_of_next_turn(7, 1) is None
