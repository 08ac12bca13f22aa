"""Steady load over gRPC with the public client, to count the calls that fail while something is done to the servers: a few clients, each
with a connection of its own, until standard input ends. Nothing is retried here. Prints one JSON object.

    steady_grpc.py ADDRESS MODEL"""

import json
import sys
import threading
import time

import numpy
import tritonclient.grpc as grpc

CLIENTS = 4
PAUSE = 0.02


def call(address, model, over, done, failures):
    client = grpc.InferenceServerClient(address)
    tensor = grpc.InferInput("INPUT0", [4], "FP32")
    tensor.set_data_from_numpy(numpy.arange(4, dtype=numpy.float32))
    while not over.is_set():
        try:
            client.infer(model, [tensor], client_timeout=10)
        except grpc.InferenceServerException as error:
            failures.append(str(error))
        done.append(time.monotonic())
        time.sleep(PAUSE)


def main():
    address, model = sys.argv[1:]
    over, done, failures = threading.Event(), [], []
    callers = [threading.Thread(target=call, args=(address, model, over, done, failures)) for _ in range(CLIENTS)]
    for caller in callers:
        caller.start()
    while len(done) < CLIENTS * 5:
        time.sleep(PAUSE)
    print("steady", file=sys.stderr, flush=True)
    sys.stdin.read()
    over.set()
    for caller in callers:
        caller.join()
    gaps = [later - earlier for earlier, later in zip(sorted(done), sorted(done)[1:])]
    print(json.dumps({"requests": len(done), "failed": len(failures), "first_failures": failures[:20], "longest_gap": max(gaps)}))


main()
