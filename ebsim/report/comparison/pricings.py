"""A run priced on several accelerators, side by side: the same ledger, other prices; nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from ebsim.files import digest
from ebsim.report.comparison import page
from ebsim.report.comparison.figures import Sheet, page_figure
from ebsim.report.comparison.page import PageSection, Shown
from ebsim.report.display.table import NONE, Cell, Column, Table
from ebsim.report.display.text import clip, csv, plain
from ebsim.report.display.value import Scale, Value, between, counted, fixed, percent, quantity, scale, significant
from ebsim.report.figures import style
from ebsim.report.figures.marks import HUES, SHAPES
from ebsim.report.figures.split_bars import COMPONENTS, paint
from ebsim.report.tables import row_labels
from ebsim.report.tables.energy import part_names, split
from ebsim.report.tables.highlights import highlights
from ebsim.report.tables.results import energy_delay
from ebsim.runs.load import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def folder_name(priced: Sequence[Run]) -> str:
    """`<run>-<8 hex digits of what it is priced on>`."""
    key = [(run.chip.digest, run.record.reuse, list(run.record.hypothetical)) for run in priced]
    return f"{priced[0].path.resolve().name}-{digest(key)[:8]}"


def build(priced: Sequence[Run], *, for_paper: bool = False) -> dict[str, bytes]:
    """{path: bytes} of report.html, energies.csv and figures/ for one run priced several times.

    for_paper: each figure as PDF and PGF too.
    """
    first = priced[0]
    drawn = [
        page_figure(
            "savings",
            "Saving against dense on each accelerator",
            "Shape and hue are the accelerator; the bar is the 90 % band of the saving.",
            partial(_savings, priced),
            _saving_data(priced),
        ),
        page_figure(
            "components",
            "What spends the energy on each accelerator",
            "Shares of the modelled energy by hardware component; at the end of each bar the energy itself.",
            partial(_components, priced),
            _component_data(priced),
        ),
    ] if len(first.rows) > 1 else []  # fmt: skip
    names = tuple(figure.name for figure in drawn)
    label = f"{first.record.network.label} on {first.record.dataset.label}"
    sections = [
        PageSection("energies", "Energies and savings", (lead(priced),), (Shown(table(priced)),)),
        PageSection("figures", "Accelerators side by side", (), (), names),
    ]
    html = page.page(
        f"{label}: priced on {counted(len(priced), 'accelerator')}",
        "MODELLED, not measured",
        f"The ledger of run {first.path.resolve().name}, priced again; nothing was trained.",
        sections,
        drawn,
    )
    return {
        "report.html": html.encode(),
        "energies.csv": csv(*records(priced)).encode(),
        **page.files(drawn, for_paper=for_paper),
    }


def accelerator_names(priced: Sequence[Run]) -> list[str]:
    """One name per pricing: the accelerator's, with what else tells two pricings apart."""
    names = [plain(run.hardware) for run in priced]
    if len({run.record.reuse for run in priced}) > 1:
        names = [f"{name}, {plain(run.record.reuse)}" for name, run in zip(names, priced, strict=True)]
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return out


def lead(priced: Sequence[Run]) -> Cell:
    """How the accelerators differ, in one sentence."""
    totals = [(name, run.rows[0].energy) for name, run in zip(accelerator_names(priced), priced, strict=True)]
    row = row_labels.short(priced[0].rows)[0]
    pieces: list[Value | str] = [f"{row} takes "]
    for number, (name, energy) in enumerate(totals):
        pieces += [", " if number else "", quantity(energy.joules, "J"), f" on {name}"]
    return (*pieces, ".")


def table(priced: Sequence[Run]) -> Table:
    """One row per row of the results and accelerator; savings are against dense on the same accelerator."""
    names = accelerator_names(priced)
    rows = [
        (label, names[number], run, run.rows[place])
        for place, label in enumerate(row_labels.short(priced[0].rows))
        for number, run in enumerate(priced)
    ]
    own = scale((row.energy.joules for *_, row in rows), "J")
    time = scale((row.energy.seconds for *_, row in rows), "s")
    rate = scale((row.images_per_s for *_, row in rows), "1/s")
    savings: list[Cell] = []
    bands: list[Cell] = []
    for *_, row in rows:
        saving = row.energy.saving
        if saving is None or row.saving_vs_dense is None or row.method == "dense":
            savings.append((NONE,))
            bands.append((NONE,))
        else:
            savings.append((Value(saving.value, fixed(100 * saving.value, 1)),))
            ends = (Value(end, fixed(100 * end, 0)) for end in (saving.low, saving.high))
            bands.append(between(*ends))
    columns = (
        Column("Row", tuple((label,) for label, *_ in rows), numeric=False, key=True),
        Column("Accelerator", tuple((name,) for _, name, *_ in rows), numeric=False, key=True),
        Column(f"Modelled energy ({own.unit})", tuple((own.value(row.energy.joules),) for *_, row in rows)),
        Column(
            f"Band ({own.unit})", tuple(_band(row.energy.low, row.energy.high, own) for *_, row in rows), priority=3
        ),
        Column("Saving (%)", tuple(savings)),
        Column("Saving band (%)", tuple(bands), priority=2),
        Column(
            f"Time at least ({time.unit})", tuple((time.value(row.energy.seconds),) for *_, row in rows), priority=4
        ),
        Column(
            f"Training images at most ({rate.unit})",
            tuple((rate.value(row.images_per_s),) for *_, row in rows),
            priority=6,
        ),
        *energy_delay([row.energy for *_, row in rows], priority=6),
    )
    note = "Savings are against the dense row on the same accelerator; bands are of 90 %. Energies of two accelerators "
    return Table(
        "energies", "Priced again", columns, ((note + "rest on different constants: compare savings first.",),)
    )


