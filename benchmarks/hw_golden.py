"""Rewrite the frozen step energies that tests/hw_models/test_cost.py holds:  python benchmarks/hw_golden.py

Other numbers need another `hw_models.REVISION`, which makes finished runs be priced again.
"""

from __future__ import annotations

import json
from pathlib import Path

from hw_models import REVISION, training_cost
from hw_models.accelerator.toml_reader import SHIPPED
from hw_models.workload import reference_networks

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "hw_vgg16_step.json"


def main() -> None:
    table = {
        path.stem: {
            f"{bits}/{model}": training_cost(
                reference_networks.vgg16(), path.stem, None if bits == "native" else bits, 256, model, hypothetical=True
            ).components
            for bits in ("native", "all int8", "fp8")
            for model in ("closed", "search")
        }
        for path in sorted(SHIPPED.glob("*.toml"))
    }
    content = {"revision": REVISION, "components": table}
    frozen = json.loads(GOLDEN.read_text())
    if frozen["components"] != table and frozen["revision"] == REVISION:
        raise SystemExit("the numbers have changed: count hw_models.REVISION up first")
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
