"""Normalizes a traced graph: functional calls on a layer's own weights become calls of that layer.

A subclass of a convolution, linear or BatchNorm layer that writes its forward anew (a BatchNorm with an activation
inside, a convolution with padding of its own) is followed like any other code, which ends in F.conv2d(x, self.weight,
...) or F.batch_norm(x, self.running_mean, ...). Where such a call does what the plain layer does with these weights,
it is written as a call of the plain layer, which the rules know and which prices, precisions and masks see.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ebsim.tickets.shrinking.rules.base import argument, plain, shape

_CONVOLUTIONS: dict[Any, tuple[type[_ConvNd], int]] = {
    F.conv1d: (nn.Conv1d, 1), F.conv2d: (nn.Conv2d, 2), F.conv3d: (nn.Conv3d, 3),
    torch.conv1d: (nn.Conv1d, 1), torch.conv2d: (nn.Conv2d, 2), torch.conv3d: (nn.Conv3d, 3),
}  # fmt: skip
_NORMS: dict[int, type[_BatchNorm]] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def normalize(root: nn.Module, graphs: dict[bool, fx.Graph]) -> dict[str, dict[str, Any]]:
    """Rewrite the graphs in place; the layers in question become plain ones, in place too (`root` is a copy).

    Returns layer -> settings, for `make_plain` on another copy.
    """
    done: dict[str, dict[str, Any]] = {}
    found: dict[str, list[tuple[fx.Node, dict[str, Any]]]] = {}
    called: set[str] = set()
    distinct = dict.fromkeys(graphs.values())
    for graph in distinct:
        modes = {mode for mode, own in graphs.items() if own is graph}
        for node in graph.nodes:
            if node.op == "call_module":
                called.add(str(node.target))
            elif node.op == "call_function" and (layer := _layer(root, node, modes)) is not None:
                found.setdefault(layer[0], []).append((node, layer[1]))
    for name, calls in found.items():
        settings = calls[0][1]
        alike = all(other == settings for _, other in calls)
        if alike and name not in called and _reads_alone(name, [n for n, _ in calls], list(distinct)):
            make_plain(root.get_submodule(name), settings)
            for node, _ in calls:
                _call_layer(name, node)
            done[name] = settings
    return done


def _layer(root: nn.Module, node: fx.Node, modes: set[bool]) -> tuple[str, dict[str, Any]] | None:
    """Name and settings of the plain layer that a functional call stands for."""
    if node.target in _CONVOLUTIONS:
        return _convolution(root, node)
    if node.target in (F.linear, torch._C._nn.linear):
        name = _owner(root, node, 1, 2, "weight", "bias", nn.Linear)
        return (name, {"class": nn.Linear}) if name else None
    if node.target in (F.batch_norm,):
        return _norm(root, node, modes)
    return None


def _convolution(root: nn.Module, node: fx.Node) -> tuple[str, dict[str, Any]] | None:
    kind, rank = _CONVOLUTIONS[node.target]
    name = _owner(root, node, 1, 2, "weight", "bias", kind)
    if not name or len(shape(node)) != rank + 2:
        return None
    given = {
        "stride": plain(argument(node, 3, "stride", 1)),
        "padding": plain(argument(node, 4, "padding", 0)),
        "dilation": plain(argument(node, 5, "dilation", 1)),
    }
    settings = {key: value if isinstance(value, str) else _times(value, rank) for key, value in given.items()}
    groups = plain(argument(node, 6, "groups", 1))
    if groups != root.get_submodule(name).groups or any(v is None for v in settings.values()):
        return None
    return name, {"class": kind, **settings, "padding_mode": "zeros"}


def _times(value: Any, rank: int) -> tuple[int, ...] | None:
    value = (value,) if isinstance(value, int) else tuple(value)
    value = value * rank if len(value) == 1 else value
    return value if len(value) == rank else None


def _norm(root: nn.Module, node: fx.Node, modes: set[bool]) -> tuple[str, dict[str, Any]] | None:
    name = _owner(root, node, 3, 4, "weight", "bias", _BatchNorm)
    if not name or name != _owner(root, node, 1, 2, "running_mean", "running_var", _BatchNorm):
        return None
    module: Any = root.get_submodule(name)
    trains = plain(argument(node, 5, "training", False))
    factor, eps = plain(argument(node, 6, "momentum", 0.1)), plain(argument(node, 7, "eps", 1e-5))
    if modes != {trains} or eps != module.eps or module.momentum is None or (trains and factor != module.momentum):
        return None
    kind = _NORMS.get(len(shape(node)))
    return (name, {"class": kind, "track_running_stats": True}) if kind else None


def _owner(root: nn.Module, node: fx.Node, one: int, two: int, first: str, second: str, kind: type) -> str:
    """The layer whose parameters (both, or the first where it has no second) the call is given; "" for no such."""
    a, b = argument(node, one, first), argument(node, two, second)
    if not (isinstance(a, fx.Node) and a.op == "get_attr"):
        return ""
    name, _, own = str(a.target).rpartition(".")
    if own != first or not name:
        return ""
    module = root.get_submodule(name)
    expected = f"{name}.{second}" if getattr(module, second, None) is not None else None
    given = str(b.target) if isinstance(b, fx.Node) and b.op == "get_attr" else b
    return name if isinstance(module, kind) and expected == given and "parametrizations" not in module._modules else ""


def _reads_alone(name: str, calls: list[fx.Node], graphs: list[fx.Graph]) -> bool:
    """Whether only these calls read the layer's parameters; a BatchNorm's counter of batches aside."""
    for graph in graphs:
        for node in graph.nodes:
            if node.op != "get_attr" or str(node.target).rpartition(".")[0] != name:
                continue
            counter = str(node.target).endswith("num_batches_tracked")
            if not all(user in calls or (counter and _counts(user)) for user in node.users):
                return False
    return True


def _counts(node: fx.Node) -> bool:
    return not node.users and node.target in ("add", "add_") and node.args[1:] == (1,)


def make_plain(module: nn.Module, settings: dict[str, Any]) -> None:
    """Turn a layer into the plain one with these settings, in place."""
    module.__class__ = settings["class"]
    for key, value in settings.items():
        if key != "class":
            setattr(module, key, value)
    if isinstance(module, _ConvNd):
        padding: Any = module.padding
        module._reversed_padding_repeated_twice = (
            [0, 0] * len(module.kernel_size)
            if isinstance(padding, str)
            else [p for p in reversed(padding) for _ in "12"]
        )


def _call_layer(name: str, node: fx.Node) -> None:
    graph = node.graph
    source, reads = argument(node, 0, "input"), [n for n in node.all_input_nodes if n.op == "get_attr"]
    with graph.inserting_before(node):
        new = graph.call_module(name, (source,))
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    graph.erase_node(node)
    counters = [n for n in graph.nodes if n.op == "get_attr" and str(n.target) == f"{name}.num_batches_tracked"]
    for user in [u for n in counters for u in n.users]:
        graph.erase_node(user)
    for read in dict.fromkeys((*reads, *counters)):
        if not read.users:
            graph.erase_node(read)
