"""Our per-layer energies beside ZigZag's, on ZigZag's own unit costs, nothing fitted.

    python -m benchmarks.hw_zigzag [reference.jsonl ...]       default: the frozen runs in tests/golden
    python -m benchmarks.hw_zigzag --pieces tpu_small          our tiles, for the reference's cost model to price

The reference is made by `benchmarks/hw_zigzag_reference.py` in an environment of its own. Where it has priced our tiles
too (`our_tiles` of a row), the cheaper of its own best mapping and ours is a reference of its own: `cheaper`.
"""

from __future__ import annotations

import functools
import itertools
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import spearmanr

from benchmarks.hw_zigzag_reference import LAYERS
from hw_models import Layer, load, training_cost
from hw_models.accelerator.description import Accelerator
from hw_models.cost.step_cost import STAGES, Cost
from hw_models.cost.training_step import MODELS
from hw_models.mapping.exhaustive import innermost_tiles
from hw_models.mapping.traffic import Widths
from hw_models.precision.record_schema import OPERAND_ROLES
from hw_models.workload.shapes import Array, shapes
from hw_models.workload.training_passes import passes

HERE = Path(__file__).parent
BY_EDP = HERE.parent / "tests" / "golden" / "hw_zigzag_edp.jsonl"  # some rows again, mapped for energy x delay
GOLDEN = HERE.parent / "tests" / "golden" / "hw_zigzag.jsonl"
RECORD = {
    "name": "zigzag",
    "default": {  # 8-bit operands and results, 16-bit sums, as in the reference
        **{p: dict.fromkeys(roles, "int8") for p, roles in OPERAND_ROLES.items()},
        "accumulator": "int16",
        "output": "int8",
    },
    "update": dict.fromkeys(("gradient", "momentum", "stored"), "int8"),
}


class Agreement(NamedTuple):
    """How near one model is to the reference over a set of layer-passes."""

    cases: int
    rank: float
    ratio: float
    mape: float
    least: float
    most: float


def chip_of(name: str) -> Accelerator:
    return load(HERE / "hw_profiles" / f"zigzag-{name.replace('_', '-')}.toml")


def layer_of(row: Mapping[str, Any]) -> Layer:
    """The layer whose pass `row["pass"]` is the contraction that the reference mapped.

    The reference knows no padding: what its window slides over is the whole padded tensor.
    """
    c, k, p, r, stride, which = (row[n] for n in ("c", "k", "p", "r", "stride", "pass"))
    if which == "input_gradient":  # of a strided one the reference maps a dense convolution over the fine grid
        p, r, stride = p * stride, max(1, round(r / stride)), 1
        size, out = p, p + r - 1
    else:
        size, out = (p - 1) * stride + r, p
    return Layer(
        row["layer"],
        "conv",
        macs=k * c * p * p * r * r,
        inputs=c * size**2,
        outputs=k * out**2,
        channels=(c, k),
        size=(size, size),
        out=(out, out),
        kernel=(r, r),
        stride=(stride, stride),
    )


def ours(rows: Sequence[Mapping[str, Any]], model: str) -> Array:
    """Energies in the profile's unit of the contractions that the reference mapped, all on one chip and batch."""
    # without its input gradient where another pass is asked for, which spares a third of the search
    layers = tuple(replace(layer_of(row), first=row["pass"] != "input_gradient") for row in rows)
    cost = _step(rows[0]["chip"], rows[0]["batch"], layers, model)
    at = [STAGES.index(row["pass"]) for row in rows], np.arange(len(rows))
    return cost.joules.sum(axis=0)[at] * 1e12


def cycles(rows: Sequence[Mapping[str, Any]], model: str) -> Array:
    """Cycles of the same contractions, from the same step."""
    layers = tuple(replace(layer_of(row), first=row["pass"] != "input_gradient") for row in rows)
    cost = _step(rows[0]["chip"], rows[0]["batch"], layers, model)
    at = [STAGES.index(row["pass"]) for row in rows], np.arange(len(rows))
    return np.asarray(cost.row_seconds[at] * cost.chip.clock_hz)


@functools.cache
def _step(chip: str, batch: int, layers: tuple[Layer, ...], model: str) -> Cost:
    """One step of a network of these layers: one search for all of them, made once."""
    numbered = [replace(layer, name=str(i)) for i, layer in enumerate(layers)]
    return training_cost(numbered, chip_of(chip), RECORD, batch, model)


def pieces(row: Mapping[str, Any], chip: Accelerator) -> list[float]:
    """Into how many tiles `search` cuts g1, g2 and red: what the reference prices as our mapping."""
    p = passes(shapes([layer_of(row)]), row["batch"])
    eight, sixteen = np.full_like(p.macs, 8.0), np.full_like(p.macs, 16.0)
    tile, i = innermost_tiles(p, Widths(eight, eight, eight, sixteen), chip), STAGES.index(row["pass"])
    return [float(whole[i, 0] / part[i, 0]) for whole, part in ((p.g1, tile.r1), (p.g2, tile.r2), (p.red, tile.rr))]


def cheaper(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the cheaper, by ZigZag's cost model, of its own best mapping and the best that has our tiles."""
    return [{**r, "energy": min(r["energy"], r["our_tiles"])} for r in rows]


def compare(rows: Iterable[Mapping[str, Any]], model: str) -> Agreement:
    rows = list(rows)
    mine = ours(rows, model)
    theirs = np.array([r["energy"] for r in rows])
    quotient = mine / theirs
    return Agreement(
        len(rows),
        float(spearmanr(mine, theirs).statistic),
        float(mine.sum() / theirs.sum()),
        float(np.mean(np.abs(quotient - 1))),
        float(quotient.min()),
        float(quotient.max()),
    )


def read(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Rows of a JSON-lines file by chip, and by batch where it is not 1."""
    out: dict[str, list[dict[str, Any]]] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        name = row["chip"] + ("" if row["batch"] == 1 else f", batch {row['batch']}")
        out.setdefault(name, []).append(row)
    return out


def table(paths: Iterable[Path]) -> str:
    lines = [
        "| architecture | model | layer-passes | rank correlation | total, ours / theirs | MAPE | worst |",
        "|---|---|---|---|---|---|---|",
    ]
    for path in paths:
        for chip, rows in read(path).items():
            references = (
                {chip: rows}
                if "our_tiles" not in rows[0]
                else {f"{chip}, its own best": rows, f"{chip}, the cheaper": cheaper(rows)}
            )
            for (name, some), model in itertools.product(references.items(), MODELS):
                a = compare(some, model)
                lines.append(
                    f"| {name} | {model} | {a.cases} | {a.rank:.3f} | {a.ratio:.3f} | {a.mape:.1%} | "
                    f"{a.least:.2f} to {a.most:.2f} |"
                )
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    if arguments[:1] != ["--pieces"]:
        print(table([Path(p) for p in arguments] or [GOLDEN]))
        return
    for name in arguments[1:]:
        chip = chip_of(name)
        for layer, which in itertools.product(LAYERS, STAGES[:3]):
            row = {
                "chip": name,
                **dict(zip(("layer", "c", "k", "p", "r", "stride"), layer, strict=True)),
                "pass": which,
                "batch": 1,
            }
            print(json.dumps({**row, "pieces": pieces(row, chip)}))


if __name__ == "__main__":
    main(sys.argv[1:])
