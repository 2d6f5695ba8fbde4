"""Mask distance caused by stochastic rounding alone, where gamma itself is kept in a low precision.

The Early-Bird ticket is read off the gammas. Two stochastic roundings of the *same* gammas give two masks, and the
Hamming distance between them is a floor below which a mask distance says nothing about training.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ebsim.errors import ConfigError
from ebsim.precision.backends import Backend
from ebsim.precision.formats.registry import operand
from ebsim.precision.quantization.quantizer import quantize


def mask_noise_floor(
    gammas: Mapping[str, Tensor],
    ratio: float,
    which: str | Backend,
    *,
    seed: int = 0,
    draws: int = 8,
) -> float:
    """Mean Hamming distance, in [0, 1], between masks of two stochastic roundings of the same gammas.

    gammas   BatchNorm layer -> its scales [channels]; they are rounded layer by layer, as they are stored
    ratio    share of channels pruned, smallest |gamma| first, ties by channel order
    which    a backend (its `one_dimensional` format counts) or a format ("e4m3"); 0.0 where gamma is fp32
    """
    if not 0 <= ratio < 1:
        raise ConfigError(f"mask noise: the prune ratio {ratio} is not in [0, 1)")
    fmt = (which.one_dimensional if isinstance(which, Backend) else operand(which)).format
    if fmt.name == "fp32":
        return 0.0

    def mask(step: int) -> Tensor:
        rounded = [
            quantize(g.detach().float(), fmt, rounding="stochastic", seed=seed, step=step, layer=name, role="stored")
            for name, g in gammas.items()
        ]
        order = torch.cat(rounded).abs().sort(stable=True).indices
        kept = torch.ones(len(order), dtype=torch.bool, device=order.device)
        kept[order[: round(len(order) * ratio)]] = False  # as `ebsim.channel_mask` counts
        return kept

    distances = [(mask(2 * i) != mask(2 * i + 1)).double().mean() for i in range(draws)]
    return float(torch.stack(distances).mean())
