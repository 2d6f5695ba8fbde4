"""Rules of operations that pick channels, pad them, or put tensors together: values are moved, never changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
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
    call_name,
    incoming,
    is_tensor,
    plain,
    shape,
    tensors,
    wanted,
    width,
)


class Pick(ChannelRule):
    """Output channel j is input channel index[j], or zero where that is -1. Nothing runs: only positions change."""

    def index(self, net: Analysis, node: fx.Node) -> tuple[fx.Node, np.ndarray]:
        """The value that is picked from, and the index."""
        raise NotImplementedError

    def axis(self, net: Analysis, node: fx.Node) -> int | None:
        return axis(self.index(net, node)[0])

    def live(self, net: Analysis, node: fx.Node) -> Bits | None:
        source, index = self.index(net, node)
        return (index >= 0) & net.live[source][index]

    def needs(self, net: Analysis, node: fx.Node, keep: Bits | None) -> Needs:
        assert keep is not None
        source, index = self.index(net, node)
        bits = np.zeros(width(source), bool)
        picked = index[keep]
        bits[picked[picked >= 0]] = True
        yield source, bits

    def whole(self, net: Analysis, node: fx.Node) -> list[fx.Node]:
        return []

    def emit(self, out: GraphWriter, node: fx.Node) -> ChannelLayout | None:
        source, index = self.index(out.net, node)
        inner = out.phys[source]
        return inner._replace(position=np.where(index >= 0, inner.position[index], -1))


class Selection(Pick):
    """The selection of an already shrunk network."""

    def accepts(self, net: Analysis, node: fx.Node) -> bool:
        source = node.args[0]
        return isinstance(source, fx.Node) and axis(source) == net.module(node).dim

    def index(self, net: Analysis, node: fx.Node) -> tuple[fx.Node, np.ndarray]:
        source: Any = node.args[0]
        index = net.module(node).index.cpu().numpy()
        return source, np.where(index < net.module(node).width, index, -1)


class ChannelPad(Pick):
    """Zero padding that adds channels too (the parameter-free shortcut of CIFAR ResNets): dead ones."""

    def accepts(self, net: Analysis, node: fx.Node) -> bool:
        pad, rank = argument(node, 1, "pad", ()), len(shape(node))
        source = node.args[0]
        zeros = argument(node, 2, "mode", "constant") == "constant" and not argument(node, 3, "value")
        return (
            zeros
            and isinstance(source, fx.Node)
            and axis(source) == 1
            and isinstance(pad, list | tuple)
            and len(pad) == 2 * (rank - 1)
            and all(isinstance(p, int) and p >= 0 for p in plain(pad))
        )

    def index(self, net: Analysis, node: fx.Node) -> tuple[fx.Node, np.ndarray]:
        source: Any = node.args[0]
        before = plain(argument(node, 1, "pad"))[-2]
        channel = np.arange(width(node) if "axis" in node.meta else shape(node)[1]) - before
        return source, np.where((channel >= 0) & (channel < width(source)), channel, -1)

    def emit(self, out: GraphWriter, node: fx.Node) -> ChannelLayout | None:
        picked = super().emit(out, node)
        spatial = list(argument(node, 1, "pad")[:-2])
        if picked is None or not any(spatial):
            return picked
        spatial = [out.raw[p] if isinstance(p, fx.Node) else p for p in spatial]
        return picked._replace(base=out.graph.call_function(F.pad, (picked.base, spatial)))


class Cat(ChannelRule):
    """Concatenation of channels. Takes each input as it is; a consumer of the result selects once."""

    def inputs(self, node: fx.Node) -> list[Any]:
        given = argument(node, 0, "tensors", ())
        return list(given) if isinstance(given, list | tuple) else []

    def dim(self, node: fx.Node) -> int:
        dim = plain(argument(node, 1, "dim", 0))
        return dim % max(1, len(shape(node))) if isinstance(dim, int) else -1

    def accepts(self, net: Analysis, node: fx.Node) -> bool:
        inputs, dim = self.inputs(node), self.dim(node)
        fits = all(isinstance(n, fx.Node) and is_tensor(n) and len(shape(n)) == len(shape(node)) for n in inputs)
        return fits and any(axis(n) == dim for n in inputs)

    def axis(self, net: Analysis, node: fx.Node) -> int | None:
        return self.dim(node)

    def live(self, net: Analysis, node: fx.Node) -> Bits | None:
        return np.concatenate([incoming(net, n, self.dim(node)) for n in self.inputs(node)])

    def needs(self, net: Analysis, node: fx.Node, keep: Bits | None) -> Needs:
        assert keep is not None
        dim = self.dim(node)
        for n in self.inputs(node):
            yield from wanted(net, n, dim, keep[: shape(n)[dim]])
            keep = keep[shape(n)[dim] :]

    def whole(self, net: Analysis, node: fx.Node) -> list[fx.Node]:
        return [n for n in self.inputs(node) if axis(n) != self.dim(node)]

    def emit(self, out: GraphWriter, node: fx.Node) -> ChannelLayout | None:
        parts, positions, at, dim = [], [], 0, self.dim(node)
        for n in self.inputs(node):
            if axis(n) == dim:
                phys = out.phys[n]
                if (phys.position >= 0).sum() < phys.width:  # a slice of something wider: take its own channels only
                    channels = out.net.kept(n)
                    phys = out.holding(channels, n, out.fetch(n, channels))
            else:
                phys = ChannelLayout(out.dense(n), np.arange(shape(n)[dim]), shape(n)[dim])
            parts.append(phys.base)
            positions.append(np.where(phys.position >= 0, phys.position + at, -1))
            at += phys.width
        return ChannelLayout(out.graph.call_function(torch.cat, (parts, dim)), np.concatenate(positions), at)


class Together(Cat):
    """Tensors put together along another dimension than that of the channels (cat, stack)."""

    def _along(self, node: fx.Node) -> int:
        return next(axis(n) for n in self.inputs(node) if axis(n) is not None)  # type: ignore[return-value]

    def _stacks(self, node: fx.Node) -> bool:
        return call_name(node) == "stack"

    def accepts(self, net: Analysis, node: fx.Node) -> bool:
        inputs = self.inputs(node)
        if not all(isinstance(n, fx.Node) and is_tensor(n) for n in inputs) or self.dim(node) < 0:
            return False
        known = [n for n in inputs if axis(n) is not None]
        same = len({len(shape(n)) for n in inputs}) == 1
        return bool(known) and same and (self._stacks(node) or self._along(node) != self.dim(node))

    def axis(self, net: Analysis, node: fx.Node) -> int | None:
        along = self._along(node)
        return along + (self._stacks(node) and self.dim(node) <= along)

    def live(self, net: Analysis, node: fx.Node) -> Bits | None:
        return np.logical_or.reduce([incoming(net, n, self._along(node)) for n in self.inputs(node)])

    def needs(self, net: Analysis, node: fx.Node, keep: Bits | None) -> Needs:
        assert keep is not None
        for n in self.inputs(node):
            yield from wanted(net, n, self._along(node), keep)

    def whole(self, net: Analysis, node: fx.Node) -> list[fx.Node]:
        return [n for n in self.inputs(node) if axis(n) != self._along(node)]

    def emit(self, out: GraphWriter, node: fx.Node) -> ChannelLayout | None:
        channels, along = out.net.kept(node), self._along(node)
        taken = {n: out.take(n, along, channels) for n in self.inputs(node)}
        return out.holding(channels, node, out.copy(node, taken))


class PixelShuffle(ChannelRule):
    """[N, C r^2, H, W] -> [N, C, r H, r W]: an output channel is r^2 input channels."""

    def _times(self, node: fx.Node) -> int:
        return shape(tensors(node)[0])[1] // shape(node)[1]

    def accepts(self, net: Analysis, node: fx.Node) -> bool:
        inputs = tensors(node)
        return len(inputs) == 1 and axis(inputs[0]) == 1 and len(shape(node)) == 4

    def axis(self, net: Analysis, node: fx.Node) -> int | None:
        return 1

    def live(self, net: Analysis, node: fx.Node) -> Bits | None:
        return np.asarray(net.live[tensors(node)[0]].reshape(-1, self._times(node)).any(1))

    def needs(self, net: Analysis, node: fx.Node, keep: Bits | None) -> Needs:
        assert keep is not None
        yield tensors(node)[0], np.repeat(keep, self._times(node))

    def whole(self, net: Analysis, node: fx.Node) -> list[fx.Node]:
        return []

    def emit(self, out: GraphWriter, node: fx.Node) -> ChannelLayout | None:
        channels, times, source = out.net.kept(node), self._times(node), tensors(node)[0]
        wide = (channels[:, None] * times + np.arange(times)).ravel()
        return out.holding(channels, node, out.copy(node, {source: out.fetch(source, wide)}))


class PixelUnshuffle(PixelShuffle):
    """[N, C, r H, r W] -> [N, C r^2, H, W]."""

    def _times(self, node: fx.Node) -> int:
        return shape(node)[1] // shape(tensors(node)[0])[1]

    def live(self, net: Analysis, node: fx.Node) -> Bits | None:
        return np.repeat(net.live[tensors(node)[0]], self._times(node))

    def needs(self, net: Analysis, node: fx.Node, keep: Bits | None) -> Needs:
        assert keep is not None
        yield tensors(node)[0], np.asarray(keep.reshape(-1, self._times(node)).any(1))

    def emit(self, out: GraphWriter, node: fx.Node) -> ChannelLayout | None:
        times, source = self._times(node), tensors(node)[0]
        channels = np.unique(out.net.kept(node) // times)
        wide = (channels[:, None] * times + np.arange(times)).ravel()
        return out.holding(wide, node, out.copy(node, {source: out.fetch(source, channels)}))
