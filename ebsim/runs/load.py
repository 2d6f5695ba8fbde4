"""Loads a finished run folder as a `Run`, or raises `DamagedError` naming the file and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from ebsim.config import PROFILE_COPY, is_profile_path
from ebsim.errors import DamagedError
from ebsim.runs.run_folder import RunFolder
from ebsim.runs.schema import CurvePoint, Masks, Provenance, Results, Row

if TYPE_CHECKING:
    from hw_models import Accelerator

FILES = (
    "experiment.toml", "results.json", "networks.json", "curves.json", "masks.json", "provenance.json", PROFILE_COPY,
)  # fmt: skip
_CURE = "Run the same command again to rebuild it, or restore the folder."
_NO_COPY = (
    "missing: the run was priced before runs kept the accelerator that priced them. Run the same command again: it is "
    "priced anew, and nothing is trained again."
)


@dataclass(frozen=True, eq=False)
class Run:
    """What a report is made of; nothing else is read."""

    path: Path
    experiment: str
    """The resolved experiment, TOML."""
    results: Mapping[str, Any]
    """results.json as it is."""
    record: Results
    """The same, checked and typed."""
    networks: Mapping[str, list[dict[str, Any]]]
    """Layer dicts of `hw_models.Layer`, by the network keys of the ledger."""
    curves: Mapping[str, list[CurvePoint]]
    masks: Mapping[str, Masks]
    provenance: Provenance
    profile: Path | Accelerator
    """What priced the rows: the copy in the run folder, or the accelerator of `reprice`."""

    @cached_property
    def chip(self) -> Accelerator:
        """The accelerator that priced the rows.

        Raises `DamagedError` if they say that it was another one, `hw_models.ProfileError` if its copy is not accepted.
        """
        import hw_models

        chip = hw_models.load(self.profile)
        if any(row.energy.accelerator_digest not in (None, chip.digest) for row in self.rows):
            raise DamagedError(f"{self.path}: results.json was not priced on {self.profile}. {_CURE}")
        return chip

    @property
    def hardware(self) -> str:
        """What the accelerator is called, and what it is made to do that it cannot."""
        import hw_models

        name = self.record.hardware
        if is_profile_path(name):  # a user's own: by the name that it gives itself
            with suppress(DamagedError, hw_models.HardwareError):
                name = self.chip.name
        missing = ", ".join(self.record.hypothetical)
        return f"{name} (hypothetical: it has no {missing})" if missing else name

    @property
    def rows(self) -> tuple[Row, ...]:
        return self.record.rows

    @property
    def dense(self) -> Row | None:
        """The dense baseline, where the run has one."""
        return next((row for row in self.rows if row.method == "dense"), None)

    def best_on_test(self, row: Row) -> float | None:
        """The best epoch's accuracy on the test set: of the averaged weights, where the row's accuracy is of those.

        Runs of earlier versions stored the best of the raw weights there; their curves have the averages.
        """
        if not row.averaged:
            return row.best_accuracy
        points = self.curves.get(row.curve or "", ())
        averages = [point.average_accuracy for point in points if point.average_accuracy is not None]
        return max(averages, default=row.accuracy)

    def factor_vs_dense(self, row: Row) -> float | None:
        """How many times less energy than the dense baseline; None without a baseline."""
        if self.dense is None or row.energy.joules == 0:
            return None
        return self.dense.energy.joules / row.energy.joules


def load_run(run_dir: str | Path) -> Run:
    """Read and check a run folder (format: docs/report.md).

    Raises `DamagedError` for a missing, truncated or foreign file, a value of the wrong type or range, a curve or
    network that a row names and no file holds, and a file that MANIFEST.json lists with another digest. A folder
    without a manifest is read as well: the report is built before the manifest is written.
    """
    folder = Path(run_dir)
    if not folder.is_dir():
        what = f"a file; give the run's folder, {folder.parent}" if folder.is_file() else "no such directory"
        raise DamagedError(f"{folder}: not a run folder ({what}).")
    content = {name: _read(folder / name) for name in FILES}
    RunFolder(folder).check(content)
    run = Run(
        path=folder,
        experiment=_decode(folder / "experiment.toml", content["experiment.toml"]),
        results=_json(folder / "results.json", content["results.json"]),
        record=_parse(folder, content, "results.json", Results),
        networks=_parse(folder, content, "networks.json", dict[str, list[dict[str, Any]]]),
        curves=_parse(folder, content, "curves.json", dict[str, list[CurvePoint]]),
        masks=_parse(folder, content, "masks.json", dict[str, Masks]),
        provenance=_parse(folder, content, "provenance.json", Provenance),
        profile=folder / PROFILE_COPY,
    )
    _check_references(run)
    return run


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        what = _NO_COPY if path.name == PROFILE_COPY else f"missing, so this is not a finished run. {_CURE}"
        raise DamagedError(f"{path}: {what}") from error
    except OSError as error:
        raise DamagedError(f"{path}: cannot be read ({error.strerror}). {_CURE}") from error


def _decode(path: Path, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DamagedError(f"{path}: not UTF-8 text. {_CURE}") from error


def _json(path: Path, data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path}: not valid JSON, perhaps cut short ({error}). {_CURE}") from error


def _parse(folder: Path, content: Mapping[str, bytes], name: str, kind: Any) -> Any:
    value = _json(folder / name, content[name])
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first, *others = error.errors(include_url=False, include_input=False)
        place = ".".join(str(part) for part in first["loc"]) or "top level"
        more = f" ({len(others)} more)" if others else ""
        raise DamagedError(f"{folder / name}: {place}: {first['msg']}{more}. {_CURE}") from None


def _check_references(run: Run) -> None:
    for number, row in enumerate(run.rows):
        where = f"{run.path / 'results.json'}: rows.{number} ({row.method})"
        if row.curve is not None and row.curve not in run.curves:
            raise DamagedError(f"{where}: its curve {row.curve} is not in curves.json. {_CURE}")
        for entry in row.ledger:
            if entry.network not in run.networks:
                raise DamagedError(f"{where}: network {entry.network} is not in networks.json. {_CURE}")
