"""Public names of a package that are imported on first use (PEP 562), so that listing names never costs torch or scipy.

__getattr__, __dir__, __all__ = lazy.attach(__name__, {"load": ".registry", "DATASETS": ".catalogue"})
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def attach(
    package: str, home: Mapping[str, str], modules: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package or module.

    home: name -> module that defines it; modules: name -> module that it stands for. Modules are relative to `package`
    (".placement") or absolute. The returned `__getattr__` raises AttributeError as Python does.
    """
    aliases = modules or {}
    names = sorted([*home, *aliases])

    def find(name: str) -> Any:
        if name in aliases:
            return importlib.import_module(aliases[name], package)
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(home[name], package), name)

    return find, lambda: names, names
