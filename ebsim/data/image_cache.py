"""Small images of an image folder: decoded once into one tensor, which is cached beside the folder.

<root>/.ebsim-cache/images.safetensors holds pixels, labels and the SHA-256 of every file. It is used while the files'
names, sizes and times of change are the same; it carries its own digest, and a damaged one is made again. A root that
cannot be written works without it. `data verify` compares every file with the digest it was first read with
(`file_record`).
"""

from __future__ import annotations

import hashlib
import logging
from bisect import bisect_left
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ebsim.data import file_record
from ebsim.data.catalogue import CACHE_FOLDER, SMALL_SIDE
from ebsim.data.image_files import decode_rgb, for_each, open_image, read_bytes, turned
from ebsim.data.image_folder import Listing
from ebsim.data.tensors import Decoded, Images
from ebsim.errors import DamagedError, DataError, StorageError
from ebsim.files import DAY, digest, load_tensors, save_tensors, sweep

log = logging.getLogger(__name__)
PARTS = ("train", "test")
COPIES = 5  # decoded, being written to the cache; padded, with its mirror image
Size = tuple[int, int]


def small_size(listing: Listing) -> Size | None:
    """(width, height) if these are small images, None if they are large; looks at the first image of every class."""
    labels = listing.train.labels  # ascending
    firsts = [listing.train.paths[bisect_left(labels, number)] for number in range(len(listing.class_names))]
    sizes = {path: open_image(listing.root / path).size for path in firsts}
    if max(max(size) for size in sizes.values()) > SMALL_SIDE:
        return None
    expected = sizes[firsts[0]]
    for path, size in sizes.items():
        check_size(listing.root / path, size, expected)
    return expected


def read_small(listing: Listing, size: Size) -> Decoded:
    """Both parts, from the cache if it still holds; raises `DataError` for the first image that is broken."""
    cached = _load_cache(listing)
    if cached is not None and cached[1].get("state") == listing.state_digest():
        tensors = cached[0]
        if not file_record.record_path(listing.root).exists():  # cached by an earlier version
            _record(listing, tensors)
    else:
        if cached is not None and not file_record.record_path(listing.root).exists():
            _record_as_cached(listing, cached)
        tensors = _decode(listing, size)
        _record(listing, tensors)
        _save_cache(listing, tensors)
    train, test = (Images(tensors[f"{part}.pixels"], tensors[f"{part}.labels"]) for part in ("train", "test"))
    return Decoded(train, test, listing.class_names, listing.split)


def _record(listing: Listing, tensors: dict[str, torch.Tensor]) -> None:
    """Note what was read; the digests of a first reading stay."""
    record = file_record.load_record(listing.root)
    read = {
        path: (split.sizes[i], split.times_ns[i], tensors[f"{part}.sha256"][i].numpy().tobytes())
        for part, split in zip(PARTS, listing.splits, strict=True)
        for i, path in enumerate(split.paths)
    }
    file_record.note(record, read, listing.root)
    file_record.save_record(listing.root, record)


def _record_as_cached(listing: Listing, cached: tuple[dict[str, torch.Tensor], dict[str, Any]]) -> None:
    """A cache of an earlier version, of files that were touched since, holds the digests of the first reading."""
    if cached[1].get("names") == _names(listing):
        _record(listing, cached[0])


def _decode(listing: Listing, size: Size) -> dict[str, torch.Tensor]:
    width, height = size
    images = sum(len(split.paths) for split in listing.splits)
    _check_memory(listing.root, images * 3 * height * width * COPIES)
    log.info("%s: decoding %s images, once", listing.root, f"{images:,}")
    tensors: dict[str, torch.Tensor] = {}
    rotated: list[str] = []
    for part, split in zip(PARTS, listing.splits, strict=True):
        pixels = np.empty((len(split.paths), 3, height, width), np.uint8)
        sha256 = np.empty((len(split.paths), 32), np.uint8)

        def decode(
            i: int, paths: tuple[str, ...] = split.paths, pixels: np.ndarray = pixels, sha256: np.ndarray = sha256
        ) -> None:
            path = listing.root / paths[i]
            content = read_bytes(path)
            image = open_image(path, content)
            check_size(path, image.size, size)
            pixels[i] = np.asarray(decode_rgb(path, image)).transpose(2, 0, 1)
            sha256[i] = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
            if turned(image):
                rotated.append(paths[i])

        for_each(decode, len(split.paths))
        tensors[f"{part}.pixels"] = torch.from_numpy(pixels)
        tensors[f"{part}.labels"] = torch.tensor(split.labels, dtype=torch.int64)
        tensors[f"{part}.sha256"] = torch.from_numpy(sha256)
    if rotated:
        log.warning(
            "%s: the EXIF orientation of %d image(s) (%s, ...) is not applied: they are trained on as stored",
            listing.root, len(rotated), min(rotated),
        )  # fmt: skip
    return tensors


def check_size(path: Path, actual: Size, expected: Size) -> None:
    """`DataError` unless a small image has the size that all must have."""
    if actual != expected:
        raise DataError(
            f"{path}: {actual[0]}x{actual[1]} pixels, expected {expected[0]}x{expected[1]} like the first image; "
            f"images of up to {SMALL_SIDE} pixels must all have one size: resize them first"
        )


def _check_memory(root: Path, needed: int) -> None:
    """Only where the system says how much memory is available (Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return
    available = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), needed)
    if needed > available:
        raise DataError(
            f"{root}: the decoded images need {needed / 2**30:.1f} GiB of memory, available are "
            f"{available / 2**30:.1f} GiB; use fewer images or a larger machine"
        )


def _cache_path(listing: Listing) -> Path:
    return listing.root / CACHE_FOLDER / "images.safetensors"


def _names(listing: Listing) -> str:
    return digest([split.paths for split in listing.splits])


def _load_cache(listing: Listing) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """The cached tensors and what is said of them; None if there is no cache, or a damaged or foreign one."""
    path = _cache_path(listing)
    if not path.exists():
        return None
    try:
        tensors, meta = load_tensors(path)
        if not _is_cache(tensors, meta):
            raise DamagedError(f"{path}: not a cache of images.")
        return tensors, meta
    except DamagedError as error:
        log.warning("%s The images are decoded again.", error)
        return None


def _is_cache(tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> bool:
    """Whether types and shapes are those that `_decode` makes."""
    for part in PARTS:
        pixels, labels, sha256 = (tensors.get(f"{part}.{name}") for name in ("pixels", "labels", "sha256"))
        if pixels is None or labels is None or sha256 is None or len(meta.keys() & {"names", "state"}) < 2:
            return False
        if (pixels.dtype, labels.dtype, sha256.dtype) != (torch.uint8, torch.int64, torch.uint8):
            return False
        if pixels.dim() != 4 or pixels.shape[1] != 3 or labels.shape != pixels.shape[:1]:
            return False
        if sha256.shape != (len(labels), 32) or (len(labels) and int(labels.min()) < 0):
            return False
    return True


def _save_cache(listing: Listing, tensors: dict[str, torch.Tensor]) -> None:
    meta = {"names": _names(listing), "state": listing.state_digest()}
    try:
        sweep(listing.root / CACHE_FOLDER, older=DAY)
        save_tensors(_cache_path(listing), tensors, meta)
    except StorageError as error:
        log.warning("%s The decoded images are not cached; they will be decoded again next time.", error)
