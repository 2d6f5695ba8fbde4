"""The results table of a run, its detailed counts, and its unrounded CSV records.

MACs and FLOPs: FLOPs = 2 x MAC (exact counts); the authors' own counting (forward FLOPs rounded to 0.01 G as their
script prints them, times 3) has a column of its own in the detailed table and is never mixed in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from ebsim.report.display.table import NONE, Cell, Column, Table, with_unit
from ebsim.report.display.terminal import print_table
from ebsim.report.display.text import plain
from ebsim.report.display.value import Value, between, count, fixed, scale
from ebsim.report.tables import energy, row_labels, saving_steps
from ebsim.runs.load import Run
from ebsim.runs.schema import Energy, Row

Get = Callable[[Row], float | None]
Show = Callable[[float], Value | str]


def _column(heading: str, rows: Sequence[Row], get: Get, show: Show, priority: int = 0) -> Column:
    found = [get(row) for row in rows]
    cells = tuple((NONE,) if number is None else (show(number),) for number in found)
    return Column(heading, cells, priority=priority)


def _scaled(heading: str, unit: str, rows: Sequence[Row], get: Get, priority: int = 0) -> Column:
    """One unit for the whole column, so that its numbers can be compared at a glance."""
    own = scale((get(row) for row in rows), unit)
    return _column(with_unit(heading, own.unit), rows, get, own.value, priority)


def _text(heading: str, rows: Iterable[Row], get: Callable[[Row], str], priority: int = 0) -> Column:
    return Column(heading, tuple((get(row),) for row in rows), numeric=False, priority=priority)


def _points(fraction: float) -> Value:
    return Value(fraction, fixed(100 * fraction, 2))


def _energy(rows: Sequence[Row]) -> list[Column]:
    own = scale((row.energy.joules for row in rows), "J")
    bands = tuple((own.value(e.low, 2), "–", own.value(e.high, 2)) for e in (row.energy for row in rows))
    return [
        _column(f"Modelled energy ({own.unit})", rows, lambda row: row.energy.joules, own.value),
        Column(f"Band ({own.unit})", bands, priority=3),
    ]


def energy_delay(energies: Sequence[Energy], priority: int = 0) -> list[Column]:
    """Energy-delay products and their bands, J s."""
    found = [energy.energy_delay for energy in energies]
    own = scale((value for value, _, _ in found), "J s")
    return [
        Column(
            f"Energy-delay product ({own.unit})", tuple((own.value(value),) for value, _, _ in found), priority=priority
        ),
        Column(
            f"Its band ({own.unit})",
            tuple((own.value(low, 2), "–", own.value(high, 2)) for _, low, high in found),
            priority=priority,
        ),
    ]


def _drawn(row: Row) -> Cell:
    if row.epoch_drawn is None:
        return ("none",) if row.emerged is False and row.ratio is not None else (NONE,)
    return (count(row.epoch_drawn),)


def _saving_bands(rows: Sequence[Row]) -> list[Column]:
    """Where each saving lies with 90 %: the constants' common errors cancel in a ratio."""

    def cell(row: Row) -> Cell:
        saving = row.energy.saving
        if saving is None or row.saving_vs_dense is None or row.method == "dense":
            return (NONE,)
        return between(Value(saving.low, fixed(100 * saving.low, 0)), Value(saving.high, fixed(100 * saving.high, 0)))

    if all(row.energy.saving is None for row in rows):
        return []
    return [Column("Saving band (%)", tuple(map(cell, rows)), priority=5)]


def _measured(rows: Sequence[Row]) -> list[Column]:
    """A sensor's joules, in a column of their own and only where a sensor was asked for."""
    if not any(entry.measured_source for row in rows for entry in row.ledger):
        return []

    return [_scaled("Measured energy", "J", rows, _measured_total)]


def _measured_total(row: Row) -> float | None:
    """None where a stage has no reading."""
    readings = [entry.measured_joules for entry in row.ledger]
    return None if None in readings else sum(reading for reading in readings if reading is not None)


def summary(run: Run) -> Table:
    """The table that a researcher reads first: one row per method, ratio and precision."""
    rows = run.rows
    columns = [
        _text("Method", rows, lambda row: plain(row.label)),
        _column("p", rows, lambda row: row.ratio, lambda number: Value(number, f"{number:g}")),
        Column("Epoch drawn", tuple(map(_drawn, rows))),
        _column("Accuracy (%)", rows, lambda row: row.accuracy, _points),
        _column("Best on test (%)", rows, run.best_on_test, _points, priority=4),
        _scaled("Params", "", rows, lambda row: row.parameters, priority=1),
        _scaled("MACs", "", rows, lambda row: row.macs, priority=1),
        _scaled("Training", "FLOPs", rows, lambda row: row.train_flops, priority=2),
        *_energy(rows),
        _column(
            "Saving (%)", rows, lambda row: row.saving_vs_dense, lambda number: Value(number, fixed(100 * number, 1))
        ),
        *_saving_bands(rows),
        *_measured(rows),
    ]
    if {row_labels.precision(row) for row in rows} != {"fp32"}:
        columns.insert(2, _text("Precision", rows, row_labels.precision))
    if any(row.accuracy_top5 is not None for row in rows):
        headings = [column.heading for column in columns]
        top5 = _column("Top-5 (%)", rows, lambda row: row.accuracy_top5, _points, 2)
        columns.insert(headings.index("Best on test (%)") + 1, top5)
    results = run.record
    computed = "" if results.train.arithmetic == "fp32" else f", {results.train.arithmetic}"
    fused = ", layers fused" if results.reuse.endswith("+fused") else ""
    caption = (
        f"{plain(results.network.label)} on {plain(results.dataset.label)}{computed}; "
        f"energies modelled on {plain(run.hardware)}{fused}, not measured"
    )
    keys = {"Method", "p", "Precision"}
    marked = (dataclasses.replace(column, key=column.heading in keys) for column in columns)
    return Table("results", caption, tuple(marked), _notes(run))


