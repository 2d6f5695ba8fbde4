"""The registry of datasets: how each is found, read, normalized and augmented. Plain data, importable without torch.

How to add one: an entry in `DATASETS`, and the reader that it names, a function `root: Path -> Decoded` in a module of
this package.

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
class DatasetEntry:
    """A dataset before anything is loaded, as `data list` shows it; None where it depends on the user's files.

    reader: "module.function" below `ebsim.data`, root -> Decoded; None for image folders (`image_folder.list_folder`).
    """

    label: str
    classes: int | None
    shape: tuple[int, int, int] | None
    train_images: int | None
    test_images: int | None
    source: str
    recipe: Recipe
    folder: str | None = None  # below data.root; None: nothing to find (embedded) or the root itself
    reader: str | None = None


Entry = DatasetEntry  # its name until 0.1


PAPER = Recipe(CIFAR_MEAN, CIFAR_STD, pad=4, flip=True)

DATASETS: dict[str, DatasetEntry] = {
    "digits": DatasetEntry(
        label="Digits (8x8)",
        classes=10,
        shape=(3, 8, 8),
        train_images=1347,
        test_images=450,
        source="embedded: scikit-learn's copy of the UCI optical digits",
        recipe=Recipe((0.3057,) * 3, (0.3761,) * 3, pad=1, flip=False),
        reader="digits.read_digits",
    ),
    "cifar10": DatasetEntry(
        label="CIFAR-10",
        classes=10,
        shape=(3, 32, 32),
        train_images=50_000,
        test_images=10_000,
        source="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        recipe=PAPER,
        folder="cifar-10-batches-py",
        reader="cifar.read_cifar10",
    ),
    "cifar100": DatasetEntry(
        label="CIFAR-100",
        classes=100,
        shape=(3, 32, 32),
        train_images=50_000,
        test_images=10_000,
        source="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        recipe=PAPER,
        folder="cifar-100-python",
        reader="cifar.read_cifar100",
    ),
    "imagefolder": DatasetEntry(
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


def entry(name: str) -> DatasetEntry:
    """The dataset called `name`, or a `ConfigError` that names the choices and the nearest."""
    if name in DATASETS:
        return DATASETS[name]
    close = nearest(name.lower().replace("-", ""), DATASETS)
    hint = f" (did you mean {close!r}?)" if close else ""
    raise ConfigError(f"unknown dataset {name!r}{hint}; there are {', '.join(DATASETS)}")


def list_datasets(root: str | Path = "data") -> list[dict[str, Any]]:
    """Every dataset as plain JSON, with `found`: whether its files seem to lie under `root` (not verified)."""
    return [{"name": name, **_facts(item), "found": _found(name, item, Path(root))} for name, item in DATASETS.items()]


def _facts(item: DatasetEntry) -> dict[str, Any]:
    return {key: value for key, value in asdict(item).items() if key != "reader"}


def _found(name: str, item: DatasetEntry, root: Path) -> bool:
    if name == "imagefolder" and root.is_file():  # made by `data prepare`
        return True
    return item.folder is None or (root / item.folder).is_dir()
