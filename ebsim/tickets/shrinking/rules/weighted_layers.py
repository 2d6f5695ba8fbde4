"""Rules of layers with weights per channel: BatchNorm, PReLU, convolution, linear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import fx

from ebsim.tickets.shrinking.rules.base import Bits, Needs, shape
from ebsim.tickets.shrinking.rules.elementwise import Same
from ebsim.tickets.shrinking.slicing import geometry

if TYPE_CHECKING:
    from ebsim.tickets.shrinking.liveness import Net
    from ebsim.tickets.shrinking.rewrite import Emitter, Phys


class Layer(Same):
    """A module with weights per channel, sliced once for all the places where it is called."""

    def accepts(self, net: Net, node: fx.Node) -> bool:
        source = self.source(node) if any(shape(n) for n in node.all_input_nodes) else None
        return source in net.live and net.can_shrink(node) and self.fits(net.module(node), shape(source))

    def fits(self, module: Any, incoming: tuple[int, ...]) -> bool:
        raise NotImplementedError

    def pull(self, net: Net, node: fx.Node) -> Bits | None:
        return np.logical_or.reduce([net.need[n] for n in net.sites[str(node.target)]])

    def emit(self, out: Emitter, node: fx.Node) -> Phys | None:
        plan, source = out.net.plans[str(node.target)], self.source(node)
        return out.holding(plan.outs, node, out.copy(node, {source: out.fetch(source, plan.ins)}))


class Norm(Layer):
    """BatchNorm: a pruned channel is zero, any other may become anything."""

    def fits(self, module: Any, incoming: tuple[int, ...]) -> bool:
        return incoming[1] == module.num_features

    def live(self, net: Net, node: fx.Node) -> Bits | None:
        return net.mask_bits(node)


class PerChannel(Layer):
    """A layer with one weight per channel that leaves zeros zero (PReLU)."""

    def fits(self, module: Any, incoming: tuple[int, ...]) -> bool:
        return incoming[1] == module.num_parameters


class Mix(Layer):
    """Convolution and linear layer: every output of a group depends on every input of the group."""

    def fits(self, module: Any, incoming: tuple[int, ...]) -> bool:
        return len(incoming) == module.weight.ndim

    def live(self, net: Net, node: fx.Node) -> Bits | None:
        groups, ins, outs = geometry(net.module(node))
        if net.module(node).bias is not None:
            return np.ones(groups * outs, bool)
        return np.repeat(net.live[self.source(node)].reshape(groups, ins).any(1), outs)

    def needs(self, net: Net, node: fx.Node, keep: Bits | None) -> Needs:
        groups, ins, outs = geometry(net.module(node))
        assert keep is not None
        yield self.source(node), np.repeat(keep.reshape(groups, outs).any(1), ins)
