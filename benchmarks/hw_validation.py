"""Regenerate docs/hardware-validation.md:  python -m benchmarks.hw_validation [--check]

The page's text is written by hand; each block between its markers is computed here from the shipped profiles,
published numbers and frozen reference runs.
"""

from __future__ import annotations

import itertools
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq

from benchmarks.hw_zigzag import BY_EDP, GOLDEN, cycles, read, table
from hw_models import load, training_cost
from hw_models.accelerator.description import Accelerator
from hw_models.analysis.anchors import anchors
from hw_models.analysis.calibration import fit, read_steps
from hw_models.cost.step_cost import COMPONENTS, Cost
from hw_models.precision.record_schema import OPERAND_ROLES
from hw_models.workload import reference_networks
from hw_models.workload.layer import CONTRACTIONS, Layer
from hw_models.workload.op_counts import paper_gflops, paper_pflops, training_count
from hw_models.workload.pruned_shapes import shrink

ZEUS = Path(__file__).parent / "results" / "v100_resnet50_zeus.csv"
PAGE = Path(__file__).parents[1] / "docs" / "hardware-validation.md"
IMAGENET, CIFAR = 1_281_167, 50_000

CHIP_16 = {
    "name": "16 bit",
    "default": {
        **{p: dict.fromkeys(roles, "int16") for p, roles in OPERAND_ROLES.items()},
        "accumulator": "int16",
        "output": "int16",
    },
}
EYERISS = {"alexnet": (4, 0.0029), "vgg16-imagenet": (3, 0.0035)}  # batch, DRAM accesses per MAC (JSSC 2017)
EYERISS_CHIP = {"alexnet": (0.278, 35.0), "vgg16-imagenet": (0.236, 0.7)}  # W, frames/s (the same abstract)
STEP_TO_7NM = 2.6  # Jouppi's real units, 45 to 7 nm, geometric mean
PAPER_LL_LF = {"mean": 0.219, "spread": 0.015}  # six cells of Table 2
# Table 2, VGG16: (dataset, p): kJ of re-init, kJ of FF, kJ dense, FLOPs ratio f / F
TABLE2 = {
    ("CIFAR-100", 0.1): (345.3, 287.7, 370.6, 0.921),
    ("CIFAR-100", 0.3): (300.0, 262.2, 370.6, 0.778),
    ("CIFAR-100", 0.5): (246.8, 221.7, 370.6, 0.619),
    ("CIFAR-10", 0.3): (290.4, 256.4, 373.1, 0.810),
    ("CIFAR-10", 0.5): (237.3, 213.4, 373.1, 0.667),
}


def dram_accesses_per_mac(name: str, model: str) -> float:
    """16-bit DRAM accesses per MAC of the convolutions, forward, on the Eyeriss-like profile."""
    batch, _ = EYERISS[name]
    rows = [r for r in reference_networks.network(name) if r.kind == "conv"]
    cost = training_cost(rows, "eyeriss-like-65nm", CHIP_16, batch, model)
    return float(cost.dram_bits[0].sum() / 16 / cost.row_macs[0].sum())


def chip_on_eyeriss(name: str) -> tuple[float, float, float]:
    """(pJ per MAC of the chip without DRAM, seconds of a frame, MACs of a frame) of the convolutions, modelled."""
    batch, _ = EYERISS[name]
    rows = [r for r in reference_networks.network(name) if r.kind == "conv"]
    cost = training_cost(rows, "eyeriss-like-65nm", CHIP_16, batch)
    chip_only = float(cost.joules[:, 0].sum() - cost.joules[COMPONENTS.index("dram"), 0].sum())
    macs = float(cost.row_macs[0].sum())
    return chip_only / macs * 1e12, float(cost.row_seconds[0].sum()) / batch, macs / batch


def power_split_of_eyeriss() -> tuple[float, float]:
    """(W that the chip takes whatever it multiplies, pJ per MAC beside it): the line through its two measurements."""
    (w1, f1), (w2, f2) = EYERISS_CHIP.values()
    rate1, rate2 = (frames * chip_on_eyeriss(name)[2] for name, frames in zip(EYERISS_CHIP, (f1, f2), strict=True))
    slope = (w1 - w2) / (rate1 - rate2)
    return w1 - slope * rate1, slope * 1e12


