"""eb-train: Early-Bird training, the method that this project is about.

Idea: the mask of the largest |gamma| settles long before the training ends; draw the ticket there and train only the
ticket. Search the dense network epoch by epoch; when the last five mask distances are below 0.1, shrink the network to
the mask; retrain what is left.

Equation: emerged at the first epoch t with max(d_(t-4), ..., d_t) < 0.1, where d_t = Hamming(m_t, m_(t-1)) / channels
and m_t keeps the (1 - p) largest |gamma| of epoch t.

Source: You et al., Drawing Early-Bird Tickets, ICLR 2020 (arXiv 1909.11957), Algorithm 1 and section 4.3.

Options: init = inherit (weights at the draw, for the remaining epochs), re-init (fresh weights, all N epochs), rewind
(weights of the dense start, all N); precision = FF, LF, LL or FL for search and retrain, L being `precision.low`, or
empty for `precision.search` and `precision.retrain`.

Deviations: weights are inherited (the authors' main_c.py loads none); no epoch is lost between draw and retrain;
exactly round(p n) channels are pruned, none of them by a tie; the ticket computes exactly what the masked network
does, where their residual networks keep the pruned channels of the residual stream (`prune.gating`).
"""

from __future__ import annotations

from ebsim.experiment.context import ExperimentContext
from ebsim.experiment.result import MethodResult
from ebsim.experiment.retraining import ticket
from ebsim.experiment.training_stages import Dense, dense_training

_NAMES = {"inherit": "eb-train", "re-init": "eb-train-reinit", "rewind": "eb-train-rewind"}


def run(context: ExperimentContext, ratio: float, init: str = "inherit", precision: str = "") -> MethodResult:
    """Search the ticket of this ratio, shrink to it, retrain it."""
    ways = [word for word in (precision, "" if init == "inherit" else init) if word]
    name = "-".join([_NAMES[init], *([precision.lower()] if precision else [])])
    result = MethodResult(
        name, f"EB Train ({', '.join(ways)})" if ways else "EB Train", ratio, *context.precisions(precision)
    )

    found = search(context, result, ratio, init)
    if found is None:
        return result
    dense, epoch = found
    mask = dense.mask(ratio, epoch)
    return result.record_final_training(ticket(context, dense, mask, epoch, init, result.retrain_precision), mask=mask)


def search(context: ExperimentContext, result: MethodResult, ratio: float, init: str) -> tuple[Dense, int] | None:
    """Train the dense network until the ticket has emerged: (search, epoch); notes it all in `result`.

    None where there is nothing to retrain: no ticket emerged, or a ticket that inherits its weights emerged with the
    last epoch.
    """
    dense = dense_training(context, result.search_precision)
    epoch = dense.search(ratio)
    result.trajectory = result.curve = dense.stage
    result.epoch_drawn, result.emerged = epoch, epoch is not None
    result.ledger += dense.draws("search", epoch, count=epoch or context.epochs)
    if epoch is None:
        result.notes.append(f"no ticket emerged within {context.epochs} epochs; nothing was retrained")
        return None
    if init == "inherit" and epoch == context.epochs:
        result.notes.append(
            "the ticket emerged with the last epoch, which leaves none to retrain it: raise train.epochs"
        )
        return None
    return dense, epoch
