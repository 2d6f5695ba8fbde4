"""A network as torch.fx graphs in which every value has a known shape: what the shrinking reads.

A symbolic trace follows one path through the code, and a network may take another path in training than in
evaluation (auxiliary heads, functional dropout). So it is traced in both modes; where the two graphs are the same, one
is kept. Shapes come from running each graph on fake tensors, which computes nothing.
"""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.node import map_arg
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ebsim.errors import CompactError


class LayerTracer(fx.Tracer):
    """Keeps convolution, BatchNorm and linear layers whole, those of user-defined subclasses too."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _ConvNd | _BatchNorm | nn.Linear) or super().is_leaf_module(m, module_qualified_name)


class ShapeRun(fx.Interpreter):
    """Runs a graph and leaves every node's value in `node.meta["val"]`."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        n.meta["val"] = result
        return result


def as_inputs(example: Any) -> tuple[Any, ...]:
    """The positional arguments of one forward call, from a tensor or a tuple."""
    return tuple(example) if isinstance(example, tuple | list) else (example,)


def trace(model: nn.Module, inputs: Sequence[Any]) -> dict[bool, fx.Graph]:
    """Graphs by mode (True = training), every node with its value's shape; one object for both when they agree.

    `model` is left in evaluation mode. Errors: CompactError when it cannot be traced or does not take these inputs.
    """
    root = _with_given_arguments(model, len(inputs))
    graphs, overwritten = {}, {}
    for mode in (True, False):
        root.train(mode)
        try:
            graphs[mode] = _graph(root)
        except Exception as e:  # the network's own code runs here: anything can come out of it
            raise CompactError(
                f"{type(model).__name__} cannot be traced by torch.fx, so it cannot be shrunk ({e}). "
                "Its forward must not branch on tensor values or assign into tensors; rewrite that part, "
                "or give the bare network if it is wrapped (DataParallel, compile)."
            ) from e
        overwritten[graphs[mode]] = _drop_in_place(graphs[mode], root)
    if _text(graphs[True]) == _text(graphs[False]):
        graphs[True] = graphs[False]
    root.eval()  # shapes do not depend on the mode, and BatchNorm refuses to train on a single value
    for graph in dict.fromkeys(graphs.values()):
        try:
            with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
                ShapeRun(root, graph=graph).run(*_blank(inputs, root))
        except Exception as e:
            shapes = [list(x.shape) if isinstance(x, Tensor) else x for x in inputs]
            raise CompactError(
                f"{type(model).__name__} does not accept the example input {shapes} ({e}). "
                "Give an example with the shape that it is trained on."
            ) from e
        _refuse_overwritten_views(graph, overwritten[graph])
    return graphs


def _graph(root: nn.Module) -> fx.Graph:
    """A network that was written from a graph gives that; any other is traced."""
    own = getattr(root, "graph", None)
    return copy.deepcopy(own) if isinstance(own, fx.Graph) else LayerTracer().trace(root)


def _blank(inputs: Sequence[Any], root: nn.Module) -> list[Any]:
    """The inputs as batches of two: two, so that no reshaping can mistake the batch for a dimension of one."""
    weights = next(p for p in root.parameters() if p.is_floating_point())
    tensors = [x for x in inputs if isinstance(x, Tensor)]
    batched = all(x.ndim > 1 and len(x) == len(tensors[0]) for x in tensors)

    def blank(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        dtype = weights.dtype if x.is_floating_point() else x.dtype
        return torch.empty((2, *x.shape[1:]) if batched else x.shape, device=weights.device, dtype=dtype)

    return [blank(x) for x in inputs]


def _with_given_arguments(model: nn.Module, given: int) -> nn.Module:
    """Keep optional arguments that the example leaves out at their defaults, not traced as inputs."""
    base: Any = type(model)
    optional = list(inspect.signature(model.forward).parameters.values())[given:]
    forwards: dict[int, Any] = {
        1: lambda self, a: base.forward(self, a),
        2: lambda self, a, b: base.forward(self, a, b),
        3: lambda self, a, b, c: base.forward(self, a, b, c),
    }
    if given in forwards and any(p.default is not p.empty for p in optional):
        model.__class__ = type(base.__name__, (base,), {"forward": forwards[given], "__module__": base.__module__})
    return model


def _drop_in_place(graph: fx.Graph, root: nn.Module) -> dict[fx.Node, fx.Node]:
    """Let whoever reads a tensor after an in-place operation read that operation's result instead.

    Channels may be selected in between, so nobody may depend on the side effect. `a += b` and `a.relu_()` become plain
    operations, other methods work on a copy; what in-place modules and `inplace=True` may overwrite is settled after
    the rewriting. Returns operation -> what it overwrites.
    """
    order = {node: i for i, node in enumerate(graph.nodes)}
    found = {}
    for node in list(graph.nodes):
        method = node.target if node.op == "call_method" else ""
        in_place = method.endswith("_") and not method.endswith("__")
        if not in_place and not overwrites(node, root) and node.target not in _OUT_OF_PLACE:
            continue
        victim = node.all_input_nodes[0]
        victim.replace_all_uses_with(node, partial(_comes_after, order, order[node]))
        found[node] = victim
        node.target = _OUT_OF_PLACE.get(node.target, node.target)
        if in_place and hasattr(Tensor, method[:-1]):
            node.target = method[:-1]
        elif in_place:
            with graph.inserting_before(node):
                node.replace_input_with(victim, graph.call_method("clone", (victim,)))
    return found


def overwrites(node: fx.Node, root: nn.Module) -> bool:
    """Whether a node calls a module or function that was told to work in place."""
    if node.op == "call_module":
        return bool(getattr(root.get_submodule(str(node.target)), "inplace", False))
    return node.op == "call_function" and bool(node.kwargs.get("inplace"))


def _refuse_overwritten_views(graph: fx.Graph, overwritten: dict[fx.Node, fx.Node]) -> None:
    """CompactError where an in-place operation changes a tensor that is also read through a view, or the reverse."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    memory = {n: n.meta["val"].untyped_storage()._cdata for n in graph.nodes if isinstance(n.meta.get("val"), Tensor)}
    for node, victim in overwritten.items():
        for other in memory.keys() - {victim}:
            shares = memory[other] == memory.get(victim) and _comes_after(order, order[other], node)
            if shares and any(_comes_after(order, order[node], user) for user in other.users):
                raise CompactError(
                    f"{node.name} overwrites {victim.name}, whose memory is read again as {other.name}; such views "
                    "cannot be followed. Use the operation that is not in place there."
                )


def _comes_after(order: dict[fx.Node, int], position: int, user: fx.Node) -> bool:
    return order[user] > position


_OUT_OF_PLACE: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    torch.relu_: torch.relu,
}


def _text(graph: fx.Graph) -> list[str]:
    return [f"{n.op} {n.target} {n.name} {map_arg(n.args, lambda a: a.name)} {n.kwargs}" for n in graph.nodes]
