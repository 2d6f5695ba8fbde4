"""snip: prune single weights before training, by the sensitivity of the loss to each.

Idea: give every weight a switch c; the loss's sensitivity to the switch says what the connection is worth, before
anything is trained.

Equation: s = |dL/dc| at c = 1 = |w * dL/dw|, L the mean cross-entropy of one batch; keep the (1 - p) largest.

Source: Lee et al., SNIP: Single-shot Network Pruning based on Connection Sensitivity, ICLR 2019 (arXiv 1810.02340).

Options: none; the batch has `train.batch_size` images (the paper's has 128).

Deviations: the network's own initialization (theirs is variance scaling, close to the He rule used here); scores
run in float64 and are priced as fp32; pruned weights cost what kept ones do on a dense accelerator, so one full dense
training is charged.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebsim.experiment.context import ExperimentContext
from ebsim.experiment.result import MethodResult
from ebsim.experiment.training_stages import scoring
from ebsim.methods.unstructured import prunable, train


def run(context: ExperimentContext, ratio: float) -> MethodResult:
    """Score the start's weights on one batch, prune, train under the mask."""
    result = MethodResult("snip", "SNIP", ratio, *context.precisions(), epoch_drawn=0)
    result.search_precision = result.retrain_precision  # there is no search
    images, labels = context.batch
    result.ledger.append(scoring(context, len(labels), passes=1))
    return train(context, result, sensitivities(context.dense_network().to(context.device), images, labels))


def sensitivities(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """|w * dL/dw| of every prunable weight, in float64; batch statistics, as in training."""
    weights, images = prunable(model.double().train()), images.double()
    loss = functional.cross_entropy(model(images), labels)
    gradients = torch.autograd.grad(loss, list(weights.values()))
    return {name: (w.detach() * g).abs() for (name, w), g in zip(weights.items(), gradients, strict=True)}
