"""Small networks for the precision tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Small(nn.Module):
    """Conv, grouped conv with bias, strided 1x1, Linear: every kind of layer that is covered, and BatchNorm."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.body = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=4)
        self.bn2 = nn.BatchNorm2d(16)
        self.point = nn.Conv2d(16, 12, 1, bias=False)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.stem(x)))
        x = torch.relu(self.bn2(self.body(x)))
        return self.fc(self.point(x).mean((2, 3)))


LAYERS = ["stem", "body", "point", "fc"]


def batch(n: int = 6, seed: int = 1) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, 8, 8, generator=g), torch.randint(0, 5, (n,), generator=g)


def gradients(model: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    """Loss, then the gradient of the input and of every parameter."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    model.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    return [t.detach().clone() for t in (loss, x.grad, *(p.grad for p in model.parameters())) if t is not None]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(s, t) for s, t in zip(a, b, strict=True))


def train(model: nn.Module, placement: object, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        placement.set_step(step)  # type: ignore[attr-defined]
        gradients(model, *batch(seed=step))
        optimizer.step()
