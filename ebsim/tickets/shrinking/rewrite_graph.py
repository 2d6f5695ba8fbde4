"""Rewrites a traced graph for tensors that hold only the kept channels.

`ChannelLayout` (see `rules.base`) says where a value's channels are: a node of the new graph and a position in it per
dense channel. Picking and permuting channels only changes positions; a `Select` is written when an operation wants
channels in an order (or with zeros for dead ones) that its input does not have. That is mostly before a BatchNorm, so
BatchNorm, activation and convolution after it are all narrow.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ebsim.tickets.shrinking.live_channels import MaskedChannels
from ebsim.tickets.shrinking.rules.base import Analysis, ChannelLayout, axis, is_tensor, width
from ebsim.tickets.shrinking.run_time import expect
from ebsim.tickets.shrinking.select import Select
from ebsim.tickets.shrinking.shrunk import SELECTIONS
from ebsim.tickets.shrinking.tracing.side_effects import acts_when_shrunk
from ebsim.tickets.shrinking.tracing.trace import overwrites


class GraphRewriter:
    """Writes the new graphs of one network; the selections are shared between the graphs."""

    def __init__(self, net: MaskedChannels) -> None:
        self.net: Analysis = net
        self.selections: dict[str, Select] = {}
        self._known: dict[tuple[Any, ...], str] = {}

    def write(self, graph: fx.Graph) -> fx.Graph:
        """The graph on kept channels only."""
        self.graph = fx.Graph()
        self.phys: dict[fx.Node, ChannelLayout] = {}
        self.raw: dict[fx.Node, Any] = {}  # values without channels: whole, as in the dense network
        self._fetched: dict[tuple[fx.Node, int, bytes], fx.Node] = {}
        for node in graph.nodes:
            phys = self.net.rule[node].emit(self, node)
            if phys is not None:
                self.phys[node] = phys
        self._drop_unused()
        return self.graph

    # -- what the rules use ---------------------------------------------------------------------

    def fetch(self, node: fx.Node, channels: np.ndarray) -> fx.Node:
        """A node of the new graph with exactly these dense channels, in this order; absent ones are zero."""
        phys = self.phys[node]
        position = phys.position[channels]
        if np.array_equal(position, np.arange(phys.width)):
            return phys.base
        return self._pick(phys.base, axis(node) or 0, position, phys.width)

    def take(self, node: fx.Node, dim: int, channels: np.ndarray) -> Any:
        """These channels along a dimension, of a value that may be followed along another one or none."""
        if axis(node) == dim:
            return self.fetch(node, channels)
        base, count = self.dense(node), node.meta["val"].shape[dim]
        whole = np.array_equal(channels, np.arange(count))
        return base if whole else self._pick(base, dim, channels, count)

    def some(self, node: fx.Node) -> Any:
        """A node whose sizes are those of the value, along all dimensions but the channels'."""
        return self.phys[node].base if node in self.phys else self.dense(node)

    def _pick(self, base: fx.Node, dim: int, position: np.ndarray, width: int) -> fx.Node:
        key = (base, dim, position.tobytes())
        if key not in self._fetched:
            self._fetched[key] = self.graph.call_module(self._selection(position, width, dim), (base,))
        return self._fetched[key]

    def dense(self, node: fx.Node) -> Any:
        """The value as the dense network has it, with zeros where channels are dead."""
        if node in self.phys:
            return self.fetch(node, np.arange(width(node)))
        if node not in self.raw:
            self.raw[node] = self.copy(node, {n: self.dense(n) for n in node.all_input_nodes})
        return self.raw[node]

    def copy(self, node: fx.Node, inputs: dict[fx.Node, Any]) -> fx.Node:
        """The same operation on other inputs."""
        new = self.graph.node_copy(node, lambda n: inputs[n] if n in inputs else self.raw[n])
        new.meta = {}
        return new

    def holding(self, channels: np.ndarray, node: fx.Node, base: fx.Node) -> ChannelLayout:
        """`base` holds these channels of `node`, in this order."""
        position = np.full(width(node), -1)
        position[channels] = np.arange(len(channels))
        return ChannelLayout(base, position, len(channels))

    def full(self, node: fx.Node, base: fx.Node) -> ChannelLayout | None:
        """`base` is the whole value of `node`."""
        n = width(node)
        if axis(node) is None or not is_tensor(node):
            self.raw[node] = base
            return None
        return ChannelLayout(base, np.arange(n), n)

    def _selection(self, position: np.ndarray, incoming: int, dim: int) -> str:
        key = (position.tobytes(), incoming, dim)
        if key not in self._known:
            self._known[key] = str(len(self.selections))
            self.selections[self._known[key]] = Select(position.tolist(), incoming, dim)
        return f"{SELECTIONS}.{self._known[key]}"

    def _drop_unused(self) -> None:
        for node in reversed(list(self.graph.nodes)):
            keeps = node.op in ("placeholder", "output") or node.target in (torch._assert, expect)
            if not (node.users or keeps or self._acts(node)):
                self.graph.erase_node(node)

    def _acts(self, node: fx.Node) -> bool:
        name = str(node.target)
        selects = node.op != "call_module" or name.startswith(f"{SELECTIONS}.")
        calls = 0 if selects else len(self.net.sites.get(name, ()))
        return acts_when_shrunk(node, None if selects else self.net.module(node), calls)


def settle_in_place(graphs: list[fx.Graph], root: nn.Module) -> None:
    """Let an operation overwrite its input only where that is a fresh tensor that no other operation reads."""
    unsafe = [
        n for g in graphs for n in g.nodes if overwrites(n, root) and not _overwritable(n.all_input_nodes[0], root)
    ]
    for node in unsafe:
        if node.op == "call_module":
            root.get_submodule(str(node.target)).inplace = False  # type: ignore[assignment]
        else:
            node.kwargs = {**node.kwargs, "inplace": False}


def _overwritable(node: Any, root: nn.Module) -> bool:
    if len(node.users) > 1:
        return False
    if node.op == "call_module":
        return isinstance(root.get_submodule(node.target), _ConvNd | _BatchNorm | nn.Linear | Select)
    return node.op == "call_function" and node.target in (operator.add, torch.add, torch.cat)
