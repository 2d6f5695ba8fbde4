"""Which channels of each value are kept under a mask: those that are live (can be non-zero) and needed (are read).

`Structure` is what the architecture alone decides: a rule per node, and which layers are sliced. `MaskedChannels` is
the outcome for one mask. One pass forwards gives the live channels. Needs run backwards from the outputs; additions and
layers that are called more than once tie the needs of several values together, so the sweeps repeat until nothing
changes (needs only grow).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ebsim.errors import CompactError
from ebsim.tickets.mask import ChannelMask
from ebsim.tickets.shrinking.rules.base import Bits, ChannelRule, is_tensor
from ebsim.tickets.shrinking.rules.registry import COLLECT, CONSERVATIVE, NUMBER, RULES
from ebsim.tickets.shrinking.slice_weights import SlicePlan
from ebsim.tickets.shrinking.tracing.leaves import overrides_forward, surprises


class Structure:
    """A rule for every node of the graphs (those of both modes), and the calls of every layer that is sliced."""

    def __init__(self, root: nn.Module, graphs: list[fx.Graph]) -> None:
        self.modules = dict(root.named_modules())
        self.graphs = graphs
        self.nodes = [n for graph in graphs for n in graph.nodes]
        self.rule: dict[fx.Node, ChannelRule] = {}
        self.sites: dict[str, list[fx.Node]] = {}
        self.live: dict[fx.Node, Bits] = {}
        self._whole = _tied_modules(root) | {self.modules[name] for name in _owners_read(self.nodes)}
        self._choose_all()

    def module(self, node: fx.Node) -> Any:
        """The module that a call_module node calls."""
        return self.modules[str(node.target)]

    def can_shrink(self, node: fx.Node) -> bool:
        """Whether the layer has plain weights (not a parametrization's) that are its own, and nothing around it."""
        module = self.module(node)
        own = "weight" in module._parameters or isinstance(module, _BatchNorm)
        return own and module not in self._whole and not surprises(module)

    def _choose_all(self) -> None:
        for node in self.nodes:
            node.meta = {key: node.meta[key] for key in ("val", "constant") if key in node.meta}
            rule = self.rule[node] = self._choose(node)
            node.meta["axis"] = rule.axis(self, node)  # type: ignore[arg-type]
            if rule.sliced:
                self.sites.setdefault(str(node.target), []).append(node)
        calls = [n for n in self.nodes if n.op == "call_module" and not self.rule[n].sliced]
        clash = {self.modules[str(n.target)] for n in calls if str(n.target) in self.sites}
        if clash:  # one call of a layer can be sliced and another cannot: then neither is
            self._whole |= clash
            self.sites = {}
            self._choose_all()

    def _choose(self, node: fx.Node) -> ChannelRule:
        if node.op in ("placeholder", "get_attr", "output"):
            return CONSERVATIVE
        if node.op != "call_module" and not is_tensor(node) and NUMBER.accepts(self, node):  # type: ignore[arg-type]
            return NUMBER
        if isinstance(node.target, type):  # builds a structure of the output
            return COLLECT
        for rule in RULES.get(self._key(node), ()):
            if rule.accepts(self, node):  # type: ignore[arg-type]
                return rule
        return CONSERVATIVE

    def _key(self, node: fx.Node) -> Any:
        """What a node is looked up by in the table of rules; a module that overrides forward has no entry."""
        if node.op == "call_module":
            module = self.module(node)
            known = next((t for t in type(module).__mro__ if t in RULES), None)
            return None if surprises(module) or overrides_forward(type(module), known) else known
        if node.target in RULES or not callable(node.target):
            return node.target
        return f"{node.target.__module__}.{getattr(node.target, '__name__', '')}"


class MaskedChannels:
    """The analysed network under one mask: live and needed channels per node, and how every layer is cut."""

    def __init__(self, structure: Structure, mask: ChannelMask) -> None:
        self.structure, self.mask = structure, mask
        self.rule, self.sites, self._nodes = structure.rule, structure.sites, structure.nodes
        self.module, self.can_shrink = structure.module, structure.can_shrink
        self.live: dict[fx.Node, Bits] = {}
        self.need: dict[fx.Node, Bits] = {}
        self.plans: dict[str, SlicePlan] = {}
        self._refuse_hidden_pruning()
        self._flow_forwards()
        self._flow_backwards()
        for name, sites in self.sites.items():
            keep = np.logical_or.reduce([self.live[n] & self.need[n] for n in sites])
            self.plans[name] = self.rule[sites[0]].plan(self, sites, keep)
        self.notes = [self._note(node) for node in self._nodes if self._costs(node)]

    # -- what the rules ask ---------------------------------------------------------------------

    def mask_bits(self, node: fx.Node) -> Bits:
        """Kept channels of the BatchNorm that a node calls; all where the mask does not know it (no scale)."""
        name = str(node.target)
        if name in self.mask.layers:
            return self.mask[name].numpy()
        return np.ones(self.module(node).num_features, bool)

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
        elif self.rule[node].quiet and _holds_tensors(node.meta["val"]):
            for source in node.all_input_nodes:
                yield from self.demand(source)

    # -- the two directions ---------------------------------------------------------------------

    def _flow_forwards(self) -> None:
        for node in self._nodes:
            live = self.rule[node].live(self, node)
            if live is not None:
                self.live[node] = live
                self.need[node] = np.zeros(len(live), bool)

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

    def _refuse_hidden_pruning(self) -> None:
        """CompactError unless every BatchNorm with pruned channels is a layer that is cut, or never runs."""
        runs = {str(n.target) for n in self._nodes if n.op == "call_module"} | _owners_read(self._nodes)
        for name, count in self.mask.kept().items():
            if count < self.mask.layers[name] and name in runs and name not in self.sites:
                raise CompactError(
                    f"the BatchNorm layer {name} cannot be shrunk: {self._obstacle(name)}. Leave it out of the mask "
                    f'(channel_mask(model, ratio, ignore=["{name}"])) or use a plain one.'
                )

    def _obstacle(self, name: str) -> str:
        module = self.structure.modules[name]
        if around := surprises(module):
            return f"it has {around}"
        if name in _owners_read(self._nodes):
            return "its scale is read past the layer"
        if overrides_forward(type(module), next((t for t in type(module).__mro__ if t in RULES), None)):
            return "it overrides forward"
        return "it shares its weights with another layer, or works on an unusual input"

    def _costs(self, node: fx.Node) -> bool:
        """Whether an operation gets pruned channels all the same."""
        rule = self.rule[node]
        if node.op == "output" or rule.quiet:
            return False
        read = [source for n in rule.whole(self, node) for source, _ in self.demand(n)]
        return any((~self.live[n]).any() for n in read)

    def _note(self, node: fx.Node) -> str:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.target)
        why = "no rule for this operation"
        if node.op == "call_module" and (around := surprises(self.module(node))):
            why = f"{around} around this layer"
        return f"{node.name} ({name}): {why}, it still gets all channels"


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, tuple | list) and any(isinstance(part, Tensor) for part in value)


def _owners_read(nodes: list[fx.Node]) -> set[str]:
    """Modules of which a parameter or buffer is read directly, past their forward."""
    return {str(n.target).rpartition(".")[0] for n in nodes if n.op == "get_attr"} - {""}


def _tied_modules(root: nn.Module) -> set[nn.Module]:
    """Modules that share a parameter with another module."""
    owners = [(id(p), m) for m in root.modules() for p in m.parameters(recurse=False)]
    count = Counter(key for key, _ in owners)
    return {m for key, m in owners if count[key] > 1}
