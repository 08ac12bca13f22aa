"""Do models of the other native runtimes get as much out of a processor as the same library in a loop, and where do they stand beside ONNX Runtime?"""

import contextlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import load
import make
import networks
import numpy as np
from runtimes import RUNTIMES
from serving import ROOT, Server, program, runtime_library
from turns import Target, each, http_target, in_turns, longer

SYSTEM_PYTHON = "/usr/bin/python3"  # Debian's, which has Debian's PyTorch
TENSORFLOW_PYTHON = RUNTIMES / "tensorflow/venv/bin/python"
CALLERS = 2  # the instance never waits for one
ROWS = {1: 4, 8: 6}  # rows of each request, so the batch of the loop is that of the server: seconds of a round
START = 120  # seconds in which a loop starts and makes its model ready
# network: its input (name, type, dims), its output, its graph
NETWORKS = {
    "bert_mini": (("input_ids", "INT64", [128]), ("pooled", "FP32", [256]), networks.bert_mini),
    "resnet18": (("images", "FP32", [3, 224, 224]), ("scores", "FP32", [1000]), networks.resnet18),
}


@dataclass(frozen=True)
class Runtime:
    """One runtime: on one thread, with one instance."""

    name: str
    library: str  # below target/runtimes
    write: Callable  # (folder, name of the model, network): makes the model
    loop: Callable  # (model, rows, seconds): the command of a program that prints what ort_loop prints


def measure(table, options):
    chosen = [runtime for runtime in LIST if not options.runtime or runtime.name in options.runtime]
    found = [runtime for runtime in chosen if library(runtime)]
    for runtime in [runtime for runtime in chosen if runtime not in found]:
        print(f"no {runtime.name}: e2e/runtimes/install puts it into target/runtimes", file=sys.stderr)
    with contextlib.ExitStack() as stack:
        models = stack.enter_context(tempfile.TemporaryDirectory())
        for runtime in found:
            for network in NETWORKS:
                runtime.write(models, f"{runtime.name}_{network}", network)
        flags = [f"--backend-config={runtime.name},library={library(runtime)}" for runtime in found if runtime.library]
        server = stack.enter_context(Server(models, "--log-info=false", *flags))
        for network, ((name, kind, dims), _, _) in NETWORKS.items():
            for rows in ROWS:
                inputs = [(name, np.ones((rows, *dims), {"INT64": np.int64, "FP32": np.float32}[kind]))]
                compare(table, options, server, models, found, network, rows, inputs)


def compare(table, options, server, models, runtimes, network, rows, inputs):
    """Every runtime in the server and in a loop, in turns."""
    targets = []
    for runtime in runtimes:
        model = f"{runtime.name}_{network}"
        loop = Target(f"{runtime.name} loop", CALLERS, lambda seconds, runtime=runtime, model=model: raw_loop(runtime, Path(models, model, "1"), rows, seconds))
        served = http_target(runtime.name, server, model, inputs, CALLERS)
        targets += [loop, served]
    rounds = in_turns(targets, longer(options, ROWS[rows]))
    table.requests(f"{network}: requests of {rows} rows over HTTP beside the same library in a loop", rounds)
    for runtime in runtimes:
        for field, what, limit, at_least in (("rate", "runs per second", 0.98, True), ("cpu", "CPU per run", 1.05, False)):
            pairs = zip(each(rounds, runtime.name, CALLERS, field), each(rounds, f"{runtime.name} loop", CALLERS, field))
            share = load.spread(one / other for one, other in pairs)
            table.limit(f"{network}, {rows} rows: {what} of {runtime.name} over its library in a loop", share, limit, "times", at_least=at_least)
        if runtime.name != "onnxruntime" and any(other.name == "onnxruntime" for other in runtimes):
            pairs = zip(each(rounds, runtime.name, CALLERS, "rate"), each(rounds, "onnxruntime", CALLERS, "rate"))
            table.figure(f"{runtime.name} over onnxruntime", load.spread(one / other for one, other in pairs).middle, "times", 2)


