"""What bounds a training step: its FLOPs and the fewest bytes it must move, against what the machine reaches.

    python benchmarks/roofline.py benchmarks/results/gpu.json        (times and ceilings of benchmarks/gpu.py)

FLOPs are 2 x MAC of the three passes. The fewest bytes assume perfect fusion and no cache: a BatchNorm reads its input
twice (statistics, then normalization) and writes once, with the ReLU after it for nothing; its backward pass reads
input and gradient twice and writes once; a convolution reads and writes each of its tensors once in each of its three
passes; an addition reads two and writes one. Reuse through a cache can beat that where tensors are small.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import hw_models
from hw_models.workload.layer import CONTRACTIONS, Layer

WIDTH = {"fp32": 4, "tf32": 4, "bf16": 2}  # bytes of an activation
STATE_BYTES = 24  # of a parameter in an update: weight, gradient and momentum read, weight and momentum written, zeroed


def flops(layers: Iterable[Layer], batch: int) -> float:
    """Of a training step: forward, input gradient and weight gradient of every product."""
    return float(sum(2 * layer.macs * (2 if layer.first else 3) for layer in layers) * batch)


def least_elements(layers: Sequence[Layer]) -> int:
    """Activation elements that a training step reads and writes for one image, fused as well as it can be."""
    kinds = {layer.name: layer.kind for layer in layers}
    total = 0
    for layer in layers:
        both = layer.inputs + layer.outputs
        if layer.kind in CONTRACTIONS:
            total += both * (2 if layer.first else 3)
        elif layer.kind == "bn":
            total += 2 * layer.inputs + layer.outputs  # statistics, normalization
            total += 2 * both + layer.inputs  # sums of gradients, then the gradient itself
        elif layer.kind == "relu":
            fused = all(kinds.get(source) == "bn" for source in layer.sources)
            total += 0 if fused else both + layer.outputs + both
        elif layer.kind == "add":
            total += both  # its backward pass hands the gradient on
        elif layer.kind in ("select", "maxpool", "avgpool"):
            total += 2 * both
    return total


def least_bytes(layers: Sequence[Layer], batch: int, arithmetic: str) -> float:
    """Of a training step, activations and the update of the parameters."""
    weights = sum(layer.weights for layer in layers)
    return float(batch * least_elements(layers) * WIDTH[arithmetic] + weights * STATE_BYTES)


def bound(row: dict[str, Any], layers: Sequence[Layer], ceilings: dict[str, float]) -> dict[str, Any]:
    """A timed step beside both limits, each as the share of the machine's own figure that it reaches."""
    seconds, arithmetic = row["step_ms"] / 1e3, row["arithmetic"]
    moved, computed = least_bytes(layers, row["batch"], arithmetic), flops(layers, row["batch"])
    copy, peak = ceilings["copy_gbytes_per_s"] * 1e9, ceilings[f"{arithmetic}_tflops"] * 1e12
    limits = {"bytes": moved / copy, "FLOPs": computed / peak}
    return {
        "name": row["name"],
        "step_ms": row["step_ms"],
        "gbytes": moved / 1e9,
        "gbytes_per_s": moved / seconds / 1e9,
        "share_of_copy": limits["bytes"] / seconds,
        "tflops": computed / seconds / 1e12,
        "share_of_peak": limits["FLOPs"] / seconds,
        "bound_by": max(limits, key=lambda name: limits[name]),
        "share_of_bound": max(limits.values()) / seconds,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| step | ms | fewest GB | GB/s | of copy | TFLOP/s | of peak | bound by | of bound |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|---|---:|")
    for row in rows:
        shares = [f"{row[key]:.0%}" for key in ("share_of_copy", "share_of_peak", "share_of_bound")]
        lines.append(
            f"| {row['name']} | {row['step_ms']:.2f} | {row['gbytes']:.2f} | {row['gbytes_per_s']:,.0f} | {shares[0]} "
            f"| {row['tflops']:.1f} | {shares[1]} | {row['bound_by']} | {shares[2]} |"
        )
    return "\n".join(lines)


def main() -> None:
    from gpu_steps import build, case_of

    content = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    ceilings = content["steps"]["ceilings"]
    networks: dict[tuple[Any, ...], list[Layer]] = {}
    rows = []
    for row in content["steps"].values():
        if "step_ms" not in row or row["low"] != "fp32" or row["mode"] == "reference":
            continue
        case = case_of(row)
        key = (case.network, case.depth, case.ratio, case.side)
        if key not in networks:
            networks[key] = list(hw_models.trace(build(case), (3, case.side, case.side)))
        rows.append(bound(row, networks[key], ceilings))
    print(table(rows))


if __name__ == "__main__":
    main()
