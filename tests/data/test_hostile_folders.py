"""Image folders spoiled at random: refused with their path (exit code 3), or read in full; no code is run."""

from __future__ import annotations

import os
import random
import shutil
import socket
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from ebsim import data
from ebsim.errors import DataError
from tests.runs.test_mutated import mutate

NAMES = ("a\nb", "-rf", "ä\u202e", "x" * 240, "..hidden", "a b;$(touch escaped)", "CAT", " cat", "con", "a'\"b", "\x01")


def _class(root: Path, rng: random.Random) -> Path:
    return rng.choice(sorted(path for path in root.glob("t*/*") if path.is_dir() and not path.is_symlink()))


def _image(root: Path, rng: random.Random) -> Path:
    return rng.choice(sorted(path for path in root.glob("t*/*/*") if path.is_file() and not path.is_symlink()))


def damaged(root: Path, rng: random.Random) -> None:
    images = sorted(path for path in root.glob("t*/*/*.png") if path.is_file())
    mutate(_image(root, rng), images, rng)


def renamed_class(root: Path, rng: random.Random) -> None:
    name = rng.choice(NAMES)
    for split in ("train", "test")[: rng.choice((1, 2))]:
        folder = root / split / "cat"
        if folder.is_dir():
            folder.rename(root / split / name)


def renamed_image(root: Path, rng: random.Random) -> None:
    path = _image(root, rng)
    path.rename(path.with_name(rng.choice((*NAMES, *(name + ".png" for name in NAMES if len(name) < 200)))))


def loop(root: Path, rng: random.Random) -> None:
    (_class(root, rng) / "loop").symlink_to(root)


def outside(root: Path, rng: random.Random) -> None:
    (_class(root, rng) / "secret.png").symlink_to("/etc/passwd")


def pipe(root: Path, rng: random.Random) -> None:
    os.mkfifo(_class(root, rng) / "pipe.png")


def plug(root: Path, rng: random.Random) -> None:
    here = os.getcwd()
    os.chdir(_class(root, rng))  # a socket's path has to be short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("s.png")
    finally:
        os.chdir(here)


def emptied(root: Path, rng: random.Random) -> None:
    folder = _class(root, rng)
    shutil.rmtree(folder)
    folder.mkdir()


def one_sided(root: Path, rng: random.Random) -> None:
    shutil.rmtree(_class(root, rng))


def deep(root: Path, rng: random.Random) -> None:
    folder = _class(root, rng).joinpath(*["d"] * 60)
    folder.mkdir(parents=True)
    shutil.copy(_image(root, rng), folder / "deep.png")


def a_file_for_a_class(root: Path, rng: random.Random) -> None:
    (root / rng.choice(("train", "test")) / "notes.txt").write_text("no class")


def bomb(root: Path, rng: random.Random) -> None:
    size = rng.choice((30_000, 2**31 - 1))
    head = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    (_class(root, rng) / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)


def script(root: Path, rng: random.Random) -> None:
    (_class(root, rng) / "page.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nquit\n")


SPOILS: tuple[Callable[[Path, random.Random], None], ...] = (
    damaged, damaged, damaged, renamed_class, renamed_image, renamed_image, loop, outside, pipe, plug, emptied,
    one_sided, deep, a_file_for_a_class, bomb, script,
)  # fmt: skip


def attacked(whole: Path, place: Path, count: int, seed: int) -> Counter[str]:
    rng, ends = random.Random(seed), Counter[str]()
    for number in range(count):
        root = place / str(number)
        shutil.copytree(whole, root)
        for spoil in rng.sample(SPOILS, rng.choice((1, 1, 2))):
            spoil(root, rng)
        files = [path for path in root.glob("t*/*/*") if path.is_file() and not path.name.startswith(".")]
        try:
            found = data.load("imagefolder", root=root)
        except DataError as error:
            assert str(root) in str(error) or "train" in str(error) or "test" in str(error), error
            ends["refused"] += 1
        else:
            assert found.train_images + found.test_images == len(files), (number, files)
            ends["read"] += 1
        shutil.rmtree(root)
    return ends


@pytest.mark.parametrize(("count", "seed"), [(50, 1)])
def test_fifty_folders(image_folder: Path, tmp_path: Path, count: int, seed: int) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(image_folder, whole)
    ends = attacked(whole, tmp_path, count, seed)
    assert ends["refused"] > count // 2 and ends["read"] and not list(tmp_path.rglob("escaped"))
