"""A run traces its network once, analyzes and verifies every ticket once, and slices weights where they are used."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import hw_models
from ebsim.methods import METHODS
from ebsim.pipeline import results
from ebsim.tickets.shrinking import shrinker
from tests.methods.toy_context import context


def test_one_trace_for_all_tickets_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count: Counter[str] = Counter()

    def counted(owner: Any, name: str) -> None:
        plain = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            count[name] += 1
            return plain(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    for owner, name in (
        (shrinker, "trace"), (shrinker, "check_same"), (shrinker, "GraphRewriter"), (shrinker.Shrinker, "shrink"),
    ):  # fmt: skip
        counted(owner, name)

    def everything() -> None:
        toy = context(tmp_path)
        rows = [row for name in ("dense", "eb-train", "eb-train-reinit") for row in METHODS[name].results(toy)]
        results.results(toy, rows, hw_models.load("horowitz-45nm"))
        results.masks(toy)

    everything()
    tickets, trainings = 3, 6  # inherited and fresh weights under each mask
    assert count["trace"] == 1
    assert count["GraphRewriter"] == count["check_same"] == tickets
    assert count["shrink"] <= tickets + trainings
    count.clear()
    everything()  # all of it is in the store now
    assert count["trace"] <= 1 and count["shrink"] <= tickets