def eyeriss_chip_table() -> str:
    rows: list[list[object]] = []
    for name, (watts, frames) in EYERISS_CHIP.items():
        modelled, seconds, macs = chip_on_eyeriss(name)
        measured = watts / frames / macs * 1e12
        rows.append(
            [
                name,
                f"{measured:.1f}",
                f"{modelled:.1f} ({modelled / measured - 1:+.0%})",
                f"{1e3 / frames:,.1f}",
                f"{1e3 * seconds:,.1f} ({seconds * frames - 1:+.0%})",
            ]
        )
    head = "| network | pJ/MAC, measured | modelled | ms per frame, measured | modelled, at least |"
    still, per_mac = power_split_of_eyeriss()
    return (
        f"{_table(head, rows)}\n\nThe line through the two measured points: {still:.2f} W whatever is multiplied, "
        f"and {per_mac:.1f} pJ per MAC."
    )


def anchors_table() -> str:
    """Published measurements of whole devices beside the model."""
    rows: list[list[object]] = [
        [a.device, a.network, a.precision, a.batch, a.unit, f"{a.measured:.4g}", f"{a.modelled:.4g}", f"{a.error:+.0%}"]
        for a in anchors()
        if a.device != "eyeriss-like-65nm"
    ]
    return _table("| device | network | format | batch | quantity | measured | modelled | error |", rows)


def calibration_table() -> str:
    """A profile fitted to a published trace, on the batch sizes left out of each fit."""
    fitted = fit(read_steps(ZEUS, "v100"), "v100")
    rows: list[list[object]] = [
        [name.removeprefix("batch "), f"{error:.1%}", f"{fitted.held_out_seconds[name]:.1%}"]
        for name, error in fitted.held_out.items()
    ]
    return _table("| batch left out | error of joules | error of seconds |", rows)


def array_at_7nm() -> Accelerator:
    """The 45 nm profile's array and buffer with Jouppi's 7 nm constants: only the technology differs."""
    old, new = load("horowitz-45nm"), load("tpu-like-7nm")
    memory = replace(old.memories[0], read=new.memories[0].read, write=new.memories[0].write, leakage=None)
    registers = {
        n: replace(r, pj_per_bit=replace(r.pj_per_bit, value=r.pj_per_bit.value / STEP_TO_7NM))
        for n, r in old.registers.items()
    }
    return replace(
        old,
        name="the same array at 7 nm",
        mac_points=new.mac_points,
        ops=new.ops,
        memories=(memory,),
        registers=registers,
        network=new.network,
        dram=new.dram,
    )


def layers_only(cost: Cost) -> dict[str, float]:
    """J by component of the matrix products alone, update and pointwise layers left out."""
    index = [i for i, k in enumerate(cost.table.kind) if k < len(CONTRACTIONS)]
    return dict(zip(COMPONENTS, cost.joules[:, :3][:, :, index].sum(axis=(1, 2)).tolist(), strict=True))


class LowPrecision(NamedTuple):
    """Energy at 8 bit block float over fp32 for a VGG16 step: matrix products alone, and the whole step."""

    chip: str
    batch: int
    model: str
    products: float
    whole: float
    shares32: dict[str, float]
    shares8: dict[str, float]


def low_precision(chip: Accelerator, batch: int = 256, model: str = "search") -> LowPrecision:
    rows = reference_networks.vgg16()
    full, eight = (training_cost(rows, chip, bits, batch, model) for bits in (None, "all bfp8"))
    a, b = layers_only(full), layers_only(eight)
    return LowPrecision(
        chip.name,
        batch,
        model,
        sum(b.values()) / sum(a.values()),
        eight.total / full.total,
        {c: v / sum(a.values()) for c, v in a.items()},
        {c: v / sum(b.values()) for c, v in b.items()},
    )


def search_epochs(reinit: float, ff: float, dense: float, epochs: int = 160) -> tuple[float, float]:
    """(search epochs, pruned over dense energy per epoch) from two cells of Table 2.

    re-init = e_d E + N e_p and FF = e_d E + (N - E) e_p, so re-init - FF = E e_p.
    """
    e_dense = dense / epochs
    gap = reinit - ff
    # e_d E^2 - reinit E + N gap = 0, the root with the cheaper search
    root = (reinit - np.sqrt(reinit**2 - 4 * e_dense * epochs * gap)) / (2 * e_dense)
    return float(root), float(gap / root / e_dense)


