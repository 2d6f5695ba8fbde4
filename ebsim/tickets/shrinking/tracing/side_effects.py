"""Which operations do something beside giving a value: draw random numbers, update statistics, run unknown code.

They stay in the graph though their results are not read.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from ebsim.tickets.shrinking.rules.base import call_name
from ebsim.tickets.shrinking.tracing.in_place import is_in_place
from ebsim.tickets.shrinking.tracing.leaves import LAYERS, is_torchs, surprises


def draws(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node (a call of `module`, if any) takes numbers from a random number generator in training mode."""
    if node.op == "call_module":
        return isinstance(module, _DropoutNd | nn.RReLU | nn.FractionalMaxPool2d)
    name = call_name(node)
    return node.op.startswith("call_") and (name.startswith("rand") or name.rstrip("_") in _DRAWING)


_DRAWING = {
    "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "feature_alpha_dropout",
    "rrelu", "normal", "bernoulli", "uniform", "exponential", "multinomial", "poisson", "geometric", "cauchy",
    "log_normal", "stochastic_depth", "drop_block2d", "drop_block3d", "gumbel_softmax", "fractional_max_pool2d",
}  # fmt: skip


def acts_when_traced(node: fx.Node) -> bool:
    """Whether a node of the dense graph must stay though it is not read."""
    in_place = node.op == "call_method" and is_in_place(str(node.target))
    return node.op == "call_module" or in_place or node.target is F.batch_norm or draws(node, None)


def acts_when_shrunk(node: fx.Node, module: nn.Module | None, calls: int) -> bool:
    """The same of the new graph. calls: how often the dense network calls the module.

    The statistics of a BatchNorm that is called once and not read need not stay.
    """
    if draws(node, module):
        return True
    if module is None:
        return False
    if isinstance(module, _BatchNorm):
        return calls > 1
    return bool(surprises(module)) or not (is_torchs(type(module)) or isinstance(module, LAYERS))
