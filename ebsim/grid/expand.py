"""Expands a grid into its cells: every combination of the axes' values over one experiment, all checked before any run.

An axis is a dotted key with its values, from the file's `[grid]` table or from `--grid KEY=V1,V2` (which replaces the
file's axis of that key). The last axis turns fastest. A cell is an ordinary experiment: `run` on the same settings
finds it done.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ebsim import config
from ebsim.config import Experiment, ExperimentSource
from ebsim.errors import ConfigError
from ebsim.files import canonical_json
from ebsim.report.display.text import as_typed

MAX_CELLS = 5000
_RANGE = re.compile(r"^\s*(-?\d+)\s*\.\.\s*(-?\d+)\s*$")
_RESERVED = ("name", "grid", "cluster", "companions")

Axes = dict[str, list[Any]]


@dataclass(frozen=True)
class Cell:
    """One experiment of a grid: `settings` are its values of the axes, `number` counts from 1."""

    number: int
    settings: dict[str, Any]
    experiment: Experiment

    @property
    def label(self) -> str:
        return label(self.settings)


@dataclass(frozen=True)
class Grid:
    """`axes` in the order given, and the cells in the order of their product."""

    name: str
    axes: Axes
    cells: list[Cell]


def label(settings: Mapping[str, Any]) -> str:
    """`precision.search=fp8 seed=1`"""
    return " ".join(f"{key}={as_typed(value)}" for key, value in settings.items())


def parse_axes(options: Iterable[str]) -> Axes:
    """`["seed=0..4", "precision.search=fp32,fp8"]` -> values of each key; raises `ConfigError`."""
    axes: Axes = {}
    for option in options:
        key, sign, text = option.partition("=")
        key = key.strip()
        if not sign or not key or not text.strip():
            raise ConfigError(f"--grid {option}: write it as section.key=value,value or section.key=0..4.")
        if key in axes:
            raise ConfigError(f"--grid {key}: given twice; put all its values into one.")
        words = _split(text, f"--grid {key}")
        axes[key] = [word if _RANGE.match(word) else config.parse_value(word, f"--grid {key}") for word in words]
    return axes


def _split(text: str, where: str) -> list[str]:
    """Split at commas that stand outside brackets and quotes."""
    parts, depth, quote, start = [], 0, "", 0
    for place, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "[{":
            depth += 1
        elif char in "]}":
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    parts.append(text[start:])
    if not all(part.strip() for part in parts):
        raise ConfigError(f"{where}: {text!r} has an empty value between two commas.")
    return [part.strip() for part in parts]


def _ranges(values: Sequence[Any], where: str) -> list[Any]:
    """`"0..4"` among the values stands for 0, 1, 2, 3, 4 (both ends included)."""
    out: list[Any] = []
    for value in values:
        found = _RANGE.match(value) if isinstance(value, str) else None
        if found is None:
            out.append(value)
            continue
        first, last = int(found[1]), int(found[2])
        if last < first or last - first >= MAX_CELLS:
            raise ConfigError(f"{where}: {value}: a range rises, by at most {MAX_CELLS} values (write 0..4).")
        out.extend(range(first, last + 1))
    return out


def expand(
    path: str | Path,
    options: Iterable[str] = (),
    settings: Mapping[str, Any] | None = None,
    choices: config.Choices | None = None,
    rules: config.CrossChecks = (),
) -> Grid:
    """Read an experiment file, lay `settings` (overrides) and the axes over it and check every cell.

    Raises `ConfigError` with all mistakes of all cells, each once; for a grid that is empty, too large, or names an
    experiment twice. Nothing has been written or run by then.
    """
    source = config.read(Path(path))
    config.override(source, dict(settings or {}))
    table = config.dotted(source.values.pop("grid", {}))
    config.locate(source)
    if isinstance(table, dict):
        table = {key: config.located(key, values, source.folder) for key, values in table.items()}
    axes = _checked(table, parse_axes(options), source)
    names = {key: list(known()) for key, known in (choices or {}).items()}
    fixed = {key: (lambda known=known: known) for key, known in names.items()}  # each listed once, not once per cell
    cells, mistakes = [], []
    for number, values in enumerate(itertools.product(*axes.values()), start=1):
        chosen = dict(zip(axes, values, strict=True))
        experiment, wrong = config.check(_laid_over(source, chosen), fixed, rules)
        mistakes += wrong
        if experiment is not None:
            cells.append(Cell(number, chosen, experiment))
    if mistakes:  # a mistake on one axis can hide those on the others: look at each value alone, too
        singles = [{key: value} for key, values in axes.items() for value in values]
        alone = [line for single in singles for line in config.check(_laid_over(source, single), fixed, rules)[1]]
        raise config.refusal([*mistakes, *alone])
    _refuse_duplicates(cells)
    return Grid(cells[0].experiment.name, axes, cells)


def _checked(table: Any, options: Axes, source: ExperimentSource) -> Axes:
    """The axes of the file with those of the command line over them; each is a list of distinct values."""
    if not isinstance(table, dict):
        raise ConfigError(f"{source.place('grid')}: grid must be a table: [grid], then precision.search = [...].")
    for key, values in table.items():
        if not isinstance(values, list):
            raise ConfigError(f"{source.place('grid.' + key)}: grid.{key} must be a list of values.")
    for key in options:
        source.places[f"grid.{key}"] = f"--grid {key}"
    axes = {key: _ranges(values, source.place(f"grid.{key}")) for key, values in {**table, **options}.items()}
    if not axes:
        raise ConfigError(f"{source.label}: no grid. Add a [grid] table or --grid KEY=VALUE,VALUE (docs/ablate.md).")
    size = 1
    for key, values in axes.items():
        where = source.place(f"grid.{key}")
        if key.partition(".")[0] in _RESERVED:
            raise ConfigError(f"{where}: {key} cannot be an axis; it is the same for all cells.")
        if not values:
            raise ConfigError(f"{where}: the axis {key} has no value.")
        if len(set(map(repr, values))) < len(values):
            raise ConfigError(f"{where}: the axis {key} names a value twice: {', '.join(map(as_typed, values))}.")
        size *= len(values)
    if size > MAX_CELLS:
        product = " x ".join(f"{len(values)} {key}" for key, values in axes.items())
        raise ConfigError(f"{source.label}: a grid of {size:,} cells ({product}); at most {MAX_CELLS:,}. Split it.")
    return axes


def _laid_over(source: ExperimentSource, chosen: dict[str, Any]) -> ExperimentSource:
    cell = replace(source, values=deepcopy(source.values), places=dict(source.places))
    config.override(cell, chosen)
    for key in chosen:
        cell.places[key] = source.place(f"grid.{key}")
    return cell


def _refuse_duplicates(cells: list[Cell]) -> None:
    """Two cells that differ in nothing that defines a result would be one run, counted twice."""
    seen: dict[str, Cell] = {}
    for cell in cells:
        twin = seen.setdefault(canonical_json(cell.experiment.identity()), cell)
        if twin is not cell:
            raise ConfigError(
                f"cells {twin.number} ({twin.label}) and {cell.number} ({cell.label}) are the same experiment; "
                "leave out an axis that changes no result."
            )
