"""What docs/hardware-model.md shows works as it stands there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import hw_models
from ebsim.models import build
from hw_models.cost.ledger import ENTRY
from hw_models.precision.formats import FORMATS, parse_precision
from hw_models.precision.presets import PRESETS
from hw_models.workload import reference_networks

PAGE = (Path(__file__).parents[2] / "docs" / "hardware-model.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_examples_run_one_after_the_other() -> None:
    scope: dict[str, object] = {"model": build("vgg", classes=10, depth=11)}
    for block in _blocks("python"):
        exec(compile(block, "hardware-model.md", "exec"), scope)
    cost, full, bill = scope["cost"], scope["full"], scope["bill"]
    assert isinstance(cost, hw_models.Cost) and isinstance(full, hw_models.Cost) and isinstance(bill, hw_models.Bill)
    assert cost.precision == "int8" and cost.total < full.total and bill.total > 0
    assert {"stage", "epochs", "l1"} < set(scope["ledger"][0]) <= ENTRY  # type: ignore[index]


def test_the_record_is_read_and_priced() -> None:
    (text,) = _blocks("json")
    record = json.loads(text)
    precision = parse_precision(record).on(["conv1", "fc"])
    assert precision.rule("conv1").operands[0][1].name == "fp32" and precision.rule("fc").output.name == "fp32"
    assert hw_models.training_cost(reference_networks.resnet18(), "horowitz-45nm", record).total > 0


@pytest.mark.parametrize("names", [PRESETS, FORMATS])
def test_every_name_of_a_precision_stands_there(names: dict[str, object]) -> None:
    section = PAGE.split("## 3. Precision")[1].split("## 4.")[0]
    assert all(re.search(rf"\b{name}\b", section) for name in names)
