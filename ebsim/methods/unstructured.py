"""What the methods that prune single weights share: which weights, a mask from their scores, training under it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ebsim import tickets
from ebsim.errors import DivergedError
from ebsim.experiment.context import Lab
from ebsim.experiment.result import Row
from ebsim.experiment.retraining import masked
from ebsim.tickets import ChannelMask


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of all convolutions and linear layers, by name."""
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    return {f"{name}.weight": model.get_parameter(f"{name}.weight") for name in layers}


def weight_mask(scores: Mapping[str, Tensor], ratio: float, least: int = 1) -> ChannelMask:
    """One bit per weight: the round(p n) smallest of all scores are pruned, and every layer keeps `least` weights.

    The same ranking as for channels (signed, ties by order), in the scores' own precision, and the same kind of mask:
    bits by layer.
    """
    flat = torch.cat([score.detach().flatten().cpu() for score in scores.values()])
    return tickets.masks_from_scores(flat, {n: s.numel() for n, s in scores.items()}, [ratio], least)[0]


def finite(method: str, scores: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The scores; `DivergedError` naming the first layer whose scores leave the range of float64."""
    for name, score in scores.items():
        if not bool(torch.isfinite(score).all()):
            raise DivergedError(f"{method}: scores of {name} exceed float64; use another method or fewer layers.")
    return scores


def train(lab: Lab, row: Row, scores: Mapping[str, Tensor]) -> Row:
    """Prune the dense network's start by these scores and train what is left for N epochs."""
    assert row.ratio is not None
    weights = weight_mask(finite(row.method, scores), row.ratio, lab.experiment.prune.min_channels)
    if row.epoch_drawn == 0:
        row.notes.append("scored in float64, priced as fp32: the accelerators have no float64")
    return row.end(masked(lab, weights, row.retrain_precision), "train")
