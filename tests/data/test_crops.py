"""Boxes of random resized crops against torchvision's own draws, for many sizes and seeds."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from ebsim.data.crops import centre, random_box, resized, scale_for
from ebsim.torchvision_shim import import_torchvision

SIZES = [(500, 375), (375, 500), (224, 224), (4000, 300), (300, 4000), (1, 1), (97, 65), (640, 427)]


@pytest.mark.parametrize("size", SIZES)
def test_boxes_are_those_of_torchvision(size: tuple[int, int]) -> None:
    transforms = import_torchvision("torchvision.transforms")
    crop, image = transforms.RandomResizedCrop(224), Image.new("RGB", size)
    for seed in range(60):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            top, left, height, width = crop.get_params(image, list(crop.scale), list(crop.ratio))
            mirrored = bool(torch.rand(1) < 0.5)
        box = random_box(size, seed)
        assert (box.left, box.top, box.width, box.height, box.mirrored) == (left, top, width, height, mirrored)


@pytest.mark.parametrize("size", [*SIZES[:5], (257, 256), (1023, 767), (333, 501)])
def test_test_sizes_are_those_of_torchvision(size: tuple[int, int]) -> None:
    transforms = import_torchvision("torchvision.transforms")
    image = transforms.Resize(256)(Image.new("RGB", size))
    assert resized(size, 256) == image.size
    functional = import_torchvision("torchvision.transforms.functional")
    ramp = Image.linear_gradient("L").resize(image.size)
    assert list(ramp.crop(centre(image.size, 224).corners).get_flattened_data()) == list(
        functional.center_crop(ramp, [224]).get_flattened_data()
    )


def test_scale_is_the_largest_that_keeps_enough_pixels() -> None:
    for size in ((448, 448), (447, 900), (895, 2000), (896, 900), (1792, 1792), (9000, 8000), (100, 100)):
        scale = scale_for(size, (224, 224))
        fits = [s for s in (1, 2, 4, 8) if size[0] / s >= 224 and size[1] / s >= 224]
        assert scale == max(fits, default=1)
