"""Rules of reading a shape: the dense network's number of channels, whatever is left of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import fx

from ebsim.tickets.shrinking.rules.base import Bits, Needs, Rule, argument, shape, width

if TYPE_CHECKING:
    from ebsim.tickets.shrinking.liveness import Net
    from ebsim.tickets.shrinking.rewrite import Emitter, Phys


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
