"""Which channels of which value are kept: live (can be non-zero) and needed (somebody reads them).

One pass forwards gives the live channels. Needs run backwards from the outputs; additions and layers that are called
more than once tie the needs of several values together, so the sweeps repeat until nothing changes (needs only grow).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ebsim.errors import CompactError
from ebsim.tickets.mask import ChannelMask
from ebsim.tickets.shrinking.rules.base import Bits, Rule
from ebsim.tickets.shrinking.rules.channel_moves import Move
from ebsim.tickets.shrinking.rules.registry import CONSERVATIVE, RULES
from ebsim.tickets.shrinking.rules.shape_reads import Size
from ebsim.tickets.shrinking.rules.weighted_layers import Layer, Mix
from ebsim.tickets.shrinking.slicing import Plan, plan_mix


class Net:
    """The analysed network: a rule, live and needed channels per node of the graphs (those of both modes)."""

    def __init__(self, root: nn.Module, graphs: list[fx.Graph], mask: ChannelMask) -> None:
        self.modules = dict(root.named_modules())
        self.graphs, self.mask = graphs, mask
        self.rule: dict[fx.Node, Rule] = {}
        self.live: dict[fx.Node, Bits] = {}
        self.need: dict[fx.Node, Bits] = {}
        self.sites: dict[str, list[fx.Node]] = {}  # the calls of every layer that is sliced
        self._nodes = [n for graph in graphs for n in graph.nodes]
        self._whole = _tied_modules(root) | {self.modules[name] for name in _owners_read(self._nodes)}
        self._flow_forwards()
        self._flow_backwards()
        self.plans = {name: self._plan(sites) for name, sites in self.sites.items()}
        self.notes = [self._note(node) for node in self._nodes if self._is_whole(node)]

    # -- what the rules ask ---------------------------------------------------------------------

    def module(self, node: fx.Node) -> Any:
        """The module that a call_module node calls."""
        return self.modules[str(node.target)]

    def mask_bits(self, node: fx.Node) -> Bits:
        """Kept channels of the BatchNorm that a node calls; all where the mask does not know it (no scale)."""
        name = str(node.target)
        if name in self.mask.layers:
            return self.mask[name].numpy()
        return np.ones(self.module(node).num_features, bool)

    def can_shrink(self, node: fx.Node) -> bool:
        """Whether the layer has plain weights (not a parametrisation's) that are its own."""
        module = self.module(node)
        return "weight" in module._parameters and module not in self._whole

    def kept(self, node: fx.Node) -> np.ndarray:
        """Numbers of the kept channels, ascending; never none, since something must carry the shape."""
        kept = np.flatnonzero(self.live[node] & self.need[node])
        if len(kept):
            return kept
        return np.flatnonzero(self.live[node])[:1] if self.live[node].any() else np.zeros(1, int)

    def demand(self, node: fx.Node) -> Iterator[tuple[fx.Node, Bits]]:
        """Everything that must be whole for this node's value to be."""
        if node in self.live:
            yield node, np.ones(len(self.live[node]), bool)
        elif isinstance(self.rule[node], Move | Size):
            for source in node.all_input_nodes:
                yield from self.demand(source)

    def replay(self, node: fx.Node, source: fx.Node, value: Any) -> Any:
        """A node's operation, done to `value` in place of what `source` gives."""

        def fill(n: fx.Node) -> Any:
            return value if n is source else n.meta["val"]

        args, kwargs = fx.node.map_arg((node.args, node.kwargs), fill)
        if node.op == "call_module":
            return self.module(node)(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)

    # -- the two directions ---------------------------------------------------------------------

    def _flow_forwards(self) -> None:
        for node in self._nodes:
            rule = self.rule[node] = self._choose(node)
            live = rule.live(self, node)
            if live is not None:
                self.live[node] = live
                self.need[node] = np.zeros(len(live), bool)
            if isinstance(rule, Layer):
                self.sites.setdefault(str(node.target), []).append(node)
        calls = [n for n in self._nodes if n.op == "call_module" and self.rule[n] is CONSERVATIVE]
        clash = {self.modules[str(n.target)] for n in calls if str(n.target) in self.sites}
        if clash:  # one call of a layer can be sliced and another cannot: then neither is
            self._whole |= clash
            self.sites, self.live, self.need = {}, {}, {}
            self._flow_forwards()

    def _choose(self, node: fx.Node) -> Rule:
        if node.op in ("placeholder", "get_attr", "output"):
            return CONSERVATIVE
        for rule in RULES.get(self._key(node), ()):
            if rule.accepts(self, node):
                return rule
        self._refuse_hidden_pruning(node)
        return CONSERVATIVE

    def _key(self, node: fx.Node) -> Any:
        """What a node is looked up by in the table of rules; a module that overrides forward has no entry."""
        if node.op == "call_module":
            kind = type(self.module(node))
            known = next((t for t in kind.__mro__ if t in RULES), None)
            own = [getattr(kind, n, None) is not getattr(known, n, None) for n in ("forward", "_conv_forward")]
            return None if any(own) else known
        if node.target in RULES or not callable(node.target):
            return node.target
        return f"{node.target.__module__}.{node.target.__name__}"

    def _refuse_hidden_pruning(self, node: fx.Node) -> None:
        is_norm = node.op == "call_module" and isinstance(self.module(node), _BatchNorm)
        if is_norm and not self.mask_bits(node).all():
            raise CompactError(
                f"the BatchNorm layer {node.target} cannot be shrunk: it overrides forward, shares its weights "
                "with another layer, or works on an unusual input. Leave it out of the mask or use a plain one."
            )

    def _flow_backwards(self) -> None:
        changed = True
        while changed:
            changed = False
            for node in self._nodes:
                pulled = self.rule[node].pull(self, node)
                changed |= pulled is not None and self._add_need(node, pulled)
            for node in reversed(self._nodes):
                keep = self.live[node] & self.need[node] if node in self.live else None
                for source, bits in self.rule[node].needs(self, node, keep):
                    changed |= self._add_need(source, bits)

    def _add_need(self, node: fx.Node, bits: Bits) -> bool:
        new = bits & ~self.need[node]
        self.need[node] |= bits
        return bool(new.any())

    def _plan(self, sites: list[fx.Node]) -> Plan:
        """One slicing of a layer that serves all its calls."""
        keep = np.logical_or.reduce([self.live[n] & self.need[n] for n in sites])
        rule = self.rule[sites[0]]
        if isinstance(rule, Mix):
            live_in = np.logical_or.reduce([self.live[rule.source(n)] for n in sites])
            return plan_mix(self.module(sites[0]), live_in, keep)
        outs = np.flatnonzero(keep) if keep.any() else self.kept(sites[0])
        return Plan(outs, outs)

    def _is_whole(self, node: fx.Node) -> bool:
        """Whether an operation gets pruned channels all the same."""
        rule = self.rule[node]
        unread = isinstance(rule, Move) and not (rule.opaque(node) and node in self.need and self.need[node].any())
        if node.op == "output" or unread or not (rule is CONSERVATIVE or isinstance(rule, Move)):
            return False
        read = [source for n in node.all_input_nodes for source, _ in self.demand(n)]
        return any((~self.live[n]).any() for n in read)

    def _note(self, node: fx.Node) -> str:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.target)
        return f"{node.name} ({name}): no rule for this operation, it still gets all channels"


def _owners_read(nodes: list[fx.Node]) -> set[str]:
    """Modules of which a parameter or buffer is read directly, past their forward."""
    return {str(n.target).rpartition(".")[0] for n in nodes if n.op == "get_attr"} - {""}


def _tied_modules(root: nn.Module) -> set[nn.Module]:
    """Modules that share a parameter with another module."""
    owners = [(id(p), m) for m in root.modules() for p in m.parameters(recurse=False)]
    count = Counter(key for key, _ in owners)
    return {m for key, m in owners if count[key] > 1}