def thinned_vgg(p: float, flops_ratio: float) -> list[Layer]:
    """VGG16 that keeps (1 - p) of its channels and `flops_ratio` of its MACs: early layers full, late ones thin."""
    rows = reference_networks.vgg16()
    norms = [r for r in rows if r.kind == "bn"]
    total, dense = sum(r.channels[1] for r in norms), sum(r.macs for r in rows)

    def build(early: float) -> list[Layer]:
        first = sum(r.channels[1] for r in norms[:7])
        late = min(1.0, max(0.02, ((1 - p) * total - early * first) / (total - first)))
        masks = {}
        for i, row in enumerate(norms):
            keep = max(1, round((early if i < 7 else late) * row.channels[1]))
            masks[row.name] = np.arange(row.channels[1]) < keep
        return shrink(rows, masks)

    def gap(early: float) -> float:
        return sum(r.macs for r in build(early)) / dense - flops_ratio

    return build(1.0 if gap(1.0) <= 0 else 0.3 if gap(0.3) >= 0 else float(brentq(gap, 0.3, 1.0, xtol=1e-3)))


def pruned_over_dense(p: float, flops_ratio: float, chip: str) -> float:
    ticket, dense = thinned_vgg(p, flops_ratio), reference_networks.vgg16()
    return training_cost(ticket, chip).total / training_cost(dense, chip).total


def tx2_dense_kj() -> float:
    return training_cost(reference_networks.vgg16(), "jetson-tx2").total / 256 * CIFAR * 160 / 1e3


def _table(head: str, rows: list[list[object]]) -> str:
    lines = [head, "|" + "---|" * (head.count("|") - 1)]
    return "\n".join([*lines, *("| " + " | ".join(str(c) for c in row) + " |" for row in rows)])


def counts_table() -> str:
    dense = paper_gflops(reference_networks.resnet18())
    vgg = [training_count(reference_networks.vgg16(), runs * 160 * CIFAR, "paper") / 5e13 for runs in (1, 2)]
    rows: list[list[object]] = [
        ["VGG16, CIFAR, 160 epochs, x 0.05 P", f"{vgg[0]:.1f}", 302],
        ["two such runs", f"{vgg[1]:.1f}", 605],
    ]
    for label, printed, phases in (
        ("dense", 1259.13, [(90, dense)]),
        ("NS 10 %", 2424.86, [(90, dense), (90, 3.37)]),
        ("NS 30 %", 2168.89, [(90, dense), (90, 2.63)]),
        ("SFP 30 %", 1991.94, [(90, dense), (90, dense * 0.582)]),
        ("EB 10 %", 1177.15, [(11, dense), (79, 3.37)]),
        ("EB 30 %", 952.46, [(11, dense), (79, 2.63)]),
    ):
        rows.append([f"ResNet18, ImageNet, {label}, P", f"{paper_pflops(phases, IMAGENET):.3f}", printed])
    return _table("| quantity | computed | printed |", rows)


def eyeriss_table() -> str:
    rows: list[list[object]] = []
    for name, (batch, measured) in EYERISS.items():
        closed, search, least = (dram_accesses_per_mac(name, m) for m in ("closed", "search", "compulsory"))
        rows.append(
            [
                name,
                batch,
                measured,
                f"{closed:.5f} ({closed / measured - 1:+.0%})",
                f"{search:.5f} ({search / measured - 1:+.0%})",
                f"{least:.5f}",
            ]
        )
    return _table("| network | batch | measured | closed | search | compulsory |", rows)


def ratio_tables() -> tuple[str, str]:
    """LL over LF by array and batch; the shares of the components at batch 256."""
    chips = load("horowitz-45nm"), array_at_7nm(), load("tpu-like-7nm")
    cases = [low_precision(chip, batch) for chip in chips for batch in (32, 256)]
    ratios = _table(
        "| array | batch | matrix products | whole step |",
        [[c.chip, c.batch, f"{c.products:.3f}", f"{c.whole:.3f}"] for c in cases],
    )
    shown = [n for n in COMPONENTS if any(c.shares32[n] > 0.005 for c in cases)]
    shares = _table(
        "| array, fp32 / bfp8 | " + " | ".join(shown) + " |",
        [[c.chip, *(f"{c.shares32[n]:.0%} / {c.shares8[n]:.0%}" for n in shown)] for c in cases if c.batch == 256],
    )
    return ratios, shares


