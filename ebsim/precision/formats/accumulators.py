"""The accumulators that a backend may declare, and how a running sum is kept in one of those that are simulated.

torch is imported inside the functions: naming an accumulator must not cost an import of torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ebsim.precision.rounding import cut_mantissa, float_grid

if TYPE_CHECKING:
    from torch import Tensor

ACCUMULATORS = ("fp32", "tf32", "bf16", "fp16", "int32", "int16", "int8")  # what a price is known for
SIMULATED = {"tf32": 10, "bf16": 7, "fp16": 10}  # with partial_sums -> stored mantissa bits
TOTALS = ("fp32", "accumulator")
FP16_TOP = 65504.0


@dataclasses.dataclass(frozen=True)
class PartialSums:
    """How the running sums of a layer's products are kept; see `ebsim.precision.partial_sums`.

    step       products that are added in fp32 before the running sum is rounded
    chunk      products after which a new running sum begins; 0: never
    rounding   "nearest" (ties to even) or "stochastic"
    total      what the sums of the chunks are added up in: "fp32", or "accumulator"
    """

    accumulator: str
    step: int = 1
    chunk: int = 0
    rounding: str = "nearest"
    total: str = "fp32"

    @classmethod
    def of(cls, accumulator: str, table: Mapping[str, Any]) -> PartialSums:
        """From a backend's `accumulator` and its table `partial_sums`, both checked."""
        return cls(accumulator, **table)

    def describe(self) -> dict[str, Any]:
        """As it stands in the precision record."""
        return {"step": self.step, "chunk": self.chunk, "rounding": self.rounding, "total": self.total}

    def rounded(self, x: Tensor, u: Tensor | None) -> Tensor:
        """A running sum in the accumulator's format; what exceeds it is Inf."""
        import torch

        if self.accumulator == "fp16":
            y = float_grid(x, u, mantissa=10, emin=-14)
            y = torch.where(y.abs() > FP16_TOP, torch.full_like(y, torch.inf).copysign(y), y)
        else:
            y = cut_mantissa(x, u, mantissa=SIMULATED[self.accumulator])
        return torch.where(x.isfinite(), y, x)
