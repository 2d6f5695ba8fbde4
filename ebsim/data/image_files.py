"""One image file: bytes, header, RGB pixels; every way it can be broken becomes a `DataError` with its path."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ebsim.errors import DataError


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); check that it exists and its permissions"
        ) from error


def open_picture(path: Path, content: bytes | None = None) -> Any:
    """A PIL image, header read but not decoded; huge ones (decompression bombs) are refused by PIL's own limit."""
    from PIL import Image

    source = io.BytesIO(read_bytes(path) if content is None else content)
    try:
        return Image.open(source)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error


def decode_rgb(path: Path, picture: Any) -> Any:
    """The decoded picture in RGB; a truncated file is an error, not a grey half."""
    try:
        return picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError, IndexError) as error:
        raise _unreadable(path, error) from error


def for_each(work: Callable[[int], None], items: int) -> None:
    """`work(0) .. work(items - 1)`, a thread per core (decoding releases the interpreter lock); first error wins."""
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for _ in pool.map(work, range(items)):
            pass
    finally:
        pool.shutdown(cancel_futures=True)


def _unreadable(path: Path, error: BaseException) -> DataError:
    return DataError(f"{path}: not a readable image ({error}); replace it, or remove it")
