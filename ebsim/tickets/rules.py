"""What each operation does to channels: which can be non-zero, which are needed, and how to run on fewer of them.

A value is followed along dimension 1 (channels of [N, C, ...], features of [N, C]). A rule answers, per operation:

- live: which output channels can be non-zero, given those of the inputs. A pruned BatchNorm channel (gamma = beta = 0)
  is zero whatever comes in; sigmoid(0), a bias or a scalar added to zero are not.
- needs: which input channels are needed, given the output channels that are both live and needed.
- emit: the operation on tensors that hold only the kept channels (see `rewrite.py`).

Nothing looks at weight values, so the outcome depends on the architecture and the mask alone. An operation without a
rule gets whole tensors, with zeros where channels are dead, and all its outputs count as live: exact, but nothing is
saved there, and a note says so. `RULES` at the end is the whole table; a rule that does not `accept` a node (an odd
dimension, a hooked module) leaves it to that conservative rule too.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ebsim.tickets import shrink
from ebsim.tickets.select import Select

if TYPE_CHECKING:
    from ebsim.tickets.liveness import Net
    from ebsim.tickets.rewrite import Emitter, Phys

Bits = np.ndarray  # bool, [channels]
Needs = Iterable[tuple[fx.Node, Bits]]


def shape(value: Any) -> tuple[int, ...]:
    """Shape of a node's or a plain value; () for what is no tensor."""
    value = value.meta["val"] if isinstance(value, fx.Node) else value
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def width(node: fx.Node) -> int | None:
    """Channels of a node's value, None when it has no dimension 1."""
    s = shape(node)
    return s[1] if len(s) >= 2 else None


def argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """An argument given by position or by name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


class Rule:
    """The conservative rule, and the base of the others."""

    def accepts(self, net: Net, node: fx.Node) -> bool:
        return True

    def live(self, net: Net, node: fx.Node) -> Bits | None:
        n = width(node)
        return None if n is None else np.ones(n, bool)

    def needs(self, net: Net, node: fx.Node, keep: Bits | None) -> Needs:
        for source in node.all_input_nodes:
            yield from net.demand(source)

    def pull(self, net: Net, node: fx.Node) -> Bits | None:
        """Output channels that must be kept because an input keeps them."""
        return None

    def emit(self, out: Emitter, node: fx.Node) -> Phys | None:
        return out.full(node, out.copy(node, {n: out.dense(n) for n in node.all_input_nodes}))


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


class Reduce(Same):
    """Mean or sum over dimensions that are neither batch nor channels."""

    def accepts(self, net: Net, node: fx.Node) -> bool:
        if not super().accepts(net, node):
            return False
        dims = argument(node, 1, "dim")
        rank = len(shape(self.source(node)))
        dims = [dims] if isinstance(dims, int) else dims
        return isinstance(dims, list | tuple) and all(d % rank > 1 for d in dims)


class PReLU(Same):
    """One slope for all channels."""

    def accepts(self, net: Net, node: fx.Node) -> bool:
        return super().accepts(net, node) and net.module(node).num_parameters == 1


class SpatialPad(Same):
    """Zero padding of the dimensions after the channels."""

    def accepts(self, net: Net, node: fx.Node) -> bool:
        pad, mode = argument(node, 1, "pad", ()), argument(node, 2, "mode", "constant")
        rank = len(shape(node))
        inside = isinstance(pad, list | tuple) and len(pad) <= 2 * (rank - 2)
        return inside and super().accepts(net, node) and (mode != "constant" or not argument(node, 3, "value"))


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
        groups, ins, outs = shrink.geometry(net.module(node))
        if net.module(node).bias is not None:
            return np.ones(groups * outs, bool)
        return np.repeat(net.live[self.source(node)].reshape(groups, ins).any(1), outs)

    def needs(self, net: Net, node: fx.Node, keep: Bits | None) -> Needs:
        groups, ins, outs = shrink.geometry(net.module(node))
        assert keep is not None
        yield self.source(node), np.repeat(keep.reshape(groups, outs).any(1), ins)


class Size(Rule):
    """x.shape, x.size(), x.size(d): the dense network's number of channels, whatever is left of them."""

    def accepts(self, net: Net, node: fx.Node) -> bool:
        named = node.target is not getattr or node.args[1] in ("shape", "ndim", "dtype", "device", "is_cuda")
        return named and isinstance(node.args[0], fx.Node) and node.args[0] in net.live

    def live(self, net: Net, node: fx.Node) -> Bits | None:
        return None

    def needs(self, net: Net, node: fx.Node, keep: Bits | None) -> Needs:
        return ()

    def emit(self, out: Emitter, node: fx.Node) -> Phys | None:
        source: Any = node.args[0]
        rank = len(shape(source))
        dim = argument(node, 1, "dim") if node.target == "size" else None
        if isinstance(dim, int) and dim % rank == 1:
            out.raw[node] = width(source)
        elif not isinstance(node.meta["val"], torch.Size):
            out.raw[node] = out.copy(node, {source: out.phys[source].base})
        return None  # a whole shape is read when somebody asks for it (`dense`), or one item of it (below)


