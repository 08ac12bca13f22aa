"""Packages of AOTInductor for a check by hand, for they need a newer PyTorch than Debian's, and gigabytes of its dependencies:

    python -m venv target/torch && target/torch/bin/pip install torch==2.12.1 numpy
    target/torch/bin/python e2e/models/torch_packages.py target/torch/packages
    export TORCH_DIR=$PWD/$(echo target/torch/lib/python3.*/site-packages/torch)
    deploy/shims/build torch target/torch/libtriton_torch_shim.so
    TORCH_SHIM_PATH=$PWD/target/torch/libtriton_torch_shim.so TORCH_PACKAGES=$PWD/target/torch/packages cargo test -p server-backends pytorch
"""

import sys
from pathlib import Path

import torch
from torch import nn


class Linear(nn.Module):
    """Rows of 4 numbers to rows of 3."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        with torch.no_grad():
            self.linear.weight.copy_(torch.arange(12.0).reshape(3, 4))
            self.linear.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x):
        return self.linear(x)


class Nested(nn.Module):
    """Arguments and outputs in tuples and dictionaries."""

    def forward(self, first, options, *, scale):
        return {"sum": first + options["keyA"], "more": (first * scale, {"same": options["key2"]})}


class Writes(nn.Module):
    """Adds one to its argument, in place."""

    def forward(self, x):
        x.add_(1)
        return x * 2


def make(folder):
    folder.mkdir(parents=True, exist_ok=True)
    two = torch.zeros(2)
    rows = {0: torch.export.Dim("rows", min=1, max=64)}
    exported = {
        "linear": torch.export.export(Linear().eval(), (torch.zeros(2, 4),), dynamic_shapes=(rows,)),
        "nested": torch.export.export(Nested(), (two, {"keyA": two.clone(), "key2": two.clone()}), {"scale": two.clone()}),
        "writes": torch.export.export(Writes(), (torch.zeros(2),)),
    }
    for name, program in exported.items():
        torch._inductor.aoti_compile_and_package(program, package_path=str(folder / f"{name}.pt2"))


if __name__ == "__main__":
    with torch.no_grad():
        make(Path(sys.argv[1]))
