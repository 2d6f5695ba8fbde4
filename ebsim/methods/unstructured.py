"""Unstructured pruning, shared by its methods: the prunable weights, a mask from their scores, training under it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ebsim import tickets
from ebsim.errors import DivergedError
from ebsim.experiment.context import ExperimentContext
from ebsim.experiment.result import MethodResult
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


def train(context: ExperimentContext, result: MethodResult, scores: Mapping[str, Tensor]) -> MethodResult:
    """Prune the dense network's start by these scores and train what is left for N epochs."""
    assert result.ratio is not None
    weights = weight_mask(finite(result.method, scores), result.ratio, context.prune.min_channels)
    if result.epoch_drawn == 0:
        result.notes.append("scored in float64, priced as fp32: the accelerators have no float64")
    return result.record_final_training(masked(context, weights, result.retrain_precision), "train")
