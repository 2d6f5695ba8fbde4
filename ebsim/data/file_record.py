"""The SHA-256 of every image of a folder: as first read, which `data verify` holds it to, and as it is now.

<root>/.ebsim-cache/files.safetensors. A file whose size and time of change are still the same is not read again. What
changed since is read again, and from then on known by its new content; the digest it was first read with stays on
record, so that a load cannot make a later check pass. A root that cannot be written works without the record.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ebsim.data.catalogue import CACHE_FOLDER
from ebsim.data.image_files import for_each, read_bytes
from ebsim.data.image_folder import Split
from ebsim.errors import DamagedError, DataError, StorageError
from ebsim.files import DAY, digest, load_tensors, save_tensors, sweep

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownFile:
    """One file: size in bytes and time of change in ns when it was last read, its content then and at first."""

    size: int
    time_ns: int
    now: bytes
    first: bytes


FileRecords = Mapping[str, KnownFile]


def record_path(root: Path) -> Path:
    """Where the record of an image folder is kept."""
    return root / CACHE_FOLDER / "files.safetensors"


def load_record(root: Path) -> dict[str, KnownFile]:
    """Path below the root -> what is known of it; empty where there is no record, or a damaged one (told aloud)."""
    path = record_path(root)
    if not path.exists():
        return {}
    try:
        tensors, _ = load_tensors(path)
        names = bytes(tensors["paths"].numpy()).decode("utf-8", "surrogateescape").split("\0")
        numbers = tensors["size_time"].tolist()
        digests = tensors["digests"].numpy()
        if digests.shape != (len(names), 2, 32) or digests.dtype != np.uint8:
            raise DamagedError(f"{path}: not a record of image files.")
        rows = zip(names, numbers, digests, strict=True)
        return {
            name: KnownFile(size, time, now.tobytes(), first.tobytes()) for name, (size, time), (now, first) in rows
        }
    except (DamagedError, KeyError, TypeError, ValueError) as error:
        log.warning("%s: the record of the files' digests is damaged (%s); they are recorded anew.", path, error)
        return {}


def save_record(root: Path, record: FileRecords) -> None:
    """Keep a record, if the folder can be written."""
    names = "\0".join(record).encode("utf-8", "surrogateescape")
    tensors = {
        "paths": torch.from_numpy(np.frombuffer(names, np.uint8).copy()),
        "size_time": torch.tensor([[known.size, known.time_ns] for known in record.values()], dtype=torch.int64),
        "digests": torch.from_numpy(
            np.frombuffer(b"".join(known.now + known.first for known in record.values()), np.uint8)
            .reshape(-1, 2, 32)
            .copy()
        ),
    }
    try:
        sweep(root / CACHE_FOLDER, older=DAY)
        save_tensors(record_path(root), tensors, {})
    except StorageError as error:
        log.warning("%s The digests of the images are not kept; the files will be read again next time.", error)


def refresh(root: Path, paths: Sequence[str], sizes: Sequence[int], times_ns: Sequence[int]) -> dict[str, KnownFile]:
    """The record with these files up to date: what is new or changed is read. Says which changed since first read."""
    record = load_record(root)
    stale = [
        i
        for i, path in enumerate(paths)
        if (known := record.get(path)) is None or (known.size, known.time_ns) != (sizes[i], times_ns[i])
    ]
    if not stale:
        return record
    if len(stale) > 10_000:
        log.warning("%s: reading %s images to know their content, once", root, f"{len(stale):,}")
    found = [b""] * len(stale)

    def read(k: int) -> None:
        found[k] = hashlib.sha256(read_bytes(root / paths[stale[k]])).digest()

    for_each(read, len(stale))
    note(record, {paths[i]: (sizes[i], times_ns[i], content) for i, content in zip(stale, found, strict=True)}, root)
    save_record(root, record)
    return record


def contents_digest(root: Path, train: Split, test: Split) -> str:
    """SHA-256 over names and contents; only files that are new or changed since the last time are read."""
    paths, sizes, times = ([*getattr(train, name), *getattr(test, name)] for name in ("paths", "sizes", "times_ns"))
    record = refresh(root, paths, sizes, times)
    return digest([[[path, record[path].now.hex()] for path in split.paths] for split in (train, test)])


def verify(root: Path, paths: Sequence[str], sizes: Sequence[int], times_ns: Sequence[int]) -> str:
    """Read every file and compare it with its first digest; says what was done. `DataError` for one that differs."""
    record = load_record(root)
    new: dict[str, tuple[int, int, bytes]] = {}

    def check(i: int) -> None:
        path, content = paths[i], hashlib.sha256(read_bytes(root / paths[i])).digest()
        known = record.get(path)
        if known is None:
            new[path] = (sizes[i], times_ns[i], content)
        elif known.first != content:
            raise DataError(
                f"{root / path}: changed since it was first read (SHA-256 expected {known.first.hex()}, actual "
                f"{content.hex()}); restore it, or delete {root / CACHE_FOLDER} if the change is intended"
            )

    for_each(check, len(paths))
    if new:
        note(record, new, root)
        save_record(root, record)
    if len(new) == len(paths):
        return "their digests are now on record"
    late = f"; {len(new):,} new one(s) are on record from now on" if new else ""
    return f"every file has the digest recorded when it was first read{late}"


def note(record: dict[str, KnownFile], read: Mapping[str, tuple[int, int, bytes]], root: Path) -> None:
    """Enter what was read (size, time of change, SHA-256) into a record, in place, and tell what has changed."""
    changed = []
    for path, (size, time_ns, content) in read.items():
        known = record.get(path)
        if known is not None and known.first != content:
            changed.append(path)
        record[path] = KnownFile(size, time_ns, content, content if known is None else known.first)
    if changed:
        log.warning(
            "%s: %d image(s) are not what they were when first read (%s, ...); `data verify` names them, and deleting "
            "%s accepts the change",
            root, len(changed), min(changed), root / CACHE_FOLDER,
        )  # fmt: skip
