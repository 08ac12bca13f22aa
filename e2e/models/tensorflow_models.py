"""Makes the TensorFlow models of the tests: a folder per model, with what belongs into a version folder.

As a program, in an environment with TensorFlow: python e2e/models/tensorflow_models.py FOLDER LIBRARY. LIBRARY has the operation of
tensorflow_operations.cc.
"""

import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import tensorflow as tf  # noqa: E402
from google.protobuf import text_format  # noqa: E402
from tensorflow.core.protobuf import saved_model_pb2  # noqa: E402

v1 = tf.compat.v1

TYPES = {
    "BOOL": tf.bool,
    "UINT8": tf.uint8,
    "UINT16": tf.uint16,
    "UINT32": tf.uint32,
    "UINT64": tf.uint64,
    "INT8": tf.int8,
    "INT16": tf.int16,
    "INT32": tf.int32,
    "INT64": tf.int64,
    "FP16": tf.float16,
    "FP32": tf.float32,
    "FP64": tf.float64,
    "BF16": tf.bfloat16,
    "STRING": tf.string,
}


def spec(shape, name, dtype=tf.float32):
    return tf.TensorSpec(shape, dtype, name=name)


def save(folder, module, signature):
    """One SavedModel whose default signature is `signature`, a function of `module`; or the signatures by name."""
    signatures = signature if isinstance(signature, dict) else {"serving_default": signature}
    tf.saved_model.save(module, str(folder / "model.savedmodel"), signatures=signatures)


def function(body, *inputs):
    """A signature: `body` takes the inputs by their names, and answers outputs by theirs."""
    module = tf.Module()
    module.body = tf.function(body, input_signature=inputs)
    return module, module.body


# === SavedModels ===


def add_sub(folder):
    def body(INPUT0, INPUT1):
        return {"OUTPUT0": INPUT0 + INPUT1, "OUTPUT1": INPUT0 - INPUT1}

    save(folder, *function(body, spec([None, 16], "INPUT0"), spec([None, 16], "INPUT1")))


def types(folder):
    """Gives every input back, of every type that a request can carry."""

    def body(**inputs):
        return {name.replace("IN", "OUT"): tf.identity(value) for name, value in inputs.items()}

    module = tf.Module()
    inputs = {f"IN_{word}": spec([None, None], f"IN_{word}", dtype) for word, dtype in TYPES.items()}
    module.body = tf.function(body)
    save(folder, module, module.body.get_concrete_function(**inputs))


def foreign(folder):
    """Takes complex numbers, which no request can carry."""
    save(folder, *function(lambda X: {"Y": tf.math.real(X)}, spec([None, 2], "X", tf.complex64)))


def shapes(folder):
    """A scalar, a tensor of any rank, and a vector whose length depends on values; without a batch dimension."""

    def body(SCALE, ANY, COUNT):
        return {"SCALED": SCALE * ANY, "TWICE": SCALE * 2.0, "RANGE": tf.range(COUNT[0])}

    save(folder, *function(body, spec([], "SCALE"), spec(None, "ANY"), spec([1], "COUNT", tf.int32)))


def words(folder):
    """Words of a row, joined, and the length of each."""

    def body(WORDS):
        return {"JOINED": tf.strings.reduce_join(WORDS, axis=1, separator=" ", keepdims=True), "LENGTHS": tf.strings.length(WORDS)}

    save(folder, *function(body, spec([None, None], "WORDS", tf.string)))


def table(folder):
    """Numbers of words, out of a file that belongs to the model; the loader of the library fills the table."""
    vocabulary = folder / "vocabulary.txt"
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary.write_text("zero\none\ntwo\n")

    class Table(tf.Module):
        def __init__(self):
            self.file = tf.saved_model.Asset(str(vocabulary))
            source = tf.lookup.TextFileInitializer(self.file, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER)
            self.table = tf.lookup.StaticHashTable(source, -1)

        @tf.function(input_signature=[spec([None, None], "WORD", tf.string)])
        def number(self, WORD):
            return {"NUMBER": self.table.lookup(WORD)}

    module = Table()
    save(folder, module, module.number)
    vocabulary.unlink()


