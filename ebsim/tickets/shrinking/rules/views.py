"""Rules of views, permutations, slices and flips: operations that move values to other places or dimensions.

Where things go is found by doing the same to a tensor of labels. `Origin` is what labels say: along which dimension of
the output channels differ, and from which input channel each comes. Where that has an answer the operation is written
for the kept channels, or only their positions change; where it has none (a view that splits the channels over two
dimensions) the value is opaque, though a later view may give whole channels back (channel shuffle).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn

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
    is_tensor,
    plain,
    shape,
    tensors,
    width,
)
from ebsim.tickets.shrinking.run_time import expect, squeeze_others


class Origin(NamedTuple):
    """Where a moved value's channels come from: its dimension, the input channel of each entry along it, and whether
    everything else stayed in its place (`only`) or the values keep their order (`ordered`, a reshape)."""

    dim: int
    channel: np.ndarray
    only: bool
    ordered: bool


def origin(labels: Any, source: fx.Node) -> Origin | None:
    """What labels say about a move from `source`; None where channels do not lie along one dimension."""
    if not isinstance(labels, Tensor) or not labels.ndim or not labels.numel():
        return None
    size, along = shape(source), axis(source)
    assert along is not None
    if size[along] == 1 and labels.shape != size:
        return None  # one channel lies along any dimension
    found = labels.numpy()
    inner = math.prod(size[along + 1 :])
    channel = found // inner % size[along]
    for dim in [along, *(d for d in range(found.ndim) if d != along)]:
        if dim >= found.ndim or (found.shape[dim] == 1 and (dim != along or found.ndim != len(size))):
            continue  # a single entry says nothing, unless it is the one channel that was picked
        first = tuple(slice(None) if d == dim else slice(0, 1) for d in range(found.ndim))
        if (channel == channel[first]).all():
            index = channel[first].ravel()
            rest = found - channel * inner
            others = _without(size, along) == _without(found.shape, dim) and dim == along
            home = np.arange(math.prod(size), dtype=found.dtype).reshape(size)
            stays = others and np.array_equal(rest, np.broadcast_to(home.take([0], along), found.shape))
            ordered = found.size == home.size and np.array_equal(found.ravel(), home.ravel())
            return Origin(dim, index, stays, ordered)
    return None


def _without(size: tuple[int, ...], dim: int) -> tuple[int, ...]:
    return (*size[:dim], *size[dim + 1 :])


class Parts(ChannelRule):
    """chunk, split, unbind: a tuple; taking an item of it moves values (`Move`)."""

    quiet = True

    def accepts(self, net: Analysis, node: fx.Node) -> bool:
        inputs = tensors(node)
        return isinstance(node.meta["val"], tuple | list) and len(inputs) == 1 and axis(inputs[0]) is not None

    def live(self, net: Analysis, node: fx.Node) -> Bits | None:
        return None

    def needs(self, net: Analysis, node: fx.Node, keep: Bits | None) -> Needs:
        return ()

    def whole(self, net: Analysis, node: fx.Node) -> list[fx.Node]:
        return []

    def emit(self, out: GraphWriter, node: fx.Node) -> ChannelLayout | None:
        return None  # `dense` writes it where the tuple itself is used


class Move(ChannelRule):
    """Views, permutations, slices, flips: values are moved, never changed."""

    def accepts(self, net: Analysis, node: fx.Node) -> bool:
        source = node.args[0] if node.args else None
        like = call_name(node) in _LIKE
        others = [n for n in tensors(node) if n is not source and "constant" not in n.meta and not like]
        if not isinstance(source, fx.Node) or others or isinstance(node.meta["val"], tuple | list):
            return False
        if node.target is getattr and node.args[1] not in ("T", "mT"):
            return False
        if call_name(node) == "expand" and any(
            isinstance(s, fx.Node) and not isinstance(s.meta["val"], int) for s in _expand_sizes(node)
        ):
            return False
        item = isinstance(net.rule.get(source), Parts)
        tensor: Any = source.args[0] if item else source
        if "labels" in tensor.meta and axis(tensor) is None:  # go on from where whole channels were last seen
            labels, root, last = tensor.meta["labels"], tensor.meta["root"], None
        elif isinstance(tensor, fx.Node) and axis(tensor) is not None:
            labels, root, last = _labels(shape(tensor)), tensor, tensor
        else:
            return False
        if item:
            labels = replay(net, source, tensor, labels)
        moved = replay(net, node, source, labels)
        if not isinstance(moved, Tensor) or moved.dtype != torch.int64 or moved.shape != node.meta["val"].shape:
            return False
        node.meta["labels"], node.meta["root"], node.meta["last"] = moved, root, last
        node.meta["fills"] = _takes_all(net, node) or (last is None and tensor.meta["fills"])
        node.meta["origin"] = self._usable(net, node, origin(moved, root))
        return True

    def _usable(self, net: Analysis, node: fx.Node, found: Origin | None) -> Origin | None:
        """The origin, where there is a way to write the move for the kept channels only."""
        root = node.meta["root"]
        if found is None or (node.meta["last"] is None and node.meta["fills"]):
            return None
        once = len(np.unique(found.channel)) == len(found.channel)
        direct, along = node.meta["last"] is root, axis(root) or 0
        ones = [d for d, n in enumerate(shape(root)) if n == 1 and d not in (0, along)]
        node.meta["ones"] = ones if not direct else [d for d in ones if d < along]
        found = found._replace(only=found.only and (not direct or self._at_any_size(net, node)))
        if found.only:
            return found if once else None
        each = np.array_equal(found.channel, np.arange(width(root)))
        indexed = once and _own_index(node, axis(root) or 0) is not None
        if direct and (each or indexed) and (_copies(net, node) or call_name(node) == "expand"):
            return found
        flat = found.dim == 1 and set(shape(node)[2:]) <= {1} and axis(root) == 1
        sized = _sizes(node) is not None or call_name(node) in _LIKE
        if found.ordered and (sized or flat or (direct and _flattens(net, node))):
            return found
        return None

    @staticmethod
    def _at_any_size(net: Analysis, node: fx.Node) -> bool:
        """Whether a step that leaves all but channels in place for the example does so for any other size too.

        Not a crop that the example does not fill (`x[:, :, :64]`), nor a flip or a transposition of one row.
        """
        root, along = node.meta["root"], axis(node.meta["root"]) or 0
        name = call_name(node)
        if isinstance(net.rule.get(node.args[0]), Parts):  # type: ignore[arg-type]
            node, name = node.args[0], call_name(node.args[0])  # type: ignore[assignment, arg-type]
        if name == "getitem":
            return _only_channels(node, along)
        if name in _BY_DIMENSION:
            position, default = _BY_DIMENSION[name]
            dims = plain(argument(node, position, "dims" if name in ("flip", "roll") else "dim", default))
            dims = [dims] if isinstance(dims, int) else dims
            return isinstance(dims, list | tuple) and {d % len(shape(root)) for d in dims} <= {along}
        return name in _KEEP_ORDER or all(n > 1 for d, n in enumerate(shape(root)) if d != along)

    def opaque(self, node: fx.Node) -> bool:
        """No form that keeps channels whole: acts on the whole tensor, if anything but a further view reads it."""
        return node.meta["origin"] is None

    def axis(self, net: Analysis, node: fx.Node) -> int | None:
        return None if self.opaque(node) else node.meta["origin"].dim

    def live(self, net: Analysis, node: fx.Node) -> Bits | None:
        if self.opaque(node):
            return np.ones(1, bool)
        return net.live[node.meta["root"]][node.meta["origin"].channel]

    def needs(self, net: Analysis, node: fx.Node, keep: Bits | None) -> Needs:
        assert keep is not None
        if self.opaque(node):
            if keep.any():
                sources = node.all_input_nodes[:1] if call_name(node) in _LIKE else node.all_input_nodes
                for source in sources:
                    yield from net.demand(source)
            return
        root = node.meta["root"]
        bits = np.zeros(width(root), bool)
        bits[node.meta["origin"].channel[keep]] = True
        yield root, bits

    def whole(self, net: Analysis, node: fx.Node) -> list[fx.Node]:
        return list(node.all_input_nodes) if self.opaque(node) and net.need[node].any() else []

    def emit(self, out: GraphWriter, node: fx.Node) -> ChannelLayout | None:
        if self.opaque(node):
            return ChannelRule.emit(self, out, node)
        root, (_, channel, only, _) = node.meta["root"], node.meta["origin"]
        inner = out.phys[root]
        if only:
            self._expect_ones(out, node)
            return inner._replace(position=inner.position[channel])
        kept = np.unique(channel[out.net.kept(node)])
        once = len(channel) <= width(root)
        if node.meta["last"] is root and once and (_copies(out.net, node) or call_name(node) == "expand"):
            index = _own_index(node, axis(root) or 0)
            if index is not None:  # channels and something else: the channels by their positions
                whole = self._with_index(out, node, inner.base, index)
                return inner._replace(base=whole, position=inner.position[channel])
            return out.holding(kept, node, self._copied(out, node, out.fetch(root, kept)))
        self._expect_ones(out, node)
        return out.holding(np.flatnonzero(np.isin(channel, kept)), node, self._reshaped(out, node, kept))

    @staticmethod
    def _expect_ones(out: GraphWriter, node: fx.Node) -> None:
        """Where a dimension of one hides what the steps from the root do to it, it has to be one at other sizes too."""
        if out.net.need[node].any():
            for d in node.meta["ones"]:
                size = out.graph.call_method("size", (out.phys[node.meta["root"]].base, d))
                out.graph.call_function(expect, (size, 1))

    @staticmethod
    def _copied(out: GraphWriter, node: fx.Node, base: fx.Node) -> fx.Node:
        source: Any = node.args[0]
        if isinstance(out.net.rule[source], Parts):
            return out.copy(node, {source: out.copy(source, {source.args[0]: base})})
        if call_name(node) == "expand":
            sizes = [out.raw[s] if isinstance(s, fx.Node) else s for s in _expand_sizes(node)]
            sizes[node.meta["origin"].dim] = -1
            return out.graph.call_method("expand", (base, *sizes))
        if call_name(node) == "squeeze" and plain(argument(node, 1, "dim")) is None:
            return out.graph.call_function(squeeze_others, (base, axis(node.meta["root"])))
        return out.copy(node, {source: base})

    @staticmethod
    def _with_index(out: GraphWriter, node: fx.Node, base: fx.Node, index: tuple[Any, ...]) -> fx.Node:
        taken = fx.node.map_arg(index, lambda n: out.raw[n])
        return out.graph.call_function(node.target, (base, taken))  # type: ignore[arg-type]

    @staticmethod
    def _reshaped(out: GraphWriter, node: fx.Node, kept: np.ndarray) -> fx.Node:
        """The kept channels of the root in the shape of the node; a reshape keeps the order of what is left."""
        root, (dim, channel, _, _) = node.meta["root"], node.meta["origin"]
        count = int(np.isin(channel, kept).sum())
        base = out.fetch(root, kept)
        sizes = _sizes(node)
        if node.meta["last"] is root and _flattens(out.net, node):
            return out.copy(node, {root: base})
        if call_name(node) in _LIKE:
            like = out.some(node.args[1])  # type: ignore[arg-type]
            sizes = [out.graph.call_method("size", (like, d)) for d in range(len(shape(node)))]
            sizes[dim] = count
            return out.graph.call_function(torch.reshape, (base, tuple(sizes)))
        if sizes is None:
            flat = out.graph.call_function(torch.flatten, (base, 1))
            ones = shape(node)[2:]
            return out.graph.call_function(torch.reshape, (flat, (-1, count, *ones))) if ones else flat
        if isinstance(sizes, fx.Node):
            whole = out.raw[sizes]
            filled = list(whole) if isinstance(whole, tuple) else [whole]
        else:
            filled = [out.raw[s] if isinstance(s, fx.Node) else s for s in sizes]
        filled[dim] = filled[dim] if filled[dim] == -1 else count
        return out.graph.call_function(torch.reshape, (base, tuple(filled)))


class MoveOn(Move):
    """A step that is a move only between two views (contiguous), and an operation like others elsewhere."""

    def accepts(self, net: Analysis, node: fx.Node) -> bool:
        source = node.all_input_nodes[0]
        return "labels" in source.meta and axis(source) is None and super().accepts(net, node)


def _labels(size: tuple[int, ...]) -> Tensor:
    return torch.arange(math.prod(size), device="cpu").view(size)


def replay(net: Analysis, node: fx.Node, source: fx.Node, value: Any) -> Any:
    """A node's operation, done to `value` in place of what `source` gives; None where it cannot be."""

    def filled(n: fx.Node) -> Any:
        return value if n is source else n.meta["constant"].to("cpu") if "constant" in n.meta else n.meta["val"]

    args, kwargs = fx.node.map_arg((node.args, node.kwargs), filled)
    try:
        if call_name(node) in _LIKE:
            return value.reshape(shape(node))
        if node.op == "call_module":
            return net.module(node)(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)
    except (TypeError, RuntimeError, IndexError, ValueError):
        return None


