"""Find BatchNorm-ReLU pairs in a network, with the selection before them, and run each as one kernel."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from ebsim.tickets.shrinking.select import Select
from ebsim.tickets.shrinking.shrunk import Shrunk
from ebsim.tickets.shrinking.tracing.leaves import surprises
from ebsim.training.kernels.batchnorm_relu import FusedBatchNormReLU
from ebsim.training.kernels.library import kernels

log = logging.getLogger(__name__)
_RELU_CALLS = (torch.relu, torch.relu_, functional.relu, functional.relu_)


def fused(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """A training-mode forward function of the network with fused pairs; weights and statistics are the network's own.

    Raises `ConfigError` where there is no compiler. A network that cannot be traced, or has no such pair, is called as
    it is, and a warning says so.
    """
    kernels()
    try:
        graph = _training_graph(model)
        parts: dict[str, object] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        modules = dict(model.named_modules())
        pairs = _fuse(graph, modules)
        forward = fx.GraphModule(parts | modules | pairs, graph)
    except Exception as error:  # whatever a network does that a trace cannot follow
        log.warning("train.kernels: the network cannot be traced (%s) and runs with the library's kernels", error)
        return model
    if not pairs:
        log.warning("train.kernels: no BatchNorm is followed by a ReLU alone; the library's kernels are used")
        return model
    return forward


def _training_graph(model: nn.Module) -> fx.Graph:
    if isinstance(model, Shrunk):
        return copy.deepcopy(model._graphs[True])
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        return fx.Tracer().trace(model)
    finally:
        for module, training in modes:
            module.training = training


def _fuse(graph: fx.Graph, modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Replace every pair in a graph; returns the new modules by the names that the graph calls them."""
    pairs: dict[str, nn.Module] = {}
    for relu in list(graph.nodes):
        bn = _argument(relu) if _is_relu(relu, modules) else None
        source = _argument(bn) if bn is not None and _is_bn(bn, modules) else None
        if bn is None or source is None:
            continue
        selection = _selection(source, modules)
        start = source if selection is None else _argument(source)
        name = f"fused_{len(pairs)}"
        layer = modules[str(bn.target)]
        assert isinstance(layer, nn.BatchNorm2d)
        pairs[name] = FusedBatchNormReLU(layer, selection)
        with graph.inserting_before(relu):
            new = graph.call_module(name, (start,))
        relu.replace_all_uses_with(new)
        for node in (relu, bn, *([] if selection is None else [source])):
            graph.erase_node(node)
    return pairs


def _argument(node: fx.Node) -> fx.Node | None:
    """The one tensor that a node works on, if nothing else is in its call."""
    others = {key: value for key, value in node.kwargs.items() if key != "inplace"}
    first = node.args[0] if node.args else None
    return first if isinstance(first, fx.Node) and len(node.args) == 1 and not others else None


def _is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        module = modules.get(str(node.target))
        return type(module) is nn.ReLU and not surprises(module)
    return (node.op == "call_function" and node.target in _RELU_CALLS) or (
        node.op == "call_method" and node.target in ("relu", "relu_")
    )


def _is_bn(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    bn = modules.get(str(node.target)) if node.op == "call_module" else None
    return (
        type(bn) is nn.BatchNorm2d
        and bn.affine
        and bn.track_running_stats
        and bn.momentum is not None
        and not surprises(bn)
        and len(node.users) == 1
    )


def _selection(node: fx.Node, modules: dict[str, nn.Module]) -> Select | None:
    """The selection that a node is, if it keeps channels of dimension 1 in their order and adds no zeros."""
    found = modules.get(str(node.target)) if node.op == "call_module" else None
    if not isinstance(found, Select) or len(node.users) != 1 or _argument(node) is None:
        return None
    ordered = bool((found.index[1:] > found.index[:-1]).all())
    return found if ordered and not found.fills and found.dim == 1 and not surprises(found) else None
