"""Public names of a package that are imported on first use (PEP 562), so that listing names never costs torch.

__getattr__, __dir__, __all__ = lazy.attach(__name__, {"load": ".registry", "DATASETS": ".catalogue"})
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def attach(
    package: str, home: Mapping[str, str], packages: Iterable[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package.

    home: name -> module that has it, relative to the package (".placement") or absolute. packages: names of the
    package's own sub-packages. The returned `__getattr__` raises AttributeError as Python does.
    """
    inner = frozenset(packages)
    names = sorted([*home, *inner])

    def find(name: str) -> Any:
        if name in inner:
            return importlib.import_module(f"{package}.{name}")
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(home[name], package), name)

    return find, lambda: names, names
