"""From a large image to the uint8 square that a network sees: exactly as torchvision does, or fast.

`exact`: the whole image is decoded, cropped and resized by Pillow, as torchvision's transforms do: bit for bit theirs.
`fast`: the same box, drawn from the same random numbers, but decoded no larger than it is needed (1/2, 1/4, 1/8 where
the box stays larger than the result), and resized by torch's kernel for uint8. Without scaling the two differ by at
most 1 of 255, where a rounding falls otherwise; docs/data.md gives the differences with scaling.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch.nn import functional

from ebsim.data.catalogue import LARGE_RESIZE, LARGE_SIDE
from ebsim.data.crops import Box, Size, centre, random_box, resized, scale_for
from ebsim.data.image_files import decode_rgb, open_image
from ebsim.data.scaled_decoding import decode_scaled

Decode = Literal["exact", "fast", "dali"]
Corners = tuple[int, int, int, int]


class Source(Protocol):
    """An image that is read when its pixels are asked for."""

    @property
    def size(self) -> Size:
        """(width, height)."""

    @property
    def scalable(self) -> bool:
        """Whether it can be decoded at a smaller size."""

    def picture(self, box: Box | None) -> Any:
        """A Pillow image in RGB, full size: the box of it (its mirroring is not applied), or the whole."""

    def pixels(self, scale: int, corners: Corners | None) -> np.ndarray:
        """uint8 [height, width, 3]: a part of the image decoded at 1/scale, in pixels of that size, or the whole."""


class EncodedImage:
    """The bytes of an image file. Raises `DataError` for what is not 8-bit RGB, or damaged."""

    def __init__(self, path: Path, content: bytes) -> None:
        self._path, self.content = path, content
        self._image = open_image(path, content)
        self.size: Size = self._image.size
        self.scalable: bool = self._image.format == "JPEG"

    def picture(self, box: Box | None) -> Any:
        whole = decode_rgb(self._path, self._image)
        return whole if box is None else whole.crop(box.corners)

    def pixels(self, scale: int, corners: Corners | None) -> np.ndarray:
        whole = decode_scaled(self._path, self._image, self.content, scale)
        if corners is None:
            return whole
        left, top, right, bottom = corners
        return whole[top:bottom, left:right]


def exact_training(source: Source, seed: int) -> np.ndarray:
    """A random resized crop, uint8 [224, 224, 3]; torchvision's pixels."""
    from PIL import Image

    box = random_box(source.size, seed)
    picture = source.picture(box).resize((LARGE_SIDE, LARGE_SIDE), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture)
    return pixels[:, ::-1] if box.mirrored else pixels


def exact_test(source: Source) -> np.ndarray:
    """Shorter side to 256, the middle 224 x 224; uint8 [224, 224, 3]; torchvision's pixels."""
    from PIL import Image

    size = resized(source.size, LARGE_RESIZE)
    picture = source.picture(None)
    if size != source.size:
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(picture.crop(centre(size, LARGE_SIDE).corners))


def fast_training(source: Source, seed: int) -> np.ndarray:
    """As `exact_training`: the same box, decoded no larger than it is needed."""
    box = random_box(source.size, seed)
    scale = scale_for((box.width, box.height), (LARGE_SIDE, LARGE_SIDE)) if source.scalable else 1
    if scale == 1:
        pixels = _resize(source.pixels(1, box.corners), (LARGE_SIDE, LARGE_SIDE))
    else:
        pixels = _resize_part(source.pixels(scale, None), tuple(edge / scale for edge in box.corners))
    return pixels[:, ::-1] if box.mirrored else pixels


def fast_test(source: Source) -> np.ndarray:
    """As `exact_test`."""
    size = resized(source.size, LARGE_RESIZE)
    scale = scale_for(source.size, size) if source.scalable else 1
    pixels = source.pixels(scale, None)
    if pixels.shape[:2] != (size[1], size[0]):
        pixels = _resize(pixels, size)
    left, top, right, bottom = centre(size, LARGE_SIDE).corners
    return pixels[top:bottom, left:right]


TRAINING: dict[str, Callable[[Source, int], np.ndarray]] = {"exact": exact_training, "fast": fast_training}
TEST: dict[str, Callable[[Source], np.ndarray]] = {"exact": exact_test, "fast": fast_test}


def _resize(pixels: np.ndarray, size: Size) -> np.ndarray:
    """Bilinear with antialiasing, uint8 [height, width, 3] -> `size` (width, height), in torch's kernel for uint8."""
    image = torch.from_numpy(_writable(pixels)).permute(2, 0, 1)[None]
    smaller = functional.interpolate(image, (size[1], size[0]), mode="bilinear", antialias=True)
    return smaller[0].permute(1, 2, 0).numpy()


def _writable(pixels: np.ndarray) -> np.ndarray:
    """torch warns of arrays that cannot be written, although nothing is written here."""
    return pixels if pixels.flags.writeable else pixels.copy()


def _resize_part(pixels: np.ndarray, corners: tuple[float, ...]) -> np.ndarray:
    """As `_resize`, a part whose corners need not fall between pixels; by Pillow, which knows such parts."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    box = (corners[0], corners[1], min(corners[2], picture.width), min(corners[3], picture.height))
    return np.asarray(picture.resize((LARGE_SIDE, LARGE_SIDE), Image.Resampling.BILINEAR, box=box))
