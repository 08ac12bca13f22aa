"""TensorFlow alone, in a loop, on one thread: what the model itself costs, without a server around it.

Usage: tensorflow.py MODEL ROWS SECONDS, in the environment of target/runtimes/tensorflow. Prints the median and the mean of one run in microseconds,
and runs per second, as ort_loop does."""

import os
import statistics
import sys
import time

sys.path.pop(0)  # this file has the name of the package
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

v1 = tf.compat.v1


def main(path, rows, seconds):
    config = v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    with v1.Session(graph=tf.Graph(), config=config) as session:
        signature = v1.saved_model.load(session, ["serve"], path).signature_def["serving_default"]
        (given,), made = signature.inputs.values(), [one.name for one in signature.outputs.values()]
        tensor = session.graph.get_tensor_by_name(given.name)
        run = session.make_callable(made, [tensor])
        rows = np.ones([rows, *tensor.shape.as_list()[1:]], tensor.dtype.as_numpy_dtype)
        for _ in range(3):
            run(rows)
        times, start = [], time.perf_counter()
        while time.perf_counter() - start < seconds:
            before = time.perf_counter()
            run(rows)
            times.append(time.perf_counter() - before)
    print(f"{statistics.median(times) * 1e6:.3f} {statistics.mean(times) * 1e6:.3f} {len(times) / sum(times):.3f}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
