"""Waiting for a state, with a deadline: the one place that sets how long the tests wait."""

import os
import time

# Machines that run CI run other things as well. A wait that succeeds is no longer for a longer deadline.
PATIENCE = float(os.environ.get("E2E_PATIENCE") or (3 if os.environ.get("CI") == "true" else 1))


def scaled(seconds):
    """A deadline as this machine needs it."""
    return seconds * PATIENCE


def until(ask, what, deadline=30.0, process=None, *, pause=0.01, means_no=()):
    """Asks again and again; returns the first answer that is true. Exceptions of the types `means_no` count as no.

    Fails with `what` and the last answer when the deadline (seconds, scaled) has passed, or at once when `process` has ended."""
    deadline = scaled(deadline)
    end = time.monotonic() + deadline
    while True:
        try:
            last = ask()
            if last:
                return last
        except means_no as error:
            last = error
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the process ended with {process.returncode} while waiting for: {what}")
        if time.monotonic() > end:
            raise AssertionError(f"waited {deadline:.0f} s for: {what}; last: {last!r}")
        time.sleep(pause)
