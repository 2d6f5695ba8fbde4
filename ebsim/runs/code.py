"""Digest of the source code that computes results: stages of one digest were trained by the same code."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

PACKAGES = ("data", "models", "precision", "tickets", "training")
"""Packages of ebsim whose code decides what a training computes."""


@functools.cache
def code_digest() -> str:
    """First 16 hex digits of a SHA-256 over the names and contents of the computing modules, comments included."""
    home, total = Path(__file__).parents[1], hashlib.sha256()
    for room in PACKAGES:
        for path in sorted([*(home / room).rglob("*.py"), *(home / room).rglob("*.cpp")]):
            total.update(f"{path.relative_to(home).as_posix()}\0{path.stat().st_size}\0".encode())
            total.update(path.read_bytes())
    return total.hexdigest()[:16]
