"""Requests that are known to be under way while a test does something: two slow ones, or quick ones all the time."""

import contextlib
import threading
import urllib.request

import numpy as np

import pages
from serving import until
from talking import add_one, connect, tensor


def ask(protocol, server, results):
    """Puts what became of one request to the model `slow` into `results`: True, or what was wrong."""
    data = np.arange(4, dtype=np.float32).reshape(1, 4)
    try:
        client = connect(protocol, server, **({"network_timeout": 60} if protocol == "http" else {}))
        answer = client.infer("slow", [tensor(protocol, "INPUT0", data, "FP32")]).as_numpy("OUTPUT0")
        results.append(bool((answer == data).all()))
    except Exception as error:  # noqa: BLE001 - the test looks at it
        results.append(repr(error))


@contextlib.contextmanager
def two_under_way(server, *protocols):
    """One request runs on the model `slow` and one waits for it; yields the list that fills with their results, and waits for both."""
    results = []
    callers = [threading.Thread(target=ask, args=(protocol, server, results)) for protocol in protocols]
    for caller in callers:
        caller.start()
    try:
        # More than one look: a request that has just come waits for a moment too.
        until(lambda: all(pending(server) == 1 for _ in range(5)), "one request to run and one to wait", process=server.process)
        yield results
    finally:
        for caller in callers:
            caller.join()


def pending(server, model="slow"):
    """How many requests wait for the model."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics}/metrics") as answer:
        return pages.read(answer.read().decode()).value("nv_inference_pending_request_count", model=model, version="1")


@contextlib.contextmanager
def under_load(server, model, numbers, protocol="http"):
    """Four callers ask a model that adds a number all the time: before, while and after the block runs. Every answer is one of `numbers`."""
    over, wrong, answered = threading.Event(), [], [0]

    def call():
        client = connect(protocol, server)
        while not over.is_set():
            try:
                got = add_one(protocol, client, model)
                if got not in numbers:
                    wrong.append(got)
            except Exception as error:  # noqa: BLE001 - any failure at all is what this watches for
                wrong.append(repr(error))
            answered[0] += 1

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        until(lambda: answered[0] > 20, "the load to run")
        yield
        seen = answered[0]
        until(lambda: answered[0] > seen + 20, "the load to go on")
    finally:
        over.set()
        for caller in callers:
            caller.join()
    assert not wrong, wrong[:3]
