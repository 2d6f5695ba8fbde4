"""The tables of docs/precision.md, made from the code they describe.

python -m ebsim.precision.tables                      # print them
python -m ebsim.precision.tables docs/precision.md    # rewrite them in place, between their markers
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from ebsim.precision.backends import ROLES, UNROUNDED
from ebsim.precision.conformance import codes_of
from ebsim.precision.formats.builtin import BUILTIN
from ebsim.precision.listing import scale_of
from ebsim.precision.quantization.quantizer import quantize
from ebsim.precision.registry import BACKENDS, backend

_CASES = {
    "NaN": [float("nan"), 1.0],
    "+Inf": [float("inf"), 1.0],
    "-0": [-0.0, 1.0],
    "all zero": [0.0, 0.0],
    "1e-45": [1e-45, 1.0],
    "3.4e38": [3.4028234e38, 1.0],
    "1 beside NaN": [1.0, float("nan")],
    "1 beside 1e9": [1.0, 1e9],
}


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    body = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([body[0], "|---" * len(lines[0]) + "|", *body[1:]])


def formats() -> str:
    """Bits, operand class, range and codes at scale 1, scale."""
    rows = []
    for f in BUILTIN.values():
        powers = f.round(2.0 ** -torch.arange(150.0), None)
        low = powers[powers > 0].min().item()
        counted = str(len(codes_of(f))) if f.bits <= 8 else "-"
        rows.append([f"`{f.name}`", str(f.bits), f.mac, f"{f.top:.6g}", f"{low:.4g}", counted, scale_of(f), f.about])
    return markdown(("format", "bits", "mac", "largest", "smallest > 0", "codes counted", "scale", "what it is"), rows)


def non_finite() -> str:
    """What becomes of special values (the first of two neighbours in one group), rounding to nearest."""
    rows = []
    for name in [*BUILTIN, "e4m3/unscaled", "e5m2/unscaled"]:
        values = (quantize(torch.tensor([case]), name)[0, 0].item() for case in _CASES.values())
        rows.append([f"`{name}`", *(f"{v:.6g}" for v in values)])
    return markdown(("format", *_CASES), rows)


def presets() -> str:
    """Role -> format of every shipped backend."""
    rows = []
    for name in BACKENDS.builtin:
        b = backend(name)
        rules = "; ".join(
            f"{', '.join(r.layers)}: {', '.join(f'{k} {v}' for k, v in r.roles.items())}" for r in b.rules
        )
        roles = [str(b.roles.get(role, UNROUNDED)).replace(" stochastic", " ~") for role in ROLES]
        rows.append(
            [f"`{name}`", *roles, str(b.one_dimensional).replace(" stochastic", " ~"), b.accumulator, rules or "-",
             f"from {b.swa['start']:g}" if b.swa else "-"]
        )  # fmt: skip
    return markdown(("preset", *ROLES, "gamma, beta, bias", "accumulator", "exceptions", "SWA"), rows)


TABLES: dict[str, Callable[[], str]] = {"formats": formats, "non-finite": non_finite, "presets": presets}


def rewrite(text: str) -> str:
    """The page with every `<!-- table NAME -->` ... `<!-- end -->` filled anew."""

    def fill(match: re.Match[str]) -> str:
        return f"<!-- table {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table (\S+) -->.*?<!-- end -->", fill, text, flags=re.DOTALL)


def main() -> None:
    """Print the tables, or rewrite a page."""
    if len(sys.argv) > 1:
        page = Path(sys.argv[1])
        page.write_text(rewrite(page.read_text()))
    else:
        print("\n\n".join(make() for make in TABLES.values()))


if __name__ == "__main__":
    main()
