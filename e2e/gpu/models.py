"""Writes the models of e2e/gpu/run: networks on the GPU in several ways, and the same on the CPU to compare with. Usage: models.py FOLDER"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))

import make  # noqa: E402
import networks  # noqa: E402

CUDA = "optimization {{ execution_accelerators {{ gpu_execution_accelerator [ {{ name: \"cuda\" {parameters} }} ] }} }}\n"


def cuda(**options):
    listed = " ".join(f'parameters {{ key: "{key}" value: "{value}" }}' for key, value in options.items())
    return CUDA.format(parameters=listed)


def group(kind, count=1):
    return f"instance_group [ {{ kind: KIND_{kind} count: {count} }} ]\n"


def main(folder):
    exact = cuda(use_tf32="0")
    ways = {
        "bert_cpu": group("CPU"),
        "bert_gpu": group("GPU") + exact,
        "bert_gpu_two": group("GPU", 2) + exact,
        "bert_gpu_graph": group("GPU") + cuda(use_tf32="0", enable_cuda_graph="1"),
        "bert_gpu_small": group("GPU") + cuda(gpu_mem_limit=str(1 << 20)),
    }
    for name, more in ways.items():
        config = make.onnx_config(64, [("input_ids", "INT64", [128])], [("pooled", "FP32", [256])], more)
        make.write(folder, name, config, {1: networks.bert_mini()} if name == "bert_cpu" else {})


main(sys.argv[1])
