"""The table of a grid or a comparison: as a `report.Table`, as CSV records, and as plain JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ebsim.report.comparison.aggregate import CARRIED, METRICS, Baseline, Replicates, baseline_of
from ebsim.report.comparison.stats import Paired, Sample
from ebsim.report.display.table import NONE, Cell, Column, Table
from ebsim.report.display.text import as_typed, plain
from ebsim.report.display.value import Value, fixed, scale, significant
from ebsim.runs.load import Run

Show = Callable[[float], Value]


@dataclass(frozen=True)
class ComparedLine:
    """A line, and what it is held against (None for the baseline itself)."""

    line: Replicates
    base: Replicates | None

    @property
    def accuracy(self) -> Paired | None:
        return None if self.base is None else self.line.against(self.base, "accuracy")

    @property
    def delta(self) -> Sample | None:
        return None if self.accuracy is None else self.accuracy.difference

    @property
    def saving(self) -> Sample | None:
        return None if self.base is None else self.line.saving(self.base)


def entries(every: Sequence[Replicates], baseline: Baseline) -> list[ComparedLine]:
    return [ComparedLine(line, baseline_of(line, every, baseline)) for line in every]


def shown_axes(every: Sequence[Replicates]) -> list[str]:
    """Axes that get a column: those that rows do not carry themselves, unless two lines would look the same."""
    axes = list(dict.fromkeys(key for line in every for own in line.under for key in own))
    own = [key for key in axes if key not in CARRIED]
    looks = [(line.identity, repr([line.settings.get(key) for key in own])) for line in every]
    return axes if len(set(looks)) < len(looks) else own


def precision(line: Replicates, without: str = "") -> str:
    """`fp32`, or search and retrain apart where they differ: `fp8 → fp32`; the axis `without` is left out."""
    stages = {"precision.search": line.search_precision, "precision.retrain": line.retrain_precision}
    kept = [name for axis, name in stages.items() if name and without not in (axis, "precision.low")]
    return " → ".join(dict.fromkeys(map(plain, kept)))


def name(line: Replicates, every: Sequence[Replicates], without: str = "") -> str:
    """A line in one phrase: only what tells lines apart, the axis `without` aside."""
    parts = [plain(line.label)] if line.ratio is None or len({other.label for other in every}) > 1 else []
    if line.ratio is not None and without != "prune.ratio":
        parts.append(f"p = {line.ratio:g}")
    if len({precision(other, without) for other in every}) > 1:
        parts.append(precision(line, without))
    axes = [key for key in shown_axes(every) if key != without and key in line.settings]
    parts += [f"{key.rsplit('.', 1)[-1]} {as_typed(line.settings[key])}" for key in axes]
    return plain(", ".join(filter(None, parts))) or plain(line.label)


def table(every: Sequence[ComparedLine], caption: str, baseline: Baseline, notes: Sequence[str] = ()) -> Table:
    """The final table; +- is the half-width of the 95 % t-interval over seeds."""
    them = [entry.line for entry in every]
    columns = [_text("Method", [plain(line.label) for line in them])]
    columns += [_axis(key, them) for key in shown_axes(them)]
    if any(line.ratio is not None for line in them):
        columns.append(Column("p", tuple((_number(line.ratio),) for line in them)))
    if len({precision(line) for line in them}) > 1:
        columns.append(_text("Precision", [precision(line) for line in them]))
    columns = [dataclasses.replace(column, key=True) for column in columns]
    columns += [
        Column("n", tuple((Value(len(line.finished), str(len(line.finished))),) for line in them)),
        _column("Accuracy (%)", [line.sample("accuracy") for line in them], _percent(2)),
        _column("Δ (points)", [entry.delta for entry in every], _percent(2, sign="+")),
        Column("p-value", tuple((_p(entry),) for entry in every), priority=1),
        _column("Epoch drawn", [line.sample("epoch_drawn") for line in them], _epoch, priority=2),
        _scaled("Params", "", them, "parameters", priority=3),
        _scaled("MACs", "", them, "macs", priority=3),
        _scaled("Modelled energy", "J", them, "joules"),
        _column("Saving (%)", [entry.saving for entry in every], _percent(1)),
    ]
    return Table("table", caption, tuple(columns), tuple((plain(note),) for note in (*_notes(every, baseline), *notes)))


def _notes(every: Sequence[ComparedLine], baseline: Baseline) -> list[str]:
    them = [entry.line for entry in every]
    counts = sorted({len(line.finished) for line in them})
    against = baseline if isinstance(baseline, str) else " ".join(f"{key}={as_typed(v)}" for key, v in baseline.items())
    out = []
    if counts[-1] <= 1:
        out.append("n = 1 (one seed): no spread is known and nothing can be tested.")
    else:
        out.append("Mean ± half-width of the 95 % t-interval over n seeds (with n = 2 that is 12.7 standard errors).")
    if counts[-1] > 1 and 1 in counts:
        out.append("n = 1 in some lines: no spread is known there.")
    if any(entry.base for entry in every):
        test = ", with ± and p-value of the paired t-test; p-values are not corrected for the number of tests"
        out.append(f"Δ: against {against}, over the seeds both have{test if counts[-1] > 1 else ''}. "
                   f"Saving: 1 - energy / energy of {against}.")  # fmt: skip
    for line in them:
        if missing := len(line.rows) - len(line.finished):
            seeds = f"{missing} of {len(line.rows)} seeds"
            out.append(f"{name(line, them)}: no ticket emerged before the last epoch for {seeds}; left out.")
    return [*out, "MACs: forward, one image. Energies are modelled, not measured."]


def caption(runs: Sequence[Run]) -> str:
    """Networks, datasets and accelerators of some runs."""
    records = [run.record for run in runs]
    networks = ", ".join(dict.fromkeys(record.network.label for record in records))
    datasets = ", ".join(dict.fromkeys(record.dataset.label for record in records))
    chips = ", ".join(dict.fromkeys(run.hardware for run in runs))
    kinds = list(dict.fromkeys(record.train.arithmetic for record in records))
    computed = f", {' and '.join(kinds)}" if kinds != ["fp32"] else ""
    return f"{networks} on {datasets}{computed}; energies modelled on {chips}, not measured"


def made_differently(runs: Sequence[Run]) -> list[str]:
    """Bits depend on the torch build, the thread count and the machine; say so where runs differ in them."""
    kinds: dict[str, set[str]] = {}
    for run in runs:
        made = run.provenance.model_dump()
        for key in ("torch_build", "threads", "cpu_capability", "device", "device_name", "code"):
            kinds.setdefault(key, set()).add(str(made.get(key)))
    several = [f"{key} ({', '.join(sorted(values))})" for key, values in kinds.items() if len(values) > 1]
    return [f"Not all runs were made alike: {'; '.join(several)}. Last bits may differ for that."] if several else []


def _text(heading: str, cells: Sequence[str]) -> Column:
    return Column(heading, tuple((cell,) for cell in cells), numeric=False)


def _axis(key: str, every: Sequence[Replicates]) -> Column:
    return _text(key, [plain(as_typed(line.settings[key])) if key in line.settings else "any" for line in every])


def _number(value: float | None) -> Value | str:
    return NONE if value is None else Value(value, f"{value:g}")


def _percent(places: int, sign: str = "") -> Show:
    return lambda value: Value(value, fixed(100 * value, places, sign))


def _epoch(value: float) -> Value:
    return Value(value, f"{value:.1f}" if value % 1 else f"{value:.0f}")


def _scaled(heading: str, unit: str, every: Sequence[Replicates], metric: str, priority: int = 0) -> Column:
    """One unit for the whole column."""
    samples = [line.sample(metric) for line in every]
    own = scale((sample.mean for sample in samples if sample), unit)
    return _column(f"{heading} ({own.unit})" if own.unit else heading, samples, own.value, priority)


def _column(heading: str, samples: Sequence[Sample | None], shown: Show, priority: int = 0) -> Column:
    return Column(heading, tuple(_spread(sample, shown) for sample in samples), priority=priority)


def _spread(sample: Sample | None, shown: Show) -> Cell:
    """`97.33 ± 0.41`; without the second part where there is no spread, or it is nought."""
    if sample is None:
        return (NONE,)
    if not sample.half:
        return (shown(sample.mean),)
    centre, half = shown(sample.mean), shown(sample.half)
    places = len(centre.text.partition(".")[2])  # as many as the mean has, or one digit that is not 0
    number = float(half.text)
    text = f"{number:.{places}f}" if round(number, places) else significant(number, 1)
    return centre, " ± ", Value(half.raw, text)


def _p(entry: ComparedLine) -> Value | str:
    found = entry.accuracy
    if found is None or found.p is None:
        return NONE
    return Value(found.p, f"{found.p:.3f}" if found.p >= 0.001 else "< 0.001")


def records(every: Sequence[ComparedLine]) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Every number of every line in base units (fractions, joules), for CSV."""
    flat = [_record(entry) for entry in every]
    axes = list(dict.fromkeys(key for entry in every for own in entry.line.under for key in own))
    header = tuple([*(f"axis {key}" for key in axes), *flat[0]]) if flat else ()
    rows: list[tuple[object, ...]] = [
        (
            *(as_typed(entry.line.settings[key]) if key in entry.line.settings else "any" for key in axes),
            *record.values(),
        )
        for entry, record in zip(every, flat, strict=True)
    ]
    return header, rows


