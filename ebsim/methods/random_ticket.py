"""random-ticket: is it the ticket's channels that matter, or only how many of them each layer keeps?

Idea: search as EB Train does, then keep as many channels per layer as the Early-Bird ticket, but random ones; or keep
the same fraction of every layer, so that nothing of the ticket is left.

Equation: the kept channels of layer l are a uniform sample of size k_l, with k_l the ticket's width (widths = ticket)
or max(1, round((1 - p) n_l)) (widths = uniform).

Source: the control of Frankle & Carbin, ICLR 2019 (arXiv 1803.03635), and of Liu et al., Rethinking the Value of
Network Pruning, ICLR 2019 (arXiv 1810.05270), for structured tickets.

Options: widths = ticket or uniform; init as in eb-train.

Deviations: none known; the EB paper has no such result.
"""

from __future__ import annotations

import torch

from ebsim.experiment.context import ExperimentContext
from ebsim.experiment.result import MethodResult
from ebsim.experiment.retraining import ticket
from ebsim.methods import eb_train
from ebsim.seeds import seed_of
from ebsim.tickets import ChannelMask

_NAMES = {"ticket": ("random-ticket", "Random ticket"), "uniform": ("random-uniform", "Random, uniform widths")}


def run(context: ExperimentContext, ratio: float, widths: str = "ticket", init: str = "inherit") -> MethodResult:
    """Search, then retrain a random ticket from the epoch at which the Early-Bird ticket emerged."""
    result = MethodResult(*_NAMES[widths], ratio, *context.precisions())
    found = eb_train.search(context, result, ratio, init)
    if found is None:
        return result
    dense, epoch = found
    ignored: tuple[str, ...] = ()
    if widths == "ticket":
        drawn = dense.mask(ratio, epoch)
        kept, ignored = drawn.kept(), drawn.ignored
    else:
        kept = {name: max(1, round((1 - ratio) * size)) for name, size in context.layers.items()}
    mask = draw(context.layers, kept, seed_of(context.seed, "random-ticket", widths, ratio), ignored)
    return result.record_final_training(ticket(context, dense, mask, epoch, init, result.retrain_precision), mask=mask)


def draw(layers: dict[str, int], kept: dict[str, int], seed: int, ignored: tuple[str, ...] = ()) -> ChannelMask:
    """A mask with `kept[name]` random channels of each layer."""
    generator = torch.Generator().manual_seed(seed)
    ranks = [torch.randperm(size, generator=generator) < kept[name] for name, size in layers.items()]
    return ChannelMask(torch.cat(ranks).numpy(), layers, ignored=ignored)