class SizeItem(Rule):
    """x.shape[i]."""

    def accepts(self, net: Net, node: fx.Node) -> bool:
        whole, item = node.args[:2]
        if not (isinstance(whole, fx.Node) and isinstance(net.rule.get(whole), Size)):
            return False
        dims = np.arange(len(whole.meta["val"]))
        if isinstance(item, int):
            return True
        return isinstance(item, slice) and item.step is None and 1 not in dims[item]

    live = Size.live
    needs = Size.needs

    def emit(self, out: Emitter, node: fx.Node) -> Phys | None:
        whole: Any
        whole, item = node.args[:2]
        source = whole.args[0]
        if isinstance(item, int) and item % len(shape(source)) == 1:
            out.raw[node] = width(source)
        else:
            read = out.copy(whole, {source: out.phys[source].base})
            out.raw[node] = out.copy(node, {whole: read})
        return None


class Move(Pick):
    """Views, permutations, slices, chunks: values are moved, never changed.

    What goes where is found by doing the same to a tensor of labels. Three outcomes have channels: whole channels
    picked or permuted (also by a view, a transpose and a view: channel shuffle), every channel flattened into a run
    of features, and dimensions of size one added. Any other stage in between has none; it is written out on the whole
    tensor if something asks for it, and a later view may yet give channels back.
    """

    def accepts(self, net: Net, node: fx.Node) -> bool:
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or len([n for n in node.all_input_nodes if shape(n)]) > 1:
            return False
        if source in net.live:
            labels = torch.arange(math.prod(shape(source))).view(shape(source))
            root = source
        elif "labels" in source.meta:
            labels, root = source.meta["labels"], source.meta["root"]
        else:
            return False
        node.meta["labels"], node.meta["root"] = net.replay(node, source, labels), root
        node.meta["move"] = _as_channels(node.meta["labels"], shape(root))
        return True

    def index(self, net: Net, node: fx.Node) -> tuple[fx.Node, np.ndarray]:
        return node.meta["root"], node.meta["move"]

    def live(self, net: Net, node: fx.Node) -> Bits | None:
        return None if node.meta["move"] is None else super().live(net, node)

    def needs(self, net: Net, node: fx.Node, keep: Bits | None) -> Needs:
        return () if keep is None else super().needs(net, node, keep)

    def emit(self, out: Emitter, node: fx.Node) -> Phys | None:
        root, move = self.index(out.net, node)
        if move is None:
            return None  # written out on demand (`Emitter.dense`)
        if shape(node)[2:] == shape(root)[2:]:
            return super().emit(out, node)
        run = len(move) // (width(root) or 1)  # features per channel
        channels = np.unique(move[out.net.kept(node)])
        base = out.graph.call_function(torch.flatten, (out.fetch(root, channels), 1))
        ones = shape(node)[2:]
        if ones:
            base = out.graph.call_function(torch.reshape, (base, (-1, len(channels) * run, *ones)))
        return out.holding((channels[:, None] * run + np.arange(run)).ravel(), node, base)


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
    picked = labels.shape[2:] == root[2:] and (per_image % run == np.arange(run)).all()
    flattened = set(labels.shape[2:]) <= {1} and (per_image[0].ravel() == np.arange(root[1] * run)).all()
    return channel[0, :, 0] if picked or flattened else None


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


