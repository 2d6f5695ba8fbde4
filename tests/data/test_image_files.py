"""Image files that would not become 8-bit RGB exactly are refused by name; the others decode as Pillow decodes them."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ebsim.data.image_files import decode_rgb, open_image, turned
from ebsim.errors import DataError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)
ALPHA = np.concatenate([RGB, np.full((6, 5, 1), 255, np.uint8)], 2)
HOLED = ALPHA.copy()
HOLED[2, 3, 3] = 254
DEEP = RNG.integers(0, 65536, (6, 5), dtype=np.uint16)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_rgb16() -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + RNG.integers(0, 65536, 15, dtype=np.uint16).astype(">u2").tobytes() for _ in range(6))
    header = struct.pack(">IIBBBBB", 5, 6, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def png_bomb() -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 10_000, 9_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def frames(kind: str) -> bytes:
    other = Image.fromarray(RGB[::-1].copy())
    return saved(Image.fromarray(RGB), kind, save_all=True, append_images=[other])


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(/tmp/ebsim-eps) (w) file closefile\nshowpage\n%%EOF\n"
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "16-bit grey PNG": (lambda: saved(Image.fromarray(DEEP), "PNG"), "more than 8 bits"),
    "16-bit RGB PNG": (png_rgb16, "more than 8 bits"),
    "16-bit grey TIFF": (lambda: saved(Image.fromarray(DEEP), "TIFF"), "more than 8 bits"),
    "float TIFF": (lambda: saved(Image.fromarray(DEEP.astype(np.float32)), "TIFF"), "more than 8 bits"),
    "32-bit TIFF": (lambda: saved(Image.fromarray(DEEP.astype(np.int32)), "TIFF"), "more than 8 bits"),
    "16-bit PGM": (lambda: b"P5\n# a comment\n5 6\n65535\n" + DEEP.astype(">u2").tobytes(), "more than 8 bits"),
    "12-bit PPM": (lambda: b"P6 5 6 4095\n" + np.zeros(90, ">u2").tobytes(), "more than 8 bits"),
    "transparent PNG": (lambda: saved(Image.fromarray(HOLED), "PNG"), "partly transparent"),
    "transparent grey": (lambda: saved(Image.fromarray(HOLED).convert("LA"), "PNG"), "partly transparent"),
    "transparent palette": (
        lambda: saved(Image.fromarray(RGB).convert("P"), "PNG", transparency=int(np.array(
            Image.fromarray(RGB).convert("P"))[0, 0])), "partly transparent"),
    "transparent WEBP": (lambda: saved(Image.fromarray(HOLED), "WEBP", lossless=True), "partly transparent"),
    "animated PNG": (lambda: frames("PNG"), "2 frames"),
    "animated WEBP": (lambda: frames("WEBP"), "2 frames"),
    "two-page TIFF": (lambda: frames("TIFF"), "2 frames"),
    "bomb": (png_bomb, "more than 67,108,864"),
    "EPS": (lambda: EPS, "not a readable image"),
    "GIF": (lambda: saved(Image.fromarray(RGB).convert("P"), "GIF"), "not a readable image"),
    "PDF": (lambda: saved(Image.fromarray(RGB), "PDF"), "not a readable image"),
    "text": (lambda: b"hello", "not a readable image"),
    "nothing": (lambda: b"", "not a readable image"),
}  # fmt: skip


def decode(path: Path) -> np.ndarray:
    return np.asarray(decode_rgb(path, open_image(path)))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_exactly_8_bit_rgb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", never)
    content, why = REFUSED[case]
    path = tmp_path / "image.png"
    path.write_bytes(content())
    with pytest.raises(DataError, match=f"image.png: .*{why}"):
        decode(path)


EXACT: dict[str, Callable[[], bytes]] = {
    "PNG": lambda: saved(Image.fromarray(RGB), "PNG"),
    "BMP": lambda: saved(Image.fromarray(RGB), "BMP"),
    "PPM": lambda: saved(Image.fromarray(RGB), "PPM"),
    "TIFF": lambda: saved(Image.fromarray(RGB), "TIFF"),
    "WEBP": lambda: saved(Image.fromarray(RGB), "WEBP", lossless=True),
    "opaque PNG": lambda: saved(Image.fromarray(ALPHA), "PNG"),
    "opaque WEBP": lambda: saved(Image.fromarray(ALPHA), "WEBP", lossless=True),
}


@pytest.mark.parametrize("case", EXACT)
def test_8_bit_rgb_is_read_exactly_whatever_the_ending(tmp_path: Path, case: str) -> None:
    path = tmp_path / "image.jpeg"
    path.write_bytes(EXACT[case]())
    assert np.array_equal(decode(path), RGB)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK"])
def test_other_8_bit_modes_become_rgb_as_pillow_does_it(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(RGB).convert(mode)
    path = tmp_path / "image.tif"
    image.save(path)
    assert np.array_equal(decode(path), np.asarray(image.convert("RGB")))


def test_a_grey_image_of_4_bits_is_scaled(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(np.array([[0, 1, 2, 3]], np.uint8), "P").save(path, bits=2)
    assert decode(path).shape == (1, 4, 3)


def test_an_orientation_is_told(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    path = tmp_path / "image.jpg"
    Image.fromarray(RGB).save(path, exif=exif)
    assert turned(open_image(path))
    Image.fromarray(RGB).save(path)
    assert not turned(open_image(path))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    rng, path, refused = random.Random(1), tmp_path / "image.png", 0
    wholes = [saved(Image.fromarray(RGB), kind) for kind in ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "PPM")]
    for trial in range(300):
        broken = bytearray(wholes[trial % len(wholes)])
        for _ in range(rng.choice((1, 2, 8))):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        path.write_bytes(broken[: rng.choice((None, rng.randrange(len(broken))))])
        try:
            assert decode(path).shape[2] == 3
        except DataError:
            refused += 1
    assert refused > 50
