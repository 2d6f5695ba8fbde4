"""Rules of operations that keep channels apart: one tensor, or several of the same width."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from ebsim.tickets.shrinking.rules.base import (
    Analysis,
    Bits,
    ChannelLayout,
    ChannelRule,
    GraphWriter,
    Needs,
    argument,
    axis,
    incoming,
    plain,
    shape,
    tensors,
    wanted,
    width,
)


class Same(ChannelRule):
    """Acts on each element by itself and leaves zeros zero: ReLU, scaling by a number, ..."""

    def accepts(self, net: Analysis, node: fx.Node) -> bool:
        inputs = tensors(node)
        if len(inputs) != 1 or axis(inputs[0]) is None or len(shape(node)) != len(shape(inputs[0])):
            return False
        return shape(node)[axis(inputs[0]) or 0] == width(inputs[0])

    def source(self, node: fx.Node) -> fx.Node:
        return tensors(node)[0]

    def axis(self, net: Analysis, node: fx.Node) -> int | None:
        return axis(self.source(node))

    def live(self, net: Analysis, node: fx.Node) -> Bits | None:
        return net.live[self.source(node)]

    def needs(self, net: Analysis, node: fx.Node, keep: Bits | None) -> Needs:
        assert keep is not None
        yield self.source(node), keep

    def whole(self, net: Analysis, node: fx.Node) -> list[fx.Node]:
        return []

    def emit(self, out: GraphWriter, node: fx.Node) -> ChannelLayout | None:
        channels = out.net.kept(node)
        source = self.source(node)
        return out.holding(channels, node, out.copy(node, {source: out.fetch(source, channels)}))


class Lift(Same):
    """Acts on each element by itself but may turn zero into something else: sigmoid, exp, adding a number, ..."""

    def live(self, net: Analysis, node: fx.Node) -> Bits | None:
        return np.ones(width(node), bool)


class Maps(Same):
    """Acts on each map [N, C, ...] by itself and leaves maps of zeros zero: pooling, resizing, ..."""

    def accepts(self, net: Analysis, node: fx.Node) -> bool:
        return super().accepts(net, node) and axis(self.source(node)) == 1


class Noise(Same):
    """Dropout: runs on all channels, zeros for the dead ones, to draw the random numbers that the dense network
    draws."""

    def emit(self, out: GraphWriter, node: fx.Node) -> ChannelLayout | None:
        return ChannelRule.emit(self, out, node)


class ByNumber(Same):
    """x / number."""

    def accepts(self, net: Analysis, node: fx.Node) -> bool:
        return super().accepts(net, node) and node.args[0] is self.source(node)


class Reduce(Same):
    """Mean or sum over dimensions other than that of the channels."""

    def dims(self, node: fx.Node) -> list[int] | None:
        dims = plain(argument(node, 1, "dim"))
        rank = len(shape(self.source(node)))
        dims = [dims] if isinstance(dims, int) else dims
        return [d % rank for d in dims] if isinstance(dims, list | tuple) and dims else None

    def accepts(self, net: Analysis, node: fx.Node) -> bool:
        inputs = tensors(node)
        if len(inputs) != 1 or axis(inputs[0]) is None or not shape(node):
            return False
        dims = self.dims(node)
        return dims is not None and axis(inputs[0]) not in dims and argument(node, 3, "dtype") is None

    def axis(self, net: Analysis, node: fx.Node) -> int | None:
        source, dims = self.source(node), self.dims(node) or []
        along = axis(source) or 0
        kept = len(shape(node)) == len(shape(source))
        return along if kept else along - sum(d < along for d in dims)


class Extreme(Reduce):
    """Maximum or minimum over one dimension, with where it is: a tuple, of which `Part` takes a tensor."""

    quiet = True

    def accepts(self, net: Analysis, node: fx.Node) -> bool:
        inputs = tensors(node)
        if len(inputs) != 1 or axis(inputs[0]) is None or isinstance(node.meta["val"], torch.Tensor):
            return False
        dims = self.dims(node)
        return dims is not None and len(dims) == 1 and axis(inputs[0]) not in dims

    def axis(self, net: Analysis, node: fx.Node) -> int | None:
        return None

    def live(self, net: Analysis, node: fx.Node) -> Bits | None:
        return None

    def needs(self, net: Analysis, node: fx.Node, keep: Bits | None) -> Needs:
        return ()

    def emit(self, out: GraphWriter, node: fx.Node) -> ChannelLayout | None:
        return None  # `Part` writes it, `dense` where the tuple itself is used


class ExtremeValue(Reduce):
    """The values out of a tuple that `Extreme` gives; where they are (of zeros, the first) is no matter of zeros."""

    def pair(self, node: fx.Node) -> Any:
        return node.args[0]

    def source(self, node: fx.Node) -> fx.Node:
        return tensors(self.pair(node))[0]

    def accepts(self, net: Analysis, node: fx.Node) -> bool:
        pair = self.pair(node)
        first = node.args[1] in (0, "values") if len(node.args) > 1 else False
        return first and isinstance(pair, fx.Node) and isinstance(net.rule.get(pair), Extreme)

    def axis(self, net: Analysis, node: fx.Node) -> int | None:
        source, dims = self.source(node), self.dims(self.pair(node)) or []
        along = axis(source) or 0
        kept = len(shape(node)) == len(shape(source))
        return along if kept else along - sum(d < along for d in dims)

    def dims(self, node: fx.Node) -> list[int] | None:
        dim = plain(argument(node, 1, "dim"))
        return [dim % len(shape(tensors(node)[0]))] if isinstance(dim, int) else None

    def emit(self, out: GraphWriter, node: fx.Node) -> ChannelLayout | None:
        channels, source, pair = out.net.kept(node), self.source(node), self.pair(node)
        both = out.copy(pair, {source: out.fetch(source, channels)})
        return out.holding(channels, node, out.copy(node, {pair: both}))


class ByType(Same):
    """x.type_as(y): of the second tensor only the type is read."""

    def accepts(self, net: Analysis, node: fx.Node) -> bool:
        source = node.args[0]
        return isinstance(source, fx.Node) and axis(source) is not None and len(node.args) == 2

    def source(self, node: fx.Node) -> fx.Node:
        return node.args[0]  # type: ignore[return-value]

    def emit(self, out: GraphWriter, node: fx.Node) -> ChannelLayout | None:
        channels, source, like = out.net.kept(node), self.source(node), node.args[1]
        read = {like: out.some(like), source: out.fetch(source, channels)}  # type: ignore[arg-type]
        return out.holding(channels, node, out.copy(node, read))  # type: ignore[arg-type]


class Sampled(Maps):
    """Maps read at places that a second tensor gives (grid_sample): zeros wherever it looks."""

    def accepts(self, net: Analysis, node: fx.Node) -> bool:
        source = node.args[0] if node.args else None
        return isinstance(source, fx.Node) and axis(source) == 1 and tensors(node)[0] is source and len(node.args) > 1

    def source(self, node: fx.Node) -> fx.Node:
        return node.args[0]  # type: ignore[return-value]

    def others(self, node: fx.Node) -> list[fx.Node]:
        return [n for n in node.all_input_nodes if n is not self.source(node)]

    def needs(self, net: Analysis, node: fx.Node, keep: Bits | None) -> Needs:
        yield from super().needs(net, node, keep)
        for other in self.others(node):
            yield from net.demand(other)

    def whole(self, net: Analysis, node: fx.Node) -> list[fx.Node]:
        return self.others(node)

    def emit(self, out: GraphWriter, node: fx.Node) -> ChannelLayout | None:
        channels, source = out.net.kept(node), self.source(node)
        read = {source: out.fetch(source, channels), **{n: out.dense(n) for n in self.others(node)}}
        return out.holding(channels, node, out.copy(node, read))


class AlongOthers(Same):
    """An operation along one dimension (cumsum) that is not that of the channels."""

    def accepts(self, net: Analysis, node: fx.Node) -> bool:
        dim = plain(argument(node, 1, "dim"))
        if node.op == "call_module":
            dim = getattr(net.module(node), "dim", None)
        ok = super().accepts(net, node) and isinstance(dim, int)
        return ok and dim % len(shape(node)) != axis(self.source(node))


class LiftAlongOthers(AlongOthers, Lift):
    """The same, and zeros become something else (softmax)."""


class SpatialPad(Maps):
    """Zero padding of the dimensions after the channels."""

    def accepts(self, net: Analysis, node: fx.Node) -> bool:
        pad, mode = argument(node, 1, "pad", ()), argument(node, 2, "mode", "constant")
        rank = len(shape(node))
        inside = isinstance(pad, list | tuple) and len(pad) <= 2 * (rank - 2)
        return inside and super().accepts(net, node) and (mode != "constant" or not argument(node, 3, "value"))


class PReLU(Same):
    """One slope for all channels."""

    def accepts(self, net: Analysis, node: fx.Node) -> bool:
        return super().accepts(net, node) and net.module(node).num_parameters == 1


class GatedHalf(Maps):
    """GLU: the first half of the channels times a gate from the second half; zero where the first half is."""

    def accepts(self, net: Analysis, node: fx.Node) -> bool:
        inputs = tensors(node)
        dim = net.module(node).dim if node.op == "call_module" else plain(argument(node, 1, "dim", -1))
        return len(inputs) == 1 and axis(inputs[0]) is not None and dim % len(shape(node)) == axis(inputs[0])

    def live(self, net: Analysis, node: fx.Node) -> Bits | None:
        return net.live[self.source(node)][: width(node)]

    def needs(self, net: Analysis, node: fx.Node, keep: Bits | None) -> Needs:
        assert keep is not None
        yield self.source(node), np.concatenate([keep, keep])

    def emit(self, out: GraphWriter, node: fx.Node) -> ChannelLayout | None:
        channels, source = out.net.kept(node), self.source(node)
        both = np.concatenate([channels, channels + width(node)])
        return out.holding(channels, node, out.copy(node, {source: out.fetch(source, both)}))


class Pair(ChannelRule):
    """Elementwise on tensors that are broadcast to one shape (a parameter [C, 1, 1], a mask [N, 1, H, W], a number).

    The channels are those of the first operand that has as many as the output, at the same place."""

    def operands(self, node: fx.Node) -> list[fx.Node]:
        return [a for a in node.args[:2] if isinstance(a, fx.Node) and len(tensors(node)) and a in tensors(node)]

    def place(self, node: fx.Node, operand: fx.Node, along: int) -> int | None:
        """The operand's dimension that meets dimension `along` of the output; None where it is broadcast there."""
        dim = along - len(shape(node)) + len(shape(operand))
        return dim if dim >= 0 and shape(operand)[dim] == shape(node)[along] else None

    def axis(self, net: Analysis, node: fx.Node) -> int | None:
        lead = [n for n in self.operands(node) if axis(n) is not None]
        ranked = sorted(lead, key=lambda n: (width(n) == 1, -len(shape(n))))
        for n in ranked:
            along = (axis(n) or 0) + len(shape(node)) - len(shape(n))
            if shape(node)[along] == width(n):
                return along
        return None

    def accepts(self, net: Analysis, node: fx.Node) -> bool:
        pair = self.operands(node)
        return len(pair) == 2 and set(tensors(node)) == set(pair) and self.axis(net, node) is not None

    def spread(self, net: Analysis, node: fx.Node, operand: fx.Node) -> Bits:
        """The operand's live channels at the output's width."""
        along = axis(node)
        assert along is not None
        dim = self.place(node, operand, along)
        if dim is not None:
            return incoming(net, operand, dim)
        own = axis(operand)
        one = own is not None and width(operand) == 1 and own - len(shape(operand)) == along - len(shape(node))
        return np.broadcast_to(net.live[operand] if one else np.ones(1, bool), (width(node),))

    def needs(self, net: Analysis, node: fx.Node, keep: Bits | None) -> Needs:
        assert keep is not None
        along = axis(node)
        assert along is not None
        for n in self.operands(node):
            dim = self.place(node, n, along)
            if dim is not None:
                yield from wanted(net, n, dim, keep)
            elif keep.any():
                yield from net.demand(n)

    def whole(self, net: Analysis, node: fx.Node) -> list[fx.Node]:
        along = axis(node)
        assert along is not None
        return [n for n in self.operands(node) if width(n) > 1 and self.place(node, n, along) != axis(n)]

    def emit(self, out: GraphWriter, node: fx.Node) -> ChannelLayout | None:
        channels, along = out.net.kept(node), axis(node)
        assert along is not None
        fetched = {}
        for n in self.operands(node):
            dim = self.place(node, n, along)
            fetched[n] = out.dense(n) if dim is None else out.take(n, dim, channels)
        return out.holding(channels, node, out.copy(node, fetched))


