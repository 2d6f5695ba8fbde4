"""Tables of modelled energy by stage, hardware component and pass, and the check that the parts sum to the total."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ebsim.report.display.table import NONE, Cell, Column, Table, with_unit
from ebsim.report.display.text import plain
from ebsim.report.display.value import Value, fixed, percent, quantity, scale
from ebsim.report.tables import row_labels
from ebsim.runs.load import Run
from ebsim.runs.schema import Row

ORDER = (
    "search",
    "mask_draws",
    "retrain",
    "dense",
    "mac",
    "register",
    "interconnect",
    "buffer",
    "dram",
    "vector",
    "quantiser",
    "static",
)


MEANING = {
    "mac": "multiply-accumulates",
    "register": "register accesses beside the multipliers",
    "interconnect": "traffic on the on-chip network",
    "buffer": "on-chip buffer accesses",
    "dram": "traffic to and from DRAM",
    "vector": "normalization, activation and optimizer operations",
    "quantiser": "conversion between number formats",
    "static": "static power over the modelled time",
}


def part_names(parts: Iterable[Mapping[str, float]]) -> list[str]:
    """Known stages and components in the order of the pipeline and of the chip, others as they come."""
    found = dict.fromkeys(key for part in parts for key in part)
    return sorted(found, key=lambda key: ORDER.index(key) if key in ORDER else len(ORDER))


def split(row: Row, kind: str) -> dict[str, float]:
    """{part: joules}; a stage that occurs more than once is summed."""
    if kind == "component":
        return {name: joules for name, joules in row.energy.components.items() if joules}
    out: dict[str, float] = {}
    for stage in row.energy.stages:
        out[stage.stage] = out.get(stage.stage, 0.0) + stage.joules
    return out


def energy_split(run: Run, kind: str) -> Table:
    """Joules of each row by `stage` (search, retrain, ...) or by hardware `component` (mac, dram, ...)."""
    rows = run.rows
    parts = [split(row, kind) for row in rows]
    keys = part_names(parts)
    own = scale((row.energy.joules for row in rows), "J")
    columns = [row_labels.column(rows)]
    for key in keys:
        cells = tuple((own.value(part[key]),) if key in part else (NONE,) for part in parts)
        columns.append(Column(with_unit(plain(key), own.unit), cells))
    columns.append(Column(with_unit("total", own.unit), tuple((own.value(row.energy.joules),) for row in rows)))
    return Table(f"energy_by_{kind}", f"Modelled training energy by {kind}", tuple(columns))


def by_pass(passes: Mapping[str, Mapping[str, float]]) -> Table:
    """Joules of one training image by pass, for each network that `layers.per_layer` has priced."""
    own = scale((sum(part.values()) for part in passes.values()), "J")
    columns = [Column("Row", tuple((name,) for name in passes), numeric=False)]
    for key in part_names(passes.values()):
        columns.append(
            Column(
                with_unit(key.replace("_", " "), own.unit), tuple((own.value(part[key]),) for part in passes.values())
            )
        )
    columns.append(
        Column(with_unit("total", own.unit), tuple((own.value(sum(part.values())),) for part in passes.values()))
    )
    return Table("energy_by_pass", "Modelled energy of one training image by pass", tuple(columns))


def sensitivity(run: Run) -> Table | None:
    """What the savings rest on: per row, the constants that move its energy ratio to dense most."""
    found = [
        (name, row.energy.saving.sensitivity)
        for row, name in zip(run.rows, row_labels.short(run.rows), strict=True)
        if row.energy.saving is not None and row.energy.saving.sensitivity
    ]
    if not found:
        return None
    every = dict.fromkeys(key for _, moves in found for key in moves)
    keys = sorted(every, key=lambda key: -max(abs(moves.get(key, 0.0)) for _, moves in found))
    columns = [Column("Row", tuple((name,) for name, _ in found), numeric=False)]
    for place, key in enumerate(keys, 1):
        cells = tuple((Value(m[key], fixed(m[key], 3, "+")),) if key in m else (NONE,) for _, m in found)
        columns.append(Column(plain(key), cells, priority=place))
    note = (
        "Change of (energy / dense energy) in percent for a constant that is 1 % larger; the strongest few per row, "
        "those that move any row most first."
    )
    return Table("sensitivity", "What the savings rest on", tuple(columns), ((note,),))


def sensitivity_records(run: Run) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    header = ("row", "constant", "percent_of_ratio_per_percent")
    return header, [
        (name, key, moved)
        for row, name in zip(run.rows, row_labels.short(run.rows), strict=True)
        if row.energy.saving is not None
        for key, moved in row.energy.saving.sensitivity.items()
    ]


def pass_records(passes: Mapping[str, Mapping[str, float]]) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    header = ("row", "pass", "joules_per_image")
    return header, [
        (name, key, joules)
        for name, part in passes.items()
        for key, joules in [*part.items(), ("total", sum(part.values()))]
    ]


def dominant(run: Run) -> Cell:
    """Which component takes most of the energy, of the dense baseline and at most and at least among the others."""
    rows = [row for row in run.rows if row.energy.joules]
    if not rows:
        return ("No energy was modelled.",)
    first = run.dense if run.dense in rows and run.dense is not None else rows[0]
    parts = split(first, "component")
    name = max(parts, key=lambda key: parts[key])
    name_of = dict(zip(map(id, run.rows), row_labels.short(run.rows), strict=True))
    others = sorted(split(row, "component").get(name, 0.0) / row.energy.joules for row in rows if row is not first)
    out: list[Value | str] = [
        percent(parts[name] / first.energy.joules, 0),
        f" of the energy of {name_of[id(first)]} is {plain(name)}: {MEANING.get(name, plain(name))}.",
    ]
    if others:
        out += [" In the other rows it is ", percent(others[0], 0), " to ", percent(others[-1], 0), "."]
    return tuple(out)


def conservation(run: Run) -> list[Cell]:
    """Whether stages and components sum to each row's total; a mismatch is shown, not hidden."""
    wrong: list[Cell] = []
    for row, name in zip(run.rows, row_labels.short(run.rows), strict=True):
        for kind in ("stage", "component"):
            total = sum(split(row, kind).values())
            if abs(total - row.energy.joules) > 1e-9 * max(total, row.energy.joules):
                wrong.append(
                    (
                        f"{name}: the parts by {kind} sum to ",
                        quantity(total, "J"),
                        ", not to ",
                        quantity(row.energy.joules, "J"),
                        ".",
                    )
                )
    return wrong or [("Checked: stages and components sum to the total of every row.",)]


def energy_records(run: Run) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    header = ("method", "ratio", "precision", "split_by", "part", "joules")
    rows: list[tuple[object, ...]] = [
        (row.method, row.ratio, row.precision, kind, part, joules)
        for row in run.rows
        for kind in ("stage", "component")
        for part, joules in [*split(row, kind).items(), ("total", sum(split(row, kind).values()))]
    ]
    return header, rows
