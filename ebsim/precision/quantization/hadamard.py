"""The random Hadamard transform along the samples, which spreads outliers over 16 of them before they are rounded.

Both operands of a weight gradient, dL/dw = sum over samples of e * a, are transformed alike by an orthogonal matrix
(signs, then Sylvester's matrix / sqrt(n)), so that the exact product stays what it was (arXiv 2509.25149). Samples are
taken by 16; what is left over by 8, 4, 2 and 1, so that nothing is padded. Sums and differences in four stages, in a
fixed order: the same bits on every device.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ebsim.precision.quantization.counter_rng import keys

SIZE = 16


@functools.cache
def signs(seed: int) -> tuple[float, ...]:
    """The 16 random signs of a training: one vector for all layers and steps, as the paper has it."""
    word = keys(seed, 0, "hadamard", "signs")[1]
    return tuple(1.0 - 2.0 * (word >> i & 1) for i in range(SIZE))


def transform(x: Tensor, seed: int) -> Tensor:
    """x transformed along dim 0, in groups of 16 neighbours; a new tensor of the same shape."""
    out = torch.empty_like(x)
    start = 0
    for size in (SIZE, 8, 4, 2, 1):
        count = (len(x) - start) // size * size
        if count:
            out[start : start + count] = _groups(x[start : start + count], size, seed)
            start += count
    return out


def _groups(x: Tensor, size: int, seed: int) -> Tensor:
    sign = torch.tensor(signs(seed)[:size], device=x.device).view(1, size, *[1] * (x.dim() - 1))
    y = x.reshape(-1, size, *x.shape[1:]) * sign
    reach = 1
    while reach < size:
        y = y.view(-1, size // (2 * reach), 2, reach, *x.shape[1:])
        y = torch.stack([y[:, :, 0] + y[:, :, 1], y[:, :, 0] - y[:, :, 1]], 2)
        reach *= 2
    return y.reshape(x.shape) * size**-0.5