class Add(Pair):
    """Zero where both are. What is added is kept alike on both sides and in the sum (`pull`): dropping a channel of
    a residual stream half-way would cost a copy of the whole stream, to save one channel."""

    def live(self, net: Analysis, node: fx.Node) -> Bits | None:
        a, b = self.operands(node) if node.args[0] is not node.args[1] else self.operands(node)[:1] * 2
        return self.spread(net, node, a) | self.spread(net, node, b)

    def pull(self, net: Analysis, node: fx.Node) -> Bits | None:
        along = axis(node)
        tied = [n for n in self.operands(node) if axis(n) is not None and self.place(node, n, along or 0) == axis(n)]
        return np.logical_or.reduce([net.need[n] for n in tied]) if tied else None


class Mul(Pair):
    """Zero where either is."""

    def live(self, net: Analysis, node: fx.Node) -> Bits | None:
        a, b = self.operands(node) if node.args[0] is not node.args[1] else self.operands(node)[:1] * 2
        return self.spread(net, node, a) & self.spread(net, node, b)


class ByFirst(Pair):
    """The first operand at the shape of the second."""

    def live(self, net: Analysis, node: fx.Node) -> Bits | None:
        return self.spread(net, node, self.operands(node)[0])


class Where(Pair):
    """One of two values by a third: zero where both are."""

    def operands(self, node: fx.Node) -> list[fx.Node]:
        return tensors(node)

    def accepts(self, net: Analysis, node: fx.Node) -> bool:
        return len(node.args) == 3 and not node.kwargs and self.axis(net, node) is not None

    def live(self, net: Analysis, node: fx.Node) -> Bits | None:
        chosen = (node.args[0], node.args[2]) if node.op == "call_method" else node.args[1:]
        live = np.zeros(width(node), bool)
        for value in chosen:
            known = isinstance(value, fx.Node) and value in tensors(node)
            live = live | (self.spread(net, node, value) if known else np.full(width(node), value != 0))  # type: ignore[arg-type]
        return live


class LiftPair(Pair):
    """Any other function of two elements: zero and zero may give anything (0 / 0)."""

    def live(self, net: Analysis, node: fx.Node) -> Bits | None:
        return np.ones(width(node), bool)