def gather(folder):
    """Rows by their numbers: one that is not there is an error of the run."""
    rows = tf.constant([10.0, 20.0, 30.0])
    save(folder, *function(lambda INDEX: {"VALUE": tf.gather(rows, INDEX)}, spec([None, 1], "INDEX", tf.int32)))


def counter(folder):
    """How often the session ran, and what it was asked the time before: variables, one of which keeps an input."""

    class Counter(tf.Module):
        def __init__(self):
            self.runs = tf.Variable(0, dtype=tf.int32)
            self.last = tf.Variable(tf.zeros([64]))

        @tf.function(input_signature=[spec([64], "X")])
        def run(self, X):
            before = tf.identity(self.last)
            with tf.control_dependencies([before]):
                self.last.assign(X)
            return {"RUNS": tf.reshape(self.runs.assign_add(1), [1]), "BEFORE": before}

    module = Counter()
    save(folder, module, module.run)


def large(folder):
    """Sixteen mebibytes of weights."""
    module, signature = function(lambda X: {"Y": tf.matmul(X, weights)}, spec([None, 2048], "X"))
    module.weights = weights = tf.Variable(tf.zeros([2048, 2048]))
    save(folder, module, signature)


def passing(folder):
    """Gives its inputs back without touching them."""
    save(folder, *function(lambda X: {"Y": tf.raw_ops.Identity(input=X)}, spec([None, None], "X")))


def signatures(folder):
    """Two signatures, and none of the usual name."""
    module = tf.Module()
    module.twice = tf.function(lambda X: {"Y": X * 2.0}, input_signature=[spec([None, 1], "X")])
    module.square = tf.function(lambda X: {"Z": X * X}, input_signature=[spec([None, 1], "X")])
    save(folder, module, {"twice": module.twice, "square": module.square})


def tags(folder):
    """The graph of TensorFlow 1 under two tags, whose weight differs. Tensors of unknown shape in the second."""
    builder = v1.saved_model.builder.SavedModelBuilder(str(folder / "model.savedmodel"))
    for number, (tag, shape) in enumerate([("serve", [None, 2]), ("other", None)]):
        with v1.Session(graph=tf.Graph()) as session:
            x = v1.placeholder(tf.float32, shape, name="x")
            weight = v1.get_variable("weight", initializer=tf.constant(3.0), use_resource=False)
            y = tf.multiply(x, weight, name="y")
            session.run(v1.global_variables_initializer())
            definition = v1.saved_model.predict_signature_def({"X": x}, {"Y": y})
            signature = {"serving_default": definition}
            if number == 0:
                builder.add_meta_graph_and_variables(session, [tag], signature_def_map=signature)
            else:
                builder.add_meta_graph([tag], signature_def_map=signature)
    builder.save()


def accumulate(folder):
    """Sums up a sequence whose state the server keeps, and says what it heard of its beginning."""

    def body(INPUT, START, STATE):
        begun = tf.cast(START, tf.bool)
        total = tf.where(begun, tf.zeros_like(STATE), STATE) + INPUT
        return {"OUTPUT": tf.identity(total), "STATE_OUT": tf.identity(total)}

    save(folder, *function(body, spec([None, 1], "INPUT"), spec([None, 1], "START"), spec([None, 1], "STATE")))


def segments(folder):
    """Sums of rows of different lengths that lie end to end: ENDS says how many elements lie up to the end of each."""

    def body(X, ENDS):
        ends = tf.cast(tf.reshape(ENDS, [-1]), tf.int64)
        splits = tf.concat([[tf.constant(0, tf.int64)], ends], 0)
        return {"SUM": tf.reshape(tf.reduce_sum(tf.RaggedTensor.from_row_splits(X, splits), axis=1), [-1, 1]), "DOUBLED": 2.0 * X}

    save(folder, *function(body, spec([None], "X"), spec([None, 1], "ENDS")))


def prints(folder):
    """Says what it was asked."""

    def body(X):
        with tf.control_dependencies([tf.print("asked for", X)]):
            return {"Y": tf.identity(X)}

    save(folder, *function(body, spec([None, 1], "X")))


