"""Which datasets there are and how each is normalized and augmented: plain data, importable without torch.

The CIFAR numbers are those of the Early-Bird authors' scripts (the same mean and deviation for both CIFARs; zeros are
padded before normalizing, so the border is black). The digits have their own: measured on their training images, and
no flip, because a mirrored digit is another sign.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ebsim.errors import ConfigError, nearest

Channels = tuple[float, float, float]

CIFAR_MEAN: Channels = (0.4914, 0.4822, 0.4465)
CIFAR_STD: Channels = (0.2023, 0.1994, 0.2010)
IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)

SMALL_SIDE = 64  # images up to this many pixels a side are decoded once and kept as a tensor
LARGE_SIDE = 224  # larger ones are streamed, cropped to this
LARGE_RESIZE = 256  # shorter side of a large test image before its centre crop
CACHE_FOLDER = ".ebsim-cache"  # in the root of an image folder


@dataclass(frozen=True)
class Recipe:
    """Normalization and training augmentation of small images: pad with zeros, crop at random, maybe mirror."""

    mean: Channels
    std: Channels
    pad: int
    flip: bool


@dataclass(frozen=True)
class Entry:
    """What `data list` shows before anything is loaded; None where it depends on the user's files."""

    label: str
    classes: int | None
    shape: tuple[int, int, int] | None
    train_images: int | None
    test_images: int | None
    source: str
    recipe: Recipe
    folder: str | None = None  # below data.root; None: nothing to find (embedded) or the root itself


PAPER = Recipe(CIFAR_MEAN, CIFAR_STD, pad=4, flip=True)

DATASETS: dict[str, Entry] = {
    "digits": Entry(
        label="Digits (8x8)",
        classes=10,
        shape=(3, 8, 8),
        train_images=1347,
        test_images=450,
        source="embedded: scikit-learn's copy of the UCI optical digits",
        recipe=Recipe((0.3057,) * 3, (0.3761,) * 3, pad=1, flip=False),
    ),
    "cifar10": Entry(
        label="CIFAR-10",
        classes=10,
        shape=(3, 32, 32),
        train_images=50_000,
        test_images=10_000,
        source="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        recipe=PAPER,
        folder="cifar-10-batches-py",
    ),
    "cifar100": Entry(
        label="CIFAR-100",
        classes=100,
        shape=(3, 32, 32),
        train_images=50_000,
        test_images=10_000,
        source="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        recipe=PAPER,
        folder="cifar-100-python",
    ),
    "imagefolder": Entry(
        label="image folder",
        classes=None,
        shape=None,
        train_images=None,
        test_images=None,
        source="data.root itself: train/ and test/ or val/, one folder per class (ImageNet too)",
        recipe=PAPER,
        folder="train",
    ),
}


def entry(name: str) -> Entry:
    """The catalogue entry, or a `ConfigError` that names the choices and the nearest."""
    if name in DATASETS:
        return DATASETS[name]
    close = nearest(name.lower().replace("-", ""), DATASETS)
    hint = f" (did you mean {close!r}?)" if close else ""
    raise ConfigError(f"unknown dataset {name!r}{hint}; there are {', '.join(DATASETS)}")


def list_datasets(root: str | Path = "data") -> list[dict[str, Any]]:
    """Every dataset as plain JSON, with `found`: whether its files seem to lie under `root` (not verified)."""
    return [
        {"name": name, **asdict(item), "found": item.folder is None or (Path(root) / item.folder).is_dir()}
        for name, item in DATASETS.items()
    ]
