"""Small images of an image folder: decoded once into one tensor, and kept beside the folder.

<root>/.ebsim-cache/images.safetensors holds pixels, labels and the SHA-256 of every file. It is used while the files'
names, sizes and times of change are the same; it carries its own digest, and a damaged one is made again. A root that
cannot be written works without it. `data verify` compares every file with the digests recorded there.
"""

from __future__ import annotations

import hashlib
import logging
from bisect import bisect_left
from pathlib import Path

import numpy as np
import torch

from ebsim.data.catalogue import CACHE_FOLDER, SMALL_SIDE
from ebsim.data.image_files import decode_rgb, for_each, open_picture, read_bytes
from ebsim.data.image_folder import Listing
from ebsim.data.tensors import Decoded, Images
from ebsim.errors import DamagedError, DataError, StorageError
from ebsim.files import digest, load_tensors, save_tensors

log = logging.getLogger(__name__)
COPIES = 5  # decoded, being written to the cache; padded, with its mirror image
Size = tuple[int, int]


def small_size(listing: Listing) -> Size | None:
    """(width, height) if these are small images, None if they are large; looks at the first image of every class."""
    labels = listing.train.labels  # ascending
    firsts = [listing.train.paths[bisect_left(labels, number)] for number in range(len(listing.class_names))]
    sizes = {path: open_picture(listing.root / path).size for path in firsts}
    if max(max(size) for size in sizes.values()) > SMALL_SIDE:
        return None
    expected = sizes[firsts[0]]
    for path, size in sizes.items():
        _check_size(listing.root / path, size, expected)
    return expected


def read_small(listing: Listing, size: Size) -> Decoded:
    """Both parts, from what was kept if it still holds; raises `DataError` for the first image that is broken."""
    kept = _load_kept(listing)
    if kept is not None and kept[1]["state"] == listing.state_digest():
        tensors = kept[0]
    else:
        tensors = _decode(listing, size)
        _keep(listing, tensors)
    train, test = (Images(tensors[f"{part}.pixels"], tensors[f"{part}.labels"]) for part in ("train", "test"))
    return Decoded(train, test, listing.class_names, listing.split)


def check_small(listing: Listing, size: Size) -> str:
    """Compare every file with the digest recorded when it was first decoded; says what was done."""
    kept = _load_kept(listing)
    if kept is None or kept[1]["names"] != _names(listing):
        _keep(listing, _decode(listing, size))
        return "every image decoded; their digests are now on record"
    for part, split in zip(("train", "test"), listing.splits, strict=True):
        recorded = kept[0][f"{part}.sha256"].numpy()

        def check(i: int, paths: tuple[str, ...] = split.paths, recorded: np.ndarray = recorded) -> None:
            path, expected = listing.root / paths[i], recorded[i].tobytes()
            actual = hashlib.sha256(read_bytes(path)).digest()
            if actual != expected:
                raise DataError(
                    f"{path}: changed since it was first read (SHA-256 expected {expected.hex()}, actual "
                    f"{actual.hex()}); restore it, or delete {_kept_at(listing)} if the change is intended"
                )

        for_each(check, len(split.paths))
    return "every file has the digest recorded when it was first read"


def _decode(listing: Listing, size: Size) -> dict[str, torch.Tensor]:
    width, height = size
    images = sum(len(split.paths) for split in listing.splits)
    _check_memory(listing.root, images * 3 * height * width * COPIES)
    log.info("%s: decoding %s images, once", listing.root, f"{images:,}")
    tensors: dict[str, torch.Tensor] = {}
    for part, split in zip(("train", "test"), listing.splits, strict=True):
        pixels = np.empty((len(split.paths), 3, height, width), np.uint8)
        sha256 = np.empty((len(split.paths), 32), np.uint8)

        def decode(
            i: int, paths: tuple[str, ...] = split.paths, pixels: np.ndarray = pixels, sha256: np.ndarray = sha256
        ) -> None:
            path = listing.root / paths[i]
            content = read_bytes(path)
            picture = open_picture(path, content)
            _check_size(path, picture.size, size)
            pixels[i] = np.asarray(decode_rgb(path, picture)).transpose(2, 0, 1)
            sha256[i] = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)

        for_each(decode, len(split.paths))
        tensors[f"{part}.pixels"] = torch.from_numpy(pixels)
        tensors[f"{part}.labels"] = torch.tensor(split.labels, dtype=torch.int64)
        tensors[f"{part}.sha256"] = torch.from_numpy(sha256)
    return tensors


def _check_size(path: Path, actual: Size, expected: Size) -> None:
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


def _kept_at(listing: Listing) -> Path:
    return listing.root / CACHE_FOLDER / "images.safetensors"


def _names(listing: Listing) -> str:
    return digest([split.paths for split in listing.splits])


def _load_kept(listing: Listing) -> tuple[dict[str, torch.Tensor], dict[str, str]] | None:
    path = _kept_at(listing)
    if not path.exists():
        return None
    try:
        return load_tensors(path)
    except DamagedError as error:
        log.warning("%s The images are decoded again.", error)
        return None


def _keep(listing: Listing, tensors: dict[str, torch.Tensor]) -> None:
    meta = {"names": _names(listing), "state": listing.state_digest()}
    try:
        save_tensors(_kept_at(listing), tensors, meta)
    except StorageError as error:
        log.warning("%s The decoded images are not kept; they will be decoded again next time.", error)
