"""Writes the report of a run; every file is a pure function of the run files, so a rebuild gives the same bytes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ebsim.files import write_atomic
from ebsim.report import figures, page
from ebsim.report.display import text
from ebsim.report.display.latex_table import latex_files
from ebsim.report.tables import assumptions, energy, registry
from ebsim.runs.load import Run, load_run
from ebsim.runs.run_folder import RunFolder


def write_report(run_dir: str | Path, *, for_paper: bool = False) -> list[Path]:
    """Build report.html, report.md, figures/ and tables/ in the run folder; returns the paths written.

    for_paper: each figure also as PDF and PGF, at the width of one column (NAME-column) and of a page.
    Raises `DamagedError` if the run files are not sound (see `load_run`) and `StorageError` if a file cannot be
    written. Needs neither torch nor a network.
    """
    run = load_run(run_dir)
    contents = build(run)
    if for_paper:
        for plot in figures.PLOTS:
            if plot.needs(run):
                made = figures.for_paper(plot.name, partial(plot.render, run))
                contents |= {f"figures/{name}": data for name, data in made.items()}
    with RunFolder(run.path).renewing(contents):
        for name, data in contents.items():
            write_atomic(run.path / name, data)
    return [run.path / name for name in contents]


def build(run: Run) -> dict[str, bytes]:
    """{path in the run folder: bytes}, the pages last because they are made of the rest."""
    drawn: dict[str, bytes] = {}
    for plot in figures.PLOTS:
        if plot.needs(run):
            drawn |= figures.make(plot, run)
    known = assumptions.read(run)
    out = {f"figures/{name}": data for name, data in drawn.items()}
    made = registry.tables_of(run)
    sheets = {"energy": energy.energy_records(run), "setting": page.setting_records(run)}
    sheets |= {
        name: sheet for name, one in registry.TABLES.items() if (sheet := one.sheet(run, made[name])) is not None
    }
    out |= {f"tables/{name}.csv": text.csv(*sheet).encode() for name, sheet in sheets.items()}
    latex = [table for name, table in made.items() if table is not None and registry.TABLES[name].latex]
    out |= {f"tables/{name}": source.encode() for name, source in latex_files(latex).items()}
    out["report.md"] = page.markdown(run, drawn, known, made).encode()
    out["report.html"] = page.html(run, drawn, known, made).encode()
    return out
