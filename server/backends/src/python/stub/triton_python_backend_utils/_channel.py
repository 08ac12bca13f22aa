"""The ways between this worker and the server: the execute channel of the main thread, the events channel for one-way
messages from any thread, and call channels for what wants an answer.

A message is a tuple in the format of ``marshal``, version 2; its first item is its kind. One that is larger than
``MESSAGE_MAX`` lies in a segment, and a message in its place says where. Those of the execute channel go through rings in shared
memory where the interpreter can load the extension module for that (``_rings.py``), and through the socket as far as they cannot.
"""

import os
from _collections import deque
from _thread import allocate_lock
from marshal import dumps, loads
from time import sleep

# Kinds of messages from the server; `wire.rs` names the same.
START, LOAD, COMPLETE, INITIALIZE, EXECUTE, READY, FINALIZE, SEGMENT, FORGET, IN_SEGMENT, EXECUTE_EACH = range(11)

# Kinds of answers.
OK, FAILED = 0, 1

# Kinds of events.
LOG, RELEASED, OPEN_CALL_CHANNEL, RESPONSE = range(20, 24)
CANCEL_CALL = 30
BATCH_FAILED = 31

MESSAGE_MAX = 64 << 10
"""Bytes of the largest message on a channel."""


class Channel(object):
    """One end of a socket pair that keeps the borders of messages, and the segments that messages on it speak of."""

    def __init__(self, fd, segments):
        self.fd = fd
        self.segments = segments
        self._rings = None

    def use(self, rings):
        """From here on messages go through those rings; what has no room there goes through the socket."""
        self._rings = rings
        self._read = rings.receive
        self._write = self._put

    def receive(self):
        """The next message; ``None`` when the server is gone. What concerns segments is done on the way."""
        while True:
            try:
                data = self._read()
            except BlockingIOError:  # nothing came for a while: the server has set how long
                self.segments.trim()
                continue
            if not data:
                return None
            message = loads(data)
            kind = message[0]
            if kind == EXECUTE:
                return message
            if kind == SEGMENT:
                self.segments.map(message[1], self.receive_descriptor(), message[2])
            elif kind == FORGET:
                self.segments.forget(message[1])
            elif kind == IN_SEGMENT:
                return loads(self.segments.view(message[1], message[2], message[3]))
            else:
                return message

    def send(self, message):
        """Sends one message, which may hold anything with C-contiguous bytes, such as a NumPy array, in place of bytes."""
        self.send_encoded(dumps(message, 2))

    def send_encoded(self, data, appendix=b""):
        """Sends a message that is encoded already, with a second one appended that concerns no memory."""
        if appendix or len(data) > MESSAGE_MAX:
            return self._send_two(data, appendix)
        self._write(data)

    def _send_two(self, data, appendix):
        if len(data) + len(appendix) > MESSAGE_MAX:
            place = self.segments.writer(len(data), self).write(data)
            data = dumps((IN_SEGMENT,) + place, 2)
        self._write(data + appendix)

    def _read(self):
        """The next message as it came; no bytes when the server is gone."""
        return os.read(self.fd, MESSAGE_MAX)

    def _write(self, data):
        """Sends a message as it is."""
        os.write(self.fd, data)

    def _put(self, data):
        """Sends a message as it is, through the ring if it has room there."""
        if not self._rings.put(data):
            self._write_to_socket(data)

    def _write_to_socket(self, data):
        """Sends a message as it is, through the socket."""
        while self._rings is not None and not self._rings.put_elsewhere():
            sleep(0.001)  # the server reads what is there already
        os.write(self.fd, data)

    def send_with_descriptor(self, message, fd):
        """Sends one message, and a file descriptor that belongs to it as the next."""
        import _socket
        from array import array

        self._write_to_socket(dumps(message, 2))
        socket = _socket.socket(fileno=self.fd)
        try:
            socket.sendmsg([b"\0"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array("i", [fd]))])
        finally:
            socket.detach()

    def receive_descriptor(self):
        """The file descriptor that comes as the next message."""
        import _socket
        from array import array

        descriptors = array("i")
        socket = _socket.socket(fileno=self.fd)
        try:
            _, ancillary, _, _ = socket.recvmsg(1, _socket.CMSG_SPACE(descriptors.itemsize))
        finally:
            socket.detach()
        for level, kind, data in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                descriptors.frombytes(data[: descriptors.itemsize])
        return descriptors[0]


class Events(object):
    """The channel for messages that no answer comes to, from any thread."""

    def __init__(self, channel):
        self._channel = channel
        self._soon = deque()
        self.lock = allocate_lock()
        self.send_encoded = channel.send_encoded
        """Sends an encoded message; for who holds ``lock``, and calls :meth:`flush` after."""

    @property
    def segments(self):
        return self._channel.segments

    def send(self, message):
        """Sends one message."""
        with self.lock:
            self._channel.send(message)
        self.flush()

    def send_soon(self, message):
        """Sends one message, or leaves that to the thread that is sending just now: this waits for no other, so that it may be
        called in the middle of anything, such as when an object is dropped.
        """
        self._soon.append(message)
        self.flush()

    def flush(self):
        """Sends what was left to this thread meanwhile. To be called after ``lock`` is released."""
        while self._soon and self.lock.acquire(False):
            try:
                self._channel.send(self._soon.popleft())
            except IndexError:
                pass  # another thread was quicker
            finally:
                self.lock.release()

    def send_with_descriptor(self, message, fd):
        """Sends one message and a file descriptor that belongs to it."""
        with self.lock:
            self._channel.send_with_descriptor(message, fd)
        self.flush()


events = None
"""The worker's :class:`Events`; ``None`` where the package is used without a server."""
