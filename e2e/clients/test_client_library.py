"""What the client library's own example programs do, over both protocols: classes of pictures, objects that are used again, compression, model control."""

import asyncio
import gc

import graphs
import grpc
import make
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as grpcaio
import tritonclient.http as httpclient
import tritonclient.http.aio as httpaio
import tritonclient.utils.shared_memory as shm
from onnx import helper
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.http.auth import BasicAuth
from tritonclient.utils import InferenceServerException

from serving import Server
from talking import MODULES, PROTOCOLS, connect, tensor, wanted

CLASSES = 20
SIDE = 32


def classifier(shape_of_input):
    """Scores of a picture [n, 3, side, side]: a weighted mean of each color for each class."""
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("GlobalAveragePool", ["picture"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["scores"]),
    ]
    weights = rng.standard_normal((3, CLASSES)).astype(np.float32)
    return graphs.model(nodes, [graphs.value("picture", "FP32", shape_of_input)], [graphs.value("scores", "FP32", (shape_of_input[0], CLASSES))], weights=weights), weights


def integer_sums(root, name="simple"):
    """OUTPUT0 = INPUT0 + INPUT1, OUTPUT1 = INPUT0 - INPUT1, of 16 integers."""
    nodes = [helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]), helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"])]
    values = [[graphs.value(f"{side}{k}", "INT32", ("n", 16)) for k in range(2)] for side in ("INPUT", "OUTPUT")]
    config = make.onnx_config(8, *[[(f"{side}{k}", "INT32", [16]) for k in range(2)] for side in ("INPUT", "OUTPUT")])
    make.write(root, name, config, {1: graphs.model(nodes, *values)})


@pytest.fixture(scope="module")
def weights(folder):
    graph, weights = classifier(("n", 3, SIDE, SIDE))
    config = make.onnx_config(8, [("picture", "FP32", [3, SIDE, SIDE])], [("scores", "FP32", [CLASSES])]).replace(
        f"dims: [{CLASSES}] }}", f'dims: [{CLASSES}] label_filename: "labels.txt" }}'
    )
    place = make.write(folder, "classifier", config, {1: graph})
    (place / "labels.txt").write_text("".join(f"class {k}\n" for k in range(CLASSES)))
    # the same without a batch dimension: what the model wants beyond the picture's own dimensions is reshaped in
    graph, _ = classifier((1, 3, SIDE, SIDE))
    shaped = config.replace("max_batch_size: 8", "max_batch_size: 0").replace(f"dims: [3, {SIDE}, {SIDE}]", f"dims: [3, {SIDE}, {SIDE}] format: FORMAT_NCHW reshape {{ shape: [ 1, 3, {SIDE}, {SIDE} ] }}")
    place = make.write(folder, "one_picture", shaped.replace(f"dims: [{CLASSES}]", f"dims: [{CLASSES}] reshape {{ shape: [ 1, {CLASSES} ] }}"), {1: graph})
    (place / "labels.txt").write_text("".join(f"class {k}\n" for k in range(CLASSES)))
    integer_sums(folder)
    return weights


@pytest.fixture(scope="module")
def server(folder, weights):
    with Server(folder, "--allow-client-shm=true") as running:
        yield running


@pytest.fixture(params=PROTOCOLS)
def protocol(request):
    return request.param


def pictures(rows, seed=0):
    return np.random.default_rng(seed).random((rows, 3, SIDE, SIDE), np.float32)


def best(scores, count):
    """What Triton says of the best classes of one row: value, index and label, the best first."""
    order = np.argsort(-scores, kind="stable")[:count]
    return [(int(k), f"class {k}") for k in order]


def said(row):
    """Index and label of each class of one row of an answer."""
    texts = [text.decode() if isinstance(text, bytes) else text for text in row]
    return [(int(index), label) for _, index, label in (text.split(":") for text in texts)]


def test_pictures_are_classified_in_batches(server, weights, protocol):
    data = pictures(5)
    scores = data.mean((2, 3)) @ weights
    with connect(protocol, server) as client:
        inputs, outputs = [tensor(protocol, "picture", data, "FP32")], [wanted(protocol, "scores", class_count=3)]
        answers = [client.infer("classifier", inputs, outputs=outputs)]
        if protocol == "http":
            answers += [one.get_result() for one in [client.async_infer("classifier", inputs, outputs=outputs) for _ in range(3)]]
    for answer in answers:
        rows = answer.as_numpy("scores")
        assert rows.shape == (5, 3)
        assert [said(row) for row in rows] == [best(row, 3) for row in scores]


