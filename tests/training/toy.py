"""A small network and a small dataset with the interface of `ebsim.data`, for tests of the training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


class ToyData:
    """Three classes of noisy 6x6 patterns; the order of an epoch is a function of (seed, epoch)."""

    name, label, classes, shape = "toy", "toy patterns", 3, (3, 6, 6)
    train_images, test_images, digest = 45, 18, "0" * 64

    def __init__(self, poison: tuple[int, int] | None = None) -> None:
        generator = torch.Generator().manual_seed(0)
        centres = torch.randn(3, 3, 6, 6, generator=generator)
        self.y = torch.arange(self.train_images + self.test_images) % 3
        self.x = centres[self.y] + 0.5 * torch.randn(len(self.y), 3, 6, 6, generator=generator)
        self.poison = poison  # (epoch, batch) whose images become NaN
        self.served: list[int] = []  # images of every training batch really handed out

    def train_batches(
        self,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        memory_format: torch.memory_format,
        skip: int = 0,
        part: Callable[[int], slice] = lambda images: slice(0, images),
    ) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed * 1000 + epoch)
        order = torch.randperm(self.train_images, generator=generator)
        for number, index in list(enumerate(order.split(batch_size)))[skip:]:
            x = self.x[index].contiguous(memory_format=memory_format)
            if self.poison == (epoch, number):
                x = x * float("nan")
            own = part(len(index))
            self.served.append(len(index[own]))
            yield x[own], self.y[index[own]]

    def test_batches(
        self,
        batch_size: int,
        *,
        memory_format: torch.memory_format,
        part: Callable[[int], slice] = lambda images: slice(0, images),
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in torch.arange(self.train_images, len(self.y)).split(batch_size):
            own = batch[part(len(batch))]
            yield self.x[own].contiguous(memory_format=memory_format), self.y[own]


def toy_network(seed: int = 0) -> nn.Module:
    """conv-bn-relu twice, mean, linear; 14 BatchNorm channels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 3),
        )
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.4, 0.6)
    return model


@dataclass
class Recorder:
    """A `Progress` that remembers what it was told."""

    epochs: list[tuple[str, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def begin(self, stage: str, first: int, last: int) -> None: ...

    def step(self, done: int, total: int) -> None: ...

    def epoch(self, stage: str, row: dict) -> None:
        self.epochs.append((stage, row["epoch"]))

    def end(self, stage: str) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)