def _band(low: float, high: float, own: Scale) -> Cell:
    return (own.value(low, 2), "–", own.value(high, 2))


def records(priced: Sequence[Run]) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Every number of `table`, and the totals by component, unrounded."""
    header = ("row", "accelerator", "joules", "low", "high", "saving", "saving_low", "saving_high", "seconds",
              "images_per_modelled_second", "energy_delay_joule_seconds", "energy_delay_low",
              "energy_delay_high")  # fmt: skip
    parts = part_names(row.energy.components for run in priced for row in run.rows)
    rows: list[tuple[object, ...]] = []
    for name, run in zip(accelerator_names(priced), priced, strict=True):
        for label, row in zip(row_labels.short(run.rows), run.rows, strict=True):
            e, s = row.energy, row.energy.saving
            found = (s.value, s.low, s.high) if s is not None else (None, None, None)
            joules = [e.components.get(part, 0.0) for part in parts]
            rows.append(
                (label, name, e.joules, e.low, e.high, *found, e.seconds, row.images_per_s, *e.energy_delay, *joules)
            )
    return (*header, *(f"{part}_joules" for part in parts)), rows


def _shown(priced: Sequence[Run]) -> list[str]:
    """Rows that have a saving: all of a few, the best of many."""
    first = priced[0]
    labels = row_labels.short(first.rows)
    others = [label for label, row in zip(labels, first.rows, strict=True) if row is not first.dense]
    return others if len(others) <= 12 else highlights(first)


def _saving_data(priced: Sequence[Run]) -> Sheet:
    header = ("row", "accelerator", "saving", "low", "high")
    rows: list[tuple[object, ...]] = []
    for name, run in zip(accelerator_names(priced), priced, strict=True):
        for label, row in zip(row_labels.short(run.rows), run.rows, strict=True):
            if row.energy.saving is not None:
                rows.append((label, name, row.energy.saving.value, row.energy.saving.low, row.energy.saving.high))
    return header, rows


def _savings(priced: Sequence[Run], width: float) -> Figure:
    labels, names = _shown(priced), accelerator_names(priced)
    figure, grid = style.canvas(width, 0.8 + (0.12 * len(priced) + 0.12) * len(labels))
    axes = grid[0][0]
    for number, (name, run) in enumerate(zip(names, priced, strict=True)):
        found = dict(zip(row_labels.short(run.rows), run.rows, strict=True))
        shift = (number - (len(priced) - 1) / 2) * 0.7 / max(1, len(priced))
        color, drawn = HUES[number % len(HUES)], False
        for place, label in enumerate(labels):
            saving = found[label].energy.saving
            if saving is None:
                continue
            axes.plot([100 * saving.low, 100 * saving.high], [place + shift] * 2, color=color, linewidth=1.0)
            axes.plot([100 * saving.value], [place + shift], SHAPES[number % len(SHAPES)], color=color, markersize=4.5,
                      markeredgecolor=style.INK, markeredgewidth=0.4, label=None if drawn else clip(name))  # fmt: skip
            drawn = True
    axes.axvline(0, color=style.INK, linewidth=0.7)
    axes.set_yticks(range(len(labels)), map(clip, labels))
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("saving against dense on the same accelerator [%]")
    axes.grid(axis="x")
    style.legend_above(figure, axes, width, 3)
    return figure


def _component_data(priced: Sequence[Run]) -> Sheet:
    header = ("row", "accelerator", "component", "joules", "share")
    return header, [
        (label, name, part, joules, joules / row.energy.joules if row.energy.joules else 0.0)
        for name, run in zip(accelerator_names(priced), priced, strict=True)
        for label, row in zip(row_labels.short(run.rows), run.rows, strict=True)
        for part, joules in split(row, "component").items()
    ]


def _components(priced: Sequence[Run], width: float) -> Figure:
    first = priced[0]
    labels = row_labels.short(first.rows)
    chosen = [*([labels[first.rows.index(first.dense)]] if first.dense else []), *_shown(priced)[:3]]
    bars = [
        (f"{clip(label, 18)}, {clip(name, 22)}", run.rows[labels.index(label)])
        for label in chosen
        for name, run in zip(accelerator_names(priced), priced, strict=True)
    ]
    keys = part_names(split(row, "component") for _, row in bars)
    looks = paint(keys, COMPONENTS)
    figure, grid = style.canvas(width, 0.9 + 0.2 * len(bars))
    axes = grid[0][0]
    lefts = [0.0] * len(bars)
    for key in keys:
        sizes = [100 * split(row, "component").get(key, 0.0) / (row.energy.joules or 1.0) for _, row in bars]
        style.bars(axes, lefts, sizes, 0.74, *looks[key], clip(key))
        for place, (left, size) in enumerate(zip(lefts, sizes, strict=True)):
            if size > 12:
                text, color = str(percent(size / 100, 0)), style.text_on(looks[key][0])
                axes.annotate(text, (left + size / 2, place), ha="center", va="center", fontsize=6, color=color)
        lefts = [left + size for left, size in zip(lefts, sizes, strict=True)]
    for place, (_, row) in enumerate(bars):
        own = scale([row.energy.joules], "J")
        text = f"{significant(row.energy.joules / own.factor)} {own.unit}"
        axes.annotate(text, (100, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=6.5)
    axes.set_yticks(range(len(bars)), [label for label, _ in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, 112)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("share of the modelled training energy [%]")
    style.legend_above(figure, axes, width)
    return figure