# calls along given dimensions: where these stand among the arguments, and what they are by default
_BY_DIMENSION = {
    "chunk": (2, 0), "split": (2, 0), "tensor_split": (2, 0), "unbind": (1, 0), "narrow": (1, None),
    "select": (1, None), "index_select": (1, None), "flip": (1, None), "roll": (2, None),
}  # fmt: skip
_KEEP_ORDER = ("contiguous", "expand", "channel_shuffle")  # of everything but channels, at any size
_LIKE = ("reshape_as", "view_as")  # the second tensor says only the sizes


def _sizes(node: fx.Node) -> Any:
    """The sizes that a view or reshape was given: a list with a number or node each, or one node; else None."""
    if call_name(node) not in ("view", "reshape") or node.op == "call_module":
        return None
    given = node.args[1:] or (node.kwargs.get("shape", node.kwargs.get("size")),)
    if len(given) == 1 and isinstance(given[0], fx.Node) and isinstance(given[0].meta["val"], tuple):
        return given[0] if len(given[0].meta["val"]) == len(shape(node)) else None
    sizes = list(given[0]) if len(given) == 1 and isinstance(given[0], list | tuple) else list(given)
    return sizes if len(sizes) == len(shape(node)) else None


def _expand_sizes(node: fx.Node) -> list[Any]:
    given = node.args[1:]
    return list(given[0]) if len(given) == 1 and isinstance(given[0], list | tuple) else list(given)


