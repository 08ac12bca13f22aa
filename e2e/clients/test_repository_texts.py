"""What people write into model repositories and load requests: any encoding, lenient JSON, scalars, tensors of any rank, paths, large numbers."""

import json
from pathlib import Path

import graphs
import make
import numpy as np
import pytest
import tritonclient.http as http
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

from serving import Server, runtime_library

IDENTITY = """backend: "identity"
input [ { name: "INPUT0" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "labels.txt" } ]
"""
LABELS = b"caf\xe9\r\n\xc4\xa3\nc\n"
ENCODINGS = {
    "gbk_comment": b"# \xc4\xa3\xd0\xcd\n" + IDENTITY.encode(),
    "latin_comment": IDENTITY.encode() + b"# fin\xe9\n",
    "latin_value": IDENTITY.encode() + b'parameters { key: "note" value { string_value: "\xe9" } }\n',
}


def shapeless(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def any_rank():
    """Y = -X of a shape the file does not declare."""
    graph = helper.make_graph([helper.make_node("Neg", ["X"], ["Y"])], "graph", [shapeless("X")], [shapeless("Y")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def add_scalar():
    """Y = X + T, T a scalar."""
    inputs = [graphs.value("X", "FP32", ["batch", 3]), graphs.value("T", "FP32", [])]
    return graphs.model([helper.make_node("Add", ["X", "T"], ["Y"])], inputs, [graphs.value("Y", "FP32", ["batch", 3])])


@pytest.fixture(scope="module", autouse=True)
def models(folder):
    for name, config in ENCODINGS.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_bytes(config)
        (folder / name / "labels.txt").write_bytes(LABELS)
    make.write(folder, "plain", 'backend: "onnxruntime"\n', {1: graphs.add(1)})
    make.write(folder, "scalar", make.onnx_config(0, [("X", "FP32", [-1, 3]), ("T", "FP32", [1, 1])], [("Y", "FP32", [-1, 3])]), {1: add_scalar()})
    make.write(folder, "any_rank", make.onnx_config(0, [("X", "FP32", [-1, 2, -1])], [("Y", "FP32", [-1, 2, -1])]), {1: any_rank()})
    make.write(folder, "no_shape", None, {1: any_rank()})
    library = f'model_operations {{ op_library_filename: "{Path(runtime_library()).resolve()}" }}\n'
    make.write(folder, "operators", 'backend: "onnxruntime"\n' + library, {1: graphs.add(1)})
    make.write(folder, "outside", 'backend: "onnxruntime"\ndefault_model_filename: "../../plain/1/model.onnx"\n', {1: None})
    levels = "dynamic_batching { priority_levels: %d default_priority_level: 2 }\n"
    for name, count in (("many_levels", 30_000_000), ("all_levels", 2**64 - 1)):
        make.write(folder, name, make.onnx_config(8, [("INPUT0", "FP32", [4])], [("OUTPUT0", "FP32", [4])], levels % count), {1: graphs.add(1)})


@pytest.fixture(scope="module")
def server(folder):
    with Server(folder, "--model-control-mode=explicit") as running:
        yield running


@pytest.fixture
def client(server):
    with http.InferenceServerClient(server.url, network_timeout=60, connection_timeout=60) as connected:
        yield connected


def reason(client, name):
    with pytest.raises(InferenceServerException):
        client.load_model(name)
    return next(one["reason"] for one in client.get_model_repository_index() if one["name"] == name)


def infer(client, name, **arrays):
    inputs = []
    for tensor, array in arrays.items():
        inputs.append(http.InferInput(tensor, array.shape, "FP32"))
        inputs[-1].set_data_from_numpy(array)
    return client.infer(name, inputs)


@pytest.mark.parametrize("name", ENCODINGS)
def test_texts_may_have_any_encoding(server, client, name):
    client.load_model(name)
    one = http.InferInput("INPUT0", [3], "FP32")
    one.set_data_from_numpy(np.array([3, 2, 1], np.float32))
    answer = client.infer(name, [one], outputs=[http.InferRequestedOutput("OUTPUT0", class_count=2)])
    assert list(answer.as_numpy("OUTPUT0")) == [b"3.000000:0:caf\xe9", b"2.000000:1:\xc4\xa3"], "bytes stay as they were"
    body = {
        "inputs": [{"name": "INPUT0", "shape": [3], "datatype": "FP32", "data": [3, 2, 1]}],
        "outputs": [{"name": "OUTPUT0", "parameters": {"classification": 1}}],
    }
    status, _, text = server.request("POST", f"/v2/models/{name}/infer", json.dumps(body))
    assert status == 200 and json.loads(text.decode())["outputs"][0]["data"] == ["3.000000:0:caf\ufffd"], "JSON is valid"
    assert json.loads(server.request("GET", f"/v2/models/{name}/config")[2].decode())["name"] == name


IO = '"output":[{"name":"OUTPUT0","data_type":"TYPE_FP32","dims":[4]}]'
FORMS = {
    "what Python prints": str({"backend": "onnxruntime", "max_batch_size": 4}),
    "trailing comma": '{"backend":"onnxruntime",}',
    "scalar for a list": '{"backend":"onnxruntime","max_batch_size":4,"input":[{"name":"INPUT0","data_type":"TYPE_FP32","dims":4}],%s}' % IO,
    "object for a list": '{"backend":"onnxruntime","max_batch_size":4,"input":{"name":"INPUT0","data_type":"TYPE_FP32","dims":[4]},%s}' % IO,
    "object of an instance group": '{"backend":"onnxruntime","instance_group":{"kind":"KIND_CPU","count":1}}',
    "boolean as text": '{"backend":"onnxruntime","response_cache":{"enable":"false"}}',
    "lower-case enum": '{"backend":"onnxruntime","max_batch_size":4,"input":[{"name":"INPUT0","data_type":"type_fp32","dims":[4]}],%s}' % IO,
}


@pytest.mark.parametrize("form", FORMS)
def test_an_override_may_have_every_form_that_protobuf_reads(client, form):
    client.load_model("plain", config=FORMS[form])
    assert infer(client, "plain", INPUT0=np.ones((1, 4), np.float32)).as_numpy("OUTPUT0").tolist() == [[2] * 4]


def test_a_mistake_in_an_override_is_found_where_it_is(client):
    with pytest.raises(InferenceServerException, match="Invalid config override: line 1, column 2: no field 'bakend'"):
        client.load_model("plain", config='{"bakend":"onnxruntime"}')


def test_a_scalar_may_be_configured_with_any_number_of_ones(client):
    client.load_model("scalar")
    answer = infer(client, "scalar", X=np.ones((2, 3), np.float32), T=np.array([[4]], np.float32))
    assert answer.as_numpy("Y").tolist() == [[5] * 3] * 2


@pytest.mark.parametrize("shape", [(), (6,), (2, 3), (1, 2, 3)])
def test_a_tensor_of_any_rank_takes_any_shape_without_a_configuration(client, shape):
    client.load_model("no_shape")
    array = np.ones(shape, np.float32)
    answer = infer(client, "no_shape", X=array).as_numpy("Y")
    assert answer.shape == shape and (answer == -array).all()


@pytest.mark.parametrize("shape", [(1, 2, 3), (5, 2, 1)])
def test_a_tensor_of_any_rank_takes_the_configured_shape(client, shape):
    client.load_model("any_rank")
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    assert (infer(client, "any_rank", X=array).as_numpy("Y") == -array).all()


def test_libraries_of_operators_are_named_on_disk_and_not_over_the_network(client):
    library = str(Path(runtime_library()).resolve())
    assert "must lie in the model's folder" not in reason(client, "operators"), "the library is tried"
    with pytest.raises(InferenceServerException, match="copy it there and name it relative to the folder, or name it in the model's config.pbtxt"):
        client.load_model("plain", config=json.dumps({"backend": "onnxruntime", "model_operations": {"op_library_filename": [library]}}))


def test_a_model_file_outside_its_folder_is_refused_before_it_is_opened(client):
    assert reason(client, "outside") == "file '../../plain/1/model.onnx' must lie in the model's folder for outside"


@pytest.mark.parametrize("name", ["many_levels", "all_levels"])
def test_priority_levels_cost_nothing_until_they_are_used(server, client, name):
    client.load_model(name)
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    assert peak < 1_000_000, f"{peak} kB"
    one = http.InferInput("INPUT0", [1, 4], "FP32")
    one.set_data_from_numpy(np.ones((1, 4), np.float32))
    for priority in (1, 29_999_999, 0):
        assert client.infer(name, [one], priority=priority).as_numpy("OUTPUT0").tolist() == [[2] * 4]
