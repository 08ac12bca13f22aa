"""TorchScript files for the tests of the pytorch backend, one class each. Needs PyTorch, so the interpreter of the system makes them:
/usr/bin/python3 e2e/models/torchscript.py FOLDER LIBRARY. LIBRARY has the operation of torch_operations.cpp. The server learns nothing of them but
the files."""

import sys
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import torch
from torch import Tensor, nn


class AddSub(nn.Module):
    def forward(self, INPUT0: Tensor, INPUT1: Tensor) -> Tuple[Tensor, Tensor]:
        return INPUT0 + INPUT1, INPUT0 - INPUT1


class Twice(nn.Module):
    """Of any type that libtorch can add up."""

    def forward(self, x: Tensor) -> Tensor:
        return x + x


class Same(nn.Module):
    """Its outputs are its inputs, the second one without its first row."""

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        return x, x[1:]


class Dictionary(nn.Module):
    def forward(self, values: Dict[str, Tensor]) -> Tensor:
        return values["minuend"] - values["subtrahend"]


class Words(nn.Module):
    def forward(self, words: List[str]) -> Tuple[List[str], Tensor]:
        lengths: List[int] = []
        doubled: List[str] = []
        for word in words:
            doubled.append(word + word)
            lengths.append(len(word))
        return doubled, torch.tensor(lengths, dtype=torch.int64)


class Total(nn.Module):
    """A scalar."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum()


class Transposed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class WritesInput(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.add_(1)


class WritesView(nn.Module):
    """What it writes to is a part of its input, behind a call and a condition."""

    def first(self, x: Tensor) -> Tensor:
        return x[:, 0] if x.size(0) > 0 else x

    def forward(self, x: Tensor) -> Tensor:
        self.first(x).zero_()
        return x * 2


class KeepsInput(nn.Module):
    """Answers what it was given the time before."""

    def __init__(self):
        super().__init__()
        self.last = torch.zeros(1, 4)

    def forward(self, x: Tensor) -> Tensor:
        before = self.last
        self.last = x
        return before


class Counts(nn.Module):
    """Answers a buffer of its own, which the next run changes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(1, 1024))

    def forward(self, x: Tensor) -> Tensor:
        self.total += x
        return self.total


class Fails(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if bool((x < 0).any()):
            raise ValueError("a number is negative")
        return x


class Greedy(nn.Module):
    """As many mebibytes as the number in its input."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ones(int(x.sum()) * 1048576, dtype=torch.uint8)[:1].to(torch.float32)


class Segments(nn.Module):
    """The sum of each part of a flat row; parts lie between borders."""

    def forward(self, X: Tensor, BORDERS: Tensor) -> Tuple[Tensor, Tensor]:
        sums = torch.cat([torch.zeros(1), X.cumsum(0)])
        return sums[BORDERS[1:].to(torch.int64)] - sums[BORDERS[:-1].to(torch.int64)], X * 2


class Sums(nn.Module):
    """The sum of a sequence, kept by the server."""

    def forward(self, x: Tensor, start: Tensor, total: Tensor) -> Tuple[Tensor, Tensor]:
        total = torch.where(start > 0, torch.zeros_like(total), total) + x
        return total, total


class Controls(nn.Module):
    """What the server says of a sequence besides its number."""

    def forward(self, number: Tensor, start: Tensor, ready: Tensor, end: Tensor, identity: Tensor) -> Tensor:
        return torch.cat([number.to(torch.int64), start.to(torch.int64), ready.to(torch.int64), end.to(torch.int64), identity], 1)


class Plus(nn.Module):
    """Adds a number: a different one per version makes versions distinguishable."""

    def __init__(self, number: float):
        super().__init__()
        self.number = number

    def forward(self, INPUT0: Tensor) -> Tensor:
        return INPUT0 + self.number


class Scaled(nn.Module):
    """Calls an operation of a library that is no part of PyTorch."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.e2e.scaled(x, 3.0)


class Complex(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.complex(x, x)


class Sparse(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.to_sparse()


class Nested(nn.Module):
    """Rows of a length each."""

    def forward(self, x: Tensor) -> Tensor:
        return torch._nested_tensor_from_mask(torch.ones(2, 3, 4), torch.tensor([[True, True, False], [True, False, False]]))


class ManyTensors(nn.Module):
    def forward(self, x: Tensor) -> List[Tensor]:
        return [x, x]


class Number(nn.Module):
    def forward(self, x: Tensor) -> float:
        return float(x.sum())


class Named(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor, Dict[str, Tensor]]:
        return x, {"x": x}


class MaybeTensor(nn.Module):
    def forward(self, x: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        return x if mask is None else x * mask


class Linear(nn.Module):
    """Weights of 4 MiB."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1024, 1024)
        with torch.no_grad():
            self.linear.weight.copy_(torch.eye(1024) * 3)
            self.linear.bias.fill_(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class NoForward(nn.Module):
    @torch.jit.export
    def other(self, x: Tensor) -> Tensor:
        return x


class Classifier(nn.Module):
    """768 numbers of a text to probabilities of 10 classes: class k is the one whose number k is the largest."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(768, 10)
        with torch.no_grad():
            self.linear.weight.copy_(torch.eye(10, 768))
            self.linear.bias.zero_()

    def forward(self, embeddings: Tensor) -> Tensor:
        return torch.softmax(self.linear(embeddings), dim=1)


class RiskModel(nn.Module):
    """The mean of 50 features, between 0 and 1."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(50, 1)
        with torch.no_grad():
            self.linear.weight.fill_(1 / 50)
            self.linear.bias.zero_()

    def forward(self, features: Tensor) -> Tensor:
        return torch.sigmoid(self.linear(features))


SCRIPTED = (
    AddSub, Controls, Twice, Same, Dictionary, Words, Total, Transposed, WritesInput, WritesView, KeepsInput, Counts, Fails, Greedy, Segments, Sums, Complex,
    Sparse, Nested, ManyTensors, Number, Named, MaybeTensor, Linear, NoForward, Classifier, RiskModel,
)  # fmt: skip


def snake(name):
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def make(folder, library):
    folder.mkdir(parents=True, exist_ok=True)
    for kind in SCRIPTED:
        torch.jit.script(kind().eval()).save(str(folder / f"{snake(kind.__name__)}.pt"))
    for number in (1, 2, 3):
        torch.jit.script(Plus(number).eval()).save(str(folder / f"plus_{number}.pt"))
    torch.ops.load_library(library)
    torch.jit.script(Scaled().eval()).save(str(folder / "scaled.pt"))
    # traced models have arguments as well, and no types in their source
    torch.jit.trace(Classifier().eval(), torch.zeros(2, 768)).save(str(folder / "traced.pt"))


if __name__ == "__main__":
    make(Path(sys.argv[1]), sys.argv[2])
