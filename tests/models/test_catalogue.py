"""Names, depths and sizes: what is refused, and that asking costs no import of torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ebsim import models
from ebsim.errors import ConfigError


def test_catalogue_does_not_import_torch() -> None:
    code = (
        "import sys; from ebsim import models, data;"
        "models.resolve('vgg', classes=10); sorted(models.FAMILIES);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_defaults_are_filled_in() -> None:
    spec = models.resolve("preresnet", classes=10)
    assert (spec.depth, spec.gamma_init, spec.label) == (101, 0.5, "PreResNet101")
    assert models.resolve("resnet", classes=10, input_shape=(3, 224, 224)).gamma_init == 1.0
    assert models.resolve("resnet", classes=10, stem="small_images").gamma_init == 0.5


def test_automatic_stem_goes_by_the_image_size() -> None:
    for side, stem in ((8, "small_images"), (32, "small_images"), (64, "imagenet"), (224, "imagenet")):
        assert models.resolve("resnet", classes=10, input_shape=(3, side, side)).stem == stem
    assert models.resolve("vgg", classes=10, stem="auto").stem == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "preresnet101"}, ("preresnet101", "'preresnet' with depth = 101", "vgg")),
        ({"name": "PreResNet"}, ("did you mean 'preresnet'",)),
        ({"name": "transformer"}, ("preresnet, vgg, resnet",)),
        ({"name": "preresnet", "depth": 100}, ("100", "9n+2", "nearest: 101")),
        ({"name": "vgg", "depth": 12}, ("12", "11, 13, 16 or 19", "nearest: 11")),
        ({"name": "resnet", "depth": 101}, ("18, 34 or 50", "nearest: 50")),
        ({"name": "resnet", "stem": "cifar"}, ("'imagenet', 'small_images'",)),
        ({"name": "vgg", "stem": "imagenet"}, ("no choice of stem",)),
        ({"name": "resnet", "stem": "imagenet", "input_shape": (3, 8, 8)}, ("32x32", "8x8", "small_images")),
        ({"name": "resnet", "input_shape": (3, 7, 7)}, ("8x8", "7x7")),
        ({"name": "vgg", "input_shape": (3, 3, 3)}, ("4x4", "3x3")),
        ({"name": "vgg", "input_shape": (32, 32)}, ("(channels, height, width)",)),
        ({"name": "vgg", "classes": 0}, ("at least 1 class",)),
        ({"name": "vgg", "gamma_init": 0.0}, ("gamma_init",)),
        ({"name": "vgg", "gamma_init": float("nan")}, ("gamma_init",)),
    ],
)
def test_refusals_name_the_thing_and_the_choices(options: dict, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        models.resolve(**{"classes": 10, **options})
    for word in words:
        assert word in str(caught.value)


def test_description_builds_the_same_architecture_again() -> None:
    for spec in (
        models.resolve("preresnet", classes=7, input_shape=[3, 8, 8], depth=20),
        models.resolve("resnet", classes=5, stem="small_images"),
    ):
        assert models.resolve(**spec.describe()) == spec  # type: ignore[arg-type]
