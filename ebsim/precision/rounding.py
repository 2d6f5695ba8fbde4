"""Rounds tensors onto a number grid (fp8, fp16, bf16, integers, tables), to nearest even or stochastically.

Plain float32 and integer tensor operations.

Stochastic rounding goes up with probability equal to the distance from the value below. It is done by comparing
u in [0, 1) with the exact remainder d = x - floor(x), as ceil(d - u), and never as `floor(x + u)`: that sum is itself
rounded, and would now and then move a value that already lies on the grid.

In place wherever the tensor is a temporary of its own: that halves the time of an eager chain.

No dtype casts: torch's casts differ between releases (float8 overflow) and compiled code may elide them (bf16, fp16).
The exponent is read from the bits, never from log2, which is off by one next to powers of two.

torch is imported inside the functions: naming a format must not cost an import of torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

EXPONENT, MANTISSA, POSITIVE = 0x7F800000, 0x007FFFFF, 0x7FFFFFFF
ONE = 0x3F800000


def keep(x: Tensor, u: Tensor | None) -> Tensor:
    """The identity: fp32."""
    return x


def to_integer(x: Tensor, u: Tensor | None) -> Tensor:
    """Nearest (even) or stochastic integer of x; exact for |x| < 2^23."""
    if u is None:
        return x.round()
    below = x.floor()
    return (x - below).sub_(u).ceil_().add_(below)


def float_grid(x: Tensor, u: Tensor | None, *, mantissa: int, emin: int) -> Tensor:
    """Values with `mantissa` stored bits and exponents from `emin` (subnormals below); the caller saturates.

    The spacing at x is 2^(max(exponent of x, emin) - mantissa); both it and its inverse are built from the exponent
    bits, so scaling by them is exact. Needs emin - mantissa >= -126, that is a format narrower in range than fp32.
    """
    import torch

    exponent = (x.view(torch.int32) & EXPONENT).clamp_(min=(emin + 127) << 23)
    step = (exponent - (mantissa << 23)).view(torch.float32)
    per_step = (((254 + mantissa) << 23) - exponent).view(torch.float32)
    if u is None:
        return per_step.mul_(x).round_().mul_(step)
    return to_integer(per_step.mul_(x), u).mul_(step)


def cut_mantissa(x: Tensor, u: Tensor | None, *, mantissa: int) -> Tensor:
    """fp32's exponent, `mantissa` of its 23 bits: add to the bits that go, then cut them (subnormals included)."""
    import torch

    dropped = 23 - mantissa
    bits = x.view(torch.int32)
    carry = (
        (bits >> dropped).bitwise_and_(1).add_((1 << dropped - 1) - 1)
        if u is None
        else (u * float(1 << dropped)).to(torch.int32)
    )
    return carry.add_(bits).bitwise_and_(-(1 << dropped)).view(torch.float32)


def bfloat16(x: Tensor, u: Tensor | None) -> Tensor:
    """fp32's exponent, 7 mantissa bits."""
    return cut_mantissa(x, u, mantissa=7)


def to_table(x: Tensor, u: Tensor | None, *, values: tuple[float, ...]) -> Tensor:
    """The nearest of `values`, magnitudes in ascending order from 0 (a tie to the even index), or a random neighbour.

    For grids without a rule, such as logarithmic numbers or posits. Signs are kept; beyond the last value it saturates.
    """
    import torch

    table = torch.tensor(values, dtype=torch.float32, device=x.device)
    size = x.abs()
    above = torch.searchsorted(table, size.contiguous()).clamp(1, len(values) - 1)
    low, high = table[above - 1], table[above]
    share = ((size - low) / (high - low)).clamp(0.0, 1.0)
    up = (share > 0.5) | ((share == 0.5) & (above % 2 == 0)) if u is None else share > u
    return torch.where(up, high, low).copysign(x)
