"""A run on a file system that is too small, of many sizes: exit 74, and with more space the same bits."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import attacks


def _mounts(folder: Path) -> bool:
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(folder)], capture_output=True)
    if done.returncode == 0:
        subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()
    return done.returncode == 0


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    if not _mounts(tmp_path / "try"):
        pytest.skip("a file system of its own size needs root and tmpfs")
    folder = tmp_path / "small"
    folder.mkdir()
    yield folder
    subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def sizes_tried(place: Path, sizes: list[int], clean: Path) -> Counter[int]:
    """A run with so many kilobytes, then with enough; exit codes of the first."""
    expected, ends = attacks.outcome(clean), Counter[int]()
    said = place.parent / "said"
    for size in sizes:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(place)], check=True)
        try:
            (place / "tiny.toml").write_text(attacks.TINY)
            code = attacks.ended(attacks.forked(lambda: attacks.run(place), said))
            ends[code] += 1
            assert code in (0, 74), (size, code, said.read_text()[-2000:])
            assert "Traceback" not in said.read_text()
            if code:
                assert not [run for run in place.glob("runs/tiny-*") if (run / "MANIFEST.json").exists()]
            subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
            attacks.run(place)
            assert attacks.same(attacks.outcome(place), expected), size
        finally:
            subprocess.run(["umount", "-l", str(place)], check=True)
    return ends


def test_two_sizes(place: Path, tmp_path: Path) -> None:
    attacks.run(tmp_path / "clean")
    assert sizes_tried(place, [40, 600], tmp_path / "clean")[74] >= 1


@pytest.mark.slow
def test_forty_sizes(place: Path, tmp_path: Path) -> None:
    attacks.run(tmp_path / "clean")
    needed = sum(path.stat().st_size for path in (tmp_path / "clean").rglob("*") if path.is_file()) // 1024
    sizes = [8 + int(needed * 1.3 * step / 40) for step in range(40)]
    ends = sizes_tried(place, sizes, tmp_path / "clean")
    print(f"{len(sizes)} sizes, {sizes[0]} to {sizes[-1]} kB: exit codes {dict(ends)}; with space all end alike")
    assert ends[74] > 10 and ends[0] > 1
