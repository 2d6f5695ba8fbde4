"""One image file: bytes, header, RGB pixels. What would not become 8-bit RGB exactly is refused, never approximated.

Refused, by name: more than 8 bits a channel, floating point, transparency that is used, several frames, more than
`MAX_PIXELS`, and any format but those of `FORMATS`, whatever the file's ending says. CMYK becomes RGB as Pillow does
it. An EXIF orientation is not applied (torchvision does not either); `turned` tells of it, so that the user is told.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ebsim.errors import DataError

FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What Pillow may take a file for; its other readers (EPS starts Ghostscript) are never tried."""
MAX_PIXELS = 1 << 26  # 67 million, 200 MB decoded
_MODES = {"1", "L", "P", "RGB", "CMYK", "YCbCr", "LA", "PA", "RGBA", "La", "RGBa"}
_BITS_PER_SAMPLE, _ORIENTATION = 258, 274
_PPM = re.compile(rb"P[2356]\s(?:\s*#[^\n]*\n)*\s*\d+(?:\s|#[^\n]*\n)+\d+(?:\s|#[^\n]*\n)+(\d+)")


def read_bytes(path: Path) -> bytes:
    """The file's content; `DataError` if it cannot be read."""
    try:
        return path.read_bytes()
    except (OSError, MemoryError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise DataError(f"{path}: cannot be read ({why}); check that it exists and its permissions") from error


def open_image(path: Path, content: bytes | None = None) -> Any:
    """A Pillow image, its header read and checked, its pixels not yet decoded."""
    from PIL import Image

    content = read_bytes(path) if content is None else content
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        problem = _problem(image, content)
    except Exception as error:  # what a decoder raises on hostile bytes is anything
        raise _unreadable(path, error) from error
    if problem:
        raise DataError(f"{path}: {problem}")
    return image


def decode_rgb(path: Path, image: Any) -> Any:
    """The decoded image in RGB, 8 bits; a truncated file is an error, not a grey half."""
    try:
        if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
            whole = image.convert("RGBA")
            if whole.getchannel("A").getextrema()[0] < 255:
                raise DataError(f"{path}: is partly transparent, and no background is given; save it without alpha")
            return whole.convert("RGB")
        return image.convert("RGB")
    except DataError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from error


def turned(image: Any) -> bool:
    """Whether its EXIF data ask for a rotation or a mirror image, which is not applied."""
    try:
        return image.getexif().get(_ORIENTATION, 1) not in (0, 1)
    except Exception:  # damaged metadata ask for nothing
        return False


def _problem(image: Any, content: bytes) -> str:
    """Why an image would not become 8-bit RGB exactly, with the cure; empty if it would."""
    if image.width * image.height > MAX_PIXELS:
        return f"{image.width:,} x {image.height:,} pixels, more than {MAX_PIXELS:,}; make it smaller"
    if image.mode not in _MODES or _deep(image, content):
        return f"more than 8 bits a channel (Pillow's mode {image.mode}); convert it to 8 bits yourself"
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        return f"holds {frames} frames; save the one that is meant as a file of its own"
    return ""


def _deep(image: Any, content: bytes) -> bool:
    """More than 8 bits in a file that Pillow would cut down without a word."""
    if image.format == "PNG":
        return content[24:25] == b"\x10"  # bit depth, in the header chunk
    if image.format == "TIFF":
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, (1,))
        return max(bits if isinstance(bits, tuple) else (bits,)) > 8
    if image.format == "PPM":
        largest = _PPM.match(content[:4096])
        return largest is not None and int(largest.group(1)) > 255
    return False


def for_each(work: Callable[[int], None], items: int) -> None:
    """`work(0) .. work(items - 1)`, a thread per core (decoding releases the interpreter lock); first error wins."""
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for _ in pool.map(work, range(items)):
            pass
    finally:
        pool.shutdown(cancel_futures=True)


def _unreadable(path: Path, error: BaseException) -> DataError:
    return DataError(f"{path}: not a readable image ({str(error) or type(error).__name__}); replace it, or remove it")
