"""synflow: prune single weights before training, without data, keeping synaptic flow through every layer.

Idea: score a weight by its share of all paths from input to output, on the network of absolute weights and an image of
ones; prune in many small rounds, so that layers are rarely cut off.

Equation: R = sum of f(1; |w|); s = |w * dR/dw|; after round k of K the (1 - p)^(k / K) largest are kept.

Source: Tanaka et al., Pruning Neural Networks without Any Data by Iteratively Conserving Synaptic Flow, NeurIPS 2020
(arXiv 2006.05467).

Options: rounds K = 100.

Deviations: every layer keeps `prune.min_channels` weights, as everywhere here. The rule itself does cut layers off:
without that floor, two projections of PreResNet101 lose all their weights at p = 0.5 (the row names them). Scores run
in float64, because those of deep networks span more than float32 (10^69 in PreResNet101), and are priced as fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ebsim.experiment.context import ExperimentContext
from ebsim.experiment.result import MethodResult
from ebsim.experiment.training_stages import scoring
from ebsim.methods.unstructured import finite, prunable, train, weight_mask
from ebsim.training import ZeroWeights


def run(context: ExperimentContext, ratio: float, rounds: int = 100) -> MethodResult:
    """Score and prune the start's weights round by round, train under the last mask."""
    result = MethodResult("synflow", "SynFlow", ratio, *context.precisions(), epoch_drawn=0)
    result.search_precision = result.retrain_precision
    result.ledger.append(scoring(context, images=1, passes=rounds))
    ones = torch.ones(1, *context.data.shape)
    return train(context, result, flow(context.dense_network(), ones, ratio, rounds, context.prune.min_channels))


def flow(model: nn.Module, ones: Tensor, ratio: float, rounds: int, least: int = 1) -> dict[str, Tensor]:
    """Scores of the last round, at which what was pruned before has none; running statistics, in float64."""
    model = model.double().eval()
    ones = ones.double()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.abs_()
    weights = prunable(model)
    scores: dict[str, Tensor] = {}
    for number in range(1, rounds + 1):
        gradients = torch.autograd.grad(model(ones).sum(), list(weights.values()))
        scores = {name: (w.detach() * g).abs() for (name, w), g in zip(weights.items(), gradients, strict=True)}
        finite("synflow", scores)
        ZeroWeights(weight_mask(scores, 1 - (1 - ratio) ** (number / rounds), least)).apply(model)
    return scores
