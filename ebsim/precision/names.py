"""Registry of names (of formats, or of backends): built in, installed as a plug-in, or registered by path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from ebsim.precision import plugins


@dataclass(frozen=True)
class NameRegistry:
    """The names of a kind ("formats", "backends"): `builtin` holds the objects, `registered` name -> "file.py:NAME"."""

    kind: str
    builtin: Mapping[str, Any]
    registered: dict[str, str] = field(default_factory=dict)

    def installed(self) -> dict[str, EntryPoint]:
        """Entry points by name; ConfigError where two packages claim one name, or one claims a built-in name."""
        return plugins.installed(self.kind, self.builtin)

    def plugin_origins(self) -> dict[str, str]:
        """Name -> package and version, or path, of everything that is not built in."""
        return {name: plugins.origin(point) for name, point in sorted(self.installed().items())} | self.registered

    def origins(self) -> dict[str, str]:
        """Name -> origin of every name there is; "built in" for the package's own."""
        return dict.fromkeys(self.builtin, "built in") | self.plugin_origins()

    def find(self, name: str) -> Any | None:
        """The object behind a name or "file.py:NAME"; None if there is no such name."""
        if ".py:" in name:
            return plugins.load_file(name)
        if name in self.builtin:
            return self.builtin[name]
        if name in self.registered:
            return plugins.load_file(self.registered[name])
        point = self.installed().get(name)
        return None if point is None else plugins.load_entry_point(point)

    def plugin_origin(self, name: str) -> str | None:
        """Where a name, or a format with variant and rounding, comes from; None if it is built in or unknown."""
        if ".py:" in name:
            path, _, attribute = name.rpartition(":")
            return f"{path}:{attribute.partition(' ')[0]}"
        word = name.partition(" ")[0].partition("/")[0]
        return None if word in self.builtin else self.plugin_origins().get(word)

    def register(self, name: str, spec: str) -> None:
        """Let `name` mean "file.py:NAME" from now on, whatever the working directory becomes."""
        path, _, attribute = spec.rpartition(":")
        self.registered[name] = f"{Path(path).resolve()}:{attribute}"