class ByNumber(Same):
    """x / number."""

    def accepts(self, net: Net, node: fx.Node) -> bool:
        return super().accepts(net, node) and isinstance(node.args[0], fx.Node) and bool(shape(node.args[0]))


CONSERVATIVE = Rule()
_SAME, _LIFT, _MOVE, _REDUCE, _MIX = (Same(),), (Lift(),), (Move(),), (Reduce(),), (Mix(),)
_ADD, _MUL, _BY, _CAT = (Add(), Lift()), (Mul(), Same()), (ByNumber(), Lift()), (Cat(),)


def _each(rules: tuple[Rule, ...], *keys: Any) -> dict[Any, tuple[Rule, ...]]:
    return dict.fromkeys(keys, rules)


# Key: the function, the name of the tensor method, or the type of the module. The first rule that accepts is taken.
RULES: dict[Any, tuple[Rule, ...]] = {
    **_each((Norm(),), nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    **_each(_MIX, nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    **_each(_MIX, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    **_each((PReLU(), PerChannel()), nn.PReLU),
    Select: (Selection(),),
    # zero stays zero
    **_each(_SAME, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh),
    **_each(_SAME, nn.Hardswish, nn.Softsign, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink, nn.RReLU),
    **_each(_SAME, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout),
    **_each(_SAME, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    **_each(_SAME, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.LPPool2d),
    **_each(_SAME, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    **_each(_SAME, nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d, nn.ZeroPad2d, nn.ReflectionPad2d),
    **_each(_SAME, nn.ReplicationPad2d),
    **_each(_SAME, torch.relu, F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish, F.hardswish, F.tanh),
    **_each(_SAME, torch.tanh, torch.abs, torch.neg, operator.neg, torch.clone, torch.square, torch.sign),
    **_each(_SAME, F.dropout, F.dropout2d, F.max_pool2d, F.avg_pool2d, torch.max_pool2d),
    **_each(_SAME, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.interpolate, torch.adaptive_avg_pool1d),
    **_each(_SAME, "relu", "tanh", "abs", "neg", "clone", "float", "double", "half", "bfloat16", "detach", "square"),
    # zero may become something else
    **_each(_LIFT, nn.Sigmoid, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.LogSigmoid, nn.Threshold),
    **_each(_LIFT, torch.sigmoid, F.sigmoid, F.hardsigmoid, F.hardtanh, F.softplus, F.threshold, torch.clamp),
    **_each(_LIFT, torch.exp, torch.log, torch.sqrt, torch.rsqrt, torch.reciprocal, torch.pow, operator.pow),
    **_each(_LIFT, "sigmoid", "exp", "log", "sqrt", "rsqrt", "pow", "clamp", "reciprocal"),
    # two tensors, or a tensor and a number
    **_each(_ADD, operator.add, torch.add, "add", operator.sub, torch.sub, "sub", torch.maximum, torch.minimum),
    **_each(_MUL, operator.mul, torch.mul, "mul"),
    **_each(_BY, operator.truediv, torch.div, torch.true_divide, "div"),
    **_each((ExpandAs(),), "expand_as"),
    # channels put together and taken apart
    **_each(_CAT, torch.cat, torch.concat, torch.concatenate),
    **_each(_MOVE, "view", "reshape", "flatten", "unflatten", "permute", "transpose", "squeeze", "unsqueeze"),
    **_each(_MOVE, "chunk", "split", "narrow", "swapaxes", "movedim", torch.flatten, torch.reshape, torch.permute),
    **_each(_MOVE, torch.transpose, torch.squeeze, torch.unsqueeze, torch.chunk, torch.split, torch.narrow),
    **_each(_MOVE, torch.unflatten, torch.swapaxes, torch.movedim),
    **_each(_MOVE, nn.Flatten, nn.Unflatten, nn.ChannelShuffle, F.channel_shuffle, torch.channel_shuffle),
    "contiguous": (Same(), Move()),
    operator.getitem: (SizeItem(), Move(), SpatialSlice()),
    # over the maps
    **_each(_REDUCE, torch.mean, torch.sum, torch.amax, "mean", "sum", "amax"),
    "torchvision.ops.stochastic_depth.stochastic_depth": _SAME,
    F.pad: (SpatialPad(), ChannelPad()),
    **_each((Size(),), getattr, "size", "dim", "ndimension"),
}