def _flattens(net: Analysis, node: fx.Node) -> bool:
    return isinstance(net.module(node), nn.Flatten) if node.op == "call_module" else call_name(node) == "flatten"


def _copies(net: Analysis, node: fx.Node) -> bool:
    """Whether the call can be written again for fewer channels as it is: its arguments do not speak of them."""
    name = "getitem" if isinstance(net.rule.get(node.args[0]), Parts) else call_name(node)  # type: ignore[arg-type]
    if node.op == "call_module":
        return _flattens(net, node)
    if name in ("view", "reshape", *_LIKE):
        return False
    if name in ("unflatten", "expand", "repeat"):
        along = axis(node.meta["root"])
        dim = plain(argument(node, 1, "dim"))
        return name == "unflatten" and isinstance(dim, int) and dim % len(shape(node.meta["root"])) != along
    return True


def _takes_all(net: Analysis, node: fx.Node) -> bool:
    """Whether the step is a crop (or one of several parts) that happens to take all of its input."""
    source: Any = node.args[0]
    if isinstance(net.rule.get(source), Parts):
        return len(source.meta["val"]) == 1
    if call_name(node) == "narrow":
        return shape(node) == shape(source)
    given = plain(node.args[1]) if call_name(node) == "getitem" and len(node.args) > 1 else ()
    given = given if isinstance(given, tuple) else (given,)
    if not any(isinstance(i, slice) and i != slice(None) for i in given):
        return False
    sliced = tuple(i if isinstance(i, slice) or i is Ellipsis else slice(None) for i in given if i is not None)
    return any(
        entry != slice(None) and _length(entry, n) == n
        for entry, n in zip(_spelled_out(sliced, len(shape(source))), shape(source), strict=True)
    )


