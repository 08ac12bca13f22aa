"""Memory shared with the server: segments that the server made, for inputs, and segments made here, for outputs.

Every segment made here begins with a word that is 1 while it is in use; the server writes 0 when it is done with it.
"""

import mmap
import os
from _thread import allocate_lock

import numpy as np

from . import _channel
from ._channel import FORGET, RELEASED, SEGMENT

HEADER = 64
"""Bytes at the start of a segment made here, before the first tensor."""

ALIGNMENT = 64
"""Every tensor begins at a multiple of so many bytes."""


class Lease(object):
    """The memory of one input. The server leaves it alone until this is gone; arrays that look at it hold it."""

    __slots__ = ("handle", "segment", "offset", "length", "is_in_answer", "_released", "__array_interface__")

    def __init__(self, handle, segment, offset, length, released):
        self.handle = handle
        self.segment = segment
        self.offset = offset
        self.length = length
        self.is_in_answer = False
        self._released = released

    @property
    def address(self):
        """Where it lies in this process."""
        return self.segment.address + self.offset

    def array(self, dtype, shape):
        """A writable array of the memory, in that form."""
        self.__array_interface__ = {"version": 3, "shape": shape, "typestr": dtype.str, "data": (self.address, False)}
        return np.asarray(self)

    def bytes(self):
        """The memory as bytes."""
        return memoryview(self.segment.memory)[self.offset : self.offset + self.length]

    def __del__(self):
        self._released(self)


class Mapped(object):
    """One segment, mapped here. The mapping ends with the last array that looks at it."""

    __slots__ = ("number", "memory", "address", "length")

    def __init__(self, number, fd, length):
        self.number = number
        self.memory = mmap.mmap(fd, length)
        self.length = length
        self.address = np.frombuffer(self.memory, np.uint8).__array_interface__["data"][0]

    def is_free(self):
        """Whether the server is done with it; of segments made here."""
        return self.memory[0] == 0


class Writer(object):
    """Writes the tensors of one message into a segment made here."""

    __slots__ = ("_segment", "_end")

    def __init__(self, segment):
        self._segment = segment
        self._end = HEADER

    def write(self, data):
        """Copies C-contiguous bytes of any form; returns where they lie: segment, offset, length in bytes."""
        source = np.frombuffer(data, np.uint8) if not isinstance(data, np.ndarray) else data
        offset, length = self._end, source.nbytes
        target = np.frombuffer(self._segment.memory, source.dtype, source.size, offset)
        np.copyto(target.reshape(source.shape), source)
        self._end = aligned(offset + length)
        return self._segment.number, offset, length

    def discard(self):
        """What was written is not sent: the segment is free again."""
        self._segment.memory[0] = 0


class Segments(object):
    """All segments of this worker.

    ``prefix`` is what segments made here are called in ``/proc``. A new one has at least ``smallest`` bytes, in multiples
    of ``growth`` bytes. Of those not in use, so many bytes as ``idle_max`` are kept for the next outputs.
    """

    def __init__(self, prefix, smallest, growth, idle_max=64 << 20):
        self._prefix = prefix
        self._smallest = smallest
        self._growth = growth
        self._idle_max = idle_max
        self._of_server = {}
        self._own = []
        self._made = 0
        self._lock = allocate_lock()

    # === made by the server ===

    def map(self, number, fd, length):
        """Maps a segment of the server, and closes the file descriptor."""
        try:
            if number not in self._of_server:  # another channel may have told of it
                self._of_server[number] = Mapped(number, fd, length)
        finally:
            os.close(fd)

    def forget(self, number):
        """The server has given up a segment of its own."""
        self._of_server.pop(number, None)

    def view(self, number, offset, length):
        """Bytes of a segment of the server."""
        return memoryview(self._of_server[number].memory)[offset : offset + length]

    def lease(self, handle, number, offset, length, released):
        """The memory of an input; ``released(lease)`` is called when nobody looks at it any more."""
        return Lease(handle, self._of_server[number], offset, length, released)

    # === made here ===

    def writer(self, length, channel):
        """A :class:`Writer` with room for ``length`` bytes. A new segment is announced on ``channel``."""
        needed = HEADER + length
        with self._lock:
            free = [segment for segment in self._own if segment.is_free()]
            fitting = [segment for segment in free if segment.length >= needed]
            if fitting:
                segment = min(fitting, key=lambda segment: segment.length)
                segment.memory[0] = 1
                return Writer(segment)
            idle = sum(segment.length for segment in free)
            for segment in sorted(free, key=lambda segment: segment.length):
                if idle <= self._idle_max:
                    break
                idle -= segment.length
                self._own.remove(segment)
                channel.send((FORGET, segment.number))
            self._made += 1
            number = self._made
        size = max(needed, self._smallest)
        size = -(-size // self._growth) * self._growth
        fd = memory_file(self._prefix)
        try:
            os.ftruncate(fd, size)
            segment = Mapped(number, fd, size)
            segment.memory[0] = 1
            channel.send_with_descriptor((SEGMENT, number, size), fd)
        finally:
            os.close(fd)
        with self._lock:
            self._own.append(segment)
        return Writer(segment)


    def trim(self):
        """Gives back the segments made here that are not in use."""
        with self._lock:
            free = [segment for segment in self._own if segment.is_free()]
            self._own = [segment for segment in self._own if segment not in free]
        if free:
            for segment in free:
                _channel.events.send((FORGET, segment.number))
            _channel.events.send((RELEASED, ()))  # the server goes on reading until something else comes


def memory_file(name):
    """A new memory file that can be sealed. Interpreters built for old systems, such as conda's, lack the function for it."""
    cloexec, allow_sealing = 1, 2
    try:
        make = os.memfd_create
    except AttributeError:
        import ctypes

        make = ctypes.CDLL(None, use_errno=True).memfd_create
        fd = make(name.encode(), cloexec | allow_sealing)
        if fd < 0:
            raise OSError(ctypes.get_errno(), "memfd_create failed")
        return fd
    return make(name, cloexec | allow_sealing)


def aligned(offset):
    """The first place for a tensor from there on."""
    return -(-offset // ALIGNMENT) * ALIGNMENT
