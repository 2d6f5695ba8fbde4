"""dense: the whole network, trained for all N epochs. The baseline that every saving is measured against.

Equation: minimise cross-entropy + l1 * sum |gamma| by SGD. Same recipe, L1 term included, as the search (the
authors train their baseline so too), so the search is a prefix of it and costs nothing extra.
"""

from __future__ import annotations

from ebsim.methods.lab import Lab
from ebsim.methods.row import Row, accuracies


def run(lab: Lab) -> Row:
    """Train the dense network in fp32 to epoch N."""
    dense = lab.dense("fp32")
    dense.train()
    return Row(
        method="dense",
        label="Dense",
        ratio=None,
        search_precision="fp32",
        retrain_precision="fp32",
        ledger=[dense.ledger("dense", lab.epochs)],
        trajectory=dense.trajectory.stage.id,
        curve=dense.trajectory.stage.id,
        channels_kept=sum(lab.layers.values()),
        **accuracies(dense.trajectory.curve[: lab.epochs]),
    )
