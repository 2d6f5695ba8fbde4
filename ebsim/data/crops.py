"""Where a large image is cut: boxes in its own pixels, as torchvision draws them, and the sizes of resized images.

No pixel is read here. `random_box` takes its random numbers in the order of torchvision's RandomResizedCrop and
RandomHorizontalFlip, so one seed gives one box whoever decodes the image, at whatever size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

AREA = (0.08, 1.0)  # share of the image's area, uniform
ASPECT = (3 / 4, 4 / 3)  # width / height, uniform in its logarithm
_TRIES = 10
Size = tuple[int, int]


@dataclass(frozen=True)
class Box:
    """A part of an image, (left, top) to (left + width, top + height), and whether it is mirrored."""

    left: int
    top: int
    width: int
    height: int
    mirrored: bool = False

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom), as Pillow wants it."""
        return self.left, self.top, self.left + self.width, self.top + self.height


def random_box(size: Size, seed: int) -> Box:
    """A random resized crop of an image of `size` (width, height), before its resizing, mirrored half of the time."""
    generator = torch.Generator().manual_seed(seed)
    left, top, width, height = _random_part(size, generator)
    return Box(left, top, width, height, bool(torch.rand(1, generator=generator) < 0.5))


def _random_part(size: Size, generator: torch.Generator) -> tuple[int, int, int, int]:
    def uniform(low: float, high: float) -> float:
        return torch.empty(1).uniform_(low, high, generator=generator).item()

    def below(end: int) -> int:
        return int(torch.randint(0, end, (1,), generator=generator).item())

    image_width, image_height = size
    low, high = torch.log(torch.tensor(ASPECT)).tolist()  # rounded to float32, as torchvision's are
    for _ in range(_TRIES):
        area = image_width * image_height * uniform(*AREA)
        aspect = torch.exp(torch.empty(1).uniform_(low, high, generator=generator)).item()
        width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < width <= image_width and 0 < height <= image_height:
            top = below(image_height - height + 1)
            return below(image_width - width + 1), top, width, height
    # a very long image: its middle, as far as the allowed aspect goes
    aspect = image_width / image_height
    width = min(image_width, round(image_height * ASPECT[1])) if aspect > ASPECT[1] else image_width
    height = min(image_height, round(image_width / ASPECT[0])) if aspect < ASPECT[0] else image_height
    return (image_width - width) // 2, (image_height - height) // 2, width, height


def resized(size: Size, shorter: int) -> Size:
    """(width, height) of an image whose shorter side becomes `shorter`; the longer one is rounded down."""
    width, height = size
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter


def centre(size: Size, side: int) -> Box:
    """The square of `side` pixels in the middle of an image."""
    width, height = size
    return Box(round((width - side) / 2), round((height - side) / 2), side, side)


def scale_for(size: Size, needed: Size) -> int:
    """The largest of 8, 4, 2, 1 by which `size` can be divided and still is at least `needed` in both directions."""
    return next(s for s in (8, 4, 2, 1) if s == 1 or (size[0] >= s * needed[0] and size[1] >= s * needed[1]))
