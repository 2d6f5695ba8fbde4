"""The report as one self-contained HTML page and as Markdown, from the same content.

Every number on the page is a `Value`, written as `<data value="raw">text</data>`, so it can be followed to the
CSV or JSON it came from. All text is escaped by jinja2; the page may load nothing and run only the script whose
hash its policy names.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from collections.abc import Mapping
from importlib.resources import files
from pathlib import PurePath
from typing import Any

from ebsim.config import PROFILE_COPY, is_profile_path
from ebsim.report.display import text
from ebsim.report.display.markdown_table import to_markdown
from ebsim.report.display.table import NONE, Cell, flat
from ebsim.report.display.value import Value, count, duration, percent, quantity, times
from ebsim.report.figures import PLOTS, style
from ebsim.report.tables import (
    assumptions,
    energy,
    paper,
    per_layer,
    precision_formats,
    quantization_error,
    row_labels,
)
from ebsim.report.tables import results as results_tables
from ebsim.report.tables.assumptions import Assumptions
from ebsim.runs.load import Run

_TEMPLATES = files("ebsim.report") / "templates"
# Colours that depend on the theme are exchanged for these names in the copy of a figure inside the page.
_THEME = {
    style.INK: "ink",
    style.FAINT: "faint",
    style.GRID: "grid",
    style.RED: "red",
    style.CYCLE[0].lower(): "blue",
    "#ffffff": "paper",
}


def content(run: Run, figures: Mapping[str, bytes], known: Assumptions) -> dict[str, Any]:
    """What both pages show; `figures` are the files of `figures.make`."""
    results, provenance = run.record, run.provenance
    return {
        "run": run,
        "folder": run.path.resolve().name,
        "title": f"{results.network.label} on {results.dataset.label}",
        "badge": f"MODELLED on {run.hardware}, not measured",
        "tiles": tiles(run),
        "setting": setting(run),
        "summary": results_tables.summary(run),
        "detail": results_tables.detail(run),
        "beside": [table for table in (paper.beside(run), paper.emergence(run)) if table],
        "by_stage": energy.energy_split(run, "stage"),
        "by_component": energy.energy_split(run, "component"),
        "by_pass": energy.by_pass(per_layer.passes(run)),
        "sensitivity": energy.sensitivity(run),
        "sums": energy.conservation(run),
        "plots": {plot.name: plot for plot in PLOTS if f"{plot.name}.svg" in figures},
        "precisions": precision_formats.table(run),
        "precision": quantization_error.table(quantization_error.observations(run)),
        "known": known,
        "constants": assumptions.table(known),
        "command": text.plain(again(run)),
        "argv": shlex.join(provenance.argv),
        "origin": origin(run),
        "experiment": run.experiment.splitlines(),
    }


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
    """The headline: one tile per row, the dense baseline first."""
    out = []
    total = run.record.train.epochs
    for row, name in zip(run.rows, row_labels.short(run.rows), strict=True):
        saving: Cell = ()
        factor = run.factor_vs_dense(row)
        if row is not run.dense and row.saving_vs_dense is not None and factor is not None:
            saving = (percent(row.saving_vs_dense), " saved; dense needs ", times(factor))
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


def inline_svg(name: str, data: bytes, label: str) -> str:
    """A figure's SVG ready to stand inside HTML: own ids, no fixed size, theme colours, a label for readers."""
    svg = data.decode()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", svg)
    for colour, role in _THEME.items():
        svg = svg.replace(colour, f"var(--{role})")
    head, body = svg.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{label}">{body}'


def html(run: Run, figures: Mapping[str, bytes], known: Assumptions) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup, escape

    script = (_TEMPLATES / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: text.plain(value) if type(value) is str else value,
    )
    page = content(run, figures, known)
    drawn = {
        name: Markup(inline_svg(name, figures[f"{name}.svg"], str(escape(plot.title))))
        for name, plot in page["plots"].items()
    }
    return environment.from_string((_TEMPLATES / "report.html").read_text(encoding="utf-8")).render(
        **page,
        svg=drawn,
        script=Markup(script),
        script_hash=Markup(digest),
        css=Markup((_TEMPLATES / "page.css").read_text(encoding="utf-8")),
    )


def markdown(run: Run, figures: Mapping[str, bytes], known: Assumptions) -> str:
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
    environment.filters["cell"] = lambda cell: _Done(text.markdown(flat(cell)))
    environment.filters["figure"] = lambda name: _Done(
        f"![{name}](figures/{name}.svg)\n\n[PNG](figures/{name}.png) · [CSV](figures/{name}.csv)"
    )
    environment.filters["code"] = lambda value: _Done(text.code(value))
    return environment.from_string((_TEMPLATES / "report.md").read_text(encoding="utf-8")).render(
        **content(run, figures, known)
    )


class _Done(str):
    """Text that is Markdown already."""
