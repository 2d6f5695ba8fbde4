"""`data prepare`: the pixels of a prepared file, its identity, kills, damage and forgery."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ebsim import data
from ebsim.data import prepared, preparing
from ebsim.errors import ConfigError, DataError
from ebsim.files import write_stream

from .conftest import save_images
from .test_scaled_decoding import picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of images of several sizes, kinds and colour spaces."""
    root = tmp_path_factory.mktemp("photos")
    sizes = [(300, 260), (260, 400), (640, 427), (500, 375)]
    for number, place in enumerate(("train/a", "train/b", "test/a", "test/b")):
        (root / place).mkdir(parents=True)
        for i, size in enumerate(sizes):
            image = picture(size, 10 * number + i)
            image.save(root / place / f"{i}.jpeg", quality=92)
        picture((300, 300), number).save(root / place / "png.png")
        picture((300, 280), number).convert("L").save(root / place / "grey.jpg")
        picture((280, 300), number).convert("CMYK").save(root / place / "cmyk.jpg")
    return root


def pixels(dataset: data.Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 of a training epoch and of the test images."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (dataset.mean, dataset.std))
    train = torch.cat([x for x, _ in dataset.train_batches(7, seed=3, epoch=2)])
    test = torch.cat([x for x, _ in dataset.test_batches(7)])
    return tuple((255 * (x * std + mean)).round() for x in (train, test))  # type: ignore[return-value]


def load(path: Path, **options: Any) -> data.Dataset:
    return data.load("imagefolder", root=path, **options)


def labels(dataset: data.Dataset) -> list[int]:
    return [*torch.cat([y for _, y in dataset.train_batches(7, seed=3, epoch=2)]), *dataset.test.labels]  # type: ignore[attr-defined]


def test_raw_images_of_full_size_give_the_very_pixels_of_the_folder(folder: Path, tmp_path: Path) -> None:
    facts = data.prepare(folder, tmp_path / "f.images", side=0, encoding="raw")
    assert (facts["train_images"], facts["test_images"], facts["classes"]) == (14, 14, 2)
    direct, stored = load(folder), load(tmp_path / "f.images")
    for a, b in zip(pixels(direct), pixels(stored), strict=True):
        assert torch.equal(a, b)
    assert labels(direct) == labels(stored) and stored.class_names == direct.class_names
    assert direct.digest != stored.digest == facts["digest"] and "prepared: size as it was" in stored.split
    fast = pixels(load(tmp_path / "f.images", decode="fast"))
    assert all((a - b).abs().max() <= 1 for a, b in zip(pixels(direct), fast, strict=True))


def test_raw_images_of_side_256_give_the_very_test_pixels(folder: Path, tmp_path: Path) -> None:
    data.prepare(folder, tmp_path / "f.images", side=256, encoding="raw")
    assert torch.equal(pixels(load(folder))[1], pixels(load(tmp_path / "f.images"))[1])


def test_re_encoded_images_stay_near_the_exact_pixels(folder: Path, tmp_path: Path) -> None:
    """The stated differences (docs/data.md): mean of |difference| in 255 over the test images."""
    exact = pixels(load(folder))[1]
    means = []
    for side, quality in ((400, 95), (400, 90), (256, 90), (256, 50)):
        path = tmp_path / f"{side}-{quality}.images"
        data.prepare(folder, path, side=side, quality=quality)
        means.append(float((pixels(load(path))[1] - exact).abs().mean()))
    assert 0 < means[0] < means[1] < means[2] < means[3] and means[2] < 5, means


def test_what_is_stored_is_what_pillow_gives(folder: Path, tmp_path: Path) -> None:
    data.prepare(folder, tmp_path / "f.images", side=256, encoding="raw")
    file = prepared.read_index(tmp_path / "f.images")
    files = [path for split in ("train", "test") for path in sorted((folder / split).glob("*/*"))]
    for i, path in enumerate(files):
        image = Image.open(path).convert("RGB")
        short = min(image.size)
        size = tuple(int(256 * side / short) if side != short else 256 for side in image.size)
        image = image.resize(size, Image.Resampling.BILINEAR)
        assert np.array_equal(np.asarray(file.image(i).picture(None)), np.asarray(image))


def test_same_command_again_keeps_the_file_and_another_is_refused(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "f.images"
    first = data.prepare(folder, target, side=300)
    before = target.stat().st_mtime_ns
    again = data.prepare(folder, target, side=300)
    assert again == first | {"made": False} and target.stat().st_mtime_ns == before
    with pytest.raises(DataError, match="holds other images, or made otherwise"):
        data.prepare(folder, target, side=310)


def test_changed_images_change_the_identity(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(folder, root)
    first = data.prepare(root, tmp_path / "one.images", side=256, encoding="raw")
    picture((300, 260), 99).save(root / "train" / "a" / "0.jpeg")
    with pytest.raises(DataError, match="holds other images"):
        data.prepare(root, tmp_path / "one.images", side=256, encoding="raw")
    second = data.prepare(root, tmp_path / "two.images", side=256, encoding="raw")
    assert first["digest"] != second["digest"] and first["source_digest"] != second["source_digest"]


def test_subset_workers_and_verify(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "f.images"
    data.prepare(folder, target, side=256)
    some, whole = load(target, subset=4), load(target)
    assert (some.train_images, some.test_images) == (4, 4) and some.digest != whole.digest
    assert sorted(some.test.labels) == [0, 0, 1, 1]  # type: ignore[attr-defined]
    for a, b in zip(pixels(whole), pixels(load(target, workers=2)), strict=True):
        assert torch.equal(a, b)
    assert data.verify("imagefolder", target)["checked"] == "every image decoded; each is what was written"


def test_small_images_and_impossible_settings_are_refused(folder: Path, image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="small images"):
        data.prepare(image_folder, tmp_path / "f.images")
    for options in ({"side": 20}, {"quality": 0}, {"encoding": "png"}, {"side": -1}):
        with pytest.raises(ConfigError):
            data.prepare(folder, tmp_path / "f.images", **options)
    with pytest.raises(DataError, match="a folder"):
        data.prepare(folder, tmp_path)
    assert not list(tmp_path.glob("*.images*"))


@pytest.mark.parametrize("after", [0, 1, 5, 27, 28, 29])
def test_a_stop_at_any_piece_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    def cut(listing: Any, recipe: Any, meta: Any, whole: Callable[..., Iterator[bytes]] = preparing._pieces) -> Any:
        for number, piece in enumerate(whole(listing, recipe, meta)):
            if number == after:
                raise KeyboardInterrupt
            yield piece

    monkeypatch.setattr(preparing, "_pieces", cut)
    with pytest.raises(KeyboardInterrupt):
        data.prepare(folder, tmp_path / "f.images", side=256)
    assert not list(tmp_path.iterdir())


def test_only_what_writers_of_this_file_left_is_swept(folder: Path, tmp_path: Path) -> None:
    """The file may stand in a folder of the user's own, where hidden files of other programs are none of ours."""
    theirs, younger, ours = (tmp_path / f".{name}.tmp" for name in ("backup", "f.images.1", "f.images.0123456789ab"))
    for path in (theirs, younger, ours):
        path.write_bytes(b"x")
    for path in (theirs, ours):
        os.utime(path, (0, 0))
    data.prepare(folder, tmp_path / "f.images", side=256)
    assert theirs.exists() and younger.exists() and not ours.exists()


def test_a_damaged_source_image_is_named_and_nothing_is_left(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(folder, root, ignore=shutil.ignore_patterns(".ebsim-cache"))
    victim = root / "test" / "b" / "2.jpeg"
    victim.write_bytes(victim.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"test/b/2\.jpeg: not a readable image"):
        data.prepare(root, tmp_path / "f.images", side=256)
    assert not list(tmp_path.glob("*.images*"))


def test_any_flipped_byte_is_noticed(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "f.images"
    data.prepare(folder, target, side=256, quality=50)
    content = target.read_bytes()
    random = np.random.default_rng(0)
    places = [0, 15, 16, len(content) - 1, len(content) - 17, *random.integers(0, len(content), 60).tolist()]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(random.integers(8))
        target.write_bytes(damaged)
        with pytest.raises(DataError, match=r"f\.images: (damaged|not a folder)"):
            load(target)
    for length in (0, 10, 16, 100, len(content) // 2, len(content) - 1):
        target.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"f\.images: (damaged|not a folder)"):
            load(target)
    target.write_bytes(content)
    load(target)


def test_a_file_changed_while_it_is_read_is_an_error(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "f.images"
    data.prepare(folder, target, side=256)
    dataset = load(target)
    os.truncate(target, 1000)
    with pytest.raises(DataError, match=r"shorter than its index says|not a readable image"):
        list(dataset.train_batches(4, seed=0, epoch=0))


FORGERIES: dict[str, Callable[[dict[str, np.ndarray], dict[str, Any]], None]] = {
    "an end beyond the file": lambda columns, meta: columns["ends"].__setitem__(-1, 1 << 60),
    "a negative length": lambda columns, meta: columns["ends"].__setitem__(3, 0),
    "a huge image": lambda columns, meta: columns["sizes"].__setitem__(2, (1 << 40, 1)),
    "overflowing areas": lambda columns, meta: columns["sizes"].__setitem__(2, (1 << 32, 1 << 32)),
    "a foreign class": lambda columns, meta: columns["labels"].__setitem__(0, 7),
    "an empty class": lambda columns, meta: columns["labels"].__setitem__(slice(None), 0),
    "no test images": lambda columns, meta: meta.update(train_images=28),
    "another encoding": lambda columns, meta: meta.update(encoding="pickle"),
    "raw that is JPEG": lambda columns, meta: meta.update(encoding="raw"),
    "no names": lambda columns, meta: meta.pop("class_names"),
    "names that are a number": lambda columns, meta: meta.update(class_names=3),
    "another shape": lambda columns, meta: columns.update(sizes=columns["sizes"].reshape(-1)),
    "another type": lambda columns, meta: columns.update(ends=columns["ends"].astype(np.float64)),
    "a missing column": lambda columns, meta: columns.pop("labels"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_index_with_a_right_digest_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    target = tmp_path / "f.images"
    data.prepare(folder, target, side=256)
    file, content = prepared.read_index(target), target.read_bytes()
    columns = {key: getattr(file, key).copy() for key in ("ends", "sizes", "labels", "sha256")}
    meta = json.loads(json.dumps(file.meta))
    FORGERIES[name](columns, meta)
    index = prepared.index_bytes(columns, meta)
    end = int(file.ends[-1])
    target.write_bytes(content[:end] + index + prepared.footer(end, index))
    with pytest.raises(DataError, match=r"f\.images: damaged"):
        load(target)


def test_images_are_read_again_only_when_the_file_changed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "f.images"
    data.prepare(folder, target, side=256)
    checked: list[Path] = []
    check = prepared.PreparedFile.check_images
    monkeypatch.setattr(prepared.PreparedFile, "check_images", lambda self: (checked.append(self.path), check(self))[1])
    load(target)
    assert not checked  # written by this program
    os.utime(target)
    load(target), load(target)
    assert checked == [target]
    prepared.seal_path(target).write_text('{"size": 1}')
    load(target)
    assert len(checked) == 2


def test_write_stream_is_whole_or_absent(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"new"
        raise ValueError

    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(ValueError):
        write_stream(tmp_path / "x", pieces())
    assert [path.name for path in tmp_path.iterdir()] == ["x"] and (tmp_path / "x").read_bytes() == b"old"
    write_stream(tmp_path / "x", (bytes([i]) * 100_000 for i in range(20)))
    assert (
        hashlib.sha256((tmp_path / "x").read_bytes()).hexdigest()
        == hashlib.sha256(b"".join(bytes([i]) * 100_000 for i in range(20))).hexdigest()
    )


def test_several_hundred_images(tmp_path: Path) -> None:
    """Order and labels hold when threads encode more images than are in flight at once."""
    root = tmp_path / "many"
    for place in ("train/a", "train/b", "train/c", "test/a", "test/b", "test/c"):
        save_images(root / place, 60, size=(80, 72), seed=len(place), ending="png")
    data.prepare(root, tmp_path / "f.images", side=0, encoding="raw")
    file = prepared.open_prepared(tmp_path / "f.images")
    files = [path for split in ("train", "test") for path in sorted((root / split).glob("*/*"))]
    assert len(file) == 360 and file.labels.tolist() == [i // 60 for i in range(180)] * 2
    for i in range(0, 360, 17):
        assert np.array_equal(np.asarray(file.image(i).picture(None)), np.asarray(Image.open(files[i])))


def test_the_command_and_a_check_of_an_experiment_on_the_file(folder: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from ebsim.commands import main

    target = tmp_path / "f.images"
    done = CliRunner().invoke(main, ["data", "prepare", str(folder), str(target), "--side", "256", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["images"] == "shorter side at most 256, JPEG of quality 90"
    listed = CliRunner().invoke(main, ["data", "list", "--root", str(target), "--json"])
    assert {item["name"]: item["found"] for item in json.loads(listed.stdout)}["imagefolder"]
