"""network-slimming: train to the end, prune the channels with the smallest scales, train again.

Idea: an L1 term pushes the BatchNorm scales of unneeded channels towards zero; after a full training the smallest are
cut, over the whole network at once, and what is left is trained once more.

Equation: m = keep the (1 - p) largest |gamma_N| of epoch N.

Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017 (arXiv 1708.06519).

Options: init = fine-tune (weights of epoch N, the full schedule again) or re-init (fresh weights, full schedule).

Deviations: as the EB paper counts it, two full trainings (N dense epochs and N pruned ones); one round, not several;
the L1 term stays on in the second training, as in EB Train's retraining.
"""

from __future__ import annotations

from ebsim.experiment.context import ExperimentContext
from ebsim.experiment.result import MethodResult
from ebsim.experiment.retraining import ticket
from ebsim.experiment.training_stages import dense_training

_NAMES = {
    "fine-tune": ("network-slimming", "Network Slimming"),
    "re-init": ("network-slimming-reinit", "Network Slimming (re-init)"),
}


def run(context: ExperimentContext, ratio: float, init: str = "fine-tune") -> MethodResult:
    """Train densely to epoch N, prune, train the pruned network for N epochs."""
    result = MethodResult(*_NAMES[init], ratio, *context.precisions(), epoch_drawn=context.epochs)
    dense = dense_training(context, result.search_precision)
    dense.train()
    result.trajectory = dense.stage
    result.ledger += dense.draws("dense", count=1)

    mask = dense.mask(ratio, context.epochs)
    return result.record_final_training(
        ticket(context, dense, mask, context.epochs, init, result.retrain_precision), mask=mask
    )
