"""Compares finished runs: how their experiments differ, then the same lines as a grid's table.

Runs that differ in the seed alone are replicates and become one line with a spread; everything is held against the
first run named (or another baseline), paired by seed.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ebsim import config
from ebsim.errors import CellsFailedError, ConfigError
from ebsim.files import digest
from ebsim.report.comparison import lines_page, table
from ebsim.report.comparison.aggregate import CARRIED, Baseline, Member, check_baseline, lines
from ebsim.report.comparison.page import Shown
from ebsim.report.display.latex_table import latex_files
from ebsim.report.display.table import Column, Table
from ebsim.report.display.text import as_typed, csv, plain
from ebsim.report.display.value import counted
from ebsim.runs.load import Run, load_run

SEED = "seed"
TELLING = 2
"""Differing keys that get a column each."""
TIMES = ("seconds", "epochs_trained", "epochs_reused")
"""What results.json says of when and beside what a run was made; everything else follows from its experiment."""


@dataclass(frozen=True)
class Comparison:
    """`differing`: key -> its value in each run, where they are not all the same (the seed and the data included)."""

    runs: list[Run]
    differing: dict[str, list[Any]]
    entries: list[table.ComparedLine]
    baseline: Baseline
    members: tuple[Member, ...] = ()

    def settings_table(self) -> Table:
        """One row per run, one column per key that differs."""
        names = Column("Run", tuple((plain(run.path),) for run in self.runs), numeric=False)
        columns = [
            Column(plain(key), tuple((plain(as_typed(value)),) for value in values), numeric=False)
            for key, values in self.differing.items()
        ]
        caption = "What differs" if columns else "The runs have the same experiment"
        return Table("settings", caption, (names, *columns))

    def table(self) -> Table:
        return table.table(self.entries, table.caption(self.runs), self.baseline, table.made_differently(self.runs))

    def files(self, beside: Path, *, for_paper: bool = False) -> dict[str, bytes]:
        """{path: bytes} of the comparison's page, tables and figures; `beside`: the folder they will stand in.

        for_paper: each figure as PDF and PGF too.
        """
        final, settings = self.table(), self.settings_table()
        relative = [os.path.relpath(run.path, beside) for run in self.runs]
        links = tuple(f"{quote(Path(path).as_posix())}/report.html" for path in relative)
        names = Column("Run", tuple((plain(run.path.resolve().name),) for run in self.runs), numeric=False)
        page = lines_page.build(
            f"{counted(len(self.runs), 'run')} compared",
            final.caption,
            f"MODELLED on {', '.join(dict.fromkeys(run.hardware for run in self.runs))}, not measured",
            self.entries,
            {key: _distinct(values) for key, values in self.differing.items() if key in self.entries[0].line.under[0]},
            final,
            Shown(Table("runs", "The runs", (names,)), links),
            differing=settings,
            members=self.members,
            for_paper=for_paper,
        )
        return {
            "table.csv": csv(*table.records(self.entries)).encode(),
            **{name: text.encode() for name, text in latex_files([final]).items()},
            **page,
        }

    @property
    def folder_name(self) -> str:
        """`comparison-<8 hex digits of the runs and the baseline>`."""
        key = [[run.path.resolve().name for run in self.runs], self.baseline]
        return f"comparison-{digest(key)[:8]}"

    def as_json(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "runs": [str(run.path) for run in self.runs],
            "differing": self.differing,
            "lines": table.as_json(self.entries),
        }


def compare(folders: Sequence[str | Path], baseline: Baseline | None = None) -> Comparison:
    """Set finished runs side by side. baseline: a method, or values of differing keys; None: the first run's settings.

    Raises `DamagedError` for a folder that is not a sound run, `ConfigError` for one named twice or fewer than two.
    """
    if len({Path(folder).resolve() for folder in folders}) < max(2, len(folders)):
        raise ConfigError("compare: name two or more different run folders.")
    runs = [load_run(folder) for folder in folders]
    flat = [_experiment(run) for run in runs]
    keys = list(dict.fromkeys(key for own in flat for key in own))
    columns = {key: [own.get(key) for own in flat] for key in keys}
    differing = {key: values for key, values in columns.items() if any(value != values[0] for value in values)}
    settings = _settings(runs, differing)
    if not isinstance(baseline, Mapping):
        settings = _named(runs, settings)
    members = tuple(Member(own, run.record.seed, run) for own, run in zip(settings, runs, strict=True))
    every = lines(members)
    chosen: Baseline = baseline if baseline is not None else (settings[0] or "dense")
    axes = {key: [own[key] for own in settings] for key in settings[0]}
    check_baseline(chosen, (line.method for line in every), axes)
    return Comparison(runs, differing, table.entries(every, chosen), chosen, members)


def _named(runs: Sequence[Run], settings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Settings that differ in more than `TELLING` keys, by the name of the first run that has them.

    What tells such runs apart stands in the table of settings; a column for each key would say it again in every line.
    """
    own = {key for one in settings for key in one if key not in CARRIED}
    if len(own) <= TELLING:
        return settings
    first: dict[str, str] = {}
    for run, one in zip(runs, settings, strict=True):
        first.setdefault(repr(one), run.path.resolve().name)
    counts = Counter(map(repr, settings))
    out = []
    for one in settings:
        more = counts[repr(one)] - 1
        out.append({"run": first[repr(one)] + (f" and {more} more" if more else "")})
    return out


