"""Figure of the memory of a training step over time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hw_models.errors import HardwareError

COLORS = {"forward": "tab:blue", "recompute": "tab:orange", "backward": "tab:red"}
MIB = 2**20


def write_memory_figure(report: Mapping[str, Any], path: str | Path) -> Path:
    """Plot the timelines of a `memory_report` (without checkpoints, and of its leanest plan) into a new image file.

    Raises `HardwareError` if the file exists or cannot be written.
    """
    from matplotlib.figure import Figure

    target = Path(path)
    if target.exists():
        raise HardwareError(f"{target}: exists already; choose another name")
    lines = [("without checkpoints", report["timeline"])]
    if plans := report.get("plans"):
        lines.append(
            (f"{plans[-1]['segments']} segments, +{100 * plans[-1]['again']:.0f} % energy", plans[-1]["timeline"])
        )
    figure = Figure(figsize=(7.2, 3.2 * len(lines)), layout="constrained")
    for axes, (title, timeline) in zip(np.atleast_1d(figure.subplots(len(lines), sharey=True)), lines, strict=True):
        values = np.array([moment["bytes"] for moment in timeline]) / MIB
        phases = [moment["phase"] for moment in timeline]
        for phase, color in COLORS.items():
            if phase in phases:
                where = [p == phase for p in phases]
                axes.fill_between(
                    np.arange(len(values)), values, where=where, step="mid", color=color, label=phase, lw=0
                )
        worst = int(values.argmax())
        axes.annotate(f"{values[worst]:,.0f} MiB: {timeline[worst]['row']}", (worst, values[worst]), fontsize=8)
        axes.set(
            title=title, ylabel="activations and\ntheir gradients (MiB)", xlabel="rows of the step, in time", ylim=0
        )
        axes.legend(loc="upper right", fontsize=8)
    figure.suptitle(f"{report['network']}, batch {report['batch']}, {report['precision']}")
    try:
        figure.savefig(target, dpi=150)
    except (OSError, ValueError) as error:
        raise HardwareError(f"{target}: cannot be written ({error})") from error
    return target
