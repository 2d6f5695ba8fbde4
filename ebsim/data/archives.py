"""Unpack a tar archive: nothing in it can leave the target folder, fill the disk or be anything but a plain file.

Everything is unpacked into a temporary folder beside the target first: an archive that turns out hostile or cut off
leaves the target as it was.
"""

from __future__ import annotations

import lzma
import os
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

from ebsim.errors import DataError, StorageError

DISK_SHARE = 0.9  # of the free space; an archive that would need more is refused


def unpack(archive: Path, target: Path) -> int:
    """Unpack `archive` (tar, plain or compressed) into `target`, over what is there; returns the number of files.

    Raises `DataError` for a damaged archive, a member that points outside, a link or a device, or more bytes than the
    disk should take; `StorageError` if the disk cannot be written.
    """
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".ebsim-unpack-", dir=target) as name:
        staging = Path(name)
        try:
            files = _unpack_members(archive, staging)
        except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise DataError(f"{archive}: damaged, cut off or not a tar archive ({error}); get it again") from error
        except OSError as error:
            raise StorageError(f"{archive}: could not be unpacked into {target} ({error})") from error
        for file in files:
            destination = target / file
            if not destination.parent.resolve().is_relative_to(target.resolve()):
                raise DataError(f"{destination.parent}: a link that leaves {target}; remove it first")
            destination.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging / file, destination)
    return len(files)


def _unpack_members(archive: Path, staging: Path) -> list[PurePosixPath]:
    budget = int(shutil.disk_usage(staging).free * DISK_SHARE)
    files: list[PurePosixPath] = []
    with tarfile.open(archive) as members:
        for member in members:
            path = _safe_path(archive, member)
            if member.isdir():
                continue
            budget -= member.size
            if budget < 0:
                raise DataError(f"{archive}: unpacks to more than {DISK_SHARE:.0%} of the free disk space; refused")
            source = members.extractfile(member)
            assert source is not None  # only regular files get here
            (staging / path).parent.mkdir(parents=True, exist_ok=True)
            with source, (staging / path).open("wb") as copy:
                shutil.copyfileobj(source, copy)
            files.append(path)
    return files


def _safe_path(archive: Path, member: tarfile.TarInfo) -> PurePosixPath:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or PureWindowsPath(member.name).drive or "\\" in member.name:
        raise DataError(f"{archive}: member {member.name!r} points outside the target folder; refused")
    if not (member.isfile() or member.isdir()):
        raise DataError(f"{archive}: member {member.name!r} is neither a file nor a folder; refused")
    return path
