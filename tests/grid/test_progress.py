"""What a grid shows: cells, the row each is at, and the energy of what is finished."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from ebsim.grid.progress import GridProgress
from ebsim.grid.state import DONE, FAILED, PENDING


def state(states: dict[int, str]) -> Any:
    cells = {number: SimpleNamespace(number=number, label=f"seed={number}") for number in states}
    return SimpleNamespace(
        grid=SimpleNamespace(cells=list(cells.values())), states=states, errors={2: "DivergedError: at epoch 3\nmore"},
        cells=lambda wanted: [cells[number] for number, own in states.items() if own == wanted],
    )  # fmt: skip


def test_lines_of_two_cells() -> None:
    log = io.StringIO()
    lines = GridProgress(Console(file=log, width=80))
    grid = state({1: PENDING, 2: PENDING})
    one, two = grid.grid.cells
    lines.started(one, grid)
    lines.heard(one, {"kind": "task", "method": "eb-train", "ratio": 0.5, "number": 1, "total": 2})
    lines.heard(one, {"kind": "epoch", "stage": "dense-1", "epoch": 4})
    assert lines._at == {1: "cell 1: [1/2] eb-train p = 0.5, epoch 4"}
    lines.heard(one, {"kind": "mask", "ratio": 0.5})
    for joules in (1.5, 2.0):
        lines.heard(one, {"kind": "result", "joules": joules})
    lines.started(two, grid)
    grid.states[1] = DONE
    lines.ended(one, grid)
    grid.states[2] = FAILED
    lines.ended(two, grid)
    shown = log.getvalue().splitlines()
    assert shown[0] == "cell 1/2  seed=1  started"
    assert "[1 done, 0 failed, 1 to go, about" in shown[2] and shown[2].endswith("; 3.50 J modelled so far]")
    assert "FAILED after" in shown[3] and shown[4:] == ["    DivergedError: at epoch 3", "    more"]
