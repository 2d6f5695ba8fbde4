"""An image folder as one file, made once by `data prepare`: images smaller and re-encoded, or decoded.

    magic | the images, one after the other | index (safetensors) | its place, length and SHA-256 | magic

The index holds for every image its end in the file, width, height, class and SHA-256, and in its metadata the class
names, how the images were made, and the digest of the folder they came from. The file stands alone: `data.root` names
it in the place of the folder. It is written to a temporary name and renamed when it is whole. Nothing in it is trusted:
the index must match its digest, every image must lie inside the file, and the first load reads all images and compares
them with the index (again whenever size or time of the file have changed); images are then decoded like any file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ebsim.data.catalogue import SMALL_SIDE
from ebsim.data.crops import Box, Size
from ebsim.data.image_files import MAX_PIXELS, for_each
from ebsim.data.large_images import Corners, EncodedImage, Source
from ebsim.errors import DataError, StorageError
from ebsim.files import parse_json, read_json, write_json

MAGIC = b"ebsim images v1\n"
_FOOTER = struct.Struct("<QQ32s")  # where the index begins, its length, its SHA-256
_MAX_INDEX = 1 << 32
ENCODINGS = ("jpeg", "raw")


@dataclass(frozen=True)
class Preparation:
    """How the images of a prepared file were made; `side` 0 leaves their size."""

    side: int
    encoding: str
    quality: int | None

    def __str__(self) -> str:
        size = f"shorter side at most {self.side}" if self.side else "size as it was"
        return f"{size}, " + ("decoded" if self.encoding == "raw" else f"JPEG of quality {self.quality}")


@dataclass(frozen=True)
class DecodedImage:
    """An image that is stored as pixels, uint8 [height, width, 3] at an offset of a file; rows are read as needed."""

    path: Path
    offset: int
    size: Size
    scalable: bool = False

    def picture(self, box: Box | None) -> Any:
        from PIL import Image

        return Image.fromarray(self.pixels(1, None if box is None else box.corners))

    def pixels(self, scale: int, corners: Corners | None) -> np.ndarray:
        width, height = self.size
        left, top, right, bottom = corners or (0, 0, width, height)
        rows = bytearray(3 * width * (bottom - top))  # writable, as torch wants its memory
        _read_into(self.path, self.offset + 3 * width * top, rows)
        return np.frombuffer(rows, np.uint8).reshape(bottom - top, width, 3)[:, left:right]


@dataclass(frozen=True)
class PreparedFile:
    """The index of a prepared file. `part` is a slice of its images: the training ones come first."""

    path: Path
    recipe: Preparation
    class_names: tuple[str, ...]
    train_images: int
    ends: np.ndarray  # int64 [n], the first begins behind the magic
    sizes: np.ndarray  # int64 [n, 2] (width, height)
    labels: np.ndarray  # int64 [n]
    sha256: np.ndarray  # uint8 [n, 32]
    meta: dict[str, Any]
    digest: str  # SHA-256 of the index, and so of all images, classes and settings

    def __len__(self) -> int:
        return len(self.ends)

    def place(self, i: int) -> tuple[int, int]:
        """Offset and length of an image, in bytes."""
        start = int(self.ends[i - 1]) if i else len(MAGIC)
        return start, int(self.ends[i]) - start

    def size(self, i: int) -> Size:
        return int(self.sizes[i, 0]), int(self.sizes[i, 1])

    def image(self, i: int) -> Source:
        """Image number `i`, read now; raises `DataError`."""
        start, length = self.place(i)
        if self.recipe.encoding == "raw":
            return DecodedImage(self.path, start, self.size(i))
        image = EncodedImage(self.path / f"image {i}", _read(self.path, start, length))
        if image.size != self.size(i):
            raise self.damaged(f"image {i} is {image.size}, its index says {self.size(i)}")
        return image

    def damaged(self, what: str) -> DataError:
        return _damaged(self.path, what)

    def check_images(self) -> None:
        """Read every image and compare it with the index; `DataError` names the first that differs."""

        def check(i: int) -> None:
            if hashlib.sha256(_read(self.path, *self.place(i))).digest() != self.sha256[i].tobytes():
                raise self.damaged(f"image {i} is not what was written")

        for_each(check, len(self))


def open_prepared(path: Path) -> PreparedFile:
    """Read and check the index, and the images if this file was not checked before; raises `DataError`."""
    prepared = read_index(path)
    seal = _seal(prepared)
    if _sealed(path) != seal:
        prepared.check_images()
        _keep(path, seal)
    return prepared


def note_checked(file: PreparedFile) -> None:
    """Remember beside the file that its images match its index, where the folder can be written."""
    _keep(file.path, _seal(file))


def _seal(file: PreparedFile) -> dict[str, Any]:
    """What a file is known by once its images were compared with its index."""
    status = file.path.stat()
    return {"size": status.st_size, "time_ns": status.st_mtime_ns, "digest": file.digest}


def _keep(path: Path, seal: dict[str, Any]) -> None:
    with contextlib.suppress(StorageError):  # it will be checked again
        write_json(seal_path(path), seal)


def seal_path(path: Path) -> Path:
    """Where it is noted that a prepared file was checked."""
    return path.with_name(path.name + ".checked.json")


def _sealed(path: Path) -> Any:
    try:
        return read_json(seal_path(path))
    except Exception:  # none, or not ours: the images are checked
        return None


def read_index(path: Path) -> PreparedFile:
    """The index of a prepared file, its images not yet looked at; raises `DataError` for anything else."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check that it exists") from error
    tail = _FOOTER.size + len(MAGIC)
    if size < len(MAGIC) + tail or _read(path, 0, len(MAGIC)) != MAGIC:
        raise DataError(f"{path}: not a folder, and not a file made by `data prepare`; data.root takes either")
    end = _read(path, size - tail, tail)
    if end[_FOOTER.size :] != MAGIC:
        raise _damaged(path, "its end is missing")
    offset, length, sha256 = _FOOTER.unpack(end[: _FOOTER.size])
    if length > _MAX_INDEX or offset + length + tail != size:
        raise _damaged(path, "its index lies outside")
    content = _read(path, offset, length)
    if hashlib.sha256(content).digest() != sha256:
        raise _damaged(path, "its index does not match its digest")
    return _parse_index(path, content, offset)


