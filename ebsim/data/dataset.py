"""`Dataset`, the interface of all datasets: its description, and batches whose order is a function of (seed, epoch).

All randomness of an epoch comes from fresh CPU generators seeded by a hash of (seed, epoch, stream), never from the
state of an iterator or of torch's global generator. So a run that resumes at epoch 7 sees what it would have seen, and
neither the device, nor worker processes, nor other uses of random numbers can change it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ebsim.seeds import generator

Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]
BatchPart = Callable[[int], slice]


def whole(images: int) -> slice:
    """All images of a batch; the other value of `part` is a process's share of it (`training.team`)."""
    return slice(0, images)


def epoch_order(images: int, *, seed: int, epoch: int) -> torch.Tensor:
    """A permutation of 0 .. images-1 (int64, CPU): the order in which an epoch visits the training images."""
    return torch.randperm(images, generator=generator(seed, epoch, "order"))


def normalize(pixels: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """uint8 -> float32 (x / 255 - mean) / std, broadcast, in torchvision's order of operations, so bit for bit."""
    return pixels.to(torch.float32).div_(255).sub_(mean).div_(std)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Facts about one dataset; `shape` is (channels, height, width), `digest` the SHA-256 of its content."""

    name: str
    label: str
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    train_images: int
    test_images: int
    digest: str
    digest_of: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: str
    test_transform: str
    split: str

    @property
    def classes(self) -> int:
        return len(self.class_names)

    def describe(self) -> dict[str, Any]:
        """Plain JSON for the run's record: what was loaded, how it is normalized, augmented and split."""
        return {
            "name": self.name,
            "label": self.label,
            "classes": self.classes,
            "shape": list(self.shape),
            "train_images": self.train_images,
            "test_images": self.test_images,
            "digest": self.digest,
            "digest_of": self.digest_of,
            "normalisation": {"mean": list(self.mean), "std": list(self.std)},
            "augmentation": self.augmentation,
            "test_transform": self.test_transform,
            "split": self.split,
        }

    def train_batches(
        self,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        memory_format: torch.memory_format = torch.contiguous_format,
        skip: int = 0,
        part: BatchPart = whole,
    ) -> Batches:
        """One epoch of (x float32 [b, *shape], normalized, augmented; y int64 [b]); the last batch may be smaller.

        skip: leave out so many batches at the start. part: which images of each batch, given their number.
        """
        raise NotImplementedError

    def test_batches(
        self,
        batch_size: int,
        *,
        memory_format: torch.memory_format = torch.contiguous_format,
        part: BatchPart = whole,
    ) -> Batches:
        """The test images in stored order, normalized only; the last batch may be smaller."""
        raise NotImplementedError


def balanced_subset(labels: torch.Tensor, images: int) -> torch.Tensor:
    """Indices (ascending) of `images` images: the first of every class, then the second of every class, and so on."""
    by_class = labels.argsort(stable=True)
    first_of_class = torch.searchsorted(labels[by_class], labels[by_class])
    rank = torch.empty_like(by_class)
    rank[by_class] = torch.arange(len(labels)) - first_of_class
    return rank.argsort(stable=True)[:images].sort().values
