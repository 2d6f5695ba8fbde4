"""Small fabricated datasets: image folders, and CIFAR files written as Python 2 wrote them."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ebsim.data.cifar import CifarSource


def save_images(folder: Path, count: int, size: tuple[int, int] = (8, 8), seed: int = 0, ending: str = "png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for number in range(count):
        pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.{ending}")


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Two classes; cat has 5 and dog 4 training images of 8x8, 2 test images each."""
    root = tmp_path / "pets"
    for seed, (place, count) in enumerate({"train/cat": 5, "train/dog": 4, "test/cat": 2, "test/dog": 2}.items()):
        save_images(root / place, count, seed=seed)
    return root


def python2_pickle(labels: list[int], pixels: np.ndarray, label_key: str = "labels") -> bytes:
    """A batch as Python 2's cPickle wrote it (protocol 2): str is a byte string, the array a call of _reconstruct."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R(K\x01"
        + b"J" + struct.pack("<i", pixels.shape[0]) + b"M" + struct.pack("<H", pixels.shape[1]) + b"\x86"
        + b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xff"
        + b"J\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<i", pixels.size) + pixels.tobytes() + b"tb"
    )  # fmt: skip
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}q\x01(" + text(label_key.encode()) + numbers + text(b"data") + array + b"u."


def python2_names(names: list[str]) -> bytes:
    items = b"".join(b"U" + bytes([len(n)]) + n.encode() for n in names)
    return b"\x80\x02}q\x01(U\x0blabel_names](" + items + b"eu."


@pytest.fixture
def tiny_cifar(tmp_path: Path) -> Callable[..., tuple[CifarSource, Path]]:
    """A builder of a two-class, 4x4 CIFAR with its own pins: 3 training and 2 test images per class."""

    def build(**changed: bytes) -> tuple[CifarSource, Path]:
        folder = tmp_path / "data" / "tiny-batches-py"
        folder.mkdir(parents=True)
        random = np.random.default_rng(0)

        def batch(labels: list[int]) -> bytes:
            return python2_pickle(labels, random.integers(0, 256, (len(labels), 48), dtype=np.uint8))

        files = {
            "data_batch_1": batch([0, 1, 1]),
            "data_batch_2": batch([1, 0, 0]),
            "test_batch": batch([0, 0, 1, 1]),
            "batches.meta": python2_names(["cat", "dog"]),
            **changed,
        }
        for name, content in files.items():
            (folder / name).write_bytes(content)
        pins = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        source = CifarSource(
            name="cifar10",
            folder=folder.name,
            url="http://127.0.0.1:9/tiny.tar.gz",
            archive_sha256="",
            archive_bytes=0,
            train={name: pins[name] for name in ("data_batch_1", "data_batch_2")},
            test={"test_batch": pins["test_batch"]},
            meta={"batches.meta": pins["batches.meta"]},
            label_key="labels",
            names_key="label_names",
            classes=2,
            train_per_class=3,
            test_per_class=2,
            side=4,
        )
        return source, folder.parent

    return build