def test_one_picture_is_classified_by_a_model_without_batches(server, weights, protocol):
    data = pictures(1)
    with connect(protocol, server) as client:
        config = client.get_model_config("one_picture", **({"as_json": True} if protocol == "grpc" else {}))
        one = (config["config"] if protocol == "grpc" else config)["input"][0]
        assert one["format"] == "FORMAT_NCHW" and [int(d) for d in one["dims"]] == [3, SIDE, SIDE]
        answer = client.infer("one_picture", [tensor(protocol, "picture", data[0], "FP32")], outputs=[wanted(protocol, "scores", class_count=2)])
    assert answer.as_numpy("scores").shape == (2,)
    assert said(answer.as_numpy("scores")) == best(data.mean((2, 3))[0] @ weights, 2)


def ask(client, inputs, outputs, first, second):
    """Sums and differences that `simple` answers to the two arrays, which the inputs hold in some way."""
    answer = client.infer("simple", inputs, outputs=outputs)
    return answer, first + second, first - second


def test_objects_of_a_request_are_used_again_in_every_way(server, protocol):
    """Data in the request, in shared memory, in the request again: the same objects, changed in between."""
    first, second = np.arange(16, dtype=np.int32).reshape(1, 16), np.full((1, 16), 3, np.int32)
    client = connect(protocol, server)
    inputs = [MODULES[protocol].InferInput(f"INPUT{k}", [1, 16], "INT32") for k in range(2)]
    outputs = [MODULES[protocol].InferRequestedOutput(f"OUTPUT{k}") for k in range(2)]
    handles = [shm.create_shared_memory_region(f"again_{protocol}_{side}", f"/e2e_again_{protocol}_{side}", 128) for side in ("in", "out")]
    try:
        for side, handle in zip(("in", "out"), handles, strict=True):
            client.register_system_shared_memory(f"again_{protocol}_{side}", f"/e2e_again_{protocol}_{side}", 128)
        for round_ in range(3):
            inputs[0].set_data_from_numpy(first + round_)
            inputs[1].set_data_from_numpy(second)
            answer, plus, minus = ask(client, inputs, outputs, first + round_, second)
            assert (answer.as_numpy("OUTPUT0") == plus).all() and (answer.as_numpy("OUTPUT1") == minus).all()
            shm.set_shared_memory_region(handles[0], [first * round_, second])
            for k in range(2):
                inputs[k].set_shared_memory(f"again_{protocol}_in", 64, 64 * k)
                outputs[k].set_shared_memory(f"again_{protocol}_out", 64, 64 * k)
            answer, plus, minus = ask(client, inputs, outputs, first * round_, second)
            written = [shm.get_contents_as_numpy(handles[1], np.int32, [1, 16], 64 * k) for k in range(2)]
            assert (written[0] == plus).all() and (written[1] == minus).all()
            for k in range(2):
                outputs[k].unset_shared_memory()
        del written
        gc.collect()  # views of the region, which would outlive it
    finally:
        client.unregister_system_shared_memory()
        for handle in handles:
            shm.destroy_shared_memory_region(handle)
        client.close()


@pytest.mark.parametrize("there", (None, "gzip", "deflate"))
@pytest.mark.parametrize("back", (None, "gzip", "deflate"))
def test_bodies_are_compressed_both_ways(server, there, back):
    first, second = np.arange(16, dtype=np.int32).reshape(1, 16), np.ones((1, 16), np.int32)
    with connect("http", server) as client:
        inputs = [tensor("http", "INPUT0", first, "INT32"), tensor("http", "INPUT1", second, "INT32", binary=False)]
        outputs = [wanted("http", "OUTPUT0"), wanted("http", "OUTPUT1", binary=False)]
        answer = client.infer("simple", inputs, outputs=outputs, request_compression_algorithm=there, response_compression_algorithm=back)
    assert (answer.as_numpy("OUTPUT0") == first + 1).all() and (answer.as_numpy("OUTPUT1") == first - 1).all()


@pytest.mark.parametrize("algorithm", ("gzip", "deflate"))
def test_messages_are_compressed(server, algorithm):
    first, second = np.arange(16, dtype=np.int32).reshape(1, 16), np.ones((1, 16), np.int32)
    with connect("grpc", server, channel_args=[("grpc.max_receive_message_length", 1 << 20), ("grpc.keepalive_time_ms", 2**31 - 1)]) as client:
        answer = client.infer("simple", [tensor("grpc", "INPUT0", first, "INT32"), tensor("grpc", "INPUT1", second, "INT32")], compression_algorithm=algorithm, headers={"test": "1"})
    assert (answer.as_numpy("OUTPUT0") == first + 1).all()


