"""Rules of operations that only move channels: picked, permuted, padded, flattened, put together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx

from ebsim.tickets.shrinking.rules.base import Bits, Needs, Rule, argument, shape, width

if TYPE_CHECKING:
    from ebsim.tickets.shrinking.liveness import Net
    from ebsim.tickets.shrinking.rewrite import Emitter, Phys


class Pick(Rule):
    """Output channel j is input channel index[j], or zero where that is -1. Nothing runs: only positions change."""

    def index(self, net: Net, node: fx.Node) -> tuple[fx.Node, np.ndarray]:
        """The value that is picked from, and the index."""
        raise NotImplementedError

    def live(self, net: Net, node: fx.Node) -> Bits | None:
        source, index = self.index(net, node)
        return (index >= 0) & net.live[source][index]

    def needs(self, net: Net, node: fx.Node, keep: Bits | None) -> Needs:
        assert keep is not None
        source, index = self.index(net, node)
        bits = np.zeros(width(source) or 0, bool)
        bits[index[keep]] = True
        yield source, bits

    def emit(self, out: Emitter, node: fx.Node) -> Phys | None:
        source, index = self.index(out.net, node)
        inner = out.phys[source]
        return inner._replace(position=np.where(index >= 0, inner.position[index], -1))


class Selection(Pick):
    """The selection of an already shrunk network."""

    def accepts(self, net: Net, node: fx.Node) -> bool:
        return node.args[0] in net.live

    def index(self, net: Net, node: fx.Node) -> tuple[fx.Node, np.ndarray]:
        source: Any = node.args[0]
        index = net.module(node).index.cpu().numpy()
        return source, np.where(index < net.module(node).width, index, -1)


class ChannelPad(Pick):
    """Zero padding that adds channels too (the parameter-free shortcut of CIFAR ResNets): dead ones."""

    def accepts(self, net: Net, node: fx.Node) -> bool:
        pad, rank = argument(node, 1, "pad", ()), len(shape(node))
        plain = argument(node, 2, "mode", "constant") == "constant" and not argument(node, 3, "value")
        return (
            plain
            and node.args[0] in net.live
            and isinstance(pad, list | tuple)
            and len(pad) == 2 * (rank - 1)
            and all(isinstance(p, int) and p >= 0 for p in pad)
        )

    def index(self, net: Net, node: fx.Node) -> tuple[fx.Node, np.ndarray]:
        source: Any = node.args[0]
        before = argument(node, 1, "pad")[-2]
        channel = np.arange(width(node) or 0) - before
        return source, np.where((channel >= 0) & (channel < width(source)), channel, -1)

    def emit(self, out: Emitter, node: fx.Node) -> Phys | None:
        picked = super().emit(out, node)
        spatial = list(argument(node, 1, "pad")[:-2])
        if picked is None or not any(spatial):
            return picked
        return picked._replace(base=out.graph.call_function(F.pad, (picked.base, spatial)))


class Move(Pick):
    """Views, permutations, slices, chunks: values are moved, never changed.

    What goes where is found by doing the same to a tensor of labels. Three outcomes have channels: whole channels
    picked or permuted (also by a view, a transpose and a view: channel shuffle), every channel flattened into a run
    of features, and dimensions of size one added. Any other stage in between is opaque, though a later view may yet
    give whole channels back.
    """

    def accepts(self, net: Net, node: fx.Node) -> bool:
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or len([n for n in node.all_input_nodes if shape(n)]) > 1:
            return False
        if "labels" in source.meta and source.meta["move"] is None:  # go on from where whole channels were last seen
            labels, root = source.meta["labels"], source.meta["root"]
        elif source in net.live:
            labels, root = torch.arange(math.prod(shape(source))).view(shape(source)), source
        else:
            return False
        node.meta["labels"], node.meta["root"] = net.replay(node, source, labels), root
        node.meta["move"] = _as_channels(node.meta["labels"], shape(root))
        return True

    def index(self, net: Net, node: fx.Node) -> tuple[fx.Node, np.ndarray]:
        return node.meta["root"], node.meta["move"]

    def opaque(self, node: fx.Node) -> bool:
        """No form that keeps channels whole: acts on the whole tensor, if anything but a further view reads it."""
        return node.meta["move"] is None

    def live(self, net: Net, node: fx.Node) -> Bits | None:
        return Rule.live(self, net, node) if self.opaque(node) else super().live(net, node)

    def needs(self, net: Net, node: fx.Node, keep: Bits | None) -> Needs:
        if not self.opaque(node):
            return super().needs(net, node, keep)
        return Rule.needs(self, net, node, keep) if keep is not None and keep.any() else ()

    def emit(self, out: Emitter, node: fx.Node) -> Phys | None:
        root, move = self.index(out.net, node)
        if self.opaque(node):
            return Rule.emit(self, out, node)
        if shape(node)[2:] == shape(root)[2:]:
            return super().emit(out, node)
        run = len(move) // (width(root) or 1)  # features per channel
        channels = np.unique(move[out.net.kept(node)])
        base = out.graph.call_function(torch.flatten, (out.fetch(root, channels), 1))
        ones = shape(node)[2:]
        if ones:
            base = out.graph.call_function(torch.reshape, (base, (-1, len(channels) * run, *ones)))
        return out.holding((channels[:, None] * run + np.arange(run)).ravel(), node, base)


class MoveOn(Move):
    """A step that is a move only between two views (contiguous), and an operation like others elsewhere."""

    def accepts(self, net: Net, node: fx.Node) -> bool:
        source = node.all_input_nodes[0]
        return "labels" in source.meta and self.opaque(source) and super().accepts(net, node)


def _as_channels(labels: Any, root: tuple[int, ...]) -> np.ndarray | None:
    """Per output channel the input channel that it comes from, if moving to `labels` has that form; else None."""
    if not isinstance(labels, Tensor) or labels.ndim < 2 or labels.shape[0] != root[0] or not labels.numel():
        return None
    run = int(np.prod(root[2:], dtype=int))
    per_image = labels.reshape(root[0], labels.shape[1], -1).numpy()
    origin = per_image // run
    batch, channel = origin // root[1], origin % root[1]
    if (batch != np.arange(root[0])[:, None, None]).any() or (channel != channel[:1, :, :1]).any():
        return None
    once = np.unique(channel[0, :, 0]).size == labels.shape[1]
    picked = once and labels.shape[2:] == root[2:] and (per_image % run == np.arange(run)).all()
    flattened = set(labels.shape[2:]) <= {1} and (per_image[0].ravel() == np.arange(root[1] * run)).all()
    return channel[0, :, 0] if picked or flattened else None


class Cat(Rule):
    """Concatenation of channels. Takes each input as it is; a consumer of the result selects once."""

    def _inputs(self, node: fx.Node) -> list[fx.Node]:
        return list(argument(node, 0, "tensors", ()))

    def accepts(self, net: Net, node: fx.Node) -> bool:
        dim = argument(node, 1, "dim", 0)
        inputs = argument(node, 0, "tensors", ())
        return (
            isinstance(dim, int)
            and isinstance(inputs, list | tuple)
            and dim % max(1, len(shape(node))) == 1
            and all(n in net.live for n in inputs)
        )

    def live(self, net: Net, node: fx.Node) -> Bits | None:
        return np.concatenate([net.live[n] for n in self._inputs(node)])

    def needs(self, net: Net, node: fx.Node, keep: Bits | None) -> Needs:
        assert keep is not None
        for n in self._inputs(node):
            yield n, keep[: width(n)]
            keep = keep[width(n) :]

    def emit(self, out: Emitter, node: fx.Node) -> Phys | None:
        parts, positions, at = [], [], 0
        for n in self._inputs(node):
            phys = out.phys[n]
            if (phys.position >= 0).sum() < phys.width:  # a slice of something wider: take its own channels only
                channels = out.net.kept(n)
                phys = out.holding(channels, n, out.fetch(n, channels))
            parts.append(phys.base)
            positions.append(np.where(phys.position >= 0, phys.position + at, -1))
            at += phys.width
        base = out.graph.call_function(torch.cat, (parts, 1))
        return phys._replace(base=base, position=np.concatenate(positions), width=at)
