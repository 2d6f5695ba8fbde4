"""The index of a runs folder as table and page: state, best accuracy and saving of each run, a link to its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from ebsim.files import write_atomic
from ebsim.report.display.html import render
from ebsim.report.display.table import NONE, Cell, Column, Table
from ebsim.report.display.text import csv, plain
from ebsim.report.display.value import Value, count, counted, fixed
from ebsim.runs.inventory import DONE, Inventory, RunEntry, cells_of

INDEX = "index.html"


def described(entry: RunEntry) -> dict[str, Any]:
    """A run in plain values, for tables and JSON."""
    rows = entry.results.get("rows", [])
    accuracies = [row["accuracy"] for row in rows if row["accuracy"] is not None]
    savings = [
        row["saving_vs_dense"] for row in rows if row["saving_vs_dense"] is not None and row["method"] != "dense"
    ]
    return {
        "run": entry.name,
        "state": entry.state,
        "network": entry.results.get("network", {}).get("label"),
        "dataset": entry.results.get("dataset", {}).get("label"),
        "rows": len(rows),
        "best_accuracy": max(accuracies, default=None),
        "best_saving": max(savings, default=None),
        "finished": entry.finished,
        "bytes": entry.size,
        "pid": entry.pid,
    }


def facts(entry: RunEntry) -> dict[str, str]:
    """The same for a person: what there is to say of one run, each number with its unit."""
    own = described(entry)
    best, saved = own["best_accuracy"], own["best_saving"]
    told = {
        "run": entry.name,
        "state": entry.state,
        "network": own["network"],
        "dataset": own["dataset"],
        "rows": str(own["rows"] or ""),
        "best accuracy": "" if best is None else f"{fixed(100 * best, 2)} % (last epoch, on the test set)",
        "energy saved": "" if saved is None else f"at most {fixed(100 * saved, 1)} % against dense (modelled)",
        "finished": f"{entry.finished[:16].replace('T', ' ')} UTC" if entry.finished else "",
        "size": f"{entry.size / 1e6:.1f} MB, without its stages",
        "process": "" if entry.pid is None else str(entry.pid),
    }
    return {key: plain(value) for key, value in told.items() if value}


def table(found: Inventory) -> Table:
    """One line per run."""
    runs = [described(entry) for entry in found.runs]

    def texts(key: str) -> tuple[Cell, ...]:
        return tuple((str(run[key] or NONE),) for run in runs)

    def percent(key: str) -> tuple[Cell, ...]:
        return tuple((NONE if run[key] is None else Value(run[key], fixed(100 * run[key], 1)),) for run in runs)

    cells = cells_of(found.root)
    settings = [cells.get(run["run"], ("", ""))[1] for run in runs]
    columns = (
        Column("Run", texts("run"), numeric=False, key=True),
        *([Column("Cell", tuple((plain(text) or NONE,) for text in settings), numeric=False)] if any(settings) else []),
        Column("State", texts("state"), numeric=False),
        Column("Network", texts("network"), numeric=False, priority=3),
        Column("Dataset", texts("dataset"), numeric=False, priority=4),
        Column("Rows", tuple((count(run["rows"]) if run["rows"] else NONE,) for run in runs), priority=5),
        Column("Best accuracy (%)", percent("best_accuracy"), priority=1),
        Column("Most energy saved (%)", percent("best_saving"), priority=1),
        Column(
            "Finished (UTC)", tuple(((run["finished"] or NONE)[:16].replace("T", " "),) for run in runs), numeric=False,
            priority=2,
        ),
        Column("MB", tuple((Value(run["bytes"], f"{run['bytes'] / 1e6:.1f}"),) for run in runs), priority=2),
    )  # fmt: skip
    stages = sum(found.stages.values()) / 1e6
    caption = (
        f"{counted(len(runs), 'run')} in {found.root}; {counted(len(found.stages), 'training stage')}, {stages:,.0f} MB"
    )
    notes: list[Cell] = [(f"{entry.name}: {entry.problem}",) for entry in found.runs if entry.problem]
    if any(run["best_saving"] is not None for run in runs):
        notes.append(("Savings are modelled, each against the dense row of its own run and on its own accelerator.",))
    return Table("runs", caption, columns, tuple(notes))


def write_index(found: Inventory) -> Path:
    """Write `index.html`, and its numbers as `index.csv`, into the folder of runs; it links to reports and grids."""
    reports = [f"./{quote(entry.name)}/report.html" if entry.state == DONE else "" for entry in found.runs]
    sections = [_section("runs", "Runs", table(found), reports)]
    pages = sorted(path.relative_to(found.root) for path in found.root.glob("grids/*/*.html"))
    if pages:
        names: tuple[Cell, ...] = tuple((path.parent.name,) for path in pages)
        grids = Table("grids", "Grids", (Column("Grid", names, numeric=False, key=True),))
        sections.append(_section("grids", "Grids", grids, [f"./{quote(path.as_posix())}" for path in pages]))
    content = {
        "title": f"Runs in {found.root.name or found.root}",
        "badge": "energies modelled, not measured",
        "sub": "Made by: runs index. Nothing on this page is loaded from elsewhere.",
        "contents": [(section["anchor"], section["heading"]) for section in sections],
        "sections": sections,
        "plots": {},
        "wide": (),
    }
    runs = [described(entry) for entry in found.runs]
    header = tuple(runs[0]) if runs else ("run",)
    write_atomic(found.root / "index.csv", csv(header, [tuple(run.values()) for run in runs]))
    path = found.root / INDEX
    write_atomic(path, render("sections.html", content, {}, {}, {}))
    return path


def _section(anchor: str, heading: str, shown: Table, links: list[str]) -> dict[str, Any]:
    item = {"table": shown, "folded": False, "links": links}
    return {"anchor": anchor, "heading": heading, "lead": (), "tables": [item], "figures": ()}
