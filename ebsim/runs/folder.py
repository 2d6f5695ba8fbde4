"""A run folder: `<runs dir>/<name>-<first 8 hex digits of the hash of what defines the run>`.

`MANIFEST.json` (a digest of every file) is written last: that it is there and holds is what "done" means.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ebsim.errors import DamagedError
from ebsim.files import digest, file_digest, read_json, write_json

MANIFEST = "MANIFEST.json"


def run_folder(runs_dir: Path, name: str, identity: dict[str, Any]) -> Path:
    """Where the run with this identity lives."""
    return runs_dir / f"{name}-{digest(identity)[:8]}"


def is_done(folder: Path) -> bool:
    """Whether the run has finished (its manifest is there; `verify` says whether it holds)."""
    return (folder / MANIFEST).exists()


def verify(folder: Path) -> None:
    """`DamagedError` naming every file of a finished run that is missing or was changed."""
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise DamagedError(f"{folder / MANIFEST}: not a manifest of ebsim.")
    wrong = []
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif file_digest(path) != expected:
            wrong.append(f"{name} was changed")
    if wrong:
        raise DamagedError(
            f"{folder}: {'; '.join(wrong)}. Delete {folder / MANIFEST} and run the experiment again: what was "
            "trained is in the store of stages and is not trained again."
        )


def finish(folder: Path, paths: Iterable[Path]) -> None:
    """Write the manifest over `paths` (files below `folder`)."""
    files = {path.relative_to(folder).as_posix(): file_digest(path) for path in sorted(paths)}
    write_json(folder / MANIFEST, {"files": files})
