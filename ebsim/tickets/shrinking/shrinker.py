"""`Shrinker`: a network traced once and shrunk to many masks.

Tracing and the choice of rules depend on the architecture alone, the analysis on the architecture and the mask, and
only the slicing on the weights. `Shrinker` keeps the first two, so that further masks, and further weights under the
same mask, cost little.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import fx, nn

from ebsim.errors import CompactError
from ebsim.tickets.mask import ChannelMask, apply_mask, check_network
from ebsim.tickets.shrinking.forward_cost import cost
from ebsim.tickets.shrinking.live_channels import MaskedChannels, Structure
from ebsim.tickets.shrinking.plain_copy import plain_copy
from ebsim.tickets.shrinking.rewrite_graph import GraphRewriter, settle_in_place
from ebsim.tickets.shrinking.shrunk import SELECTIONS, Shrunk
from ebsim.tickets.shrinking.slice_weights import SlicePlan, shrink
from ebsim.tickets.shrinking.tracing.calls import call_of
from ebsim.tickets.shrinking.tracing.normalize import make_plain, normalize
from ebsim.tickets.shrinking.tracing.trace import trace
from ebsim.tickets.shrinking.tracing.value_tracer import CONSTANT
from ebsim.tickets.shrinking.verification import verify as check_same
from ebsim.tickets.wrappers import bare

SMALL = 0.15  # prune ratios below this are priced: there a ticket can be dearer than the dense network


class Cut(NamedTuple):
    """A network shrunk to one mask, without weights: new graphs by mode, selections, and how every layer is cut."""

    graphs: dict[bool, fx.Graph]
    selections: dict[str, nn.Module]
    plans: dict[str, SlicePlan]
    notes: tuple[str, ...]


class Shrinker:
    """An architecture, traced with an example input; `shrink(model, mask)` may be called for many masks and weights.

    Every model given to `shrink` must be of the architecture traced: same class, same options. The outcome is that of
    `compact`. The analysis of a mask is kept, so the same ticket with other weights (rewound, trained on) costs a copy
    and the slicing; `verify` runs only the first time that a mask is seen.
    """

    def __init__(self, model: nn.Module, example_input: Any) -> None:
        model = bare(model)
        self.call = call_of(model, example_input)
        root = plain_copy(model)
        traced = trace(root, self.call)
        self._graphs, self._notes, self._stay = traced
        self._normalized = normalize(root, self._graphs)
        self._constants = {name: value for name, value in vars(root).items() if name.startswith(CONSTANT)}
        self._structure = Structure(root, list(dict.fromkeys(self._graphs.values())))
        for module in root.modules():  # from here on only their shapes are read
            if isinstance(module, torch.jit.ScriptModule):
                continue
            for name, p in module._parameters.items():
                if p is not None:
                    module._parameters[name] = nn.Parameter(p.detach().to("meta"), p.requires_grad)
        self._cuts: dict[str, Cut] = {}
        self._verified: set[tuple[str, tuple[str, ...]]] = set()

    def shrink(
        self, model: nn.Module, mask: ChannelMask, *, verify: bool = True, keep_where_dearer: bool = False
    ) -> Shrunk:
        """The masked `model`, really smaller. Arguments, errors and warnings as for `compact`."""
        model = bare(model)
        check_network(model, mask)
        for name, count in mask.kept().items():
            if not count:
                raise CompactError(
                    f"the mask keeps no channel of {name}. Draw it with min_channels=1 or at a lower ratio."
                )
        with torch.inference_mode(False), torch.no_grad():
            uncut = self._dearer(model, mask) if keep_where_dearer else ()
            cut = self._cut(_kept_in(mask, uncut))
            result = self._apply(cut, model, mask, uncut)
            if not keep_where_dearer and mask.ratio < SMALL and cut.selections:
                result._notes += self._too_dear(model, mask, result)
            if verify and (mask.digest, uncut) not in self._verified and not _without_data(model):
                masked = plain_copy(model)
                apply_mask(masked, mask)
                check_same(masked, result, self.call, cut.plans)
                self._verified.add((mask.digest, uncut))
        for name, module in result.named_modules():
            module.training = self._mode(model, name)
        return result

    def _cut(self, mask: ChannelMask) -> Cut:
        if mask.digest not in self._cuts:
            net = MaskedChannels(self._structure, mask)
            out = GraphRewriter(net)
            new = {graph: out.write(graph) for graph in self._structure.graphs}
            graphs = {mode: new[graph] for mode, graph in self._graphs.items()}
            notes = tuple(dict.fromkeys((*self._notes, *net.notes)))
            self._cuts[mask.digest] = Cut(graphs, dict(out.selections), net.plans, notes)
        return self._cuts[mask.digest]

    def _too_dear(self, model: nn.Module, mask: ChannelMask, result: Shrunk) -> tuple[str, ...]:
        """A note where the ticket costs more than the dense network."""
        everything = _kept_in(mask, tuple(mask.layers))
        dense = cost(self._apply(self._cut(everything), model, everything), self.call).total
        ratio = cost(result, self.call).total / dense
        if ratio <= 1:
            return ()
        return (
            f"at this prune ratio selecting channels costs more than cutting saves: {ratio:.3f} times the dense "
            "network in MACs and moved elements; keep_where_dearer=True gives a cheaper exact form",
        )

    def _dearer(self, model: nn.Module, mask: ChannelMask) -> tuple[str, ...]:
        """The BatchNorm layers that are better left whole: cutting them saves less than selecting for them costs.

        Layers behind a selection are tried in groups, those that lose the least first; and the whole network."""
        graph = self._cut(mask).graphs[False]
        behind = [
            str(n.target)
            for n in graph.nodes
            if n.op == "call_module" and str(n.target) in mask.layers and str(n.args[0].target).startswith(SELECTIONS)  # type: ignore[union-attr]
        ]
        ranked = sorted(behind, key=lambda name: -mask.kept()[name] / mask.layers[name])
        steps = sorted({round(len(ranked) * share) for share in (0, 0.25, 0.5, 1)})
        forms = [tuple(ranked[:count]) for count in steps] + [tuple(mask.layers)]
        priced = [
            cost(self._apply(self._cut(_kept_in(mask, form)), model, mask, form), self.call).total for form in forms
        ]
        return forms[priced.index(min(priced))]

    def _apply(self, cut: Cut, model: nn.Module, mask: ChannelMask, uncut: tuple[str, ...] = ()) -> Shrunk:
        """The cut, done to these weights; in the layers that are not cut the pruned scales and shifts are zero."""
        root = plain_copy(model)
        if uncut:
            apply_mask(root, mask)
        for name, settings in self._normalized.items():
            make_plain(root.get_submodule(name), settings)
        for name, value in self._constants.items():
            setattr(root, name, value)
        for name, plan in cut.plans.items():
            shrink(root.get_submodule(name), plan)
        device = next((t.device for t in (*root.parameters(), *root.buffers())), torch.device("cpu"))
        device = torch.device("cpu") if device.type == "meta" else device  # indices are not in a state to be loaded
        selections = {name: copy.deepcopy(pick).to(device) for name, pick in cut.selections.items()}
        result = Shrunk(root, cut.graphs, selections, mask, self.call, self._stay)
        settle_in_place(list(dict.fromkeys(cut.graphs.values())), result)
        result._notes = cut.notes
        if pruned := [name for name in uncut if mask.kept()[name] < mask.layers[name]]:
            note = f"{len(pruned)} BatchNorm layers are not cut, since that would cost more than it saves"
            result._notes = (*cut.notes, f"{note}; their pruned scales are zero: {', '.join(pruned[:3])}, ...")
        return result

    @staticmethod
    def _mode(model: nn.Module, name: str) -> bool:
        try:
            return model.get_submodule(name).training
        except AttributeError:
            return model.training


def _kept_in(mask: ChannelMask, layers: tuple[str, ...]) -> ChannelMask:
    """The mask with everything kept in these layers."""
    if not layers:
        return mask
    whole = np.repeat([name in layers for name in mask.layers], list(mask.layers.values()))
    return ChannelMask(mask.flags | whole, mask.layers, mask.kept_floor, mask.ignored)


def _without_data(model: nn.Module) -> bool:
    return any(t.device.type == "meta" for t in (*model.parameters(), *model.buffers()))
