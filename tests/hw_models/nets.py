"""Small networks that between them hold every kind of row."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hw_models import Layer


class Mixed(nn.Module):
    """Stride, groups, depthwise, bias, concat, add, functional pools and relu, a linear layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=4, bias=False)
        self.depthwise = nn.Conv2d(12, 12, 5, padding=2, groups=12)
        self.point = nn.Conv2d(12, 8, 1, bias=False)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn(self.stem(x)))
        y = self.point(self.depthwise(F.relu(self.grouped(x))))
        y = y + x
        y = F.max_pool2d(y, 2)
        z = torch.cat([y, y * 2], 1).mean((2, 3))
        return self.head(z) + self.head(torch.sigmoid(z))


class ScatteredBranch(nn.Module):
    """What a shrunk residual network holds: a selection of channels and a branch added into some of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, padding=1, bias=False)
        self.branch = nn.Conv2d(6, 4, 3, padding=1, bias=False)
        self.register_buffer("take", torch.arange(6))
        self.register_buffer("put", torch.tensor([0, 2, 5, 9]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x.index_add(1, self.put, self.branch(x.index_select(1, self.take)))


def forward_macs(layers: list[Layer]) -> int:
    """Forward MACs per image of a network."""
    return sum(layer.macs for layer in layers)
