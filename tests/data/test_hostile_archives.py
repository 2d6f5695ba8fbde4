"""Archives made to harm: whatever they hold, a named error, nothing unpacked, little memory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from ebsim.data import archives
from ebsim.errors import DataError, EbsimError


def member(name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE, **fields: object) -> tuple:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def pack(path: Path, *members: tuple, mode: str = "w:gz", **options: object) -> Path:
    with tarfile.open(path, mode, **options) as archive:  # type: ignore[call-overload]
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return path


def huge_header(kind: bytes) -> Callable[[Path], Path]:
    """A header of 200 MB that packs to almost nothing: a PAX record or a GNU long name."""

    def make(path: Path) -> Path:
        size = 200_000_000
        info = tarfile.TarInfo("././@LongLink" if kind == tarfile.GNUTYPE_LONGNAME else "pax")
        info.type, info.size = kind, size
        with gzip.open(path, "wb", compresslevel=1) as stream:
            stream.write(info.tobuf(tarfile.GNU_FORMAT))
            for _ in range(size // 1_000_000):
                stream.write(b"a" * 1_000_000)
            stream.write(bytes(1024))
        return path

    return make


def raw(content: bytes) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return make


def nul_in_name(path: Path) -> Path:
    pack(path, member("train/a", pax_headers={"path": "train/a\0b"}), format=tarfile.PAX_FORMAT)
    return path


CASES: dict[str, Callable[[Path], Path]] = {
    "pax bomb": huge_header(tarfile.XHDTYPE),
    "global pax bomb": huge_header(tarfile.XGLTYPE),
    "long name bomb": huge_header(tarfile.GNUTYPE_LONGNAME),
    "long link bomb": huge_header(tarfile.GNUTYPE_LONGLINK),
    "duplicate": lambda p: pack(p, member("train/a"), member("train/a", b"other")),
    "duplicate by dots": lambda p: pack(p, member("train/a"), member("train/./a", b"other")),
    "file named like a folder": lambda p: pack(p, member("train"), member("train/a")),
    "folder named like a file": lambda p: pack(p, member("train/a"), member("train/a/b")),
    "nul in a name": nul_in_name,
    "empty name": lambda p: pack(p, member("")),
    "only dots": lambda p: pack(p, member("./.")),
    "name too long": lambda p: pack(p, member("train/" + "n" * 300)),
    "path too long": lambda p: pack(p, member("/".join(["n" * 200] * 30))),
    "parent": lambda p: pack(p, member("train/../../out")),
    "absolute": lambda p: pack(p, member("/tmp/ebsim-out")),
    "windows drive": lambda p: pack(p, member("C:/out")),
    "backslash": lambda p: pack(p, member("..\\out")),
    "symlink": lambda p: pack(p, member("train/l", b"", tarfile.SYMTYPE, linkname="../..")),
    "inner symlink": lambda p: pack(p, member("train/a"), member("train/l", b"", tarfile.SYMTYPE, linkname="a")),
    "hard link": lambda p: pack(p, member("train/a"), member("train/l", b"", tarfile.LNKTYPE, linkname="train/a")),
    "device": lambda p: pack(p, member("train/d", b"", tarfile.BLKTYPE, devmajor=8)),
    "pipe": lambda p: pack(p, member("train/p", b"", tarfile.FIFOTYPE)),
    "sparse": lambda p: pack(p, member("train/s", b"", tarfile.GNUTYPE_SPARSE)),
    "contiguous of 2^40": lambda p: raw(member("train/a", b"", size=1 << 40)[0].tobuf() + bytes(4096))(p),
    "negative size": lambda p: raw(member("train/a", b"", size=-5)[0].tobuf(tarfile.GNU_FORMAT) + bytes(4096))(p),
    "unknown type": lambda p: pack(p, member("train/u", b"", b"Z", linkname="x"), member("train/v", b"", b"%")),
    "empty file": raw(b""),
    "zeros": raw(bytes(10240)),
    "text": raw(b"not an archive at all" * 100),
    "gzip of nothing": raw(gzip.compress(b"")),
    "gzip of text": raw(gzip.compress(b"hello" * 1000)),
    "bad gzip": raw(b"\x1f\x8b\x08\x00" + bytes(100)),
    "bad xz": raw(b"\xfd7zXZ\x00" + bytes(100)),
    "bad bz2": raw(b"BZh9" + bytes(100)),
    "xz with a huge dictionary": raw(lzma.compress(b"x" * 100)[:20] + bytes(50)),
    "bz2 of text": raw(bz2.compress(b"hello" * 1000)),
    "pax size lies": lambda p: pack(
        p, member("train/a", pax_headers={"size": "99999999999"}), format=tarfile.PAX_FORMAT
    ),
    "pax time is text": lambda p: pack(p, member("../a", pax_headers={"mtime": "never"}), format=tarfile.PAX_FORMAT),
    "pax moves it out": lambda p: pack(p, member("ok", pax_headers={"path": "../../out"}), format=tarfile.PAX_FORMAT),
}


@pytest.mark.parametrize("case", CASES)
def test_a_hostile_archive_is_a_data_error_and_leaves_nothing(tmp_path: Path, case: str) -> None:
    archive, target = CASES[case](tmp_path / "a.tar"), tmp_path / "data"
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"a\.tar"):
            archives.unpack(archive, target)
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()
    assert list(target.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "data"]


def test_the_disk_is_asked_for_blocks_and_file_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny files take a block and an entry each, whatever their size."""
    archive = pack(tmp_path / "a.tar", *(member(f"train/{n}", b"") for n in range(50)))
    monkeypatch.setattr(archives, "free", lambda folder: archives.FreeSpace(1 << 40, 40, 4096))
    with pytest.raises(DataError, match="file entries"):
        archives.unpack(archive, tmp_path / "data")
    archive = pack(tmp_path / "a.tar", *(member(f"train/{n}", b"x") for n in range(50)))
    monkeypatch.setattr(archives, "free", lambda folder: archives.FreeSpace(40 * 4096, 1 << 40, 4096))
    with pytest.raises(DataError, match="free disk space"):
        archives.unpack(archive, tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []
    monkeypatch.undo()
    assert archives.unpack(archive, tmp_path / "data") == 50


def test_what_lies_in_the_way_is_named(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.tar", member("train/a"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").write_text("a file")
    with pytest.raises(DataError, match="train"):
        archives.unpack(archive, tmp_path / "data")
    (tmp_path / "data" / "train").unlink()
    (tmp_path / "data" / "train" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match="train/a"):
        archives.unpack(archive, tmp_path / "data")


def test_mutated_archives_unpack_or_are_refused(tmp_path: Path) -> None:
    whole = pack(tmp_path / "a.tar", *(member(f"train/c/{n}", bytes([n]) * 600) for n in range(6)), mode="w")
    content, rng = whole.read_bytes(), random.Random(3)
    refused = 0
    for trial in range(200):
        broken = bytearray(content)
        for _ in range(rng.choice((1, 1, 3))):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        whole.write_bytes(broken)
        target = tmp_path / "data" / str(trial)
        try:
            assert archives.unpack(whole, target) == 6  # a changed name or content, but nothing is lost in silence
        except EbsimError:
            refused += 1
            assert list(target.iterdir()) == []
    assert refused > 30
