"""Rewrite the frozen step energies that tests/hw_models/test_cost.py holds:  python benchmarks/hw_golden.py"""

from __future__ import annotations

import json
from pathlib import Path

from hw_models import reference, training_cost
from hw_models.toml_source import SHIPPED

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "hw_vgg16_step.json"


def main() -> None:
    table = {path.stem: {f"{bits}/{model}": training_cost(
        reference.vgg16(), path.stem, None if bits == "native" else bits, 256, model, hypothetical=True).components
        for bits in ("native", "all int8", "fp8") for model in ("closed", "search")}
        for path in sorted(SHIPPED.glob("*.toml"))}
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
