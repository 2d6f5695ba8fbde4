"""Make the system fail at any of its calls: every open, write, fsync, rename, link and delete below a folder.

`trace` runs something and lists its calls; `inject` runs it again in a forked child that is killed at one of them, or
told ENOSPC or EIO. So the fault points are generated, and a new write has its own without anybody writing them down.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CALLS = ("open", "write", "fsync", "replace", "link", "unlink", "mkdir")
ACTIONS = ("kill", "ENOSPC", "EIO")


@dataclass(frozen=True)
class Point:
    """The `number`-th call (from 0) of a run: what it does to which file, and when something goes wrong there."""

    number: int
    call: str
    file: str
    when: str  # before, half (of a write), after

    @property
    def kind(self) -> tuple[str, str, str]:
        return self.call, self.file, self.when


class _Watch:
    """Stands in for the functions of `os`, for paths below `root`."""

    def __init__(self, root: Path, target: Point | None = None, action: str = "") -> None:
        self.root, self.target, self.action = str(root), target, action
        self.calls: list[tuple[str, str]] = []
        self.real = {name: getattr(os, name) for name in CALLS}
        self.handles: dict[int, str] = {}

    def __enter__(self) -> _Watch:
        for name in CALLS:
            setattr(os, name, self._wrapped(name))
        return self

    def __exit__(self, *_: object) -> None:
        for name, function in self.real.items():
            setattr(os, name, function)

    def _wrapped(self, name: str) -> Callable[..., Any]:
        def call(first: Any, *rest: Any, **options: Any) -> Any:
            path = self.handles.get(first, "") if isinstance(first, int) else os.fspath(first)
            if not str(path).startswith(self.root):
                return self.real[name](first, *rest, **options)
            number = len(self.calls)
            self.calls.append((name, _shape(Path(path).relative_to(self.root))))
            hit = self.target is not None and self.target.number == number
            if hit and self.target.when == "before":
                self._strike()
            if hit and self.target.when == "half":
                self.real["write"](first, bytes(rest[0])[: len(rest[0]) // 2])
                self._strike()
            result = self.real[name](first, *rest, **options)
            if name == "open":
                self.handles[result] = str(path)
            if hit and self.target.when == "after":
                self._strike()
            return result

        return call

    def _strike(self) -> None:
        if self.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(getattr(errno, self.action), os.strerror(getattr(errno, self.action)))


def _shape(path: Path) -> str:
    """A path with the parts that differ from run to run left out."""
    parts = []
    for part in path.parts:
        if part.endswith(".tmp"):
            words = part.strip(".").split(".")
            part = ".".join(words[:-2] or ["?"]) + ".tmp"
        stem, dash, tail = part.rpartition("-")
        parts.append(f"{stem}-*" if dash and len(tail) in (6, 8, 12) and not tail.endswith("tmp") else part)
    return "/".join(parts)


def trace(root: Path, work: Callable[[], object]) -> list[Point]:
    """Every fault point of `work`."""
    with _Watch(root) as watch:
        work()
    points = []
    for number, (call, file) in enumerate(watch.calls):
        whens = ("before", "half", "after") if call == "write" else ("before", "after")
        points += [Point(number, call, file, when) for when in whens]
    return points


def actions(point: Point) -> tuple[str, ...]:
    """What can go wrong there: after a call that succeeded, only the process can."""
    return ("kill",) if point.when == "after" else ACTIONS


def inject(root: Path, point: Point, action: str, work: Callable[[], object], expected: type[Exception]) -> int:
    """Run `work` in a child with one fault: -9 if it was killed, 0 if it went through, 74 for `expected`, else 1."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with _Watch(root, point, action):
                work()
            code = 0
        except expected:
            code = 74
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
