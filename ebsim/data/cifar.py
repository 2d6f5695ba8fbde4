"""Reads CIFAR-10 and CIFAR-100 from <root>/cifar-10-batches-py and <root>/cifar-100-python, as torchvision does.

Every file is checked against its SHA-256 before a byte of it is used, then read without unpickling (`cifar_pickle`).
A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009. The digests are those of the files inside
the published archives (whose own digests are pinned beside them); several public projects list the same values.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ebsim.data.cifar_pickle import byte_array, parse
from ebsim.data.tensors import Decoded, Images
from ebsim.errors import DataError
from ebsim.files import file_digest

SPLIT = "the publisher's own"


@dataclass(frozen=True)
class CifarSource:
    """Where a CIFAR comes from, and the SHA-256 of each of its files, in reading order."""

    name: str
    folder: str
    url: str
    archive_sha256: str
    archive_bytes: int
    train: dict[str, str]
    test: dict[str, str]
    meta: dict[str, str]
    label_key: str
    names_key: str
    classes: int
    train_per_class: int
    test_per_class: int
    side: int = 32

    @property
    def files(self) -> dict[str, str]:
        return {**self.train, **self.test, **self.meta}

    @property
    def archive(self) -> str:
        return self.url.rsplit("/", 1)[-1]


SOURCES: dict[str, CifarSource] = {
    "cifar10": CifarSource(
        name="cifar10",
        folder="cifar-10-batches-py",
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        archive_sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        archive_bytes=170_498_071,
        train={
            "data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
            "data_batch_2": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
            "data_batch_3": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
            "data_batch_4": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
            "data_batch_5": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
        },
        test={"test_batch": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831"},
        meta={"batches.meta": "f962466ef690d46b226450fb9aadc74ba4bc64a76aa526b5827fe4bc5c7125cb"},
        label_key="labels",
        names_key="label_names",
        classes=10,
        train_per_class=5000,
        test_per_class=1000,
    ),
    "cifar100": CifarSource(
        name="cifar100",
        folder="cifar-100-python",
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        archive_sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        archive_bytes=169_001_437,
        train={"train": "735e79b04f092ca3d2e6d07f368c0a7d70d48c48d28865950cc24454cf45129b"},
        test={"test": "4b67687d9933c4db8f0831104447f15b93774f4f464bd0516f0f0f2ac83b7864"},
        meta={"meta": "a5d4786345c961390f865e93b434dbd5c6904ce880667e0cb888c97d449f28b9"},
        label_key="fine_labels",
        names_key="fine_label_names",
        classes=100,
        train_per_class=500,
        test_per_class=100,
    ),
}


def read_cifar10(root: Path) -> Decoded:
    """CIFAR-10 below `root`; see `read_cifar`."""
    return read_cifar(SOURCES["cifar10"], root)


def read_cifar100(root: Path) -> Decoded:
    """CIFAR-100 below `root`; see `read_cifar`."""
    return read_cifar(SOURCES["cifar100"], root)


def read_cifar(source: CifarSource, root: Path) -> Decoded:
    """Both parts; raises `DataError` for a file that is missing, altered or not what it should be."""
    folder = root / source.folder
    if not folder.is_dir():
        raise DataError(
            f"{folder}: not found. Get it with `python cli.py data fetch {source.name} --root {root}`, or, with "
            f"{source.archive} at hand, add `--from {source.archive}` (no network needed)."
        )
    meta = _read(source, folder, next(iter(source.meta)))
    names = tuple(map(str, meta.get(source.names_key, ())))
    if len(names) != source.classes:
        raise DataError(f"{folder}: {len(names)} class names, expected {source.classes}; {_cure(source)}")
    train = _images(source, folder, source.train, source.train_per_class)
    test = _images(source, folder, source.test, source.test_per_class)
    return Decoded(train, test, names, SPLIT)


def _images(source: CifarSource, folder: Path, files: dict[str, str], per_class: int) -> Images:
    batches = [_batch(source, folder, name) for name in files]
    labels = np.concatenate([batch[1] for batch in batches])
    counts = np.bincount(labels, minlength=source.classes)
    if (counts != per_class).any():
        wrong = int(np.argmax(counts != per_class))
        raise DataError(
            f"{folder}: class {wrong} has {counts[wrong]} images in {', '.join(files)}, expected {per_class}; "
            f"{_cure(source)}"
        )
    return Images(torch.from_numpy(np.concatenate([batch[0] for batch in batches])), torch.from_numpy(labels))


def _batch(source: CifarSource, folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 [n, 3, side, side] and labels int64 [n] of one file."""
    path, content = folder / name, _read(source, folder, name)
    try:
        pixels = byte_array(content["data"]).reshape(-1, 3, source.side, source.side)
        labels = np.array(content[source.label_key], dtype=np.int64)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{path}: not a CIFAR batch ({error}); {_cure(source)}") from error
    if labels.shape != (len(pixels),):
        raise DataError(f"{path}: {labels.size} labels for {len(pixels)} images; {_cure(source)}")
    if labels.size and not 0 <= labels.min() <= labels.max() < source.classes:
        raise DataError(
            f"{path}: labels from {labels.min()} to {labels.max()}, expected 0 to {source.classes - 1}; {_cure(source)}"
        )
    return pixels, labels


def _read(source: CifarSource, folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    check_file(path, source.files[name], _cure(source))
    try:
        content = parse(path.read_bytes())
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {_cure(source)}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}, expected a dictionary; {_cure(source)}")
    return content


def check_file(path: Path, expected: str, cure: str) -> None:
    """Raise `DataError` unless `path` is a file with the expected SHA-256."""
    if not path.exists():
        raise DataError(f"{path}: missing; {cure}")
    if not path.is_file():
        raise DataError(f"{path}: not a regular file; {cure}")
    try:
        actual = file_digest(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if actual != expected:
        raise DataError(
            f"{path}: damaged or not the published file ({path.stat().st_size:,} bytes; SHA-256 expected {expected}, "
            f"actual {actual}); {cure}"
        )


def _cure(source: CifarSource) -> str:
    return f"get it again with `python cli.py data fetch {source.name}`"
