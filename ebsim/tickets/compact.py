"""Shrinking a network to a ticket: the function of the masked network, in a really smaller one.

In the masked network a pruned BatchNorm channel has gamma = beta = 0, so it outputs zero in training and evaluation.
Dead-channel elimination on the traced graph removes what such zeros make superfluous, as a compiler removes dead
code: channels that are always zero, channels that nobody reads, and the weights between them. It is exact for every
network that traces, whatever its wiring, because it follows operations, not architectures (docs/compact.md).
"""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx, nn

from ebsim.errors import CompactError
from ebsim.tickets.mask import ChannelMask, check_network
from ebsim.tickets.shrinking.liveness import Net
from ebsim.tickets.shrinking.rewrite import SELECTIONS, Emitter, settle_in_place
from ebsim.tickets.shrinking.select import Select
from ebsim.tickets.shrinking.slicing import shrink
from ebsim.tickets.shrinking.tracing import as_inputs, trace


class Shrunk(nn.Module):
    """A shrunk network: the dense network's layers under their old names, fewer channels, and selections between.

    mask: what it was shrunk to. notes: operations that still get all channels. example: shapes and types of the inputs
    it was traced with. graph: the torch.fx graph of the current mode. Its state_dict holds compact weights only.
    """

    def __init__(
        self, root: nn.Module, graphs: dict[bool, fx.Graph], selections: Mapping[str, nn.Module], mask: ChannelMask
    ) -> None:
        super().__init__()
        nodes = [n for g in graphs.values() for n in g.nodes]
        called = {str(n.target) for n in nodes if n.op == "call_module"}
        for name, module in root.named_modules():  # in the dense order: masks of the shrunk network are in it too
            if name in called and not isinstance(module, Select):  # those are of an earlier shrinking
                _attach(self, name, module)
        saved = root.state_dict().keys()
        for name in dict.fromkeys(str(n.target) for n in nodes if n.op == "get_attr"):
            _attach(self, name, operator.attrgetter(name)(root), name in saved)
        if SELECTIONS in self._modules:
            raise CompactError(f"the network has a part named {SELECTIONS!r}, a name that shrinking needs; rename it")
        picks = {name: pick for name, pick in selections.items() if f"{SELECTIONS}.{name}" in called}
        self.add_module(SELECTIONS, nn.ModuleDict(picks))
        self.mask = mask
        self.notes: tuple[str, ...] = ()
        self.example: tuple[Any, ...] = ()
        self._graphs = graphs
        self._forwards: dict[bool, Callable[..., Any]] = {
            mode: type(fx.GraphModule(self, graph)).forward for mode, graph in graphs.items()
        }

    @property
    def graph(self) -> fx.Graph:
        return self._graphs[self.training]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._forwards[self.training](self, *args, **kwargs)


def _attach(root: nn.Module, name: str, value: Any, persistent: bool = True) -> None:
    """Put a module, parameter or buffer at a dotted name, with plain modules on the way."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]  # type: ignore[assignment]
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        root.register_buffer(last, value, persistent)
    else:
        setattr(root, last, value)


_PLAIN, _ROUNDING = "_plain", "_precision"  # of a layer with a precision: its class without, and what does the rounding


def _plain_copy(model: nn.Module) -> nn.Module:
    """A copy to cut up, every layer of the class that it has without a precision."""
    rounding = [vars(module)[_ROUNDING] for module in model.modules() if _ROUNDING in vars(module)]
    root = copy.deepcopy(model, {id(shared): shared for shared in rounding})  # it knows the whole network: not copied
    for module in root.modules():
        if (plain := getattr(type(module), _PLAIN, None)) is not None:
            module.__class__ = plain
            del vars(module)[_ROUNDING]
    return root


def compact(model: nn.Module, mask: ChannelMask, example_input: Any) -> Shrunk:
    """A smaller network that computes what `model` computes with the mask applied, in evaluation and training mode.

    example_input: a tensor [N, ...] or a tuple of them, as forward takes; only shapes are used, any N. The model is
    left as it is. Weights, BatchNorm statistics, devices and modes carry over; an optimizer's momentum does not.
    Dropout draws the random numbers that it draws in the dense network. The result depends on the architecture and
    the mask, not on weight values. A low precision that was placed on the model's layers is not on those of the result:
    it is the network that `remove` and then `compact` would give, and a warning says to apply the precision to it.

    Errors: ConfigError for a mask of another network; CompactError when the network cannot be traced, or a layer
    would lose every channel. Warns, and lists in `notes`, where an unknown operation kept all its channels.
    """
    check_network(model, mask)
    for name, count in mask.kept().items():
        if not count:
            raise CompactError(f"the mask keeps no channel of {name}. Draw it with min_channels=1 or at a lower ratio.")
    modes = {name: m.training for name, m in model.named_modules()}
    root, inputs = _plain_copy(model), as_inputs(example_input)
    graphs = trace(root, inputs)
    distinct = list(dict.fromkeys(graphs.values()))
    net = Net(root, distinct, mask)
    out = Emitter(net)
    new = {graph: out.write(graph) for graph in distinct}
    for name, plan in net.plans.items():
        shrink(net.modules[name], plan)
    result = Shrunk(root, {mode: new[graph] for mode, graph in graphs.items()}, out.selections, mask)
    settle_in_place(list(new.values()), result)
    result.notes = tuple(dict.fromkeys(net.notes))
    result.example = tuple(x.new_zeros(x.shape, device="meta") if isinstance(x, Tensor) else x for x in inputs)
    for name, module in result.named_modules():
        module.training = modes.get(name, model.training)
    if any(hasattr(type(module), _PLAIN) for module in model.modules()):
        warnings.warn("the precision placed on the network is not on the shrunk one; apply it to that", stacklevel=2)
    if result.notes:
        warnings.warn("not shrunk everywhere: " + "; ".join(result.notes), stacklevel=2)
    return result