def _parse_index(path: Path, content: bytes, images_end: int) -> PreparedFile:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = {name: tensor.numpy() for name, tensor in load(content).items()}
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        meta = parse_json(header["meta"])
        recipe = Preparation(int(meta["side"]), str(meta["encoding"]), meta["quality"])
        prepared = PreparedFile(
            path=path,
            recipe=recipe,
            class_names=tuple(map(str, meta["class_names"])),
            train_images=int(meta["train_images"]),
            ends=tensors["ends"],
            sizes=tensors["sizes"],
            labels=tensors["labels"],
            sha256=tensors["sha256"],
            meta=meta,
            digest=hashlib.sha256(content).hexdigest(),
        )
        problem = _problem(prepared, images_end)
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError, IndexError) as error:
        raise _damaged(path, f"its index cannot be read ({type(error).__name__})") from error
    if problem:
        raise _damaged(path, problem)
    return prepared


def _problem(file: PreparedFile, images_end: int) -> str:
    """What in an index cannot be true; empty if it can."""
    n, classes = len(file.ends), len(file.class_names)
    shapes = {"ends": (n,), "sizes": (n, 2), "labels": (n,), "sha256": (n, 32)}
    if any(getattr(file, name).shape != shape for name, shape in shapes.items()) or file.sha256.dtype != np.uint8:
        return "its index has columns of other shapes"
    if any(getattr(file, name).dtype != np.int64 for name in ("ends", "sizes", "labels")):
        return "its index has columns of other types"
    if not 0 < file.train_images < n or classes < 1 or file.recipe.encoding not in ENCODINGS:
        return "its index has no training images, no test images or no classes"
    lengths = np.diff(file.ends, prepend=len(MAGIC))
    if (lengths < 1).any() or file.ends[-1] != images_end:
        return "its images do not lie inside"
    areas = file.sizes[:, 0] * file.sizes[:, 1]
    if (file.sizes < 1).any() or (file.sizes > MAX_PIXELS).any() or (areas > MAX_PIXELS).any():
        return "an image of impossible size"
    if file.recipe.encoding == "raw" and (lengths != 3 * areas).any():
        return "an image whose size is not that of its pixels"
    for part in (file.labels[: file.train_images], file.labels[file.train_images :]):
        if part.min() < 0 or part.max() >= classes or len(np.unique(part)) != classes:
            return "a class without images, or images without a class"
    if file.sizes[0].max() <= SMALL_SIDE:
        return "small images, which are never prepared"
    return ""


def index_bytes(columns: dict[str, np.ndarray], meta: dict[str, Any]) -> bytes:
    """The index as safetensors."""
    from safetensors.torch import save

    tensors = {name: torch.from_numpy(np.array(column)) for name, column in columns.items()}
    return save(tensors, {"meta": json.dumps(meta, sort_keys=True)})


def footer(offset: int, index: bytes) -> bytes:
    """What follows the index."""
    return _FOOTER.pack(offset, len(index), hashlib.sha256(index).digest()) + MAGIC


@lru_cache(maxsize=8)
def _handle(path: Path, process: int, inode: int) -> int:
    """One open file per process; reads at an offset (pread) share it. Never closed: a few files in all."""
    return os.open(path, os.O_RDONLY)


def _read(path: Path, offset: int, length: int) -> bytes:
    content = bytearray(length)
    _read_into(path, offset, content)
    return bytes(content)


def _read_into(path: Path, offset: int, content: bytearray) -> None:
    try:
        handle, rest = _handle(path, os.getpid(), path.stat().st_ino), memoryview(content)
        while rest:
            read = os.preadv(handle, [rest], offset)
            if not read:
                raise _damaged(path, "it is shorter than its index says")
            offset, rest = offset + read, rest[read:]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"{path}: damaged ({what}); delete it and run `data prepare` again")
