"""What an operation does to channels: the questions that every rule answers.

A value is followed along dimension 1 (channels of [N, C, ...], features of [N, C]). A rule says, per operation:

- live: which output channels can be non-zero, given those of the inputs. A pruned BatchNorm channel (gamma = beta = 0)
  is zero whatever comes in; sigmoid(0), a bias or a number added to zero are not.
- needs: which input channels are needed, given the output channels that are both live and needed.
- emit: the operation on tensors that hold only the kept channels (see `rewrite.py`).

Nothing looks at weight values, so the outcome depends on the architecture and the mask alone. The rules are stateless;
which operation has which is one table (`table.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, fx

if TYPE_CHECKING:
    from ebsim.tickets.shrinking.liveness import Net
    from ebsim.tickets.shrinking.rewrite import Emitter, Phys

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
    """The conservative rule, and the base of the others.

    An operation without a rule gets whole tensors, with zeros where channels are dead, and all its outputs count as
    live: exact, but nothing is saved there, and a note says so. A rule that does not `accept` a node (an odd
    dimension, an argument it does not know) leaves it to this one too.
    """

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
