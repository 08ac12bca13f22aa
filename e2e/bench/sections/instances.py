"""Do two instances of a network get as much out of the processors as two threads that run it in a loop?"""

import contextlib
import os
import subprocess
import tempfile

import load
import make
import networks
import numpy as np
from serving import Server, program, runtime_library
from turns import Target, http_target, in_turns, each

COUNT = 2
CALLERS = 2 * COUNT  # so that no instance waits for a caller


def measure(table, options):
    random = np.random.default_rng(0)
    inputs = {
        "bert_mini": [("input_ids", random.integers(0, 1000, (1, 128), np.int64))],
        "resnet18": [("images", random.random((1, 3, 224, 224), np.float32))],
    }
    with contextlib.ExitStack() as stack:
        models = stack.enter_context(tempfile.TemporaryDirectory())
        write(models)
        server = stack.enter_context(Server(models, "--log-info=false"))
        for name in inputs:
            loop = Target("loop", CALLERS, lambda seconds, name=name: raw_loop(f"{models}/{name}/1/model.onnx", seconds))
            rounds = in_turns([loop, http_target("server", server, name, inputs[name], CALLERS)], longer(options))
            table.requests(f"{name}: {COUNT} instances over HTTP beside {COUNT} threads in a loop", rounds)
            pairs = zip(each(rounds, "server", CALLERS, "rate"), each(rounds, "loop", CALLERS, "rate"))
            table.limit(f"{name}: runs per second, {COUNT} instances over {COUNT} threads in a loop", load.spread(a / b for a, b in pairs), 0.98, "times", at_least=True)


def longer(options):
    """Runs take milliseconds here: enough of them for a rate."""
    import copy

    options = copy.copy(options)
    options.seconds = max(options.seconds, 5)
    return options


def write(models):
    """Both networks, each with as many instances as the loop has threads, each on one thread."""
    more = f'instance_group [ {{ kind: KIND_CPU count: {COUNT} }} ]\nparameters {{ key: "intra_op_thread_count" value: {{ string_value: "1" }} }}\n'
    make.write(models, "bert_mini", make.onnx_config(8, [("input_ids", "INT64", [128])], [("pooled", "FP32", [256])], more), {1: networks.bert_mini()})
    make.write(models, "resnet18", make.onnx_config(8, [("images", "FP32", [3, 224, 224])], [("scores", "FP32", [1000])], more), {1: networks.resnet18()})


def raw_loop(model, seconds):
    """ONNX Runtime in as many threads, a session each."""
    command = [program("ort_loop"), runtime_library(), model, "1", str(seconds), str(COUNT)]
    before = os.times()
    median, _, rate = map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    after = os.times()
    runs = rate * seconds
    cpu = (after.children_user - before.children_user + after.children_system - before.children_system) * 1e6
    return load.Round(int(runs), seconds, median, median, cpu / runs)
