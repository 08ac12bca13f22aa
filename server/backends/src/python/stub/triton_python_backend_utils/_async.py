"""The event loop of models whose ``execute`` is a coroutine. It runs on a thread of its own, so that tasks that a model leaves
behind go on between batches.
"""

import asyncio
import threading

from ._log import batch_failed
from ._traceback import describe

MOST_BATCHES = 4096
"""Batches of a decoupled model that run at the same time; further ones wait."""

STOP_SECONDS = 5
"""How long the loop may take to end what is left on it."""

here = threading.local()
"""Of each thread: whether an event loop ``is_blocked`` while the thread waits, for it runs there; and the ``loop`` that
coroutines started here are to run on, if it is not the worker's.
"""

_loop = None
_making = threading.Lock()


def loop():
    """The worker's :class:`Loop`, made when it is first asked for."""
    global _loop
    with _making:
        if _loop is None:
            _loop = Loop()
    return _loop


def stop():
    """Cancels what still runs, and ends the loop."""
    if _loop is not None:
        _loop.stop()


class Loop(object):
    """An event loop and its thread."""

    def __init__(self):
        self._loop = asyncio.new_event_loop()
        self._room = threading.BoundedSemaphore(MOST_BATCHES)
        self._tasks = set()  # a loop itself does not keep them
        self._thread = threading.Thread(target=self._run, name="asyncio", daemon=True)
        self._thread.start()

    def wait_for(self, coroutine):
        """Runs a coroutine on the loop; returns what it returns, or raises what it raises. Blocks this thread until then.

        In the middle of a call that blocks the loop, it runs on a loop of its own.
        """
        if getattr(here, "is_blocked", False):
            beside = Loop()
            try:
                return beside._wait_for(coroutine, beside._loop)
            finally:
                beside.stop()
        return self._wait_for(coroutine, getattr(here, "loop", self._loop))

    def _wait_for(self, coroutine, loop):
        outcome = []
        is_done = threading.Lock()
        is_done.acquire()
        loop.call_soon_threadsafe(self._start, _outcome_of(coroutine, outcome, is_done))
        is_done.acquire()
        error, value = outcome
        if error is None:
            return value
        outcome.clear()
        try:
            raise error
        finally:
            error = None  # its traceback leads here, and here to it: a circle would keep all that the model had

    def answer_later(self, model, coroutine, requests):
        """Runs a batch of a decoupled model on the loop, and returns at once. What the coroutine raises is the last word of
        those of its requests that have had none.
        """
        self._room.acquire()
        self._loop.call_soon_threadsafe(self._start, self._answer(model, coroutine, requests))

    def stop(self):
        """Cancels what still runs, gives it time to notice, and ends the thread."""
        asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop)
        self._thread.join(STOP_SECONDS)

    def _run(self):
        here.is_blocked = True
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _start(self, coroutine):
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, model, coroutine, requests):
        try:
            returned = await coroutine
            if returned is not None:
                raise model.decoupled_return()
            for request in requests:
                if request._is_rescheduled():
                    request.get_response_sender()._give_back(request._correlation_id, True)
        except BaseException as error:
            text, _ = describe(error)
            for request in requests:
                request.get_response_sender()._raised(text)
            if not isinstance(error, asyncio.CancelledError):  # which is how the model's end reaches it
                batch_failed(text)
        finally:
            self._room.release()

    async def _cancel_all(self):
        this = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not this]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_SECONDS / 2)
        self._loop.stop()


async def _outcome_of(coroutine, outcome, is_done):
    try:
        outcome[:] = None, await coroutine
    except BaseException as error:
        outcome[:] = error, None
    finally:
        is_done.release()