def _distinct(values: Sequence[Any]) -> list[Any]:
    """Each value once, in order (values may be lists)."""
    out: list[Any] = []
    for value in values:
        if value not in out:
            out.append(value)
    with contextlib.suppress(TypeError):  # numbers, and lists of them, in their order; texts as they come
        return sorted(out) if not any(isinstance(value, str) for value in out) else out
    return out


def _settings(runs: Sequence[Run], differing: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """What tells runs apart that are not replicates; runs alike in everything, the seed too, by their folder."""
    keys = [key for key in differing if key not in (SEED, "name")]
    out = [{key: differing[key][place] for key in keys} for place in range(len(runs))]
    alike = [repr((own, run.record.seed)) for own, run in zip(out, runs, strict=True)]
    if len(set(alike)) < len(alike):
        out = [own | {"run": str(run.path)} for own, run in zip(out, runs, strict=True)]
    return out


def _experiment(run: Run) -> dict[str, Any]:
    """Every key that defines a run, dotted, and the digests of its data, its accelerator and its outside formats."""
    experiment = config.validate(config.read(run.path / "experiment.toml"))
    digests = {"data digest": run.record.dataset.digest, "profile digest": run.provenance.hardware_digest}
    digests |= {f"{plugin['name']} digest": plugin["digest"] for plugin in run.provenance.precision_plugins}
    return dict(_leaves(experiment.identity())) | {key: value[:12] for key, value in digests.items() if value}


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def assert_equal(runs: Sequence[Run]) -> None:
    """`CellsFailedError` with the first difference between the results of the first run and of any other.

    Everything in results.json counts but what depends on the clock and on what was found in the store (`TIMES`).
    """
    first, *others = ({key: value for key, value in run.results.items() if key not in TIMES} for run in runs)
    for run, other in zip(runs[1:], others, strict=True):
        if (found := _first_difference(first, other)) is not None:
            place, one, two = found
            raise CellsFailedError(f"{runs[0].path} and {run.path} differ: {place}: {one!r} and {two!r}.")


def _first_difference(one: Any, two: Any, place: str = "results") -> tuple[str, Any, Any] | None:
    """Where two JSON values part, depth first in the order of the first."""
    if isinstance(one, dict) and isinstance(two, dict):
        keys = dict.fromkeys([*one, *two])
        pairs = [(f"{place}.{key}", one.get(key, "(absent)"), two.get(key, "(absent)")) for key in keys]
    elif isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        pairs = [(f"{place}.{number}", *pair) for number, pair in enumerate(zip(one, two, strict=True))]
    else:
        return None if one == two and type(one) is type(two) else (place, one, two)
    return next((found for at, a, b in pairs if (found := _first_difference(a, b, at)) is not None), None)
