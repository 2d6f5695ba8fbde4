"""What a profile fixes of the dataflow: which operand stays at a level, or the order of the loops around its tiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hw_models.accelerator.description import OPERANDS
from hw_models.accelerator.toml_reader import ProfileSource
from hw_models.errors import did_you_mean
from hw_models.precision.formats import PASSES
from hw_models.workload.training_passes import LOOPS

AT_MULTIPLIERS = "registers"
Fixed = str | tuple[str, ...]
ALL_LOOPS = tuple(sorted(LOOPS["forward"]))


def read_dataflow(s: ProfileSource, kind: str, holds: Mapping[str, tuple[str, ...]]) -> dict[str, dict[str, Fixed]]:
    """The table `dataflow`, by pass and level; `holds`: operands of each memory. What it leaves out is searched."""
    levels = (*holds, *((AT_MULTIPLIERS,) if kind == "array" else ()))
    for_all: dict[str, Fixed] = {}
    for name in s.keys("dataflow"):
        if name in PASSES or name in ("source", "band", "derived"):
            continue
        if fixed := _level(s, f"dataflow.{name}", name, levels, holds):
            for_all[name] = fixed
    found = {}
    for which in PASSES:
        own = {
            name: fixed
            for name in (s.keys(f"dataflow.{which}") if s.get(f"dataflow.{which}") is not None else ())
            if (fixed := _level(s, f"dataflow.{which}.{name}", name, levels, holds))
        }
        if for_all | own:
            found[which] = for_all | own
    s.seen |= {f"dataflow.{name}" for name in ("source", "band", "derived")}
    return found


def _level(
    s: ProfileSource, key: str, name: str, levels: tuple[str, ...], holds: Mapping[str, tuple[str, ...]]
) -> Fixed | None:
    given: Any = s.get(key)
    if name not in levels:
        s.problem(key, f"is no level of this chip{did_you_mean(name, levels)}")
        return None
    kept = holds.get(name, OPERANDS)
    a_list = (
        "" if name == AT_MULTIPLIERS else f", or list each of the loops {' '.join(ALL_LOOPS)} once, outermost first"
    )
    if isinstance(given, str) and given in kept:
        return given
    if a_list and isinstance(given, list) and sorted(map(str, given)) == sorted(ALL_LOOPS):
        return tuple(given)
    s.problem(key, f"must name the operand that stays ({', '.join(kept)}){a_list}")
    return None
