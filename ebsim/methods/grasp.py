"""grasp: prune single weights before training so that the gradient flow of what is left stays large.

Idea: what matters at the start is not the loss but how fast it can fall, which is the squared norm of the gradient;
keep the weights whose removal would lower it most.

Equation: s = w * (H g), with g = dL/dw and H the Hessian, so that removing w changes |g|^2 / 2 by -s to first order;
keep the (1 - p) largest s (signed). L is the cross-entropy of logits / T.

Source: Wang et al., Picking Winning Tickets before Training by Preserving Gradient Flow, ICLR 2020 (arXiv 2002.07376).

Options: temperature T = 200.

Deviations: one batch of `train.batch_size` images drawn like any training batch (theirs has ten images of each class);
their code draws the weights of linear layers anew before scoring, here they are those of the start. Scores run in
float64 (in fp32 hundreds of mask bits of a deep network are decided by rounding) and are priced as fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebsim.experiment.context import ExperimentContext
from ebsim.experiment.result import MethodResult
from ebsim.experiment.training_stages import scoring
from ebsim.methods.unstructured import prunable, train


def run(context: ExperimentContext, ratio: float, temperature: float = 200.0) -> MethodResult:
    """Score the start's weights on one batch, prune, train under the mask."""
    result = MethodResult("grasp", "GraSP", ratio, *context.precisions(), epoch_drawn=0)
    result.search_precision = result.retrain_precision
    images, labels = context.batch
    result.ledger.append(scoring(context, len(labels), passes=3))  # gradient, and a Hessian product for about two
    return train(context, result, flow(context.dense_network().to(context.device), images, labels, temperature))


def flow(model: nn.Module, images: Tensor, labels: Tensor, temperature: float) -> dict[str, Tensor]:
    """w * (H g) of every prunable weight, in float64; batch statistics, as in training."""
    weights, images = prunable(model.double().train()), images.double()
    values = list(weights.values())
    loss = functional.cross_entropy(model(images) / temperature, labels)
    gradients = torch.autograd.grad(loss, values, create_graph=True)
    inner = torch.stack([(g * g.detach()).sum() for g in gradients]).sum()
    products = torch.autograd.grad(inner, values)
    return {name: w.detach() * hg for (name, w), hg in zip(weights.items(), products, strict=True)}
