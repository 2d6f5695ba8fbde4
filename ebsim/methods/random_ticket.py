"""random-ticket: is it the ticket's channels that matter, or only how many of them each layer keeps?

Idea: search as EB Train does, then keep as many channels per layer as the Early-Bird ticket, but random ones; or keep
the same fraction of every layer, so that nothing of the ticket is left.

Equation: the kept channels of layer l are a uniform sample of size k_l, with k_l the ticket's width (widths = ticket)
or max(1, round((1 - p) n_l)) (widths = uniform).

Source: the control of Frankle & Carbin, ICLR 2019 (arXiv 1803.03635), and of Liu et al., Rethinking the Value of
Network Pruning, ICLR 2019 (arXiv 1810.05270), for structured tickets.

Options: widths = ticket or uniform; init as in eb-train.

Deviations: none known; the EB paper has no such row.
"""

from __future__ import annotations

import torch

from ebsim.experiment.context import Lab
from ebsim.experiment.result import Row
from ebsim.experiment.retraining import ticket
from ebsim.methods import eb_train
from ebsim.seeds import seed_of
from ebsim.tickets import ChannelMask

_NAMES = {"ticket": ("random-ticket", "Random ticket"), "uniform": ("random-uniform", "Random, uniform widths")}


def run(lab: Lab, ratio: float, widths: str = "ticket", init: str = "inherit") -> Row:
    """Search, then retrain a random ticket from the epoch at which the Early-Bird ticket emerged."""
    row = Row(*_NAMES[widths], ratio, *lab.precisions())
    found = eb_train.search(lab, row, ratio, init)
    if found is None:
        return row
    dense, epoch = found
    if widths == "ticket":
        kept = dense.mask(ratio, epoch).kept()
    else:
        kept = {name: max(1, round((1 - ratio) * size)) for name, size in lab.layers.items()}
    mask = draw(lab.layers, kept, seed_of(lab.experiment.seed, "random-ticket", widths, ratio))
    return row.end(ticket(lab, dense, mask, epoch, init, row.retrain_precision), mask=mask)


def draw(layers: dict[str, int], kept: dict[str, int], seed: int) -> ChannelMask:
    """A mask with `kept[name]` random channels of each layer."""
    generator = torch.Generator().manual_seed(seed)
    ranks = [torch.randperm(size, generator=generator) < kept[name] for name, size in layers.items()]
    return ChannelMask(torch.cat(ranks).numpy(), layers)
