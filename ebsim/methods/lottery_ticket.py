"""lottery-ticket: train, keep the largest weights, go back to the start, train again.

Idea: a dense network contains sparse ones that, from the very weights they started with, train as well as the whole.
One-shot: one full training finds the mask, the weights are set back to their initial values, bit for bit, and the
masked network is trained for all N epochs.

Equation: m = keep the (1 - p) largest |w_N| of all convolution and linear weights; train f(x; m * w_0).

Source: Frankle & Carbin, The Lottery Ticket Hypothesis, ICLR 2019 (arXiv 1803.03635).

Options: none.

Deviations: global ranking in one shot, as in the EB paper's row "LT (one-shot)", not iterative and layer by layer; the
last linear layer is ranked with the others (some follow-up codes leave it out); one bit per weight, so a dense
accelerator saves nothing: two full dense trainings are charged.
"""

from __future__ import annotations

from ebsim.experiment.context import ExperimentContext
from ebsim.experiment.result import MethodResult
from ebsim.experiment.training_stages import dense_training
from ebsim.methods.unstructured import prunable, train


def run(context: ExperimentContext, ratio: float) -> MethodResult:
    """Train densely, mask the smallest weights, rewind, train under the mask."""
    result = MethodResult("lottery-ticket", "Lottery ticket", ratio, *context.precisions(), epoch_drawn=context.epochs)
    dense = dense_training(context, result.search_precision)
    dense.train()
    result.trajectory = dense.stage
    result.ledger.append(dense.ledger("dense"))

    final = dense.trajectory.state_at(context.epochs)
    return train(context, result, {name: final[name].abs() for name in prunable(context.dense_network())})