def law_table() -> str:
    rows: list[list[object]] = []
    for (data, p), (reinit, ff, full, flops) in TABLE2.items():
        epochs, quotient = search_epochs(reinit, ff, full)
        mine = (pruned_over_dense(p, flops, chip) for chip in ("horowitz-45nm", "jetson-tx2"))
        rows.append(
            [
                f"{data} {p:.0%}",
                f"{epochs:.1f}",
                f"{quotient:.3f}",
                flops,
                *(f"{m:.3f} ({m / quotient - 1:+.0%})" for m in mine),
            ]
        )
    return _table("| cell | E | e_pruned / e_dense | FLOPs ratio | ours, horowitz-45nm | ours, jetson-tx2 |", rows)


def latency_table() -> str:
    """ZigZag's cycles with stalls, loading and unloading over ours."""
    lines: list[list[object]] = []
    for (name, rows), model in itertools.product(read(GOLDEN).items(), ("closed", "search")):
        mine, theirs = cycles(rows, model), np.array([row["latency"] for row in rows])
        near = int((np.abs(theirs / mine - 1) <= 0.15).sum())
        least, most = (theirs / mine).min(), (theirs / mine).max()
        total = f"{theirs.sum() / mine.sum():.2f}"
        lines.append([name, model, total, f"{least:.2f} to {most:.2f}", f"{near} of {len(rows)}"])
    return _table("| architecture | model | total, theirs / ours | rows | rows within 15 % |", lines)


def edp_table() -> str:
    """Rows where ZigZag's mapping for energy stalls, mapped by it again for energy x delay, beside our cycles."""
    ((_, again),) = read(BY_EDP).items()
    rows = {(r["layer"], r["pass"]): (r, ours) for r, ours in _timed(read(GOLDEN)["eyeriss_like"])}
    lines: list[list[object]] = []
    for new in again:
        old, ours = rows[new["layer"], new["pass"]]
        lines.append(
            [f"{new['layer']}, {new['pass'].replace('_', ' ')}", f"{old['latency']:,.0f}", f"{new['latency']:,.0f}",
             f"{new['energy'] / old['energy'] - 1:+.0%}", f"{ours:,.0f}", f"{old['latency'] / ours:.2f}",
             f"{new['latency'] / ours:.2f}"]
        )  # fmt: skip
    head = "| eyeriss_like | theirs, for energy | theirs, for EDP | its energy | ours | theirs / ours | for EDP |"
    return _table(head, lines)


def _timed(rows: list[dict[str, Any]]) -> list[tuple[dict[str, Any], float]]:
    return list(zip(rows, cycles(rows, "search").tolist(), strict=True))


def tables() -> dict[str, str]:
    """Every computed block of the page, by the name of its marker."""
    ratios, shares = ratio_tables()
    calibration = f"Dense VGG16 on `jetson-tx2`: {tx2_dense_kj():.1f} kJ, 370.6 kJ printed."
    return {
        "counts": counts_table(),
        "zigzag": table([GOLDEN]),
        "latency": latency_table(),
        "latency_edp": edp_table(),
        "eyeriss": eyeriss_table(),
        "eyeriss_chip": eyeriss_chip_table(),
        "anchors": anchors_table(),
        "zeus": calibration_table(),
        "ratio": ratios,
        "shares": shares,
        "law": law_table(),
        "calibration": calibration,
    }


def filled(text: str) -> str:
    """The page with each block between <!-- name --> and <!-- end --> computed again."""
    blocks = tables()
    return re.sub(
        r"<!-- (\w+) -->\n.*?\n<!-- end -->",
        lambda m: f"<!-- {m[1]} -->\n{blocks[m[1]]}\n<!-- end -->",
        text,
        flags=re.DOTALL,
    )


def main() -> int:
    before = PAGE.read_text()
    after = filled(before)
    if "--check" not in sys.argv:
        PAGE.write_text(after)
    return int("--check" in sys.argv and before != after)


if __name__ == "__main__":
    sys.exit(main())
