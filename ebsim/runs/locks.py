"""A lock on a folder that holds on local and network file systems alike, without `flock`.

A claim is a numbered file, `.claim-000007`, that comes into being whole and only if it is not there (`link`, or
exclusive creation where there are no links). The highest number is the holder. A process that finds that claim
released, or its process dead, claims the next number; of several only one can. A claim is never deleted while it is
the highest, so a process that looked long ago cannot slip in: it sees a higher number than its own and withdraws.

A claim names its process, host and machine. On the same machine the process table says whether the holder lives; of
another machine the time of its file does, which the holder renews every `BEAT` seconds: after `STALE` seconds without,
by the file server's own clock, it counts as dead. A holder that was only frozen notices that it has been overtaken.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import socket
import stat
import threading
import time
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ebsim.files import create

BEAT = 10.0  # seconds between two renewals of a held claim
STALE = 120.0  # seconds without renewal after which the claim of another machine counts as abandoned
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EINVAL}
_held: set[str] = set()  # tokens of the claims that this process holds
_CLAIM = re.compile(r"\.claim-(\d{6,12})")


@dataclass(frozen=True)
class Holder:
    """Who holds a folder. `silent` is the age in seconds of its last sign of life, None on this machine."""

    pid: int | None
    host: str
    silent: float | None = None

    def __str__(self) -> str:
        who = f"process {self.pid}" if self.pid is not None else "a process"
        heard = "" if self.silent is None else f" (last sign of life {self.silent:.0f} s ago)"
        return f"{who} on {self.host}{heard}"


class FolderLock:
    """The lock of `folder`, which must exist; OSErrors are the caller's to explain."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path: Path | None = None
        self._token = ""
        self.lost = False

    def try_acquire(self) -> Holder | None:
        """Take the lock, or say who has it. None: it is ours."""
        while True:
            number, holder = self._current()
            if holder is not None:
                return holder
            path = self._place(number + 1)
            token = uuid.uuid4().hex
            if not _create(path, _describe(token), token):
                continue
            if self._numbers()[-1] != number + 1:  # overtaken since we looked
                _discard(path)
                continue
            self._path, self._token, self.lost = path, token, False
            _held.add(token)
            for old in self._numbers()[:-1]:
                _discard(self._place(old))
            _Heart.add(self)
            return None

    def holder(self) -> Holder | None:
        """Who has the lock at this moment; nothing is changed."""
        return self._current()[1]

    def release(self) -> None:
        """Let go; harmless if it was never held, was lost, or the folder is gone."""
        _Heart.remove(self)
        _held.discard(self._token)
        path, self._path = self._path, None
        if path is None or self.lost or _read(path).get("token") != self._token:
            return
        temporary = path.with_name(f".{self._token}.tmp")
        try:
            create(temporary, '{"released": true}\n')
            os.replace(temporary, path)
        except OSError:  # a full disk: an old empty claim counts as released too
            with contextlib.suppress(OSError):
                os.truncate(path, 0)
                os.utime(path, (0, 0))

    def renew(self) -> None:
        """Renew the claim, and notice if another process took over meanwhile."""
        if self._path is not None:
            try:
                os.utime(self._path)
                self.lost = self.lost or self._place(self._numbers()[-1]) != self._path
            except FileNotFoundError:
                self.lost = True
            except OSError:  # a server that is away for a moment; a takeover is noticed later
                pass

    def _place(self, number: int) -> Path:
        return self.folder / f".claim-{number:06d}"

    def _numbers(self) -> list[int]:
        found = (_CLAIM.fullmatch(name) for name in os.listdir(self.folder))
        return sorted(int(match.group(1)) for match in found if match)

    def _current(self) -> tuple[int, Holder | None]:
        """The highest claim's number, and its holder if that is alive."""
        numbers = self._numbers()
        if not numbers:
            return 0, None
        path = self._place(numbers[-1])
        claim = _read(path)
        if claim.get("released") is True:
            return numbers[-1], None
        pid, host = claim.get("pid"), str(claim.get("host", "an unknown host"))
        pid = pid if isinstance(pid, int) and not isinstance(pid, bool) and 0 < pid < 1 << 31 else None
        if pid == os.getpid() and claim.get("machine") == machine() and claim.get("token") not in _held:
            return numbers[-1], None  # this process has released it, and could not write that down
        if pid is not None and claim.get("machine") == machine():
            return numbers[-1], Holder(pid, host) if _started(pid) == claim.get("started") else None
        try:
            silent = self._now() - path.lstat().st_mtime
        except FileNotFoundError:  # overtaken and cleared away while we looked
            return self._current()
        return numbers[-1], Holder(pid, host, max(0.0, silent)) if silent < STALE else None

    def _now(self) -> float:
        """The file server's clock, which wrote the times that this is compared with."""
        probe = self.folder / f".{uuid.uuid4().hex}.tmp"
        try:
            create(probe, "")
        except OSError:  # a process that only reads may not be allowed to write
            return time.time()
        try:
            return probe.stat().st_mtime
        finally:
            os.unlink(probe)


def _discard(path: Path) -> None:
    """Delete an old claim if possible; it does no harm, and the next holder tries again."""
    with contextlib.suppress(OSError):
        os.unlink(path)


def _create(path: Path, content: str, token: str) -> bool:
    """Make a file with its content in one step; False if there is one."""
    temporary = path.with_name(f".{token}.tmp")
    try:
        create(temporary, content)
        os.link(temporary, path)
        return True
    except FileExistsError:
        return os.stat(temporary).st_nlink == 2  # NFS may repeat a request that had succeeded
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    try:
        create(path, content)
    except FileExistsError:
        return False
    return True


def _read(path: Path) -> dict[str, Any]:
    """A claim; empty if it is gone, half written, no file or rubbish (then only its time counts)."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return {}
        value = json.loads(path.read_bytes()[:4096])
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _describe(token: str) -> str:
    pid = os.getpid()
    own = {"pid": pid, "host": socket.gethostname(), "machine": machine(), "started": _started(pid), "token": token}
    return json.dumps(own) + "\n"


@cache
def machine() -> str:
    """Names the process table that a process id belongs to: host, boot, and container where there are any."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """When a live process started (process ids are used again); "alive" where that is not told; None if it is dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return "alive"


class _Heart:
    """One thread of this process renews all its claims; it ends with the last of them."""

    _guard = threading.Lock()
    _held: set[FolderLock] = set()  # noqa: RUF012
    _wake = threading.Event()
    _owner: tuple[int, threading.Thread] | None = None

    @classmethod
    def add(cls, lock: FolderLock) -> None:
        with cls._guard:
            if cls._owner is None or cls._owner[0] != os.getpid():  # a fork takes no threads along, nor our claims
                cls._held, cls._wake = set(), threading.Event()
                thread = threading.Thread(target=cls._beat, daemon=True, name="ebsim-locks")
                cls._owner = (os.getpid(), thread)
                thread.start()
            cls._held.add(lock)

    @classmethod
    def remove(cls, lock: FolderLock) -> None:
        with cls._guard:
            cls._held.discard(lock)
            if not cls._held:
                cls._owner = None
                cls._wake.set()

    @classmethod
    def _beat(cls) -> None:
        wake = cls._wake
        while not wake.wait(BEAT):
            with cls._guard:
                held = list(cls._held)
            for lock in held:
                lock.renew()
