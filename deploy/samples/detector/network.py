"""A small convolutional network in numpy: forward, backward, Adam, and the same network as nodes of an ONNX graph.

Pictures are [batch, height, width, channels] here and [batch, channels, height, width] in the graph.
"""

import numpy as np
from onnx import helper, numpy_helper


class Conv:
    """A convolution. Kernel 1 or 3 (padded by 1), or as large as the stride: patches that do not overlap.

    With `normal` its outputs are normalised over the batch, scaled and cut off below 0; trained, that is a bias and a ReLU.
    """

    def __init__(self, rng, channels, filters, kernel, stride=1, normal=True):
        self.kernel, self.stride, self.normal = kernel, stride, normal
        self.padding = 1 if kernel == 3 else 0
        fan = kernel * kernel * channels
        self.weight = rng.normal(0, np.sqrt((2 if normal else 0.1) / fan), (fan, filters)).astype(np.float32)  # rows: y, x, channel
        self.bias = np.zeros(filters, np.float32)
        self.scale = np.ones(filters, np.float32)
        self.seen = None  # mean and deviation, over the last batches

    def learned(self):
        return [self.weight, self.bias, self.scale] if self.normal else [self.weight, self.bias]

    def windows(self, shape):
        """For each place of the kernel: which pixels of the padded picture it meets."""
        height, width = ((side + 2 * self.padding - self.kernel) // self.stride + 1 for side in shape[1:3])
        for y in range(self.kernel):
            for x in range(self.kernel):
                yield np.s_[:, y : y + self.stride * (height - 1) + 1 : self.stride, x : x + self.stride * (width - 1) + 1 : self.stride]

    def forward(self, x):
        p = self.padding
        padded = np.pad(x, ((0, 0), (p, p), (p, p), (0, 0))) if p else x
        self.shape = padded.shape
        self.columns = np.concatenate([padded[at] for at in self.windows(x.shape)], axis=-1) if self.kernel > 1 else x
        y = self.columns @ self.weight
        if not self.normal:
            return y + self.bias
        rows = y.reshape(-1, y.shape[-1])
        mean = rows.mean(axis=0)
        rows -= mean
        self.deviation = np.sqrt(np.einsum("nc,nc->c", rows, rows) / len(rows) + 1e-4)
        rows /= self.deviation
        self.rows = rows
        now = mean, self.deviation
        self.seen = now if self.seen is None else [0.95 * before + 0.05 * value for before, value in zip(self.seen, now)]
        y = np.maximum(y * self.scale + self.bias, 0)
        self.active = y > 0
        return y

    def backward(self, dy, wants_input=True):
        """Leaves the gradients of what is learned here; returns that of the input."""
        if self.normal:
            dy = dy * self.active
        rows = dy.reshape(-1, dy.shape[-1])
        gradients = [rows.sum(axis=0)]
        if self.normal:
            gradients.append(np.einsum("nc,nc->c", rows, self.rows))
            dbias, dscale = (gradient / len(rows) for gradient in gradients)
            rows = (rows - dbias - self.rows * dscale) * (self.scale / self.deviation)
            dy = rows.reshape(dy.shape)
        self.gradients = [self.columns.reshape(len(rows), -1).T @ rows, *gradients]
        if not wants_input:
            return None
        dcolumns = dy @ self.weight.T
        if self.kernel == 1:
            return dcolumns
        channels, p = self.shape[3], self.padding
        dx = np.zeros(self.shape, np.float32)
        inner = (0, self.shape[1] - 2 * p, self.shape[2] - 2 * p)
        for number, at in enumerate(self.windows(inner)):
            dx[at] += dcolumns[..., number * channels : (number + 1) * channels]
        return dx[:, p : dx.shape[1] - p, p : dx.shape[2] - p] if p else dx

    def nodes(self, name, x):
        """Nodes and constants of this layer as it was trained, and the name of what comes out."""
        weight, bias = self.weight, self.bias
        if self.normal:
            mean, deviation = self.seen
            weight, bias = weight * (self.scale / deviation), bias - mean * (self.scale / deviation)
        weight = weight.reshape(self.kernel, self.kernel, -1, bias.size).transpose(3, 2, 0, 1)
        constants = [numpy_helper.from_array(np.ascontiguousarray(value), f"{name}.{part}") for part, value in (("weight", weight), ("bias", bias))]
        inputs = [x, f"{name}.weight", f"{name}.bias"]
        conv = helper.make_node("Conv", inputs, [name], name=name, strides=[self.stride] * 2, pads=[self.padding] * 4)
        if not self.normal:
            return [conv], constants, name
        return [conv, helper.make_node("Relu", [name], [f"{name}.relu"])], constants, f"{name}.relu"


class Network:
    """A trunk whose picture becomes smaller step by step, and a head on three of its steps: strides 8, 16 and 32."""

    def __init__(self, seed, outputs):
        rng = np.random.default_rng(seed)
        self.stem = Conv(rng, 3, 16, 4, 4)
        self.stages = [
            [Conv(rng, 16, 24, 3, 2), Conv(rng, 24, 24, 3), Conv(rng, 24, 32, 3)],
            [Conv(rng, 32, 32, 3, 2), Conv(rng, 32, 40, 3)],
            [Conv(rng, 40, 40, 3, 2), Conv(rng, 40, 48, 3)],
        ]
        self.heads = [Conv(rng, filters, outputs, 1, normal=False) for filters in (32, 40, 48)]

    def layers(self):
        return [self.stem, *(layer for stage in self.stages for layer in stage), *self.heads]

    def forward(self, pictures):
        """Raw outputs of the three heads."""
        x, raw = self.stem.forward(4 * pictures - 2), []
        for stage, head in zip(self.stages, self.heads):
            for layer in stage:
                x = layer.forward(x)
            raw.append(head.forward(x))
        return raw

    def backward(self, draw):
        dx = None
        for stage, head, dy in reversed(list(zip(self.stages, self.heads, draw))):
            from_head = head.backward(dy)
            dx = from_head if dx is None else dx + from_head
            for layer in reversed(stage):
                dx = layer.backward(dx)
        self.stem.backward(dx, wants_input=False)


class Adam:
    def __init__(self, layers):
        self.layers = layers
        self.moments = [[(np.zeros_like(value), np.zeros_like(value)) for value in layer.learned()] for layer in layers]
        self.step = 0

    def update(self, rate):
        self.step += 1
        for layer, moments in zip(self.layers, self.moments):
            for value, gradient, (mean, square) in zip(layer.learned(), layer.gradients, moments):
                mean += 0.1 * (gradient - mean)
                square += 0.01 * (gradient * gradient - square)
                size = np.sqrt(square / (1 - 0.99**self.step)) + 1e-8
                value -= rate * (mean / (1 - 0.9**self.step)) / size