def _notes(run: Run) -> tuple[Cell, ...]:
    one_image = 1 / run.record.dataset.test_images
    notes: list[Cell] = [
        (
            "n = 1 (one seed, ",
            count(run.record.seed),
            "): no spread is known; one test image is ",
            Value(one_image, f"{100 * one_image:.2f}"),
            " points of accuracy.",
        ),
        (
            "Accuracy is that of the last epoch. Best on test is picked by looking at the test set, as the paper "
            "does, and flatters.",
        ),
        (
            "MACs: forward, one image. Training FLOPs = 2 x MAC, forward and both backward passes, exact. "
            "Saving: modelled energy against dense. An energy's band moves all rows together; a saving has its own.",
        ),
    ]
    derived = [row.energy.derived_share for row in run.rows if row.energy.derived_share is not None]
    if derived:
        share = max(derived)
        notes.append(
            (*_derived(share), " on constants of the accelerator that are derived (scaled by a law, not published).")
        )
    for row, name in zip(run.rows, row_labels.short(run.rows), strict=True):
        if row.kept_floor:
            some = ", ".join(map(plain, row.kept_floor[:4]))
            rest = f", … ({len(row.kept_floor)} in all)" if len(row.kept_floor) > 4 else ""
            notes.append((f"{name}: min_channels kept channels alive in {some}{rest}.",))
        if row.averaged:
            notes.append((f"{name}: accuracy and best on test are of the averaged weights (SWA).",))
        notes += [(f"{name}: {plain(note).rstrip('.')}.",) for note in row.notes]
    return tuple(notes)


def _derived(share: float) -> Cell:
    if share >= 0.995:
        return ("All of the modelled energy rests",)
    return "Of the modelled energy up to ", Value(share, f"{100 * share:.0f}"), " % rests"


def detail(run: Run) -> Table:
    """Counts in full, channels, both FLOPs conventions, modelled time."""
    rows = run.rows
    columns = [
        row_labels.column(rows),
        _text("Precision", rows, row_labels.precision),
        _column("Channels kept", rows, lambda row: row.channels_kept, count),
        _column("Parameters", rows, lambda row: row.parameters, count),
        _column("MACs per image (forward)", rows, lambda row: row.macs, count),
        _scaled("Training MACs", "", rows, lambda row: row.train_macs),
        _scaled("Training, exact", "FLOPs", rows, lambda row: row.train_flops),
        _scaled("Training, authors' convention", "FLOPs", rows, _authors_flops),
        _scaled("Modelled time, at least", "s", rows, lambda row: row.energy.seconds),
        _scaled("Training images per modelled second, at most", "1/s", rows, lambda row: row.images_per_s),
        *energy_delay([row.energy for row in rows]),
    ]
    if any(row.weights_kept is not None for row in rows):
        columns.insert(3, _column("Weights kept (%)", rows, lambda row: row.weights_kept, _points))
    note = (
        "Training FLOPs = 2 x MAC. The authors' convention rounds the forward FLOPs of one image to 0.01 G and "
        "multiplies by 3; it is there to compare with their tables only."
    )
    known = [column for column in columns if any(cell != (NONE,) for cell in column.cells)]
    return Table("detail", "Counts in full", tuple(known), ((note,),))


def _authors_flops(row: Row) -> float | None:
    return None if row.train_pflops_paper is None else 1e15 * row.train_pflops_paper


def print_summary(run: Run, *, split: bool = False) -> None:
    """The results table on stdout; `split`: then where energies go and savings come from."""
    tables = [summary(run)]
    if split:
        tables += [energy.energy_split(run, "stage"), energy.energy_split(run, "component")]
        tables += saving_steps.tables(run)
        tables += [found] if (found := energy.sensitivity(run)) else []
    for table in tables:
        print_table(table)


RECORD = (
    "method",
    "label",
    "ratio",
    "precision",
    "search_precision",
    "retrain_precision",
    "epoch_drawn",
    "emerged",
    "accuracy",
    "best_accuracy",
    "accuracy_top5",
    "parameters",
    "macs",
    "channels_kept",
    "train_macs",
    "train_flops",
    "train_pflops_paper",
    "weights_kept",
)


def records(run: Run) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Every figure of every row, unrounded and in base units, for CSV."""
    header = (
        *RECORD,
        "kept_floor",
        "energy_joules",
        "energy_low_joules",
        "energy_high_joules",
        "modelled_seconds",
        "images_per_modelled_second",
        "energy_delay_joule_seconds",
        "energy_delay_low",
        "energy_delay_high",
        "derived_share",
        "saving_vs_dense",
        "saving_low",
        "saving_high",
        "more_than_dense",
        "factor_vs_dense",
        "one_test_image",
        "train_flops_paper",
        "measured_joules",
    )
    rows = [
        (
            *(run.best_on_test(row) if key == "best_accuracy" else getattr(row, key) for key in RECORD),
            " ".join(row.kept_floor),
            row.energy.joules,
            row.energy.low,
            row.energy.high,
            row.energy.seconds,
            row.images_per_s,
            *row.energy.energy_delay,
            row.energy.derived_share,
            row.saving_vs_dense,
            row.energy.saving and row.energy.saving.low,
            row.energy.saving and row.energy.saving.high,
            None if row.saving_vs_dense is None else -row.saving_vs_dense,
            run.factor_vs_dense(row),
            1 / run.record.dataset.test_images,
            _authors_flops(row),
            _measured_total(row),
        )
        for row in run.rows
    ]
    return header, rows
