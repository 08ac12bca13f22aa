"""libtorch alone, in a loop, on one thread: what the model itself costs, without a server around it.

Usage: /usr/bin/python3 pytorch.py MODEL ROWS SECONDS, with Debian's python3-torch. Prints the median and the mean of one run in microseconds, and
runs per second, as ort_loop does."""

import statistics
import sys
import time

import torch

EXTENTS = {"input_ids": ([128], torch.int64), "images": ([3, 224, 224], torch.float32)}


def main(path, rows, seconds):
    torch.set_num_threads(1)
    model = torch.jit.load(path)
    _, argument = model.forward.schema.arguments
    extents, kind = EXTENTS[argument.name]
    given = torch.ones([rows, *extents], dtype=kind)
    with torch.inference_mode():
        for _ in range(5):  # the first runs are for the executor to learn from
            model(given)
        times, start = [], time.perf_counter()
        while time.perf_counter() - start < seconds:
            before = time.perf_counter()
            model(given)
            times.append(time.perf_counter() - before)
    print(f"{statistics.median(times) * 1e6:.3f} {statistics.mean(times) * 1e6:.3f} {len(times) / sum(times):.3f}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
