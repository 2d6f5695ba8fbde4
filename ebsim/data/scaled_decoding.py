"""JPEG at the size that is needed: decoded at 1/2, 1/4 or 1/8 by its transform (DCT scaling), by simplejpeg or Pillow.

Both call libjpeg-turbo and are held to the same pixels: simplejpeg is used where it is installed and decodes a test
image as Pillow does, bit for bit, at every scale; otherwise Pillow does it. So which of the two is there changes the
time and not the result. What simplejpeg cannot read (CMYK, damaged files) goes to Pillow too, whose verdict counts.
"""

from __future__ import annotations

import io
import logging
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ebsim.data.image_files import decode_rgb

log = logging.getLogger(__name__)
SCALES = (1, 2, 4, 8)


def decode_scaled(path: Path, image: Any, content: bytes, scale: int) -> np.ndarray:
    """uint8 [ceil(height / scale), ceil(width / scale), 3] of an opened image; other formats than JPEG in full size.

    Raises `DataError` for an image that cannot be decoded. scale: 1, 2, 4 or 8.
    """
    if image.format == "JPEG" and image.mode == "RGB":
        library = fast_decoder()
        if library is not None:
            try:
                return _by_simplejpeg(library, content, image.size, scale)
            except Exception:  # Pillow has the last word on what can be read
                log.debug("%s: read by Pillow", path)
    return _by_pillow(path, image, scale)


def _by_simplejpeg(library: ModuleType, content: bytes, size: tuple[int, int], scale: int) -> np.ndarray:
    width, height = (-(-side // scale) for side in size)
    # a scale is asked for by the least size that is wanted
    pixels = library.decode_jpeg(content, "RGB", min_height=height, min_width=width) if scale > 1 else (
        library.decode_jpeg(content, "RGB")
    )  # fmt: skip
    if pixels.shape != (height, width, 3):
        raise ValueError(f"decoded to {pixels.shape}")
    return pixels


def _by_pillow(path: Path, image: Any, scale: int) -> np.ndarray:
    if scale > 1 and image.format == "JPEG":
        width, height = (side // scale for side in image.size)  # the floor: Pillow then takes this very scale
        image.draft(None, (width, height))
    return np.asarray(decode_rgb(path, image))


@cache
def fast_decoder() -> ModuleType | None:
    """simplejpeg, if it is installed and agrees with Pillow on a test image at every scale."""
    try:
        library = import_module("simplejpeg")
    except ImportError:
        return None
    if not agrees_with_pillow(library):
        log.warning("simplejpeg decodes a test image otherwise than Pillow and is not used")
        return None
    return library


def agrees_with_pillow(library: ModuleType) -> bool:
    """Whether both give the same pixels for colour images with and without subsampled colours, at all scales."""
    from PIL import Image

    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    picture = coarse.resize((75, 53), Image.Resampling.BICUBIC)
    for subsampling in (0, 1, 2):
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=85, subsampling=subsampling)
        for scale in SCALES:
            image = Image.open(io.BytesIO(buffer.getvalue()), formats=("JPEG",))
            try:
                theirs = _by_simplejpeg(library, buffer.getvalue(), image.size, scale)
            except Exception:
                return False
            if not np.array_equal(theirs, _by_pillow(Path("test image"), image, scale)):
                return False
    return True


def decoder_name(decode: str) -> str:
    """What decodes images, with versions, for the record of a run."""
    import PIL
    from PIL import features

    name = f"Pillow {PIL.__version__} (libjpeg-turbo {features.version('libjpeg_turbo')})"
    if decode == "dali":
        return f"NVIDIA DALI {getattr(import_module('nvidia.dali'), '__version__', '')}"
    library = fast_decoder() if decode == "fast" else None
    return name if library is None else f"simplejpeg {version('simplejpeg')}, equal to {name}"
