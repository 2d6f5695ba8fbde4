"""Resolves the paths in an experiment file: beside the file first, then in the current directory.

What was found beside the file is written as seen from the current directory, so that the resolved experiment, which a
run folder keeps, means the same from there. Values of `--set` and `--grid` are left alone: they are typed there.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ebsim.config.source import ExperimentSource

PROFILE_COPY = "hardware.toml"
"""In a run folder, beside its experiment.toml: the accelerator profile that priced the run."""


def is_profile_path(word: str) -> bool:
    """Whether `hardware.profile` names a file of the user's own, not a shipped profile."""
    return word.endswith(".toml") or "/" in word


def locate(source: ExperimentSource) -> None:
    """Find the paths of a source's own keys, in place."""
    for section, inner in source.values.items():
        if isinstance(inner, dict):
            for key, value in inner.items():
                if not source.place(f"{section}.{key}").startswith("--"):
                    inner[key] = located(f"{section}.{key}", value, source.folder)


def located(key: str, value: Any, folder: Path) -> Any:
    """The value of a key with its paths found, as seen from the current directory; other values as they are."""
    if isinstance(value, list):
        return [located(key, item, folder) for item in value]
    if isinstance(value, dict):
        return {name: located(key, item, folder) for name, item in value.items()}
    if not isinstance(value, str):
        return value
    if key == "hardware.profile" and is_profile_path(value):
        gone = not _exists(folder / value) and not _exists(Path(value))
        return _beside(PROFILE_COPY if gone and _exists(folder / PROFILE_COPY) else value, folder)
    if key == "data.root":
        return _beside(value, folder)
    if key.startswith("precision.") and ".py:" in value:  # a plug-in: "formats/int4.py:INT4"
        stem, _, name = value.partition(".py:")
        return f"{_beside(stem + '.py', folder)}:{name}"
    return value


def _beside(path: str, folder: Path) -> str:
    if not path or Path(path).is_absolute() or not _exists(folder / path):
        return path
    whole, here = Path(os.path.abspath(folder / path)), Path.cwd()
    return (whole.relative_to(here) if whole.is_relative_to(here) else whole).as_posix()


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a text that is no path: reported when it is read
        return False
