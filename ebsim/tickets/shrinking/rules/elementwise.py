"""Rules of operations that keep channels apart: one tensor, or two of the same width."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import fx

from ebsim.tickets.shrinking.rules.base import Bits, Needs, Rule, argument, shape, width

if TYPE_CHECKING:
    from ebsim.tickets.shrinking.liveness import Net
    from ebsim.tickets.shrinking.rewrite import Emitter, Phys


class Same(Rule):
    """Acts on each channel by itself and leaves zeros zero: ReLU, pooling, dropout, scaling by a number, ..."""

    def accepts(self, net: Net, node: fx.Node) -> bool:
        tensors = [n for n in node.all_input_nodes if shape(n)]
        return len(tensors) == 1 and tensors[0] in net.live and width(node) == width(tensors[0])

    def source(self, node: fx.Node) -> fx.Node:
        return next(n for n in node.all_input_nodes if shape(n))

    def live(self, net: Net, node: fx.Node) -> Bits | None:
        return net.live[self.source(node)]

    def needs(self, net: Net, node: fx.Node, keep: Bits | None) -> Needs:
        assert keep is not None
        yield self.source(node), keep

    def emit(self, out: Emitter, node: fx.Node) -> Phys | None:
        channels = out.net.kept(node)
        source = self.source(node)
        return out.holding(channels, node, out.copy(node, {source: out.fetch(source, channels)}))


class Lift(Same):
    """Acts on each channel by itself but may turn zero into something else: sigmoid, exp, adding a number, ..."""

    def live(self, net: Net, node: fx.Node) -> Bits | None:
        return np.ones(width(node) or 0, bool)


class Noise(Same):
    """Dropout: runs on all channels, zeros for the dead ones, to draw the random numbers that the dense network
    draws."""

    def emit(self, out: Emitter, node: fx.Node) -> Phys | None:
        return Rule.emit(self, out, node)


class ByNumber(Same):
    """x / number."""

    def accepts(self, net: Net, node: fx.Node) -> bool:
        return super().accepts(net, node) and isinstance(node.args[0], fx.Node) and bool(shape(node.args[0]))


class Reduce(Same):
    """Mean or sum over dimensions that are neither batch nor channels."""

    def accepts(self, net: Net, node: fx.Node) -> bool:
        if not super().accepts(net, node):
            return False
        dims = argument(node, 1, "dim")
        rank = len(shape(self.source(node)))
        dims = [dims] if isinstance(dims, int) else dims
        return isinstance(dims, list | tuple) and all(d % rank > 1 for d in dims)


class SpatialPad(Same):
    """Zero padding of the dimensions after the channels."""

    def accepts(self, net: Net, node: fx.Node) -> bool:
        pad, mode = argument(node, 1, "pad", ()), argument(node, 2, "mode", "constant")
        rank = len(shape(node))
        inside = isinstance(pad, list | tuple) and len(pad) <= 2 * (rank - 2)
        return inside and super().accepts(net, node) and (mode != "constant" or not argument(node, 3, "value"))


class SpatialSlice(Same):
    """x[:, :, ...]: all channels, a part of every map (strided too)."""

    def accepts(self, net: Net, node: fx.Node) -> bool:
        index = node.args[1]
        whole = slice(None)
        return (
            super().accepts(net, node)
            and isinstance(index, tuple)
            and list(index[:2]) == [whole, whole]
            and all(isinstance(i, slice) for i in index)
        )


class PReLU(Same):
    """One slope for all channels."""

    def accepts(self, net: Net, node: fx.Node) -> bool:
        return super().accepts(net, node) and net.module(node).num_parameters == 1


class Pair(Rule):
    """Elementwise on two tensors; one may have a single channel, which then meets every channel of the other."""

    def operands(self, node: fx.Node) -> list[fx.Node]:
        return [a for a in node.args[:2] if isinstance(a, fx.Node) and shape(a)]

    def accepts(self, net: Net, node: fx.Node) -> bool:
        pair = self.operands(node)
        return (
            len(pair) == 2
            and len([n for n in node.all_input_nodes if shape(n)]) == len(set(pair))
            and all(n in net.live and len(shape(n)) == len(shape(node)) for n in pair)
        )

    def spread(self, net: Net, node: fx.Node, operand: fx.Node) -> Bits:
        """The operand's live channels at the output's width."""
        return np.broadcast_to(net.live[operand], (width(node) or 0,))

    def needs(self, net: Net, node: fx.Node, keep: Bits | None) -> Needs:
        assert keep is not None
        for n in self.operands(node):
            yield n, keep if width(n) == len(keep) else np.array([keep.any()])

    def emit(self, out: Emitter, node: fx.Node) -> Phys | None:
        channels = out.net.kept(node)
        narrow = np.zeros(1, int)
        fetched = {n: out.fetch(n, channels if width(n) == width(node) else narrow) for n in self.operands(node)}
        return out.holding(channels, node, out.copy(node, fetched))


class Add(Pair):
    """Zero where both are. What is added is kept alike on both sides and in the sum (`pull`): dropping a channel of
    a residual stream half-way would cost a copy of the whole stream, to save one channel."""

    def live(self, net: Net, node: fx.Node) -> Bits | None:
        a, b = self.operands(node)
        return self.spread(net, node, a) | self.spread(net, node, b)

    def pull(self, net: Net, node: fx.Node) -> Bits | None:
        a, b = self.operands(node)
        return np.logical_or(*(net.need[n] if width(n) == width(node) else np.zeros(1, bool) for n in (a, b)))


class Mul(Pair):
    """Zero where either is."""

    def live(self, net: Net, node: fx.Node) -> Bits | None:
        a, b = self.operands(node)
        return self.spread(net, node, a) & self.spread(net, node, b)


class ExpandAs(Pair):
    """The first operand at the shape of the second."""

    def live(self, net: Net, node: fx.Node) -> Bits | None:
        return self.spread(net, node, self.operands(node)[0])
