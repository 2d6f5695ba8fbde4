"""Rules of sizes, numbers and flags: they are those of the dense network, and cost no channels.

A size that is the number of channels becomes that number; any other is read from the narrower tensor. Arithmetic on
numbers that are known then is done at once.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from ebsim.tickets.shrinking.rules.base import (
    Analysis,
    Bits,
    ChannelLayout,
    ChannelRule,
    GraphWriter,
    Needs,
    argument,
    axis,
    is_tensor,
    shape,
    width,
)
from ebsim.tickets.shrinking.run_time import expect


class Quiet(ChannelRule):
    """Base: gives no tensor, needs no channel."""

    quiet = True

    def live(self, net: Analysis, node: fx.Node) -> Bits | None:
        return None

    def needs(self, net: Analysis, node: fx.Node, keep: Bits | None) -> Needs:
        return ()

    def whole(self, net: Analysis, node: fx.Node) -> list[fx.Node]:
        return []


_READ = {"shape", "ndim", "dtype", "device", "is_cuda", "requires_grad", "layout"}


class Size(Quiet):
    """x.shape, x.size(), x.size(d), x.dtype, ..."""

    def accepts(self, net: Analysis, node: fx.Node) -> bool:
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or not is_tensor(source) or isinstance(node.meta["val"], Tensor):
            return False
        return node.target is not getattr or node.args[1] in _READ

    def emit(self, out: GraphWriter, node: fx.Node) -> ChannelLayout | None:
        source: Any = node.args[0]
        rank, along = len(shape(source)), axis(source)
        read = out.some(source)
        value = node.meta["val"]
        if node.target in ("dim", "ndimension"):
            out.raw[node] = value
        elif isinstance(value, torch.Size):
            out.raw[node] = _sizes(out, node, source, read)
        elif node.target == "size" and isinstance(dim := argument(node, 1, "dim"), int):
            out.raw[node] = width(source) if dim % rank == along else out.copy(node, {source: read})
        elif node.target in ("numel", "nelement"):
            out.raw[node] = out.copy(node, {source: out.dense(source)})
        else:
            out.raw[node] = out.copy(node, {source: read})
        return None


def _sizes(out: GraphWriter, node: fx.Node, source: fx.Node, read: Any) -> tuple[Any, ...]:
    """A whole shape in the new graph: a node or a number per dimension; unread nodes are dropped later."""
    whole = out.copy(node, {source: read})
    dims = range(len(shape(source)))
    return tuple(
        width(source) if d == axis(source) else out.graph.call_function(operator.getitem, (whole, d)) for d in dims
    )


class Number(Quiet):
    """An operation on numbers, shapes and flags alone."""

    def accepts(self, net: Analysis, node: fx.Node) -> bool:
        plain = not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(node.meta["val"]))
        return plain and all(n in net.rule and _is_number(n) for n in node.all_input_nodes)

    def emit(self, out: GraphWriter, node: fx.Node) -> ChannelLayout | None:
        args: Any
        kwargs: Any
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: out.raw[n])
        inner: Any = []
        fx.node.map_arg((args, kwargs), lambda n: inner.append(n) or n)
        if node.target is operator.getitem and isinstance(args[0], tuple) and isinstance(args[1], int | slice):
            out.raw[node] = args[0][args[1]]
        elif node.target is operator.add and all(isinstance(a, tuple) for a in args):
            out.raw[node] = args[0] + args[1]
        elif not inner and node.target is expect:
            return None  # known when it was traced, and known still
        elif not inner and node.target is torch._assert:
            return None
        elif not inner and node.op == "call_function" and callable(node.target):
            out.raw[node] = node.meta["val"]
        else:
            if node.op == "call_method" and isinstance(args[0], tuple):
                args = (out.graph.call_function(torch.Size, (list(args[0]),)), *args[1:])
            out.raw[node] = out.graph.create_node(node.op, node.target, args, kwargs)
        return None


class Fresh(ChannelRule):
    """A new tensor of given sizes, with the type and the device of another (x.new_zeros(...))."""

    quiet = True

    def needs(self, net: Analysis, node: fx.Node, keep: Bits | None) -> Needs:
        return ()

    def emit(self, out: GraphWriter, node: fx.Node) -> ChannelLayout | None:
        source: Any = node.args[0]
        read = {source: out.some(source)}
        return out.full(node, out.copy(node, {n: read[n] if n in read else out.dense(n) for n in node.all_input_nodes}))


class FreshLike(Fresh):
    """A new tensor of the dense network's size, whatever is left of the channels (zeros_like, rand_like)."""

    def emit(self, out: GraphWriter, node: fx.Node) -> ChannelLayout | None:
        return ChannelRule.emit(self, out, node)


class SizesOf(ChannelRule):
    """x.view_as(y), x.expand_as(y) where x has no channels to tell apart: of y only the sizes are read."""

    def accepts(self, net: Analysis, node: fx.Node) -> bool:
        like = node.args[1] if len(node.args) == 2 else None
        return isinstance(like, fx.Node) and is_tensor(like) and like is not node.args[0]

    def needs(self, net: Analysis, node: fx.Node, keep: Bits | None) -> Needs:
        yield from net.demand(node.args[0])  # type: ignore[arg-type]

    def whole(self, net: Analysis, node: fx.Node) -> list[fx.Node]:
        return [node.args[0]]  # type: ignore[list-item]

    def emit(self, out: GraphWriter, node: fx.Node) -> ChannelLayout | None:
        value, like = node.args
        assert isinstance(value, fx.Node) and isinstance(like, fx.Node)
        read = out.some(like)
        sizes = tuple(
            width(like) if d == axis(like) else out.graph.call_method("size", (read, d))
            for d in range(len(shape(like)))
        )
        name = "expand" if node.target == "expand_as" else "reshape"
        return out.full(node, out.graph.call_method(name, (out.dense(value), sizes)))


def _is_number(node: fx.Node) -> bool:
    return not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(node.meta["val"]))
