"""prune-at-epoch: how good a ticket would have been, had it been drawn at another epoch? (The paper's Fig. 1.)

Idea: draw the mask from the dense training after a given epoch, whether it has settled or not, and retrain the ticket
for all N epochs; accuracy against draw epoch shows when tickets become as good as the late ones.

Equation: m_e = keep the (1 - p) largest |gamma_e| after epoch e.

Source: You et al., ICLR 2020 (arXiv 1909.11957), Fig. 1; its star is the draw from the epoch with the best accuracy on
the test set (epoch = best).

Options: epoch = each of `prune.draw_epochs`, or best; init = fine-tune (weights at the draw, all N epochs) or re-init;
channels = ranked, or random (random-at-epoch): as many of each layer as the mask keeps, chosen at random, which says
how much of an accuracy is the choice of channels.

The state of the best epoch is known to be wanted only afterwards: it is trained again from the nearest that was kept.

Deviations: the paper does not say whether Fig. 1's tickets keep their weights; the authors' code of December 2019 loads
none (re-init), that of September 2019 did (fine-tune, the default here).
"""

from __future__ import annotations

from ebsim.experiment.context import ExperimentContext
from ebsim.experiment.result import MethodResult
from ebsim.experiment.retraining import ticket
from ebsim.experiment.training_stages import dense_training
from ebsim.methods.random_ticket import draw as random_mask
from ebsim.seeds import seed_of


def run(
    context: ExperimentContext, ratio: float, epoch: int | str, init: str = "fine-tune", channels: str = "ranked"
) -> MethodResult:
    """Train densely to the draw, shrink, train the ticket for N epochs."""
    name = "prune-at-best" if epoch == "best" else f"{'random' if channels == 'random' else 'prune'}-at-epoch"
    words = "" if init == "fine-tune" else f" ({init})"
    result = MethodResult(name + ("-reinit" if words else ""), "", ratio, *context.precisions())
    dense = dense_training(context, result.search_precision)
    dense.train(context.epochs if epoch == "best" else int(epoch))
    drawn = dense.best_epoch() if epoch == "best" else int(epoch)
    result.label = f"{'Random' if channels == 'random' else 'Drawn'} at {'best' if epoch == 'best' else drawn}{words}"
    result.epoch_drawn, result.trajectory = drawn, dense.stage
    result.ledger += dense.draws("search", context.epochs if epoch == "best" else drawn, count=1)

    mask = dense.mask(ratio, drawn)
    if channels == "random":
        seed = seed_of(context.seed, "random-at-epoch", ratio, drawn)
        mask = random_mask(context.layers, mask.kept(), seed, mask.ignored)
    return result.record_final_training(ticket(context, dense, mask, drawn, init, result.retrain_precision), mask=mask)
