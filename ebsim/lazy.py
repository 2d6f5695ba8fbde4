"""Public names of a package that are imported on first use (PEP 562), so that listing names never costs torch."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any


def find(package: str, home: Mapping[str, str], name: str) -> Any:
    """The attribute `name` of the module that `home` names for it; what a package's `__getattr__` returns.

    home: name -> module, relative to the package (".placement") or absolute. Raises AttributeError as Python does.
    """
    if name not in home:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return getattr(importlib.import_module(home[name], package), name)
