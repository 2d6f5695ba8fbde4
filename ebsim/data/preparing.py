"""`data prepare`: an image folder of large images becomes one file, with smaller images, re-encoded or decoded.

Resizing is bilinear with antialiasing, by Pillow, as test images are resized in any case: with `side` 256 and without
JPEG the test images are the very pixels that the folder gives. Images are never enlarged.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ebsim.data import file_record, prepared
from ebsim.data.crops import resized
from ebsim.data.image_cache import small_size
from ebsim.data.image_files import decode_rgb, open_image, read_bytes
from ebsim.data.image_folder import Listing, list_folder
from ebsim.data.prepared import MAGIC, Preparation, PreparedFile
from ebsim.errors import ConfigError, DataError
from ebsim.files import DAY, sweep, write_stream

Encoded = tuple[bytes, int, int]  # content, width, height


def prepare(
    folder: str | Path,
    to: str | Path | None = None,
    *,
    side: int = 400,
    encoding: str = "jpeg",
    quality: int = 90,
) -> dict[str, Any]:
    """Write an image folder of large images as one file; returns where it is and what it holds, as plain JSON.

    to: the file; left out, <folder>-<side>-<encoding>.images beside the folder. side: shorter sides longer than this
    are reduced to it; 0 leaves all sizes. encoding: "jpeg" with a `quality` of 1 to 100, or "raw" (3 bytes a pixel).
    A file that is there and was made from the same images in the same way is kept. Raises `ConfigError` for impossible
    settings, `DataError` for damaged images, small ones (they are kept decoded anyway), or another file of that name.
    """
    recipe = _checked(Preparation(side, encoding, quality if encoding == "jpeg" else None))
    root = Path(folder)
    listing = list_folder(root)
    if small_size(listing) is not None:
        raise DataError(f"{root}: holds small images, which are decoded once and kept in memory; there is no need")
    name = f"{root.resolve().name}-{side or 'full'}-{f'jpeg{quality}' if encoding == 'jpeg' else 'raw'}.images"
    target = Path(to) if to is not None else root.resolve().parent / name
    if target.is_dir():
        raise DataError(f"{target}: a folder; name the file that shall hold the images")
    source = file_record.contents_digest(root, *listing.splits)
    if target.exists():
        return _described(_same(target, recipe, source), made=False)
    meta = _meta(listing, recipe, source)
    sweep(target.parent, older=DAY, of=target.name)
    write_stream(target, _pieces(listing, recipe, meta))
    result = prepared.read_index(target)
    prepared.note_checked(result)
    return _described(result, made=True)


def _checked(recipe: Preparation) -> Preparation:
    if recipe.side and not 64 < recipe.side <= 8192:
        raise ConfigError(f"side {recipe.side}: the shorter side is 65 to 8192 pixels, or 0 for the size as it is")
    if recipe.encoding not in prepared.ENCODINGS:
        raise ConfigError(f"encoding {recipe.encoding!r}: images are stored as {' or '.join(prepared.ENCODINGS)}")
    if recipe.quality is not None and not 1 <= recipe.quality <= 100:
        raise ConfigError(f"quality {recipe.quality}: JPEG has 1 to 100")
    return recipe


def _meta(listing: Listing, recipe: Preparation, source: str) -> dict[str, Any]:
    import PIL
    from PIL import features

    return {
        **asdict(recipe),
        "class_names": list(listing.class_names),
        "train_images": len(listing.train.paths),
        "split": listing.split,
        "source": listing.root.resolve().name,
        "source_digest": source,
        "made_by": f"Pillow {PIL.__version__}, libjpeg-turbo {features.version('libjpeg_turbo')}",
    }


def _same(target: Path, recipe: Preparation, source: str) -> PreparedFile:
    found = prepared.open_prepared(target)
    if (found.recipe, found.meta.get("source_digest")) != (recipe, source):
        raise DataError(
            f"{target}: holds other images, or made otherwise ({found.recipe}); name another file, or delete it"
        )
    return found


def _pieces(listing: Listing, recipe: Preparation, meta: dict[str, Any]) -> Iterator[bytes]:
    """The whole file, piece by piece, its index last."""
    paths = [listing.root / path for split in listing.splits for path in split.paths]
    ends, sizes, sha256 = [], [], []
    offset = len(MAGIC)
    yield MAGIC
    for content, width, height in _in_order(paths, recipe):
        offset += len(content)
        ends.append(offset)
        sizes.append((width, height))
        sha256.append(hashlib.sha256(content).digest())
        yield content
    columns: dict[str, np.ndarray] = {
        "ends": np.array(ends, np.int64),
        "sizes": np.array(sizes, np.int64),
        "labels": np.array([label for split in listing.splits for label in split.labels], np.int64),
        "sha256": np.frombuffer(b"".join(sha256), np.uint8).reshape(-1, 32),
    }
    index = prepared.index_bytes(columns, meta)
    yield index
    yield prepared.footer(offset, index)


def _in_order(paths: list[Path], recipe: Preparation) -> Iterator[Encoded]:
    """Every image re-encoded, a thread per core, no more than a few ahead of the writer."""
    threads = os.cpu_count() or 1
    waiting: list[Future[Encoded]] = []
    rest = iter(paths)
    pool = ThreadPoolExecutor(threads)
    try:
        waiting.extend(pool.submit(_encode, path, recipe) for path in islice(rest, 4 * threads))
        while waiting:
            yield waiting.pop(0).result()
            waiting.extend(pool.submit(_encode, path, recipe) for path in islice(rest, 1))
    finally:
        pool.shutdown(cancel_futures=True)


def _encode(path: Path, recipe: Preparation) -> Encoded:
    """One image: decoded, reduced, stored as the recipe says."""
    from PIL import Image

    picture = decode_rgb(path, open_image(path, read_bytes(path)))
    if recipe.side and min(picture.size) > recipe.side:
        picture = picture.resize(resized(picture.size, recipe.side), Image.Resampling.BILINEAR)
    if recipe.encoding == "raw":
        return picture.tobytes(), *picture.size
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=recipe.quality)
    return buffer.getvalue(), *picture.size


def _described(file: PreparedFile, made: bool) -> dict[str, Any]:
    return {
        "file": str(file.path),
        "bytes": file.path.stat().st_size,
        "classes": len(file.class_names),
        "train_images": file.train_images,
        "test_images": len(file) - file.train_images,
        "images": str(file.recipe),
        "made_by": file.meta["made_by"],
        "digest": file.digest,
        "source_digest": file.meta["source_digest"],
        "made": made,
    }
