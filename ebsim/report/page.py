"""The report of a run as one self-contained HTML page and as Markdown, from the same content.

Every number on the page is a `Value`, written as `<data value="raw">text</data>`, so it can be followed to the
CSV or JSON it came from. All text is escaped by jinja2; the page may load nothing and run only the script whose
hash its policy names.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Mapping
from importlib.resources import files
from pathlib import PurePath
from typing import Any

from ebsim.config import PROFILE_COPY, is_profile_path
from ebsim.report.display import text
from ebsim.report.display.html import render
from ebsim.report.display.markdown_table import to_markdown
from ebsim.report.display.table import NONE, Cell, Table, flat
from ebsim.report.display.value import Value, count, duration, percent, quantity, times
from ebsim.report.figures import PLOTS, accuracy_energy, layer_bars
from ebsim.report.tables import (
    energy,
    paper,
    precision_formats,
    row_labels,
    saving_steps,
)
from ebsim.report.tables import results as results_tables
from ebsim.report.tables.assumptions import Assumptions
from ebsim.report.tables.highlights import highlights
from ebsim.report.tables.registry import TABLES
from ebsim.runs.load import Run


def content(
    run: Run, figures: Mapping[str, bytes], known: Assumptions, tables: Mapping[str, Table | None]
) -> dict[str, Any]:
    """What both pages show; `figures` are the files of `figures.make`, `tables` those of `registry.tables_of`."""
    results, provenance = run.record, run.provenance
    return {
        "run": run,
        "folder": run.path.resolve().name,
        "title": f"{results.network.label} on {results.dataset.label}",
        "badge": f"MODELLED on {run.hardware}, not measured",
        "tiles": tiles(run),
        "hidden_tiles": len(tiles(run)) < len(run.rows),
        "contents": contents(run, figures),
        "dominant": energy.dominant(run),
        "steps": saving_steps.tables(run, highlights(run)),
        "setting": setting(run),
        "tables": tables,
        "added": added(tables),
        "sums": energy.conservation(run),
        "plots": {plot.name: plot for plot in PLOTS if f"{plot.name}.svg" in figures},
        "wide": {plot.name for plot in PLOTS if plot.wide(run)},
        "known": known,
        "command": text.plain(again(run)),
        "argv": shlex.join(provenance.argv),
        "origin": origin(run),
        "experiment": run.experiment.splitlines(),
    }


def added(tables: Mapping[str, Table | None]) -> dict[str, list[Table]]:
    """Section -> the tables that it shows at its end: those that no template places."""
    out: dict[str, list[Table]] = defaultdict(list)  # templates ask for every section
    for name, table in tables.items():
        if table is not None and TABLES[name].section:
            out[TABLES[name].section].append(table)
    return out


def contents(run: Run, figures: Mapping[str, bytes]) -> list[tuple[str, str]]:
    """(anchor, heading) of the sections that the page has."""
    has = {name.partition(".")[0] for name in figures}
    every = [
        ("results", "Results", True),
        ("plane", "Accuracy and energy", True),
        ("saving", "Where the saving comes from", bool(has & {"waterfall", "tornado"})),
        ("masks", "How the tickets emerged", "mask_distance" in has),
        ("training", "Training", bool(has & {"curves", "draws"})),
        ("energy", "Where the energy goes", True),
        ("precision", "Precision", bool(precision_formats.table(run).rows)),
        ("assumptions", "Assumptions", True),
        ("paper", "Beside the paper", any((paper.beside(run), paper.emergence(run)))),
        ("counts", "Counts in full", True),
        ("provenance", "Provenance", True),
    ]
    return [(anchor, heading) for anchor, heading, there in every if there]


def again(run: Run) -> str:
    """The command that gives the same numbers, from where the run was started; its own profile priced on its copy."""
    argv = run.provenance.argv
    program = argv[0] if argv and PurePath(argv[0]).name == "cli.py" else "cli.py"
    folder = PurePath(run.provenance.folder or f"runs/{run.path.resolve().name}")
    words = ["python", program, "run", str(folder / "experiment.toml")]
    if is_profile_path(run.record.hardware):
        words += ["--set", f"hardware.profile={folder / PROFILE_COPY}"]
    if str(folder.parent) != "runs":
        words += ["--runs-dir", str(folder.parent)]
    return shlex.join(words)


def tiles(run: Run) -> list[dict[str, Any]]:
    """The headline: the dense baseline and the best rows (see `tables.highlights`), a tile each."""
    out = []
    total = run.record.train.epochs
    best = highlights(run)
    for row, name in zip(run.rows, row_labels.short(run.rows), strict=True):
        if row is not run.dense and name not in best:
            continue
        saving: Cell = ()
        factor = run.factor_vs_dense(row)
        if row is not run.dense and row.saving_vs_dense is not None and factor is not None:
            if row.saving_vs_dense >= 0:
                saving = (percent(row.saving_vs_dense), " saved; dense needs ", times(factor))
            else:
                saving = (percent(-row.saving_vs_dense), " more than dense")
        drawn: Cell = ()
        if row.epoch_drawn is not None:
            drawn = ("ticket at epoch ", count(row.epoch_drawn), "/", count(total))
        elif row.ratio is not None and row.emerged is False:
            drawn = ("no ticket emerged",)
        accuracy = NONE if row.accuracy is None else percent(row.accuracy)
        out.append(
            {
                "name": name,
                "accuracy": accuracy,
                "saving": saving,
                "drawn": drawn,
                "baseline": row is run.dense,
                "energy": quantity(row.energy.joules, "J"),
            }
        )
    return out


def setting(run: Run) -> list[tuple[str, Cell]]:
    """What was run, in a few lines."""
    r = run.record
    shape = "×".join(map(str, r.dataset.shape))
    return [
        (
            "Data",
            (
                f"{r.dataset.label}, {shape}: ",
                count(r.dataset.train_images),
                " training and ",
                count(r.dataset.test_images),
                " test images, ",
                count(r.dataset.classes),
                " classes",
            ),
        ),
        (
            "Network",
            (
                f"{r.network.label}: ",
                quantity(r.network.parameters, ""),
                " parameters, ",
                quantity(r.network.macs, ""),
                " MACs per image, ",
                count(r.network.channels),
                " BatchNorm channels",
            ),
        ),
        (
            "Training",
            (
                count(r.train.epochs),
                " epochs, batch ",
                count(r.train.batch_size),
                ", learning rate ",
                Value(r.train.lr, f"{r.train.lr:g}"),
                *_milestones(run),
                ", seed ",
                count(r.seed),
            ),
        ),
        (
            "Ticket",
            (
                f'rule "{r.prune.rule}": mask distance under ',
                Value(r.prune.threshold, f"{r.prune.threshold:g}"),
                ", window ",
                count(r.prune.window),
                f"; never pruned: {', '.join(map(text.plain, r.prune.ignore))}" if r.prune.ignore else "",
            ),
        ),
        (
            "Cost of this run",
            (
                duration(r.seconds),
                " of training; ",
                count(r.epochs_trained),
                " epochs trained, ",
                count(r.epochs_reused),
                " reused from earlier runs",
            ),
        ),
    ]


def setting_records(run: Run) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """The numbers of `setting` in their order, for CSV."""
    rows: list[tuple[object, ...]] = []
    for name, pieces in setting(run):
        numbers = [piece for piece in pieces if isinstance(piece, Value)]
        rows += [(name, place, number.raw, flat(pieces)) for place, number in enumerate(numbers, 1)]
    return ("what", "place", "value", "text"), rows


def _milestones(run: Run) -> Cell:
    pieces: list[Value | str] = []
    for epoch in run.record.train.milestones:
        pieces += [" and " if pieces else ", lowered after epochs ", count(epoch)]
    return tuple(pieces)


def origin(run: Run) -> list[tuple[str, str]]:
    """Provenance as (name, text) pairs, nested tables flattened, in the file's own words."""
    out: list[tuple[str, str]] = []
    for key, value in sorted(run.provenance.model_dump().items()):
        if isinstance(value, dict):
            out += [(f"{key}.{name}", str(one)) for name, one in sorted(value.items())]
        elif isinstance(value, list | tuple):
            out.append((key, shlex.join(map(str, value))))
        else:
            out.append((key, NONE if value is None else str(value)))
    return [(text.plain(key), text.plain(value)) for key, value in out]


