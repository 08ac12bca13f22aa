"""Every tensor type through ONNX Runtime over both protocols: values at the edges of each type come back as they went."""

import make
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc
import grpc
import ml_dtypes
import requests

from serving import Server
from talking import connect, tensor, wanted

INTEGERS = {f"{kind}{bits}": np.dtype(f"{kind.lower()}{bits}") for kind in ("UINT", "INT") for bits in (8, 16, 32, 64)}
EDGES = {
    "BOOL": np.array([True, False, True, True]),
    **{name: np.array([np.iinfo(kind).min, np.iinfo(kind).max, 0, 1], kind) for name, kind in INTEGERS.items()},
    "FP16": np.array([65504, -0.0, 6e-8, np.inf], np.float16),
    "FP32": np.array([np.finfo(np.float32).max, -0.0, 1e-45, -np.inf], np.float32),
    "FP64": np.array([np.finfo(np.float64).max, -0.0, 5e-324, 0.1], np.float64),
    "BYTES": np.array([b"", "wörld 😀".encode(), b"a" * 300, b'"\\\n'], object),
    "BF16": np.array([1.5, -0.0, 3.0e38, np.inf], ml_dtypes.bfloat16),
}
IN_JSON = [name for name in EDGES if name not in ("FP16", "BF16")]
CONTENTS = {"BOOL": "bool", "UINT64": "uint64", "INT64": "int64", "FP32": "fp32", "FP64": "fp64", "BYTES": "bytes"}
CONTENTS |= {f"UINT{bits}": "uint" for bits in (8, 16, 32)} | {f"INT{bits}": "int" for bits in (8, 16, 32)}


@pytest.fixture(scope="module")
def server(folder):
    make.types(folder)
    with Server(folder) as running:
        yield running


def model(kind, shape=""):
    return f"onnx_{'string' if kind == 'BYTES' else kind.lower()}{shape}"


def same(got, sent):
    """Equal to the bit, shape and type included."""
    assert got.shape == sent.shape and got.dtype == sent.dtype, (got.dtype, sent.dtype)
    if sent.dtype == object:
        assert got.tolist() == sent.tolist()
    else:
        assert got.tobytes() == sent.tobytes()


@pytest.mark.parametrize("kind", EDGES)
@pytest.mark.parametrize("protocol", ("http", "grpc"))
@pytest.mark.parametrize("shape", ("", "_batched"))
def test_binary_data_comes_back_as_it_went(server, protocol, kind, shape):
    sent = EDGES[kind].reshape(2, 2) if shape else EDGES[kind]
    client = connect(protocol, server)
    result = client.infer(model(kind, shape), [tensor(protocol, "INPUT0", sent, kind)], outputs=[wanted(protocol, "OUTPUT0")])
    same(result.as_numpy("OUTPUT0"), sent)
    assert result.get_output("OUTPUT0")["datatype"] == kind if protocol == "http" else result.get_output("OUTPUT0").datatype == kind


@pytest.mark.parametrize("kind", IN_JSON)
@pytest.mark.parametrize("binary_out", (True, False), ids=("binary out", "JSON out"))
def test_json_data_comes_back_as_it_went(server, kind, binary_out):
    sent = EDGES[kind]
    client = connect("http", server)
    inputs = [tensor("http", "INPUT0", sent, kind, binary=False)]
    result = client.infer(model(kind), inputs, outputs=[wanted("http", "OUTPUT0", binary=binary_out)])
    got = result.as_numpy("OUTPUT0")
    if kind == "BYTES" and not binary_out:  # the client keeps JSON strings as text
        got = np.array([text.encode() for text in got], object)
    same(got, sent)


@pytest.mark.parametrize("kind", CONTENTS)
def test_typed_grpc_contents_come_back_as_raw_ones(server, kind):
    sent = EDGES[kind]
    request = service_pb2.ModelInferRequest(model_name=model(kind))
    one = request.inputs.add(name="INPUT0", datatype=kind, shape=sent.shape)
    getattr(one.contents, f"{CONTENTS[kind]}_contents").extend(sent.tolist())
    with grpc.insecure_channel(server.grpc_url) as channel:
        answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    raw = answer.raw_output_contents[0]
    if kind == "BYTES":
        assert raw == b"".join(len(item).to_bytes(4, "little") + item for item in sent)
    else:
        assert raw == sent.tobytes()


def test_bf16_keeps_its_bits(server):
    sent = np.array([1.5, 2.0**-120, np.inf], ml_dtypes.bfloat16).tobytes()
    request = service_pb2.ModelInferRequest(model_name="onnx_bf16", raw_input_contents=[sent])
    request.inputs.add(name="INPUT0", datatype="BF16", shape=[3])
    with grpc.insecure_channel(server.grpc_url) as channel:
        answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    assert answer.outputs[0].datatype == "BF16" and answer.raw_output_contents[0] == sent


@pytest.mark.parametrize("kind", ("FP16", "BF16"))
def test_half_precision_is_refused_in_json_and_says_so(server, kind):
    url = f"http://{server.url}/v2/models/{model(kind)}/infer"
    body = {"inputs": [{"name": "INPUT0", "shape": [1], "datatype": kind, "data": [1]}]}
    answer = requests.post(url, json=body)
    expected = f"receiving {kind} data via JSON is not supported. Please use the binary data format for input INPUT0"
    assert (answer.status_code, answer.json()) == (400, {"error": expected})


@pytest.mark.parametrize("protocol", ("http", "grpc"))
@pytest.mark.parametrize("kind", ("FP32", "BYTES"))
def test_no_elements_are_an_answer_too(server, protocol, kind):
    sent = np.array([], EDGES[kind].dtype)
    result = connect(protocol, server).infer(model(kind), [tensor(protocol, "INPUT0", sent, kind)])
    assert result.as_numpy("OUTPUT0").shape == (0,)
