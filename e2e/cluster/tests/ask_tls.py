"""One request over HTTPS and one over gRPC with TLS, by the public clients, which check the certificate they are shown. Prints one JSON
object: what came of each.

    ask_tls.py HTTP_ADDRESS GRPC_ADDRESS MODEL ROOTS [CERTIFICATE KEY]     files in PEM"""

import json
import sys

import numpy
import tritonclient.grpc
import tritonclient.http


def ask(kind, client, model):
    tensor = kind.InferInput("INPUT0", [2], "FP32")
    tensor.set_data_from_numpy(numpy.array([1, 2], dtype=numpy.float32))
    return client.infer(model, [tensor]).as_numpy("OUTPUT0").tolist()


def over_http(address, model, roots, own):
    options = {"ca_certs": roots} | dict(zip(("certfile", "keyfile"), own))
    client = tritonclient.http.InferenceServerClient(address, ssl=True, ssl_options=options, connection_timeout=60, network_timeout=60)
    return ask(tritonclient.http, client, model)


def over_grpc(address, model, roots, own):
    files = dict(zip(("certificate_chain", "private_key"), own))
    client = tritonclient.grpc.InferenceServerClient(address, ssl=True, root_certificates=roots, **files)
    return ask(tritonclient.grpc, client, model)


def main():
    http, grpc, model, roots, *own = sys.argv[1:]
    outcome = {}
    for name, asks, address in [("http", over_http, http), ("grpc", over_grpc, grpc)]:
        try:
            outcome[name] = asks(address, model, roots, own)
        except Exception as error:  # each library has its own
            outcome[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(outcome))


main()