def test_plain_stubs_and_contents_by_type(server):
    with grpc.insecure_channel(server.grpc_url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerLive(service_pb2.ServerLiveRequest()).live
        contents = [service_pb2.InferTensorContents(int_contents=range(16)), service_pb2.InferTensorContents(int_contents=[1] * 16)]
        inputs = [service_pb2.ModelInferRequest.InferInputTensor(name=f"INPUT{k}", datatype="INT32", shape=[1, 16], contents=it) for k, it in enumerate(contents)]
        outputs = [service_pb2.ModelInferRequest.InferRequestedOutputTensor(name=f"OUTPUT{k}") for k in range(2)]
        answer = stub.ModelInfer(service_pb2.ModelInferRequest(model_name="simple", model_version="", id="my request", inputs=inputs, outputs=outputs))
    assert np.frombuffer(answer.raw_output_contents[0], np.int32).tolist() == list(range(1, 17))
    assert answer.id == "my request"


def test_clients_of_asyncio(server):
    first, second = np.arange(16, dtype=np.int32).reshape(1, 16), np.ones((1, 16), np.int32)

    async def over(protocol):
        module = {"http": httpaio, "grpc": grpcaio}[protocol]
        async with module.InferenceServerClient(server.url if protocol == "http" else server.grpc_url) as client:
            assert await client.is_server_live() and await client.is_model_ready("simple")
            inputs = [tensor(protocol, "INPUT0", first, "INT32"), tensor(protocol, "INPUT1", second, "INT32")]
            answers = await asyncio.gather(*[client.infer("simple", inputs, request_id=str(k)) for k in range(8)])
            with pytest.raises(InferenceServerException, match="Request for unknown model: 'wrong' is not found"):
                await client.infer("wrong", inputs)
        assert all((answer.as_numpy("OUTPUT1") == first - 1).all() for answer in answers)

    async def both():
        await over("http")
        await over("grpc")

    asyncio.run(both())


def test_a_timeout_of_the_client_is_the_clients(tmp_path):
    make.identity(tmp_path, "slow", execute_delay_ms=2000)
    with Server(tmp_path) as server, connect("grpc", server) as client:
        inputs = [tensor("grpc", "INPUT0", np.zeros((1, 4), np.float32), "FP32")]
        with pytest.raises(InferenceServerException) as caught:
            client.infer("slow", inputs, client_timeout=0.1)
        assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
        assert client.infer("slow", inputs, client_timeout=60).as_numpy("OUTPUT0").shape == (1, 4)


def test_models_are_controlled_as_the_examples_do(folder, weights, protocol):
    with Server(folder, "--model-control-mode=explicit") as server, connect(protocol, server) as client:
        index = client.get_model_repository_index()
        assert len(index if protocol == "http" else index.models) == 3
        client.load_model("simple")
        assert client.is_model_ready("simple")
        with pytest.raises(InferenceServerException, match="failed to load"):
            client.load_model("simple", config='"parameters": {"config": {{"max_batch_size": "16"}}}')
        client.load_model("simple", config='{"max_batch_size":"16"}')
        config = client.get_model_config("simple")
        assert (config["max_batch_size"] if protocol == "http" else config.config.max_batch_size) == 16
        client.unload_model("simple")
        assert not client.is_model_ready("simple")
        with pytest.raises(InferenceServerException, match="failed to load 'simple', failed to poll from model repository: .*File name too long"):
            client.load_model("simple", config="{}", files={"file:" + "A" * 256: b"a"})
        with pytest.raises(InferenceServerException, match="failed to load 'nothing'"):
            client.load_model("nothing")
        assert client.is_server_live()


def test_what_the_server_tells_of_itself(server, protocol):
    form = {"as_json": True} if protocol == "grpc" else {}
    with connect(protocol, server) as client:
        metadata = client.get_server_metadata(**form)
        assert {"system_shared_memory", "cuda_shared_memory", "model_repository(unload_dependents)"} <= set(metadata["extensions"])
        assert client.get_model_metadata("simple", **form)["inputs"][0]["datatype"] == "INT32"
        assert client.get_inference_statistics("simple", **form)["model_stats"][0]["name"] == "simple"
        assert client.get_system_shared_memory_status(**form) in ([], {})
        assert client.get_cuda_shared_memory_status(**form) in ([], {})


def test_headers_of_a_plugin_reach_the_server(folder, weights):
    """A plugin of the client library adds headers to every request: enough for an endpoint that wants one."""
    with Server(folder, "--http-restricted-api=metadata:authorization=Basic dXNlcjpwYXNz") as server:
        with httpclient.InferenceServerClient(server.url) as client:
            with pytest.raises(InferenceServerException, match="This API is restricted"):
                client.get_server_metadata()
            client.register_plugin(BasicAuth("user", "pass"))
            assert client.get_server_metadata()["name"] == "triton"
