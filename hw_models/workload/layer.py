"""`Layer`: one row of a layer table, a module or functional operation with its shapes and counts.

Plain data without torch, so that a table of layers can be stored in JSON, scaled, and priced anywhere.
All counts are per image; a MAC is one multiply-accumulate (FLOPs = 2 x MAC).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

CONTRACTIONS = ("conv", "linear", "matmul")  # the kinds that multiply and accumulate
KINDS = (
    *CONTRACTIONS,
    "bn",
    "relu",
    "activation",
    "maxpool",
    "avgpool",
    "add",
    "mul",
    "concat",
    "select",
    "dropout",
    "loss",
    "other",
    "norm",  # of a layer or group, not of a batch
    "scale",  # a factor and a shift per channel: a BatchNorm in evaluation
)
POINTWISE = KINDS[len(CONTRACTIONS) :]  # the kinds that work element by element
INPUT = "input"  # the name of the network's input among `Layer.sources`


@dataclass(frozen=True)
class Layer:
    """A layer and its per-image counts.

    `inputs`/`outputs`: activation elements read and written (a selection reads what it picks);
    `weights`: parameters, bias included; `channels`: (in, out); `size`/`out`: spatial sizes in and out;
    `first`: nothing before it has parameters, so no input gradient is computed; `sources`: names of the
    rows that made its inputs.
    """

    name: str
    kind: str
    macs: int = 0
    inputs: int = 0
    outputs: int = 0
    weights: int = 0
    channels: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (1, 1)
    out: tuple[int, int] = (1, 1)
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    bias: bool = False
    first: bool = False
    sources: tuple[str, ...] = ()
    op: str = ""  # contractions: path of the module; other rows: the ATen operation
    adaptive: bool = False  # a pool over whatever size comes in

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """The integers of the row in the order of `hw_models.workload.training_passes.COLUMNS`, made once."""
        return (
            KINDS.index(self.kind),
            self.macs,
            self.inputs,
            self.outputs,
            self.weights,
            *self.channels,
            *self.size,
            *self.out,
            *self.kernel,
            *self.stride,
            self.groups,
            int(self.first),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready dictionary; defaults are left out."""
        return {
            f.name: list(v) if isinstance(v := getattr(self, f.name), tuple) else v
            for f in dataclasses.fields(self)
            if f.name in ("name", "kind") or getattr(self, f.name) != f.default
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Layer:
        """Inverse of `to_dict`; raises `KeyError`/`TypeError` on foreign dictionaries."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**values)


def fold_sizes(sizes: Iterable[Any]) -> tuple[int, int]:
    """(height, width) of spatial sizes: of more than two, all but the last fold into the height; of none, (1, 1)."""
    values = [int(v) for v in sizes]
    return (prod(values[:-1]), values[-1]) if values else (1, 1)


def conv_macs(outputs: int, in_channels: int, kernel: tuple[int, int], groups: int) -> int:
    """MACs of a convolution or linear layer: every output sums (C / groups) R S products."""
    return outputs * (in_channels // groups) * kernel[0] * kernel[1]
