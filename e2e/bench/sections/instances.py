"""Do instances of a network get as much out of the processors as threads that run it in a loop?"""

import contextlib
import os
import subprocess
import tempfile

import load
import make
import networks
import numpy as np
from serving import Server, program, runtime_library
from turns import Target, each, http_target, in_turns, longer

COUNTS = (1, 2)  # one leaves the load generator a processor of its own


def measure(table, options):
    random = np.random.default_rng(0)
    inputs = {
        "bert_mini": [("input_ids", random.integers(0, 1000, (1, 128), np.int64))],
        "resnet18": [("images", random.random((1, 3, 224, 224), np.float32))],
    }
    with contextlib.ExitStack() as stack:
        models = stack.enter_context(tempfile.TemporaryDirectory())
        for count in COUNTS:
            write(models, count)
        server = stack.enter_context(Server(models, "--log-info=false"))
        for count in COUNTS:
            callers = 2 * count  # so that no instance waits for a caller
            for name in inputs:
                model = f"{name}_{count}"
                loop = Target("loop", callers, lambda seconds, model=model, count=count: raw_loop(f"{models}/{model}/1/model.onnx", seconds, count))
                rounds = in_turns([loop, http_target("server", server, model, inputs[name], callers)], longer(options, 5))
                many = "1 instance" if count == 1 else f"{count} instances"
                threads = "1 thread" if count == 1 else f"{count} threads"
                table.requests(f"{name}: {many} over HTTP beside {threads} in a loop", rounds)
                pairs = zip(each(rounds, "server", callers, "rate"), each(rounds, "loop", callers, "rate"))
                table.limit(f"{name}: runs per second, {many} over {threads} in a loop", load.spread(a / b for a, b in pairs), 0.98, "times", at_least=True)


def write(models, count):
    """Both networks, each with so many instances, each on one thread."""
    more = f'instance_group [ {{ kind: KIND_CPU count: {count} }} ]\nparameters {{ key: "intra_op_thread_count" value: {{ string_value: "1" }} }}\n'
    make.write(models, f"bert_mini_{count}", make.onnx_config(8, [("input_ids", "INT64", [128])], [("pooled", "FP32", [256])], more), {1: networks.bert_mini()})
    make.write(models, f"resnet18_{count}", make.onnx_config(8, [("images", "FP32", [3, 224, 224])], [("scores", "FP32", [1000])], more), {1: networks.resnet18()})


def raw_loop(model, seconds, threads):
    """ONNX Runtime in as many threads, a session each."""
    command = [program("ort_loop"), runtime_library(), model, "1", str(seconds), str(threads)]
    before = os.times()
    median, _, rate = map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    after = os.times()
    runs = rate * seconds
    cpu = (after.children_user - before.children_user + after.children_system - before.children_system) * 1e6
    return load.Round(int(runs), seconds, median, median, cpu / runs)
