"""OpenVINO alone, in a loop, on one thread: what the model itself costs, without a server around it.

Usage: openvino.py MODEL ROWS SECONDS, with the package of target/runtimes/openvino in PYTHONPATH. Prints the median and the mean of one run in
microseconds, and runs per second, as ort_loop does."""

import statistics
import sys
import time

sys.path.pop(0)  # this file has the name of the package
import numpy as np  # noqa: E402
import openvino as ov  # noqa: E402


def main(path, rows, seconds):
    core = ov.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1})
    request, port = compiled.create_infer_request(), compiled.input(0)
    shape = [rows, *(part.get_length() for part in list(port.partial_shape)[1:])]
    tensor = ov.Tensor(np.ones(shape, port.element_type.to_dtype()), shared_memory=True)
    for _ in range(3):
        request.infer([tensor], share_inputs=True, share_outputs=True)
    times, start = [], time.perf_counter()
    while time.perf_counter() - start < seconds:
        before = time.perf_counter()
        request.infer([tensor], share_inputs=True, share_outputs=True)
        times.append(time.perf_counter() - before)
    print(f"{statistics.median(times) * 1e6:.3f} {statistics.mean(times) * 1e6:.3f} {len(times) / sum(times):.3f}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
