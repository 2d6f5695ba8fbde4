"""eb-train: Early-Bird training (You et al., ICLR 2020, Algorithm 1).

Idea: the mask of the largest |gamma| settles long before the training ends; draw the ticket there and train only
the ticket. Search the dense network, epoch by epoch; when the last five mask distances are below 0.1, shrink the
network to the mask; retrain what is left.

Options: `init` = inherit (the weights at the draw, for the remaining epochs; the paper's EB Train), re-init (fresh
weights, all N epochs; its section 4.3), rewind (the weights of the dense start, all N epochs).

Deviations from the authors' published code: weights really are inherited (their `main_c.py` loads none); the
search really ends at the draw; no epoch is lost between draw and retrain; exactly round(p n) channels are pruned.
"""

from __future__ import annotations

from ebsim.methods.lab import Lab
from ebsim.methods.row import Row, accuracies

_LABELS = {"inherit": "EB Train", "re-init": "EB Train (re-init)", "rewind": "EB Train (rewind)"}
_NAMES = {"inherit": "eb-train", "re-init": "eb-train-reinit", "rewind": "eb-train-rewind"}


def run(lab: Lab, ratio: float, init: str = "inherit") -> Row:
    """Search the ticket of this ratio, shrink to it, retrain it."""
    search_precision = lab.experiment.precision.search
    retrain_precision = lab.experiment.precision.retrain

    search = lab.dense(search_precision)
    epoch = search.search(ratio)
    row = Row(
        method=_NAMES[init],
        label=_LABELS[init],
        ratio=ratio,
        search_precision=search_precision,
        retrain_precision=retrain_precision,
        ledger=[search.ledger("search", epoch or lab.epochs, draws=epoch or lab.epochs)],
        trajectory=search.trajectory.stage.id,
        curve=search.trajectory.stage.id,
        epoch_drawn=epoch,
        emerged=epoch is not None,
    )
    if epoch is None:
        row.notes.append(f"no ticket emerged within {lab.epochs} epochs; nothing was retrained")
        return row

    mask = search.mask(ratio, epoch)
    retrained = lab.retrain(search, mask, epoch, init, retrain_precision)

    row.ledger.append(retrained.ledger())
    row.curve = retrained.trajectory.stage.id
    row.channels_kept = sum(mask.kept().values())
    row.kept_floor = list(mask.kept_floor)
    for name, value in accuracies(retrained.trajectory.curve).items():
        setattr(row, name, value)
    return row