def _spelled_out(index: tuple[Any, ...], rank: int) -> list[Any]:
    """An index with an entry for every dimension; None, which makes a new one, stays where it is."""
    missing = rank - sum(i is not None and i is not Ellipsis for i in index)
    at = next((place for place, i in enumerate(index) if i is Ellipsis), len(index))
    return [*index[:at], *[slice(None)] * missing, *index[at + 1 :]]


def _length(entry: slice, size: int) -> int:
    return len(range(*entry.indices(size)))


def _only_channels(node: fx.Node, along: int) -> bool:
    """Whether a getitem leaves every dimension but that of the channels whole, whatever its size."""
    given = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    if any(i is None for i in given):
        return False
    entries = _spelled_out(given, len(shape(node.args[0])))
    return all(entry == slice(None) for d, entry in enumerate(entries) if d != along)


def _own_index(node: fx.Node, along: int) -> tuple[Any, ...] | None:
    """The index of a getitem with the channels' entry left whole; None for other calls, or nothing else in it."""
    source: Any = node.args[0]
    if call_name(node) != "getitem" or not is_tensor(source):
        return None
    given = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    if any(isinstance(plain(i), Tensor | list) for i in given):
        return None
    entries = _spelled_out(given, len(shape(source)))
    dim = -1
    for at, entry in enumerate(entries):
        dim += entry is not None
        if dim == along and entry is not None:
            if entry == slice(None) or isinstance(plain(entry), int):
                return None
            return (*entries[:at], slice(None), *entries[at + 1 :])
    return None
