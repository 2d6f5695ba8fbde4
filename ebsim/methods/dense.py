"""dense: the whole network, trained for all N epochs; the baseline that every saving is measured against.

Idea: same recipe as the search, its L1 term included (the authors train their baseline so too); so every search is a
prefix of it and costs nothing extra.

Equation: minimize cross-entropy + l1 * sum |gamma| by SGD.

Source: You et al., Drawing Early-Bird Tickets, ICLR 2020 (arXiv 1909.11957), "unpruned".

Options: none; always in fp32.

Deviations: the headline is the last epoch's accuracy; theirs is the best epoch on the test set, shown beside it.
"""

from __future__ import annotations

from ebsim.experiment.context import ExperimentContext
from ebsim.experiment.result import MethodResult
from ebsim.experiment.training_stages import dense_training


def run(context: ExperimentContext) -> MethodResult:
    """Train the dense network in fp32 to epoch N."""
    dense = dense_training(context)
    dense.train()
    result = MethodResult("dense", "Dense", None, "fp32", "fp32", trajectory=dense.stage, channels_kept=dense.channels)
    return result.record_final_training(dense, "dense")
