"""Memory that a worker makes for its outputs."""

import fcntl
import os

import numpy as np
import pytest
from triton_python_backend_utils import _channel, _segments
from triton_python_backend_utils._segments import HEADER, Segments, memory_file

ADD_SEALS, SEAL_SHRINK = 1033, 2


class Recorded(object):
    """A channel that keeps what is sent."""

    def __init__(self):
        self.sent = []

    def send(self, message):
        self.sent.append(message)

    def send_with_descriptor(self, message, fd):
        os.fstat(fd)
        self.sent.append(message)


@pytest.mark.parametrize("is_missing", (False, True))
def test_a_memory_file_can_be_sealed_and_is_not_inherited(monkeypatch, is_missing):
    if is_missing:  # as in interpreters that are built for systems older than the function
        monkeypatch.delattr(os, "memfd_create")
    fd = memory_file("ours")
    try:
        os.ftruncate(fd, 10)
        assert fcntl.fcntl(fd, ADD_SEALS, SEAL_SHRINK) == 0
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 5)
        assert not os.get_inheritable(fd)
        assert os.readlink("/proc/self/fd/%d" % fd).startswith("/memfd:ours")
    finally:
        os.close(fd)


def test_segments_are_used_again_and_given_back(monkeypatch):
    channel, events = Recorded(), Recorded()
    monkeypatch.setattr(_channel, "events", events)
    segments = Segments("ours", smallest=4096, growth=4096)
    data = np.arange(500, dtype=np.float64)
    assert segments.writer(data.nbytes, channel).write(data) == (1, HEADER, 4000)
    assert segments.writer(data.nbytes, channel).write(data) == (2, HEADER, 4000)
    assert channel.sent == [(_segments.SEGMENT, 1, 4096), (_segments.SEGMENT, 2, 4096)]
    segments.trim()
    assert events.sent == []  # both are in use

    segments._own[0].memory[0] = 0  # what the server does
    assert segments.writer(data.nbytes, channel).write(data)[0] == 1
    segments._own[0].memory[0] = 0
    segments.trim()
    assert events.sent[0] == (_segments.FORGET, 1) and len(events.sent) == 2
    assert [segment.number for segment in segments._own] == [2]
    segments.trim()
    assert len(events.sent) == 2
    assert segments.writer(data.nbytes, channel).write(data)[0] == 3