def html(run: Run, figures: Mapping[str, bytes], known: Assumptions, tables: Mapping[str, Table | None]) -> str:
    """The page; `figures` are the files of `figures.make`, `tables` those of `registry.tables_of`."""
    page = content(run, figures, known, tables)
    names = list(page["plots"])
    page["layers"] = layer_bars.networks(run)
    page["component_key"], page["pass_key"] = layer_bars.keys(run)
    return render(
        "report.html",
        page,
        {name: figures[f"{name}.svg"] for name in names},
        {name: page["plots"][name].title for name in names},
        {"accuracy_energy": pointed_at(run)},
    )


def pointed_at(run: Run) -> dict[str, str]:
    """What a pointer over a point of the accuracy-energy plane says: all numbers of its row."""
    table = results_tables.summary(run)
    every = {
        name: "; ".join([name, *(f"{c.heading} {flat(c.cells[number])}" for c in table.columns if not c.key)])
        for number, name in enumerate(row_labels.short(run.rows))
    }
    return {f"point-{number}": every[point.name] for number, point in enumerate(accuracy_energy.points(run))}


def markdown(run: Run, figures: Mapping[str, bytes], known: Assumptions, tables: Mapping[str, Table | None]) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(  # Markdown: finalize escapes
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: value if isinstance(value, _Done) else text.markdown(value),
    )
    environment.filters["table"] = lambda table: _Done(to_markdown(table))
    environment.filters["tables"] = lambda tables: _Done(
        "".join(f"### {text.markdown(table.caption)}\n\n{to_markdown(table)}\n" for table in tables)
    )
    environment.filters["cell"] = lambda cell: _Done(text.markdown(flat(cell)))
    environment.filters["figure"] = lambda name: _Done(
        f"![{name}](figures/{name}.svg)\n\n[PNG](figures/{name}.png) · [CSV](figures/{name}.csv)"
    )
    environment.filters["code"] = lambda value: _Done(text.code(value))
    return environment.from_string(
        (files("ebsim.report") / "templates" / "report.md").read_text(encoding="utf-8")
    ).render(**content(run, figures, known, tables))


class _Done(str):
    """Text that is Markdown already."""
