"""A changed image is noticed whatever its size and date say, and a load never makes a later check pass."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ebsim import data
from ebsim.data.file_record import record_path
from ebsim.errors import DataError

from .conftest import save_images


@pytest.fixture(params=[8, 300])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Two classes of small or of large images, uncompressed, so that other pixels take as many bytes."""
    for seed, place in enumerate(("train/a", "train/b", "test/a", "test/b")):
        save_images(tmp_path / "root" / place, 2, size=(request.param, request.param), seed=seed, ending="bmp")
    return tmp_path / "root"


def change(path: Path) -> None:
    """Another pixel; the file's size and time of change stay."""
    before = path.stat()
    pixels = np.asarray(Image.open(path)).copy()
    pixels[0, 0] ^= 255
    Image.fromarray(pixels).save(path)
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_verify_reads_every_file(folder: Path) -> None:
    assert "digests are now on record" in data.verify("imagefolder", folder)["checked"]
    assert "every file has the digest" in data.verify("imagefolder", folder)["checked"]
    change(folder / "train/a/001.bmp")
    with pytest.raises(DataError, match=r"train/a/001\.bmp: changed since it was first read"):
        data.verify("imagefolder", folder)


def test_a_load_does_not_make_a_later_check_pass(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = data.load("imagefolder", root=folder)
    victim = folder / "train/a/001.bmp"
    whole = victim.read_bytes()
    change(victim)
    os.utime(victim)
    with caplog.at_level(logging.WARNING):
        second = data.load("imagefolder", root=folder)
    assert "not what they were when first read (train/a/001.bmp" in caplog.text
    assert second.digest != first.digest
    for _ in range(2):
        with pytest.raises(DataError, match=r"001\.bmp: changed since"):
            data.verify("imagefolder", folder)
        data.load("imagefolder", root=folder)
    victim.write_bytes(whole)
    assert data.load("imagefolder", root=folder).digest == first.digest
    assert "every file has the digest" in data.verify("imagefolder", folder)["checked"]
    change(victim)
    record_path(folder).unlink()  # the change is accepted
    if victim.stat().st_size < 1000:
        (folder / ".ebsim-cache/images.safetensors").unlink()
    data.verify("imagefolder", folder)


def test_what_is_unchanged_is_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = data.load("imagefolder", root=folder)
    read: list[Path] = []
    monkeypatch.setattr("ebsim.data.file_record.read_bytes", lambda path: read.append(path) or b"")
    assert data.load("imagefolder", root=folder).digest == first.digest
    assert read == []


@pytest.mark.parametrize("damage", [b"", b"rubbish", None])
def test_a_damaged_record_is_told_and_made_anew(
    folder: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    first = data.load("imagefolder", root=folder)
    path = record_path(folder)
    path.write_bytes(path.read_bytes()[:-9] if damage is None else damage)
    os.utime(folder / "test/a/000.bmp")
    with caplog.at_level(logging.WARNING):
        assert data.load("imagefolder", root=folder).digest == first.digest
    assert "recorded anew" in caplog.text


def test_a_folder_that_cannot_be_written_is_read_all_the_same(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / ".ebsim-cache").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        first = data.load("imagefolder", root=folder)
    assert "again next time" in caplog.text
    assert data.load("imagefolder", root=folder).digest == first.digest


def test_orientations_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for place in ("train/a", "train/b", "test/a", "test/b"):
        save_images(tmp_path / place, 1, ending="jpg")
    exif = Image.Exif()
    exif[274] = 8
    Image.open(tmp_path / "train/a/000.jpg").save(tmp_path / "train/a/000.jpg", exif=exif)
    with caplog.at_level(logging.WARNING):
        data.load("imagefolder", root=tmp_path)
    assert "orientation of 1 image(s) (train/a/000.jpg" in caplog.text
    assert "orientation of 1 is not applied" in data.verify("imagefolder", tmp_path)["checked"]


def test_batches_can_be_skipped_and_shared(folder: Path) -> None:
    dataset = data.load("imagefolder", root=folder)

    def batches(**options: object) -> list[tuple[list[int], float]]:
        found = dataset.train_batches(2, seed=1, epoch=2, **options)  # type: ignore[arg-type]
        return [(y.tolist(), float(x.double().sum())) for x, y in found]

    whole = batches()
    assert batches(skip=1) == whole[1:]
    halves = [batches(part=part) for part in (lambda n: slice(0, n // 2), lambda n: slice(n // 2, n))]
    for (y, total), (first, a), (second, b) in zip(whole, *halves, strict=True):
        assert first + second == y
        assert a + b == pytest.approx(total, abs=1e-2)
