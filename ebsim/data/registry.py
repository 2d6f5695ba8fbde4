"""Loads, fetches and verifies the datasets of `catalogue.DATASETS` by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebsim.data import file_record
from ebsim.data.archives import unpack
from ebsim.data.catalogue import entry
from ebsim.data.cifar import SOURCES, check_file
from ebsim.data.dataset import Dataset
from ebsim.data.download import download as fetch_url
from ebsim.data.image_cache import check_size, read_small, small_size
from ebsim.data.image_files import decode_rgb, for_each, open_image, turned
from ebsim.data.image_folder import Listing, list_folder
from ebsim.data.tensors import Decoded, from_images
from ebsim.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch

    from ebsim.data.large_images import Decode


def load(
    name: str,
    *,
    root: str | Path = "data",
    device: str | torch.device = "cpu",
    download: bool = False,
    subset: int | None = None,
    augment: bool = True,
    workers: int = 0,
    decode: Decode = "exact",
) -> Dataset:
    """Load and check a dataset: "digits", "cifar10", "cifar100" or "imagefolder".

    root: the folder that holds the data (for "imagefolder" the folder with train/ and test/ or val/, or a file made by
    `prepare`). Nothing is downloaded unless `download` says so. subset: only the first n training and n test images,
    balanced over the classes. augment: the dataset's own augmentation in training. workers: decoding processes, for
    large images only. decode: how large images are decoded, "exact", "fast" (`large_images`) or "dali" (`dali`).
    Raises `ConfigError` for an unknown name or a subset that is too small, `DataError` for anything missing or damaged.
    """
    item, root = entry(name), Path(root)
    if subset is not None and subset < 1:
        raise ConfigError(f"data.subset must be at least 1, not {subset}")
    if download and name in SOURCES and not (root / SOURCES[name].folder).is_dir():
        fetch(name, root)
    if name == "imagefolder" and root.is_file():
        from ebsim.data.prepared import open_prepared
        from ebsim.data.streaming import from_prepared

        return from_prepared(
            open_prepared(root),
            name=name,
            device=device,
            subset=subset,
            augment=augment,
            workers=workers,
            decode=decode,
        )
    if item.reader is not None:
        decoded, label = _reader(item.reader)(root), item.label
    else:
        listing, label = list_folder(root), f"{root.resolve().name} (image folder)"
        size = small_size(listing)
        if size is None:
            from ebsim.data.streaming import from_listing

            return from_listing(
                listing, name=name, label=label, device=device, subset=subset, augment=augment, workers=workers,
                decode=decode,
            )  # fmt: skip
        decoded = read_small(listing, size)
    return from_images(
        decoded, name=name, label=label, recipe=item.recipe, device=device, subset=subset, augment=augment
    )


def _reader(name: str) -> Callable[[Path], Decoded]:
    """The function that reads a dataset, `module.function` below this package."""
    module, _, function = name.rpartition(".")
    found: Callable[[Path], Decoded] = getattr(importlib.import_module(f"ebsim.data.{module}"), function)
    return found


def fetch(name: str, root: str | Path = "data", from_file: str | Path | None = None) -> dict[str, Any]:
    """Put a dataset under `root` and verify it; returns `verify`'s record.

    cifar10, cifar100: unpack the archive `from_file`, or the one already in `root`, or else download it (resumable);
    its SHA-256 is checked first. imagefolder: unpack `from_file` (a tar archive of train/ and test/). digits: nothing.
    """
    entry(name)
    root, given = Path(root), Path(from_file) if from_file is not None else None
    if given is not None and not given.is_file():
        raise DataError(f"{given}: not found; --from takes a downloaded archive")
    if name in SOURCES:
        source = SOURCES[name]
        archive = given or root / source.archive
        if not archive.exists():
            fetch_url(source.url, archive, sha256=source.archive_sha256, size=source.archive_bytes)
        check_file(archive, source.archive_sha256, f"delete it and fetch {source.archive} again")
        unpack(archive, root)
    elif name == "imagefolder":
        if given is None:
            raise DataError(f"imagefolder: put train/ and test/ into {root}, or pass a tar archive of them with --from")
        unpack(given, root)
    return verify(name, root)


def verify(name: str, root: str | Path = "data") -> dict[str, Any]:
    """Check every file of a dataset; returns what it is and what was checked, or raises `DataError`."""
    entry(name)
    if name == "imagefolder" and Path(root).is_file():
        checked = _verify_prepared(Path(root))
    elif name == "imagefolder":
        listing = list_folder(Path(root))
        checked = f"every image decoded; {_verify_files(listing)}"
    else:
        checked = "SHA-256 of every file, labels and class counts"
    return {**load(name, root=root).describe(), "checked": checked}


def _verify_prepared(path: Path) -> str:
    """Compare every image of a prepared file with its index, and decode it."""
    from ebsim.data.prepared import read_index

    file = read_index(path)
    file.check_images()
    for_each(lambda i: file.image(i).picture(None), len(file))
    return "every image decoded; each is what was written"


def _verify_files(listing: Listing) -> str:
    """Decode every image and compare its file with the digest it was first read with."""
    size, paths = small_size(listing), [path for split in listing.splits for path in split.paths]
    rotated = 0

    def decode(i: int) -> None:
        nonlocal rotated
        path = listing.root / paths[i]
        image = open_image(path)
        if size is not None:
            check_size(path, image.size, size)
        decode_rgb(path, image)
        rotated += turned(image)

    columns = [
        [value for split in listing.splits for value in getattr(split, column)] for column in ("sizes", "times_ns")
    ]
    found = file_record.verify(listing.root, paths, *columns)
    for_each(decode, len(paths))
    return f"{found}; the EXIF orientation of {rotated:,} is not applied" if rotated else found
