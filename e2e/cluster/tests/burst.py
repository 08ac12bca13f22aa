"""Requests that all begin at once, over both protocols and as streams, with the public clients. Nothing is retried here. Prints one JSON
object: how many there were, those that failed, and the seconds until the last answer.

    burst.py HTTP_ADDRESS GRPC_ADDRESS MODEL COUNT"""

import json
import queue
import sys
import threading
import time

import numpy
import tritonclient.grpc as grpc
import tritonclient.http as http

PATIENCE = 120.0
NUMBERS = numpy.arange(4, dtype=numpy.float32)


def tensor(module):
    tensor = module.InferInput("INPUT0", [4], "FP32")
    tensor.set_data_from_numpy(NUMBERS)
    return tensor


def over_http(address, model):
    client = http.InferenceServerClient(address, connection_timeout=PATIENCE, network_timeout=PATIENCE)
    return client.infer(model, [tensor(http)]).as_numpy("OUTPUT0")


def over_grpc(address, model):
    client = grpc.InferenceServerClient(address)
    return client.infer(model, [tensor(grpc)], client_timeout=PATIENCE).as_numpy("OUTPUT0")


def over_a_stream(address, model):
    client, answers = grpc.InferenceServerClient(address), queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer(model, [tensor(grpc)])
    result, error = answers.get(timeout=PATIENCE)
    client.stop_stream()
    if error:
        raise error
    return result.as_numpy("OUTPUT0")


def main():
    http_address, grpc_address, model, count = *sys.argv[1:4], int(sys.argv[4])
    begin, failures = threading.Barrier(count), []

    def ask(number):
        way, address = [(over_http, http_address), (over_grpc, grpc_address), (over_a_stream, grpc_address)][number % 3]
        begin.wait()
        try:
            if not numpy.array_equal(way(address, model), NUMBERS):
                failures.append(f"{way.__name__}: another answer")
        except Exception as error:  # whatever it is, it is what is looked for
            failures.append(f"{way.__name__}: {error}")

    callers = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    began = time.monotonic()
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    print(json.dumps({"requests": count, "failures": failures, "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main()
