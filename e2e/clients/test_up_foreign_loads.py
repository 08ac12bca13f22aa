"""What somebody else has a server load is undone by whoever keeps its models: `triton-operator up` here, the agent in a pod."""

import json
import urllib.request

import graphs

from bringing_up import Up, write
from serving import until
from talking import connect
from test_up import SERVER, adder

CONFIG = {"backend": "onnxruntime", "max_batch_size": 0}


def post(url, body=b""):
    with urllib.request.urlopen(urllib.request.Request(url, data=body, method="POST"), timeout=30) as answer:
        return answer.read()


def test_models_that_somebody_else_loads_or_changes_are_as_their_resources_say_again(tmp_path):
    file = tmp_path / "all.yaml"
    write(file, SERVER, adder("one", 1))
    with Up(file) as up:
        up.wait_for("Ready: ")
        client = connect("http", up)
        own = client.get_model_config("one")
        index = f"http://{up.url}/v2/repository/index"
        asked = b'{"overrides": true}'

        def overrides():
            return [entry["override"] for entry in json.loads(post(index, asked)) if "override" in entry]

        graph = graphs.add(1000).SerializeToString()
        for load in (
            {"config": json.dumps({**CONFIG, "name": "one", "parameters": {"whose": {"string_value": "theirs"}}})},
            {"config": json.dumps(CONFIG), "files": {"file:1/model.onnx": graph}},
        ):
            client.load_model("one", **load)
            until(lambda: not overrides() and client.get_model_config("one") == own, "the model as it was", 20)
        assert "override" not in post(index).decode(), "clients of Triton are answered as before"

        client.load_model("theirs", config=json.dumps(CONFIG), files={"file:1/model.onnx": graph})
        until(lambda: not client.is_model_ready("theirs"), "the model to go", 20)
        assert client.is_model_ready("one")
