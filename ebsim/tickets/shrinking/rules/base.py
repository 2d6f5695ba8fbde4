"""`ChannelRule`: what an operation does to channels, as the methods that every rule implements.

A value is followed along one dimension, its channels: dimension 1 of what a convolution gives, the last one of what a
linear layer gives. A rule says, per operation:

- axis: along which dimension the output has channels; None: it has none to tell apart, all of it counts as one.
- live: which output channels can be non-zero, given those of the inputs. A pruned BatchNorm channel (gamma = beta = 0)
  is zero whatever comes in; sigmoid(0), a bias or a number added to zero are not.
- needs: which input channels are needed, given the output channels that are both live and needed.
- emit: the operation on tensors that hold only the kept channels.

Nothing looks at weight values, so the outcome depends on the architecture and the mask alone. The rules are stateless;
which operation has which is one table (`registry.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor, fx

from ebsim.tickets.shrinking.slice_weights import SlicePlan

Bits = np.ndarray  # bool, [channels]
Needs = Iterable[tuple[fx.Node, Bits]]


class ChannelLayout(NamedTuple):
    """A value in the new graph: dense channel c is at `position[c]` of `base`, which has `width` channels (-1: not
    there, because it is dead or not needed)."""

    base: fx.Node
    position: np.ndarray
    width: int


class Analysis(Protocol):
    """What a rule may ask about the network while live and needed channels are found."""

    live: dict[fx.Node, Bits]
    need: dict[fx.Node, Bits]
    rule: dict[fx.Node, ChannelRule]
    sites: dict[str, list[fx.Node]]
    plans: dict[str, SlicePlan]

    def module(self, node: fx.Node) -> Any: ...

    def mask_bits(self, node: fx.Node) -> Bits: ...

    def can_shrink(self, node: fx.Node) -> bool: ...

    def kept(self, node: fx.Node) -> np.ndarray: ...

    def demand(self, node: fx.Node) -> Iterator[tuple[fx.Node, Bits]]: ...


class GraphWriter(Protocol):
    """What a rule may use to write its operation into the new graph."""

    net: Analysis
    graph: fx.Graph
    phys: dict[fx.Node, ChannelLayout]
    raw: dict[fx.Node, Any]

    def fetch(self, node: fx.Node, channels: np.ndarray) -> fx.Node: ...

    def take(self, node: fx.Node, dim: int, channels: np.ndarray) -> Any: ...

    def dense(self, node: fx.Node) -> Any: ...

    def some(self, node: fx.Node) -> Any: ...

    def copy(self, node: fx.Node, inputs: dict[fx.Node, Any]) -> fx.Node: ...

    def holding(self, channels: np.ndarray, node: fx.Node, base: fx.Node) -> ChannelLayout: ...

    def full(self, node: fx.Node, base: Any) -> ChannelLayout | None: ...


def shape(value: Any) -> tuple[int, ...]:
    """Shape of a node's or a plain value; () for what is no tensor."""
    value = value.meta["val"] if isinstance(value, fx.Node) else value
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def axis(node: fx.Node) -> int | None:
    """The dimension along which the analysis follows this value's channels."""
    found: int | None = node.meta.get("axis")
    return found


def width(node: fx.Node) -> int:
    """Channels of a value that has them, else 1."""
    along = axis(node)
    return 1 if along is None else shape(node)[along]


def argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """An argument given by position or by name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def plain(value: Any) -> Any:
    """An argument with the traced numbers in the places of the nodes that give them."""
    return fx.node.map_arg(value, lambda n: n.meta["val"])


def call_name(node: fx.Node) -> str:
    """The name of the method or function that a node calls."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def tensors(node: fx.Node) -> list[fx.Node]:
    """The inputs of a node that are tensors."""
    return [n for n in node.all_input_nodes if is_tensor(n)]


# -- a value as a consumer sees it that wants channels along `dim` -----------------------------------


def incoming(net: Analysis, node: fx.Node, dim: int) -> Bits:
    """Live channels along a dimension; all, where the value is followed along another one."""
    return net.live[node] if axis(node) == dim else np.ones(shape(node)[dim], bool)


def wanted(net: Analysis, node: fx.Node, dim: int, bits: Bits) -> Needs:
    """Needs for these channels along a dimension; for everything, where the value is followed along another one."""
    if axis(node) == dim:
        yield node, bits
    elif bits.any():
        yield from net.demand(node)


class ChannelRule:
    """The conservative rule, and the base of the others.

    An operation without a rule gets whole tensors, with zeros where channels are dead, and its output counts as one
    live whole: exact, but nothing is saved there, and a note says so. A rule that does not `accept` a node (an odd
    dimension, an argument it does not know) leaves it to this one too.
    """

    sliced = False  # the rule of a layer whose weights are cut, once for all its calls
    quiet = False  # reads sizes or only hands values on: costs no channels

    def accepts(self, net: Analysis, node: fx.Node) -> bool:
        return True

    def axis(self, net: Analysis, node: fx.Node) -> int | None:
        return None

    def live(self, net: Analysis, node: fx.Node) -> Bits | None:
        return np.ones(1, bool) if is_tensor(node) else None

    def needs(self, net: Analysis, node: fx.Node, keep: Bits | None) -> Needs:
        for source in node.all_input_nodes:
            yield from net.demand(source)

    def pull(self, net: Analysis, node: fx.Node) -> Bits | None:
        """Output channels that must be kept because an input keeps them."""
        return None

    def whole(self, net: Analysis, node: fx.Node) -> list[fx.Node]:
        """The inputs that this operation needs with all channels, whatever is needed of its output."""
        return list(node.all_input_nodes)

    def plan(self, net: Analysis, sites: list[fx.Node], keep: Bits) -> SlicePlan:
        """How the layer of a sliced rule is cut, given the kept outputs of all its calls."""
        raise NotImplementedError

    def emit(self, out: GraphWriter, node: fx.Node) -> ChannelLayout | None:
        return out.full(node, out.copy(node, {n: out.dense(n) for n in node.all_input_nodes}))
