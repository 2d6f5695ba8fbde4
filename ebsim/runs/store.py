"""The store of training stages: each folder is named by the hash of what defines it.

A stage is one training trajectory (dense, or of a ticket). Two runs that ask for the same thing get the same
folder, so nothing is trained twice; a lock (`runs.locks`) makes the second one wait for the first. `identity.json`
holds what was hashed, so a folder explains itself and a changed or foreign one is noticed.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebsim import stop
from ebsim.errors import BusyError, DamagedError
from ebsim.files import (
    append_line,
    canonical_json,
    digest,
    make_folder,
    parse_json,
    read_json,
    storage_error,
    sweep,
    write_json,
)
from ebsim.runs.locks import FolderLock, Holder

LAYOUT = 1  # version of the folder layout; part of every identity


@dataclass(frozen=True)
class Stage:
    """A folder of the store: `id` is `<kind>-<first 12 hex digits of the hash of its identity>`."""

    id: str
    folder: Path
    identity: dict[str, Any]

    @contextlib.contextmanager
    def locked(self, waiting: Callable[[], None] = lambda: None) -> Iterator[FolderLock]:
        """Hold the stage; waits for another process that holds it, calling `waiting` about once a second."""
        make_folder(self.folder)
        lock, pause = FolderLock(self.folder), 0.02
        while _acquire(lock) is not None:
            stop.check()
            waiting()
            time.sleep(pause)
            pause = min(1.0, pause * 1.5)
        try:
            sweep(self.folder)
            yield lock
        finally:
            lock.release()

    def log(self, event: str, **fields: Any) -> None:
        """Append one line to `events.jsonl`, for people and for `ablate`'s count; no result depends on it."""
        append_line(
            self.folder / "events.jsonl",
            canonical_json({"event": event, "time": round(time.time(), 3), "pid": os.getpid(), **fields}),
        )

    def events(self) -> list[dict[str, Any]]:
        """All events that can be read; torn, damaged and foreign lines are left out."""
        try:
            text = (self.folder / "events.jsonl").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise storage_error(self.folder / "events.jsonl", error, "could not be read") from error
        rows = []
        for line in text.splitlines():
            with contextlib.suppress(ValueError):
                row = parse_json(line)
                if isinstance(row, dict) and isinstance(row.get("event"), str):
                    rows.append(row)
        return rows


class Store:
    """Stages below `root` (`<runs dir>/stages`). One that is not `writable` only names them."""

    def __init__(self, root: Path, *, writable: bool = True) -> None:
        self.root, self.writable = root, writable

    def name(self, kind: str, identity: Mapping[str, Any]) -> Stage:
        """The stage with this identity; nothing is read or written."""
        full = {"layout": LAYOUT, "kind": kind, **identity}
        id = f"{kind}-{digest(full)[:12]}"
        return Stage(id, self.root / id, full)

    def stage(self, kind: str, identity: Mapping[str, Any]) -> Stage:
        """The stage with this identity, made if it is not there; `DamagedError` if its folder says otherwise."""
        stage = self.name(kind, identity)
        if not self.writable:
            return stage
        marker = stage.folder / "identity.json"
        if not marker.exists():
            write_json(marker, stage.identity)
        found = read_json(marker)
        if found != json.loads(canonical_json(stage.identity)):
            raise DamagedError(
                f"{marker}: describes another stage than its folder's name says. Move {stage.folder} away and run "
                "again."
            )
        return stage


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[FolderLock]:
    """Hold a run folder for this process; `BusyError` at once if a live process has it."""
    make_folder(folder)
    lock = FolderLock(folder)
    if (holder := _acquire(lock)) is not None:
        raise BusyError(f"{folder}: held by {holder}. Wait for it, or stop it.")
    try:
        sweep(folder)
        yield lock
    finally:
        lock.release()


def _acquire(lock: FolderLock) -> Holder | None:
    try:
        return lock.try_acquire()
    except OSError as error:
        raise storage_error(lock.folder, error, "the folder could not be locked") from error
