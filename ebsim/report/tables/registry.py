"""The registry of report tables: name -> how a run's table is made, and which files it is written to.

How to add one: a function of a loaded run in a module of this package, and an entry in `TABLES` with the section of the
page that shows it. It then appears at that section's end in report.html and report.md, and as tables/NAME.csv.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ebsim.report.display.table import Table, raw_records
from ebsim.report.tables import (
    assumptions,
    energy,
    paper,
    per_layer,
    precision_formats,
    quantization_error,
    results,
)
from ebsim.runs.load import Run

Sheet = tuple[tuple[str, ...], list[tuple[object, ...]]]  # header and rows of a CSV file


@dataclass(frozen=True)
class ReportTable:
    """A table of the report of one run.

    make: the table, None where the run has nothing to show there. records: its unrounded rows for the CSV (default:
    those of the table). csv, latex: whether it is written as such. section: anchor of the section of the page that
    shows it at its end (results, plane, saving, masks, training, energy, precision, assumptions, counts, provenance);
    "" where the page's templates give it a place of its own.
    """

    make: Callable[[Run], Table | None]
    records: Callable[[Run], Sheet | None] | None = None
    csv: bool = True
    latex: bool = False
    section: str = ""

    def sheet(self, run: Run, table: Table | None) -> Sheet | None:
        """Header and rows of its CSV file, from the table that was made of the run; None where it has none."""
        if not self.csv:
            return None
        if self.records is not None:
            return self.records(run)
        return raw_records(table) if table is not None else None


def _quantization_records(run: Run) -> Sheet | None:
    seen = quantization_error.observations(run, every=True)
    return quantization_error.records(seen) if seen else None


TABLES: dict[str, ReportTable] = {
    "results": ReportTable(results.summary, results.records, latex=True),
    "detail": ReportTable(results.detail, csv=False, latex=True),
    "energy_by_stage": ReportTable(lambda run: energy.energy_split(run, "stage"), csv=False, latex=True),
    "energy_by_component": ReportTable(lambda run: energy.energy_split(run, "component"), csv=False, latex=True),
    "energy_by_pass": ReportTable(
        lambda run: energy.by_pass(per_layer.passes(run)), lambda run: energy.pass_records(per_layer.passes(run))
    ),
    "sensitivity": ReportTable(energy.sensitivity, energy.sensitivity_records),
    "precisions": ReportTable(precision_formats.table, csv=False),
    "precision": ReportTable(
        lambda run: quantization_error.table(quantization_error.observations(run)), _quantization_records
    ),
    "assumptions": ReportTable(
        lambda run: assumptions.table(assumptions.read(run)), lambda run: assumptions.records(assumptions.read(run))
    ),
    "paper": ReportTable(paper.beside),
    "paper_emergence": ReportTable(paper.emergence),
}


def tables_of(run: Run) -> dict[str, Table | None]:
    """Every table of the registry by name; None where the run has nothing to show in it."""
    return {name: one.make(run) for name, one in TABLES.items()}
