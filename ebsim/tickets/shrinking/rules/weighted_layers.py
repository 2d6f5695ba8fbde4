"""Rules of layers with weights per channel: BatchNorm, PReLU, convolution, linear."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx, nn

from ebsim.tickets.shrinking.rules.base import (
    Analysis,
    Bits,
    ChannelLayout,
    ChannelRule,
    GraphWriter,
    Needs,
    incoming,
    shape,
    tensors,
    wanted,
)
from ebsim.tickets.shrinking.slice_weights import SlicePlan, geometry, plan_mix


class Layer(ChannelRule):
    """A module with weights per channel, sliced once for all the places where it is called."""

    sliced = True

    def accepts(self, net: Analysis, node: fx.Node) -> bool:
        inputs = tensors(node)
        if len(inputs) != 1 or len(node.args) != 1 or node.kwargs:
            return False
        return net.can_shrink(node) and self.fits(net.module(node), shape(inputs[0]))

    def fits(self, module: Any, incoming: tuple[int, ...]) -> bool:
        raise NotImplementedError

    def source(self, node: fx.Node) -> fx.Node:
        return tensors(node)[0]

    def dim(self, node: fx.Node) -> int:
        """The dimension of the channels, of the input and of the output."""
        return 1

    def axis(self, net: Analysis, node: fx.Node) -> int | None:
        return self.dim(node)

    def needs(self, net: Analysis, node: fx.Node, keep: Bits | None) -> Needs:
        assert keep is not None
        yield from wanted(net, self.source(node), self.dim(node), keep)

    def pull(self, net: Analysis, node: fx.Node) -> Bits | None:
        return np.logical_or.reduce([net.need[n] for n in net.sites[str(node.target)]])

    def whole(self, net: Analysis, node: fx.Node) -> list[fx.Node]:
        source = self.source(node)
        return [] if source.meta["axis"] == self.dim(node) else [source]

    def plan(self, net: Analysis, sites: list[fx.Node], keep: Bits) -> SlicePlan:
        outs = np.flatnonzero(keep) if keep.any() else net.kept(sites[0])
        return SlicePlan(outs, outs)

    def emit(self, out: GraphWriter, node: fx.Node) -> ChannelLayout | None:
        plan, source = out.net.plans[str(node.target)], self.source(node)
        return out.holding(plan.outs, node, out.copy(node, {source: out.take(source, self.dim(node), plan.ins)}))


class Norm(Layer):
    """BatchNorm: a pruned channel is zero, any other may become anything."""

    def fits(self, module: Any, incoming: tuple[int, ...]) -> bool:
        return len(incoming) > 1 and incoming[1] == module.num_features

    def live(self, net: Analysis, node: fx.Node) -> Bits | None:
        return net.mask_bits(node)


class PerChannel(Layer):
    """A layer with one weight per channel that leaves zeros zero (PReLU)."""

    def fits(self, module: Any, incoming: tuple[int, ...]) -> bool:
        return len(incoming) > 1 and incoming[1] == module.num_parameters

    def live(self, net: Analysis, node: fx.Node) -> Bits | None:
        return incoming(net, self.source(node), 1)


class Mix(Layer):
    """Convolution and linear layer: every output of a group depends on every input of the group."""

    def fits(self, module: Any, incoming: tuple[int, ...]) -> bool:
        return len(incoming) > 1 if isinstance(module, nn.Linear) else len(incoming) == module.weight.ndim

    def dim(self, node: fx.Node) -> int:
        return len(shape(node)) - 1 if node.meta["linear"] else 1

    def axis(self, net: Analysis, node: fx.Node) -> int | None:
        node.meta["linear"] = isinstance(net.module(node), nn.Linear)
        return self.dim(node)

    def live(self, net: Analysis, node: fx.Node) -> Bits | None:
        groups, ins, outs = geometry(net.module(node))
        if net.module(node).bias is not None:
            return np.ones(groups * outs, bool)
        live = incoming(net, self.source(node), self.dim(node))
        return np.repeat(live.reshape(groups, ins).any(1), outs)

    def needs(self, net: Analysis, node: fx.Node, keep: Bits | None) -> Needs:
        groups, ins, outs = geometry(net.module(node))
        assert keep is not None
        bits = np.repeat(keep.reshape(groups, outs).any(1), ins)
        yield from wanted(net, self.source(node), self.dim(node), bits)

    def plan(self, net: Analysis, sites: list[fx.Node], keep: Bits) -> SlicePlan:
        live = np.logical_or.reduce([incoming(net, self.source(n), self.dim(n)) for n in sites])
        return plan_mix(net.module(sites[0]), live, keep)
