"""Every number of an experiment has bounds, so that no value gets as far as the code that it would break."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from annotated_types import Ge, Gt, Le, Lt

from ebsim import pipeline
from ebsim.config import Experiment, Section, all_keys
from ebsim.errors import ConfigError


def numbers(section: type[Section] = Experiment, prefix: str = "") -> dict[str, list[Any]]:
    """Dotted key -> the bounds of its number, found in the schema itself."""
    found: dict[str, list[Any]] = {}
    for key, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            found |= numbers(kind, f"{prefix}{key}.")
        elif kind in (int, float) or {"int", "float"} & set(re.findall(r"\w+", str(kind))):
            found[prefix + key] = [*field.metadata, str(kind)]
    return found


def test_no_number_is_without_bounds() -> None:
    assert len(numbers()) > 15
    for key, marks in numbers().items():
        text = str(marks)
        assert "le=" in text or "lt=" in text or any(isinstance(mark, Le | Lt) for mark in marks), key
        assert "ge=" in text or "gt=" in text or any(isinstance(mark, Ge | Gt) for mark in marks), key


HUGE = (2**63 - 1, 2**64, 10**30, -1, -(2**63), 1e308, -1e308, 5e-324, math.inf, math.nan, 0.5, True, "1", [], {})


@pytest.mark.parametrize("key", [key for key in all_keys() if key != "grid"])
def test_hostile_values_are_accepted_or_refused_by_name(tmp_path: Path, key: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text('name = "a"\n')
    for value in HUGE:
        try:
            pipeline.load(path, {key: value})
        except ConfigError as error:
            assert key.split(".")[0] in str(error)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.threads", 1_000_000),
        ("train.lr", 1e308),
        ("train.weight_decay", 1e308),
        ("train.l1", 1e308),
        ("data.subset", 2**63 - 1),
        ("data.workers", 2**31),
        ("prune.min_channels", 2**63 - 1),
        ("precision.stats_every", 2**63 - 1),
        ("train.eval_every", 2**63 - 1),
        ("train.milestones", [2**63 - 1]),
        ("model.depth", 2**63 - 1),
    ],
)
def test_what_used_to_break_is_told_before_anything_runs(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "a.toml"
    path.write_text('name = "a"\n')
    with pytest.raises(ConfigError, match=key):
        pipeline.load(path, {key: value})


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.00005, 1e-12, 0.3000001, 0.1 + 0.2, 1 - 1e-16])
def test_the_masks_of_any_ratio_can_be_read_back(ratio: float) -> None:
    from ebsim.pipeline import results
    from ebsim.runs.schema import Masks

    key = results._key(ratio)
    masks = {"channels": 1, "layers": {"a": 1}, "ratios": {key: {"distances": [], "emerged": None, "map": [[0.0]]}}}
    assert float(next(iter(Masks.model_validate(masks).ratios))) == ratio
    assert results._key(0.3) == "0.3" != results._key(0.3000001)
