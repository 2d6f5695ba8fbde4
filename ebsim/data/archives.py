"""Unpacks tar archives safely: no member leaves the target, fills disk or memory, or is other than a plain file.

Each member passes `tarfile.data_filter`, and on top of it only plain files and folders with the names they have are
accepted. Everything is unpacked into a temporary folder beside the target first: an archive that turns out hostile or
cut off leaves the target as it was.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

from ebsim.errors import DataError, StorageError

DISK_SHARE = 0.9  # of the free space and of the free file entries; an archive that would need more is refused
MAX_READ = 1 << 20  # bytes of one read: file contents are copied in pieces, so only a header asks for more
_DAMAGED = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError, OverflowError, UnicodeError)
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE}
_OPENERS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}


@dataclass(frozen=True)
class FreeSpace:
    """What a disk has left: bytes, file entries, and the size in bytes of the block that even a tiny file takes."""

    size: int
    entries: int
    block: int


def free(folder: Path) -> FreeSpace:
    """The room on the disk of a folder; where file entries are not counted there are as many as one wants."""
    usage = shutil.disk_usage(folder).free
    if not hasattr(os, "statvfs"):
        return FreeSpace(usage, 1 << 62, 4096)
    found = os.statvfs(folder)
    return FreeSpace(usage, found.f_favail if found.f_files else 1 << 62, found.f_frsize or 4096)


def unpack(archive: Path, target: Path) -> int:
    """Unpack `archive` (tar, plain or compressed) into `target`, over what is there; returns the number of files.

    Raises `DataError` for a damaged or hostile archive or for one that the disk should not take; `StorageError` if the
    disk cannot be written.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".ebsim-unpack-", dir=target) as name:
            files = _unpack_members(archive, Path(name))
            _check_way(target, files)
            for file in files:
                (target / file).parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(name) / file, target / file)
    except _DAMAGED as error:
        raise DataError(f"{archive}: damaged, cut off or not a tar archive ({error}); get it again") from error
    except OSError as error:
        if error.errno in _DISK:
            raise StorageError(
                f"{archive}: could not be unpacked into {target} ({error.strerror}); free some space or fix the "
                "permissions and run the same command again"
            ) from error
        raise DataError(f"{archive}: cannot be unpacked into {target} ({error})") from error
    return len(files)


def _check_way(target: Path, files: dict[PurePosixPath, None]) -> None:
    """Refuse what would be unpacked through a link, over a folder, or below a file that is there already."""
    home = target.resolve()
    for file in files:
        place = target / file
        if not place.parent.resolve().is_relative_to(home):
            raise DataError(f"{place.parent}: a link that leaves {target}; remove it first")
        if place.is_dir():
            raise DataError(f"{place}: a folder is in the way of this file of the archive; move it away first")
        for parent in place.relative_to(target).parents:
            if (target / parent).exists() and not (target / parent).is_dir():
                raise DataError(f"{target / parent}: a file is in the way of this folder of the archive; move it away")


def _unpack_members(archive: Path, staging: Path) -> dict[PurePosixPath, None]:
    """Unpack into an empty folder; the files, in the order of the archive."""
    room = free(staging)
    size, entries = int(room.size * DISK_SHARE), int(room.entries * DISK_SHARE)
    files: dict[PurePosixPath, None] = {}
    folders = {PurePosixPath(".")}
    with _open(archive) as stream, tarfile.open(fileobj=_Bounded(stream), mode="r:") as members:
        for member in members:
            path = _safe_path(archive, member, staging)
            if path in files or (path in folders and not member.isdir()) or any(p in files for p in path.parents):
                raise DataError(f"{archive}: member {member.name!r} is there twice, or as file and folder; refused")
            entries -= 1 + len([parent for parent in path.parents if parent not in folders])
            size -= -(-max(member.size, 1) // room.block) * room.block
            if size < 0:
                raise DataError(f"{archive}: unpacks to more than {DISK_SHARE:.0%} of the free disk space; refused")
            if entries < 0:
                raise DataError(f"{archive}: has more files than {DISK_SHARE:.0%} of the free file entries; refused")
            folders |= {*path.parents, *([path] if member.isdir() else [])}
            if member.isdir():
                continue
            source = members.extractfile(member)
            assert source is not None  # only plain files get here
            (staging / path).parent.mkdir(parents=True, exist_ok=True)
            with source, (staging / path).open("xb") as copy:
                shutil.copyfileobj(source, copy, 1 << 16)
            if (staging / path).stat().st_size != member.size:
                raise tarfile.ReadError(f"{member.name!r} is cut off")
            files[path] = None
        # tarfile takes a damaged header in the middle for the end; the real end is a block of zeros.
        stream.seek(members.offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"no header and no end at byte {members.offset:,}")
    if not files:
        raise DataError(f"{archive}: damaged, cut off or not a tar archive (no files in it); get it again")
    return files


def _safe_path(archive: Path, member: tarfile.TarInfo, staging: Path) -> PurePosixPath:
    refusal = f"{archive}: member {member.name!r}"
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or PureWindowsPath(member.name).drive or "\\" in member.name:
        raise DataError(f"{refusal} points outside the target folder; refused")
    if not (member.isdir() or member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)) or member.issparse():
        raise DataError(f"{refusal} is neither a plain file nor a folder; refused")
    if member.size < 0 or "\0" in member.name or (path == PurePosixPath(".") and not member.isdir()):
        raise DataError(f"{refusal} has no proper name or size; refused")
    try:
        tarfile.data_filter(member, str(staging))
    except tarfile.FilterError as error:
        raise DataError(f"{refusal}: {error}; refused") from error
    return path


def _open(archive: Path) -> IO[bytes]:
    """The archive's bytes, decompressed as its first bytes say."""
    with archive.open("rb") as stream:
        start = stream.read(6)
    for mark, opener in _OPENERS.items():
        if start.startswith(mark):
            return opener(archive)
    return archive.open("rb")


class _Bounded:
    """A stream that reads no more than `MAX_READ` bytes at a time: `tarfile` reads headers whole, of any length."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_READ:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._stream.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