def scaled(folder):
    """Calls an operation of a library that is no part of TensorFlow, which lies beside the version folders of a model."""
    operation = tf.load_op_library(LIBRARY).e2e_scaled
    save(folder, *function(lambda X: {"Y": operation(x=X, factor=3.0)}, spec([None, 2], "X")))


def as_text(folder):
    """add_sub, whose file is written as text."""
    add_sub(folder)
    binary = folder / "model.savedmodel" / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(binary.read_bytes())
    binary.with_suffix(".pbtxt").write_text(text_format.MessageToString(model))
    binary.unlink()


# === GraphDefs ===


def write_graph(folder, graph):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.graphdef").write_bytes(graph.as_graph_def().SerializeToString())


def graph_add_sub(folder):
    with tf.Graph().as_default() as graph:
        first, second = (v1.placeholder(tf.int32, [None, 4], name=name) for name in ("INPUT0", "INPUT1"))
        tf.add(first, second, name="OUTPUT0")
        tf.subtract(first, second, name="OUTPUT1")
        tf.split(first, 2, axis=1, name="HALVES")
    write_graph(folder, graph)


def graph_variable(folder):
    """A variable of TensorFlow 1, which an operation named `init` sets, and each run changes in its place."""
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [], name="X")
        total = v1.get_variable("total", initializer=tf.constant(100.0), use_resource=False)
        v1.assign_add(total, x, name="SUM")
        v1.group(total.initializer, name="init")
    write_graph(folder, graph)
    (folder / "init_ops.json").write_text('{ "init_ops": [ "init" ] }\n')


# === both: the same as a SavedModel and as a GraphDef, side by side ===


def both(folder, body, **inputs):
    """`inputs`: shape and type by name. `body` takes tensors in that order, and answers outputs by name."""

    def by_name(**tensors):
        return body(*(tensors[name] for name in inputs))

    module = tf.Module()
    module.body = tf.function(by_name)
    save(folder, module, module.body.get_concrete_function(**{name: spec(shape, name, dtype) for name, (shape, dtype) in inputs.items()}))
    with tf.Graph().as_default() as graph:
        outputs = body(*(v1.placeholder(dtype, shape, name=name) for name, (shape, dtype) in inputs.items()))
        for name, output in outputs.items():
            tf.identity(output, name=name)
    write_graph(folder, graph)


def sums(folder):
    """add_sub of every type that can be added up, rows of any length, each in a folder of its own."""
    for word, dtype in TYPES.items():
        if word not in ("BOOL", "STRING"):
            inputs = {name: ([None, None], dtype) for name in ("INPUT0", "INPUT1")}
            both(folder / word.lower(), lambda one, other: {"OUTPUT0": one + other, "OUTPUT1": one - other}, **inputs)


def plus(folder):
    """Adds a number: a different one per version makes versions distinguishable."""
    for number in (1, 2, 3):
        both(folder / str(number), lambda one: {"OUTPUT0": one + float(number)}, INPUT0=([None, 4], tf.float32))


def controls(folder):
    """What the server says of a sequence besides its number."""

    def body(*tensors):
        return {"SEEN": tf.concat([tf.cast(one, tf.int64) for one in tensors], 1)}

    signals = {name: ([None, 1], tf.int32) for name in ("START", "READY", "END")}
    both(folder, body, INPUT=([None, 1], tf.float32), **signals, CORRID=([None, 1], tf.int64))


MODELS = [
    add_sub, types, foreign, shapes, words, table, gather, counter, large, passing, signatures, tags, accumulate, segments, prints, scaled, as_text,
    graph_add_sub, graph_variable, sums, plus, controls,
]  # fmt: skip
LIBRARY = None


def make(folder, library):
    global LIBRARY
    folder, LIBRARY = Path(folder), library
    shutil.rmtree(folder, ignore_errors=True)
    for model in MODELS:
        model(folder / model.__name__)


if __name__ == "__main__":
    make(*sys.argv[1:3])
