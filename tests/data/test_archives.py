"""Unpacking: hostile and damaged archives leave nothing behind."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from ebsim.data import archives
from ebsim.errors import DataError


def make(path: Path, members: list[tuple[str, bytes, bytes]], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(content) if kind == tarfile.REGTYPE else 0
            info.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            archive.addfile(info, io.BytesIO(content))
    return path


GOOD = [("./train/cat/1.png", tarfile.REGTYPE, b"one"), ("test/cat/2.png", tarfile.REGTYPE, b"two" * 5000)]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_good_archives_unpack_over_what_is_there(tmp_path: Path, mode: str) -> None:
    target = tmp_path / "data"
    (target / "train" / "cat").mkdir(parents=True)
    (target / "train" / "cat" / "1.png").write_bytes(b"old")
    assert archives.unpack(make(tmp_path / "a.tar", [("train", tarfile.DIRTYPE, b""), *GOOD], mode), target) == 2
    found = {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file()}
    assert found == {"train/cat/1.png": b"one", "test/cat/2.png": b"two" * 5000}
    assert sorted(p.name for p in target.iterdir()) == ["test", "train"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../outside", tarfile.REGTYPE),
        ("train/../../outside", tarfile.REGTYPE),
        ("/tmp/outside", tarfile.REGTYPE),
        ("C:\\outside", tarfile.REGTYPE),
        ("..\\outside", tarfile.REGTYPE),
        ("train/link", tarfile.SYMTYPE),
        ("train/hard", tarfile.LNKTYPE),
        ("train/device", tarfile.CHRTYPE),
        ("train/pipe", tarfile.FIFOTYPE),
        ("..", tarfile.DIRTYPE),
    ],
)
def test_hostile_members_are_refused_and_nothing_is_unpacked(tmp_path: Path, name: str, kind: bytes) -> None:
    archive = make(tmp_path / "a.tar.gz", [*GOOD, (name, kind, b"x")])
    with pytest.raises(DataError, match=r"a\.tar\.gz: member .* refused"):
        archives.unpack(archive, tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == [] and not (tmp_path / "outside").exists()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_cut_off_archives_are_refused(tmp_path: Path, mode: str) -> None:
    archive = make(tmp_path / "a.tar", GOOD, mode)
    content = archive.read_bytes()
    for cut in (0, 1, len(content) // 3, len(content) // 2):
        archive.write_bytes(content[:cut])
        with pytest.raises(DataError, match="damaged, cut off or not a tar"):
            archives.unpack(archive, tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_bomb_is_refused_before_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "DISK_SHARE", 1e-12)
    archive = make(tmp_path / "a.tar.xz", [("train/zeros", tarfile.REGTYPE, bytes(1 << 20))], "w:xz")
    with pytest.raises(DataError, match="free disk space"):
        archives.unpack(archive, tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_link_in_the_target_is_not_followed_outside(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data" / "test").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="a link that leaves"):
        archives.unpack(make(tmp_path / "a.tar.gz", GOOD), tmp_path / "data")
    assert list((tmp_path / "elsewhere").iterdir()) == []
