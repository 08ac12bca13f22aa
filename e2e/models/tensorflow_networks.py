"""The networks of networks.py as SavedModels of TensorFlow, with random weights.

As a program, in the environment of target/runtimes/tensorflow: python e2e/models/tensorflow_networks.py NETWORK FOLDER      (writes FOLDER/model.savedmodel)
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow_models as models

import tensorflow as tf


class Weights(tf.Module):
    """Variables of a network, made in the order in which it asks for them."""

    def __init__(self, seed):
        self.random, self.all = np.random.default_rng(seed), []

    def __call__(self, *shape, fan_in):
        self.all.append(tf.Variable((self.random.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)))
        return self.all[-1]


def bert_mini(tokens=128, layers=4, width=256, heads=4):
    """An encoder of the shape of BERT-mini: input_ids [batch, 128] to the mean of the last layer, pooled [batch, 256]."""
    weights, each = Weights(4), width // heads
    table, places = weights(1000, width, fan_in=width), weights(tokens, width, fan_in=width)
    matrices = [[weights(*shape, fan_in=shape[0]) for shape in [(width, width)] * 4 + [(width, 4 * width), (4 * width, width)]] for _ in range(layers)]

    def norm(x):
        mean, variance = tf.nn.moments(x, [-1], keepdims=True)
        return (x - mean) * tf.math.rsqrt(variance + 1e-5)

    def body(input_ids):
        x = norm(tf.gather(table, input_ids % 1000) + places)
        for query, key, value, out, wide, narrow in matrices:
            q, k, v = (tf.transpose(tf.reshape(tf.matmul(x, one), [-1, tokens, heads, each]), [0, 2, 1, 3]) for one in (query, key, value))
            scores = tf.nn.softmax(tf.matmul(q, k, transpose_b=True) / np.float32(np.sqrt(each)))
            mixed = tf.reshape(tf.transpose(tf.matmul(scores, v), [0, 2, 1, 3]), [-1, tokens, width])
            x = norm(x + tf.matmul(mixed, out))
            x = norm(x + tf.matmul(tf.nn.gelu(tf.matmul(x, wide)), narrow))
        return {"pooled": tf.reduce_mean(x, axis=1)}

    return weights, body, models.spec([None, tokens], "input_ids", tf.int64)


def resnet18():
    """The convolutions of ResNet-18, batch norms folded in: images [batch, 3, 224, 224] to scores [batch, 1000]."""
    weights = Weights(5)
    plan, into = [], 64

    def kernel(into, out, size):
        return weights(size, size, into, out, fan_in=into * size * size)

    first = kernel(3, 64, 7)
    for out in (64, 128, 256, 512):
        for block in range(2):
            stride = 2 if block == 0 and out != 64 else 1
            plan.append((stride, kernel(into, out, 3), kernel(out, out, 3), None if into == out else kernel(into, out, 1)))
            into = out
    last = weights(512, 1000, fan_in=512)

    def body(images):
        x = tf.nn.relu(tf.nn.conv2d(tf.transpose(images, [0, 2, 3, 1]), first, 2, "SAME"))
        x = tf.nn.max_pool2d(x, 3, 2, "SAME")
        for stride, one, two, past in plan:
            y = tf.nn.conv2d(tf.nn.relu(tf.nn.conv2d(x, one, stride, "SAME")), two, 1, "SAME")
            x = tf.nn.relu(y + (x if past is None else tf.nn.conv2d(x, past, stride, "SAME")))
        return {"scores": tf.matmul(tf.reduce_mean(x, axis=[1, 2]), last)}

    return weights, body, models.spec([None, 3, 224, 224], "images")


def make(network, folder):
    weights, body, given = {"bert_mini": bert_mini, "resnet18": resnet18}[network]()
    weights.body = tf.function(body, input_signature=[given])
    models.save(Path(folder), weights, weights.body)


if __name__ == "__main__":
    make(*sys.argv[1:])