def raw_loop(runtime, folder, rows, seconds):
    """The library alone, on one thread, which computes all the time: a run costs as much of the processor as it lasts."""
    command, limit = runtime.loop(folder, rows, seconds), START + 2 * seconds
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(runtime), timeout=limit).stdout
    median, mean, rate = map(float, said.split())
    return load.Round(int(rate * seconds), seconds, median, median, mean)


def environment(runtime):
    return {**os.environ, "PYTHONPATH": str(RUNTIMES / runtime.name)}


def library(runtime):
    """Where its library lies; nothing if it is not there."""
    if not runtime.library:
        return runtime_library()
    return next(map(str, sorted(RUNTIMES.glob(runtime.library))), None)


def onnx_model(backend, more):
    """Writes a network as a model of ONNX for a backend."""

    def write(folder, name, network):
        given, made, graph = NETWORKS[network]
        config = make.onnx_config(8, [given], [made], f"instance_group [ {{ kind: KIND_CPU count: 1 }} ]\n{more}")
        make.write(folder, name, config.replace('"onnxruntime"', f'"{backend}"'), {1: graph()})

    return write


def torch_model(folder, name, network):
    """Writes a network as a TorchScript file."""
    given, made, _ = NETWORKS[network]
    listed = [make.tensor(*one) for one in (given, made)]
    more = "instance_group [ { kind: KIND_CPU count: 1 } ]\n" + one_thread("INTRA_OP_THREAD_COUNT")
    config = f'platform: "pytorch_libtorch"\nmax_batch_size: 8\ninput [ {listed[0]} ]\noutput [ {listed[1]} ]\n{more}'
    made = make.write(folder, name, config, {1: None})
    subprocess.run([SYSTEM_PYTHON, ROOT / "e2e/models/torch_networks.py", network, made / "1" / "model.pt"], check=True)


def tensorflow_model(folder, name, network):
    """Writes a network as a SavedModel."""
    given, made, _ = NETWORKS[network]
    threads = one_thread("TF_NUM_INTRA_THREADS") + one_thread("TF_NUM_INTER_THREADS")
    config = make.onnx_config(8, [given], [made], f"instance_group [ {{ kind: KIND_CPU count: 1 }} ]\n{threads}")
    made_in = make.write(folder, name, config.replace('backend: "onnxruntime"', 'platform: "tensorflow_savedmodel"'), {1: None}) / "1"
    subprocess.run([TENSORFLOW_PYTHON, ROOT / "e2e/models/tensorflow_networks.py", network, made_in], capture_output=True, check=True)


def one_thread(key):
    return f'parameters {{ key: "{key}" value: {{ string_value: "1" }} }}\n'


def loop_program(name, model, python=sys.executable):
    """A loop of e2e/bench/loops, for a model file."""
    return lambda folder, rows, seconds: [python, ROOT / "e2e/bench/loops" / f"{name}.py", folder / model, str(rows), str(seconds)]


# A further runtime is a further line.
LIST = [
    Runtime(
        "onnxruntime",
        "",
        onnx_model("onnxruntime", one_thread("intra_op_thread_count")),
        lambda folder, rows, seconds: [program("ort_loop"), runtime_library(), folder / "model.onnx", str(rows), str(seconds)],
    ),
    Runtime(
        "openvino",
        "openvino/openvino/libs/libopenvino_c.so.*",
        onnx_model("openvino", 'default_model_filename: "model.onnx"\n' + one_thread("INFERENCE_NUM_THREADS")),
        loop_program("openvino", "model.onnx"),
    ),
    Runtime(
        "tensorflow",
        "tensorflow/lib/libtensorflow_cc.so.2",
        tensorflow_model,
        loop_program("tensorflow", "model.savedmodel", TENSORFLOW_PYTHON),
    ),
    Runtime(
        "pytorch",
        "pytorch/libtriton_torch_shim.so",
        torch_model,
        loop_program("pytorch", "model.pt", SYSTEM_PYTHON),
    ),
]
