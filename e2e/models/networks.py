"""Networks of the size people serve, with random weights: what they compute is of no interest, how long they take is."""

import numpy as np
from onnx import helper

from graphs import model, value


class Builder:
    """Collects nodes and weights; each method adds one step and returns the name of its output."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.nodes, self.constants, self.count = [], {}, 0

    def name(self, stem):
        self.count += 1
        return f"{stem}_{self.count}"

    def constant(self, array, stem="c"):
        name = self.name(stem)
        self.constants[name] = array
        return name

    def weights(self, *shape, fan_in):
        return self.constant((self.random.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32), "w")

    def op(self, kind, *inputs, **attributes):
        name = self.name(kind.lower())
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def linear(self, x, rows, columns):
        product = self.op("MatMul", x, self.weights(rows, columns, fan_in=rows))
        return self.op("Add", product, self.constant(np.zeros(columns, np.float32), "b"))

    def norm(self, x, width):
        ones, zeros = self.constant(np.ones(width, np.float32)), self.constant(np.zeros(width, np.float32))
        return self.op("LayerNormalization", x, ones, zeros, axis=-1)

    def shaped(self, x, *shape):
        return self.op("Reshape", x, self.constant(np.array(shape, np.int64)))

    def finish(self, last, out, inputs, outputs):
        self.nodes.append(helper.make_node("Identity", [last], [out]))
        return model(self.nodes, inputs, outputs, **self.constants)


def bert_mini(tokens=128, layers=4, width=256, heads=4):
    """An encoder of the shape of BERT-mini: input_ids [batch, 128] to the mean of the last layer, pooled [batch, 256]."""
    b = Builder(4)
    row = b.op("Mod", "input_ids", b.constant(np.int64(1000)))
    x = b.op("Gather", b.weights(1000, width, fan_in=width), row, axis=0)
    x = b.norm(b.op("Add", x, b.weights(tokens, width, fan_in=width)), width)
    each = width // heads
    for _ in range(layers):
        q, k, v = (b.op("Transpose", b.shaped(b.linear(x, width, width), 0, tokens, heads, each), perm=[0, 2, 1, 3]) for _ in range(3))
        scores = b.op("MatMul", q, b.op("Transpose", k, perm=[0, 1, 3, 2]))
        scores = b.op("Mul", scores, b.constant(np.float32(1 / np.sqrt(each))))
        mixed = b.op("MatMul", b.op("Softmax", scores, axis=-1), v)
        mixed = b.shaped(b.op("Transpose", mixed, perm=[0, 2, 1, 3]), 0, tokens, width)
        x = b.norm(b.op("Add", x, b.linear(mixed, width, width)), width)
        wide = b.linear(x, width, 4 * width)
        bent = b.op("Add", b.op("Erf", b.op("Mul", wide, b.constant(np.float32(np.sqrt(0.5))))), b.constant(np.float32(1)))
        wide = b.op("Mul", b.op("Mul", wide, bent), b.constant(np.float32(0.5)))
        x = b.norm(b.op("Add", x, b.linear(wide, 4 * width, width)), width)
    pooled = b.op("ReduceMean", x, axes=[1], keepdims=0)
    return b.finish(pooled, "pooled", [value("input_ids", "INT64", ["batch", tokens])], [value("pooled", "FP32", ["batch", width])])


def resnet18():
    """The convolutions of ResNet-18, batch norms folded in: images [batch, 3, 224, 224] to scores [batch, 1000]."""
    b = Builder(5)

    def convolve(x, into, out, size, stride):
        pad = [size // 2] * 4
        bias = b.constant(np.zeros(out, np.float32), "b")
        return b.op("Conv", x, b.weights(out, into, size, size, fan_in=into * size * size), bias, strides=[stride] * 2, pads=pad, kernel_shape=[size] * 2)

    x = b.op("Relu", convolve("images", 3, 64, 7, 2))
    x = b.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    into = 64
    for out in (64, 128, 256, 512):
        for block in range(2):
            stride = 2 if block == 0 and out != 64 else 1
            y = b.op("Relu", convolve(x, into, out, 3, stride))
            y = convolve(y, out, out, 3, 1)
            past = x if into == out else convolve(x, into, out, 1, stride)
            x = b.op("Relu", b.op("Add", y, past))
            into = out
    x = b.op("Flatten", b.op("GlobalAveragePool", x), axis=1)
    scores = b.linear(x, 512, 1000)
    return b.finish(scores, "scores", [value("images", "FP32", ["batch", 3, 224, 224])], [value("scores", "FP32", ["batch", 1000])])
