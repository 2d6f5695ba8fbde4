"""Writes TOML: an experiment with every key written out, as a run folder keeps it."""

from __future__ import annotations

import json
from typing import Any

from ebsim.config.sections import Cluster, Experiment


def to_toml(experiment: Experiment) -> str:
    """Canonical TOML: keys in the order of the schema; unset keys (None) and a `[cluster]` of defaults are left out."""
    values = experiment.model_dump(mode="python")
    if experiment.cluster == Cluster():
        del values["cluster"]
    return toml({key: value for key, value in values.items() if value != {}})


def toml(values: dict[str, Any]) -> str:
    """Nested dictionaries as TOML: values of a table first, then the tables in it, each in the order given."""
    return "\n".join(_table(values, ())).strip() + "\n"


def _table(values: dict[str, Any], path: tuple[str, ...]) -> list[str]:
    plain = {key: value for key, value in values.items() if not isinstance(value, dict) and value is not None}
    lines = [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    if path and (plain or not values):
        lines = ["", f"[{'.'.join(_key(part) for part in path)}]", *lines]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += _table(value, (*path, key))
    return lines


def _key(key: str) -> str:
    bare = key and all(char.isascii() and (char.isalnum() or char in "_-") for char in key)
    return key if bare else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but TOML also wants DEL escaped and has no \/ or surrogate pairs.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items() if item is not None) + "}"
    return repr(value)