def _record(entry: ComparedLine) -> dict[str, Any]:
    line, test = entry.line, entry.accuracy
    out: dict[str, Any] = {
        "method": line.method,
        "label": line.label,
        "ratio": line.ratio,
        "search_precision": line.search_precision,
        "retrain_precision": line.retrain_precision,
        "n": len(line.finished),
        "seeds": " ".join(map(str, line.finished)),
        "not_emerged": len(line.rows) - len(line.finished),
    }
    for metric in METRICS:
        out |= _sample(metric, line.sample(metric))
    out |= _sample("accuracy_difference", entry.delta)
    out |= {"p_value": test and test.p, "effect": test and test.effect, "pairs": 0 if test is None else test.n}
    return out | _sample("saving", entry.saving)


def _sample(metric: str, sample: Sample | None) -> dict[str, float | None]:
    if sample is None:
        return dict.fromkeys((metric, f"{metric}_sd", f"{metric}_half", f"{metric}_low", f"{metric}_high"))
    spread = {f"{metric}_sd": sample.sd, f"{metric}_half": sample.half}
    return {metric: sample.mean, **spread, f"{metric}_low": sample.low, f"{metric}_high": sample.high}


def as_json(every: Sequence[ComparedLine]) -> list[dict[str, Any]]:
    """The same as objects, with the settings of the axes and the values seed by seed."""
    return [
        {
            "settings": entry.line.settings,
            **_record(entry),
            "seeds": list(entry.line.finished),
            "by_seed": {metric: [get(row) for row in entry.line.finished.values()] for metric, get in METRICS.items()},
        }
        for entry in every
    ]
