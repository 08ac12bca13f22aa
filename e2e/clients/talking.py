"""Short ways to ask a server with the real clients, over either protocol with the same words."""

import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient

MODULES = {"http": httpclient, "grpc": grpcclient}
PROTOCOLS = tuple(MODULES)


def connect(protocol, server, **options):
    """A tritonclient of the protocol."""
    url = server.url if protocol == "http" else server.grpc_url
    return MODULES[protocol].InferenceServerClient(url=url, **options)


def tensor(protocol, name, array, datatype, binary=True):
    """An input. `binary` chooses JSON or binary data on HTTP; gRPC has only one form in this client."""
    made = MODULES[protocol].InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, **({"binary_data": binary} if protocol == "http" else {}))
    return made


def wanted(protocol, name, binary=True, **options):
    """A requested output."""
    return MODULES[protocol].InferRequestedOutput(name, **({"binary_data": binary} if protocol == "http" else {}), **options)


def add_one(protocol, client, model, rows=1, **options):
    """Sends a batch to one of the models that add a number to INPUT0 [.., 4]; returns that number, checked to be the same everywhere."""
    data = np.random.default_rng(rows).integers(0, 100, (rows, 4)).astype(np.float32)
    result = client.infer(model, [tensor(protocol, "INPUT0", data, "FP32")], **options)
    difference = result.as_numpy("OUTPUT0") - data
    assert difference.shape == (rows, 4) and len(np.unique(difference)) == 1, difference
    return int(difference.flat[0])


def is_ready(client, model, version=""):
    """Whether the model can be asked. A model that is not there is a plain no on both protocols."""
    return client.is_model_ready(model, version)


def statistics(client, model, version=""):
    """Statistics of one model as a dictionary of numbers, from either protocol."""
    answer = client.get_inference_statistics(model, version, **({"as_json": True} if hasattr(client, "_channel") else {}))
    return [numbers(one) for one in answer["model_stats"]]


def numbers(value):
    """gRPC's JSON writes 64-bit numbers as text and leaves zeros out: make both forms alike as far as text goes."""
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [numbers(item) for item in value]
    return int(value) if isinstance(value, str) and value.isdigit() else value
