"""Trains the digits model: handwritten digits of 8x8 grey values in, probabilities and the likeliest digit out.

Data: the 1,797 digits that scikit-learn carries with it. Four fifths train a small network, one fifth is held back; the accuracy on the held
part is printed and the held digits are written to held.csv (64 grey values, then the true digit), so that a client can send digits the model
has never seen. Run by hand, with e2e/env done: .venv/bin/python deploy/samples/digits/train.py
"""

import base64
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

HERE = Path(__file__).resolve().parent
GREYS = 16.0


def main():
    digits = load_digits()
    train_x, held_x, train_y, held_y = train_test_split(
        digits.data.astype(np.float32), digits.target, test_size=0.2, random_state=7, stratify=digits.target
    )
    network = MLPClassifier(hidden_layer_sizes=(32,), alpha=1e-3, max_iter=600, random_state=7)
    network.fit(train_x / GREYS, train_y)

    model = to_onnx(network)
    onnx.save(model, HERE / "model.onnx")
    (HERE / "configmap.yaml").write_text(config_map((HERE / "model.onnx").read_bytes()))
    np.savetxt(HERE / "held.csv", np.column_stack([held_x, held_y]), fmt="%d", delimiter=",")

    right = run(model, held_x)[1].ravel() == held_y
    assert (right == (network.predict(held_x / GREYS) == held_y)).all(), "the exported graph must answer as the trained network does"
    print(f"trained on {len(train_y)} digits; {right.sum()} of {len(held_y)} held digits right: accuracy {right.mean():.4f}")


def to_onnx(network):
    """The trained network as a graph: scale, hidden layer, output layer, softmax, and the likeliest class."""
    (hidden_w, output_w), (hidden_b, output_b) = network.coefs_, network.intercepts_
    constants = {
        "greys": np.array([GREYS], np.float32),
        "hidden_w": hidden_w.astype(np.float32),
        "hidden_b": hidden_b.astype(np.float32),
        "output_w": output_w.astype(np.float32),
        "output_b": output_b.astype(np.float32),
    }
    nodes = [
        helper.make_node("Div", ["pixels", "greys"], ["scaled"]),
        helper.make_node("Gemm", ["scaled", "hidden_w", "hidden_b"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "output_w", "output_b"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["scores"], ["digit"], axis=1, keepdims=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 64])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10]),
            helper.make_tensor_value_info("digit", TensorProto.INT64, ["batch", 1]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="digits/train.py")
    onnx.checker.check_model(model)
    return model


def config_map(content):
    """The model file as a resource: what `kubectl create configmap digits-model --from-file=model.onnx --dry-run=client -o yaml` makes.
    In one line, as API servers keep it: with line breaks every apply would find a difference."""
    return (
        "# Written by train.py: model.onnx as a resource, small enough for a ConfigMap.\n"
        f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: digits-model\nbinaryData:\n  model.onnx: {base64.b64encode(content).decode()}\n"
    )


def run(model, pixels):
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"pixels": pixels})


if __name__ == "__main__":
    main()
