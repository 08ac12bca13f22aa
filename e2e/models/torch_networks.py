"""The networks of networks.py for PyTorch, as TorchScript files: as many layers of the same sizes, with random weights. Needs PyTorch, so the
interpreter of the system makes them: /usr/bin/python3 e2e/models/torch_networks.py NAME FILE."""

import sys

import torch
from torch import nn


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.each = heads, width // heads
        self.query, self.key, self.value, self.mixed = (nn.Linear(width, width) for _ in range(4))
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)

    def split(self, x):
        return x.view(x.size(0), x.size(1), self.heads, self.each).transpose(1, 2)

    def forward(self, x):
        query, key, value = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = torch.matmul(query, key.transpose(2, 3)) * self.each**-0.5
        mixed = torch.matmul(torch.softmax(scores, 3), value).transpose(1, 2).reshape(x.size())
        x = self.first(x + self.mixed(mixed))
        return self.second(x + self.narrow(nn.functional.gelu(self.wide(x))))


class BertMini(nn.Module):
    """input_ids [batch, 128] to the mean of the last layer, [batch, 256]."""

    def __init__(self, tokens=128, layers=4, width=256, heads=4):
        super().__init__()
        self.words, self.places = nn.Embedding(1000, width), nn.Parameter(torch.randn(tokens, width))
        self.norm, self.layers = nn.LayerNorm(width), nn.Sequential(*(Layer(width, heads) for _ in range(layers)))

    def forward(self, input_ids):
        return self.layers(self.norm(self.words(input_ids % 1000) + self.places)).mean(1)


class Block(nn.Module):
    def __init__(self, into, out, stride):
        super().__init__()
        self.first, self.second = nn.Conv2d(into, out, 3, stride, 1), nn.Conv2d(out, out, 3, 1, 1)
        self.past = nn.Identity() if into == out else nn.Conv2d(into, out, 1, stride)

    def forward(self, x):
        return torch.relu(self.second(torch.relu(self.first(x))) + self.past(x))


class ResNet18(nn.Module):
    """The convolutions of ResNet-18, batch norms folded in: images [batch, 3, 224, 224] to scores [batch, 1000]."""

    def __init__(self):
        super().__init__()
        sizes = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1)]
        self.begin, self.pool = nn.Conv2d(3, 64, 7, 2, 3), nn.MaxPool2d(3, 2, 1)
        self.blocks, self.scores = nn.Sequential(*(Block(*size) for size in sizes)), nn.Linear(512, 1000)

    def forward(self, images):
        return self.scores(self.blocks(self.pool(torch.relu(self.begin(images)))).mean((2, 3)))


NETWORKS = {"bert_mini": BertMini, "resnet18": ResNet18}

if __name__ == "__main__":
    torch.manual_seed(0)
    torch.jit.script(NETWORKS[sys.argv[1]]().eval()).save(sys.argv[2])
