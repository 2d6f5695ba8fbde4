"""The store of training stages: each folder is named by the hash of what defines it.

A stage is one training trajectory (dense, or of a ticket). Two runs that ask for the same thing get the same
folder, so nothing is trained twice; a lock of the operating system (it dies with its process) makes the second
one wait for the first. `identity.json` holds what was hashed, so a folder explains itself and a changed or
foreign one is noticed.
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

from filelock import FileLock, Timeout

from ebsim.errors import BusyError, DamagedError
from ebsim.files import canonical_json, digest, read_json, write_json

LAYOUT = 1  # version of the folder layout; part of every identity


@dataclass(frozen=True)
class Stage:
    """A folder of the store: `id` is `<kind>-<first 12 hex digits of the hash of its identity>`."""

    id: str
    folder: Path
    identity: dict[str, Any]

    @contextlib.contextmanager
    def locked(self, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the stage; waits for another process that holds it, calling `waiting` about once a second."""
        lock = FileLock(self.folder / ".lock")
        while True:
            try:
                lock.acquire(timeout=1.0)
                break
            except Timeout:
                waiting()
        try:
            yield
        finally:
            lock.release()

    def log(self, event: str, **fields: Any) -> None:
        """Append one line to `events.jsonl`; a single small write, so lines of two processes never mix."""
        line = canonical_json({"event": event, "time": round(time.time(), 3), "pid": os.getpid(), **fields}) + "\n"
        with (self.folder / "events.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(line)

    def events(self) -> list[dict[str, Any]]:
        """All events; a torn last line (the process was killed inside the write) is left out."""
        try:
            text = (self.folder / "events.jsonl").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        rows = []
        for line in text.splitlines():
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
        return rows


class Store:
    """Stages below `root` (`<runs dir>/stages`)."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def name(self, kind: str, identity: Mapping[str, Any]) -> Stage:
        """The stage with this identity; nothing is read or written."""
        full = {"layout": LAYOUT, "kind": kind, **identity}
        id = f"{kind}-{digest(full)[:12]}"
        return Stage(id, self.root / id, full)

    def stage(self, kind: str, identity: Mapping[str, Any]) -> Stage:
        """The stage with this identity, made if it is not there; `DamagedError` if its folder says otherwise."""
        stage = self.name(kind, identity)
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
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a run folder for this process; `BusyError` at once if a live process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / ".holder.json"
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0.2)
    except Timeout:
        with contextlib.suppress(DamagedError):
            who = read_json(holder)
            raise BusyError(
                f"{folder}: held by process {who['pid']} on {who['host']}. Wait for it, or stop it."
            ) from None
        raise BusyError(f"{folder}: held by another process. Wait for it, or stop it.") from None
    try:
        write_json(holder, {"pid": os.getpid(), "host": os.uname().nodename if hasattr(os, "uname") else "?"})
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
