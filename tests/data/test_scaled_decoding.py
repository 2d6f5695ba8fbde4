"""JPEG decoded at a fraction of its size: simplejpeg and Pillow agree, and the fast pixels are near the exact ones."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ebsim import data
from ebsim.data import scaled_decoding
from ebsim.data.image_files import open_image
from ebsim.data.large_images import EncodedImage, exact_test, exact_training, fast_test, fast_training
from ebsim.errors import DataError


def picture(size: tuple[int, int], seed: int = 0, detail: int = 12) -> Image.Image:
    """Smooth shapes and some noise, so that it has both low and high frequencies, as a photograph has."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (size[1] // detail + 1, size[0] // detail + 1, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), np.int16)
    return Image.fromarray(np.clip(smooth + random.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 90} | options)
    return buffer.getvalue()


def decode(content: bytes, scale: int) -> np.ndarray:
    return scaled_decoding.decode_scaled(Path("x.jpeg"), open_image(Path("x.jpeg"), content), content, scale)


@pytest.fixture
def pillow_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaled_decoding, "fast_decoder", lambda: None)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_both_decoders_give_the_same_pixels_at_every_scale(
    subsampling: int, progressive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if scaled_decoding.fast_decoder() is None:
        pytest.skip("simplejpeg is not installed")
    for number, size in enumerate(((500, 375), (501, 377), (224, 999), (65, 57))):
        content = jpeg(picture(size, number), subsampling=subsampling, progressive=progressive)
        for scale in (1, 2, 4, 8):
            fast = decode(content, scale)
            with monkeypatch.context() as patched:
                patched.setattr(scaled_decoding, "fast_decoder", lambda: None)
                assert np.array_equal(fast, decode(content, scale))
            assert fast.shape == (-(-size[1] // scale), -(-size[0] // scale), 3)


def test_scale_one_is_the_full_decoding() -> None:
    content = jpeg(picture((301, 260)))
    assert np.array_equal(decode(content, 1), np.asarray(Image.open(io.BytesIO(content))))


@pytest.mark.parametrize("scale", [2, 4])
def test_a_scaled_decoding_is_the_mean_of_its_blocks(scale: int) -> None:
    """What DCT scaling approximates: averages of scale x scale pixels (a smooth image, colours not subsampled)."""
    image = picture((320, 240), detail=40).convert("L").convert("RGB")
    full = np.asarray(image, float).reshape(240 // scale, scale, 320 // scale, scale, 3).mean((1, 3))
    assert np.abs(decode(jpeg(image, quality=100, subsampling=0), scale) - full).mean() < 2


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_other_colour_spaces_go_through_pillow(mode: str, pillow_only: None) -> None:
    image = picture((300, 260)).convert(mode)
    content = jpeg(image)
    assert np.array_equal(decode(content, 1), np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))
    half = np.asarray(image.convert("RGB").resize((150, 130), Image.Resampling.BOX), float)
    assert np.abs(decode(content, 2) - half).mean() < 4


def test_a_damaged_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    content = jpeg(picture((300, 260)))[:4000]
    with pytest.raises(DataError, match=r"x\.jpeg: not a readable image"):
        decode(content, 2)


def test_a_decoder_that_disagrees_is_not_used(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def wrong(content: bytes, _: str, min_height: int = 0, min_width: int = 0) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(content))) ^ 1

    monkeypatch.setattr(scaled_decoding, "import_module", lambda _: SimpleNamespace(decode_jpeg=wrong))
    scaled_decoding.fast_decoder.cache_clear()
    try:
        assert scaled_decoding.fast_decoder() is None
        assert "otherwise than Pillow" in caplog.text
    finally:
        scaled_decoding.fast_decoder.cache_clear()


def test_fast_pixels_differ_by_one_at_most_without_scaling() -> None:
    for number, size in enumerate(((300, 260), (375, 500), (500, 375), (230, 640))):
        content = jpeg(picture(size, number))
        for seed in range(20):
            exact, fast = (
                work(EncodedImage(Path("x"), content), seed).astype(int) for work in (exact_training, fast_training)
            )
            box = data.crops.random_box(size, seed)  # type: ignore[attr-defined]
            if min(box.width, box.height) < 448:
                assert np.abs(exact - fast).max() <= 1
        exact, fast = (work(EncodedImage(Path("x"), content)).astype(int) for work in (exact_test, fast_test))
        assert np.abs(exact - fast).max() <= 1 and exact.shape == (224, 224, 3)


def test_fast_pixels_of_large_images_stay_near_the_exact_ones() -> None:
    """With scaling: the stated difference, of the mean over an image (docs/data.md)."""
    means = []
    for number, size in enumerate(((1200, 900), (900, 1600), (2400, 1800))):
        content = jpeg(picture(size, number))
        for seed in range(6):
            exact, fast = (
                work(EncodedImage(Path("x"), content), seed).astype(int) for work in (exact_training, fast_training)
            )
            means.append(np.abs(exact - fast).mean())
        exact, fast = (work(EncodedImage(Path("x"), content)).astype(int) for work in (exact_test, fast_test))
        means.append(np.abs(exact - fast).mean())
    assert 0 < max(means) < 2.5, means
