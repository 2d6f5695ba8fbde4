"""How fast the hardware model is:  python benchmarks/hw_speed.py

Prints milliseconds (best of several, this machine) and ratios; ResNet-50 with all passes, 175 rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hw_models import load, training_cost
from hw_models.analysis.design_space import read_space
from hw_models.analysis.design_sweep import each, sweep
from hw_models.analysis.explore import explore
from hw_models.workload import reference_networks
from hw_models.workload.pruned_shapes import candidate_shapes


def best(work: Callable[[], Any], repeat: int = 7) -> float:
    """Milliseconds of the fastest of `repeat` runs."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def main() -> None:
    chip, rows = load("horowitz-45nm"), reference_networks.resnet50()
    rng = np.random.default_rng(0)
    masks = {r.name: rng.random((1000, r.channels[1])) < 0.5 for r in rows if r.kind == "bn"}
    space = read_space(Path(__file__).parents[1] / "examples" / "hardware" / "space.toml")
    closed = best(lambda: training_cost(rows, chip).total, 30)
    found = {
        "closed, one accelerator": (closed, 2.0),
        "search, one accelerator": (best(lambda: training_cost(rows, chip, model="search").total), 200.0),
        "1,000 accelerators (constants)": (
            best(lambda: sweep(rows, chip, {"dram.pj_per_bit": np.linspace(4, 70, 1000)})),
            1000.0,
        ),
        "1,000 accelerators (buffer sizes)": (
            best(lambda: sweep(rows, chip, {"memory.buffer.kib": np.geomspace(16, 16384, 1000)}), 3),
            1000.0,
        ),
        "1,000 candidate widths, shapes given": (best(lambda: each(shapes, chip), 3), 1000.0)
        if (shapes := candidate_shapes(rows, masks))
        else (0.0, 0.0),
        "10,000 accelerators explored": (best(lambda: explore(space, rows), 2), 10_000.0),
        "1,000 channel masks to shapes": (best(lambda: candidate_shapes(rows, masks), 3), 1000.0),
    }
    print(f"{'ResNet-50, all passes':40} {'ms':>9} {'target':>8} {'per case / closed':>18}")
    for name, (ms, target) in found.items():
        cases = 10_000 if name.startswith("10,000") else 1000 if name.startswith("1,000") else 1
        print(f"{name:40} {ms:9.2f} {target:8.0f} {ms / cases / closed:18.3f}")


if __name__ == "__main__":
    main()
