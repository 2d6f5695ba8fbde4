"""Traces a network into torch.fx graphs in which every value has a known shape, one per mode.

A trace follows one path through the code, and a network may take another path in training than in evaluation
(auxiliary heads, functional dropout). So it is traced in both modes; where the two graphs are the same, one is kept.
What a graph would leave out silently is refused: state that changes while the network runs, random numbers that decide
about the path, values of tensors that do (see `value_tracer`).
"""

from __future__ import annotations

import logging
import operator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.fx.node import map_arg

from ebsim.errors import CompactError
from ebsim.tickets.shrinking.run_time import assigned, expect
from ebsim.tickets.shrinking.tracing.calls import ForwardCall
from ebsim.tickets.shrinking.tracing.error_places import place_of
from ebsim.tickets.shrinking.tracing.in_place import is_in_place
from ebsim.tickets.shrinking.tracing.leaves import surprises
from ebsim.tickets.shrinking.tracing.network_state import NetworkState, random_state, restore_random
from ebsim.tickets.shrinking.tracing.side_effects import acts_when_traced
from ebsim.tickets.shrinking.tracing.value_proxy import Untraceable
from ebsim.tickets.shrinking.tracing.value_tracer import ValueTracer


class Traced(NamedTuple):
    """Graphs by mode (True = training; one object for both when they agree), and notes on what they leave out.

    A network whose own `train` keeps some modules in evaluation mode (frozen BatchNorm) is traced, and shrunk, so."""

    graphs: dict[bool, fx.Graph]
    notes: list[str]
    stay: dict[bool, tuple[str, ...]]  # modules that are in the other mode when the network is in this one


def trace(root: nn.Module, call: ForwardCall) -> Traced:
    """Trace `root`, a copy that belongs to the caller: constants are stored on it, and it is left in evaluation mode.

    The batch of the example is used where the code goes by it, and two samples elsewhere: two, so that no reshaping
    can mistake the batch for a dimension of one. Errors: CompactError, naming what cannot be written as a graph.
    """
    generators, log = random_state(), logging.getLogger("torch._subclasses.fake_tensor")
    quiet, log.disabled = log.disabled, True  # what it says of a failed call comes as an exception too
    try:
        return _trace(root, call)
    finally:
        log.disabled = quiet
        restore_random(generators)


def _trace(root: nn.Module, call: ForwardCall) -> Traced:
    given = call.batch
    first = call.with_batch(2)
    try:
        traced = _both_modes(root, first)
        nodes = [n for graph in traced.graphs.values() for n in graph.nodes]
        depends = any(n.target is expect or _is_empty(n.meta.get("val")) for n in nodes)
        if not depends or given in (None, 1, 2):
            return traced
    except CompactError:
        if given in (None, 2):
            raise
    return _both_modes(root, call)


def _is_empty(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 0


def _both_modes(root: nn.Module, call: ForwardCall) -> Traced:
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    graphs: dict[bool, fx.Graph] = {}
    notes: list[str] = [
        f"{name or type(root).__name__} has {surprises(m)}, which was followed once and is part of the network now"
        for name, m in root.named_modules()
        if surprises(m) and m._modules
    ]
    stay: dict[bool, tuple[str, ...]] = {}
    for mode in (True, False):
        root.train(mode)
        stay[mode] = tuple(name for name, module in root.named_modules() if name and module.training != mode)
        state = NetworkState(root)
        with torch.inference_mode(False), torch.enable_grad():
            tracer = ValueTracer(fake)
            try:
                graph = _one_mode(tracer, root, call, fake, notes)
            except CompactError:
                tracer.finish()
                raise
        if changed := state.changed():
            raise CompactError(
                f"{type(root).__name__} cannot be shrunk: its forward changes {changed} while it runs, which a graph "
                "would leave out. Do it outside of forward, or in a module of its own without BatchNorm layers."
            )
        notes += [f"forward sets the attribute {name}, the shrunk network does not" for name in state.by_products()]
        state.restore()
        tracer.finish()
        _remove_unread(graph)
        overwritten = _drop_in_place(graph, root)
        _refuse_overwritten_views(graph, overwritten)
        graphs[mode] = graph
    if _text(graphs[True]) == _text(graphs[False]):
        graphs[True] = graphs[False]
    root.eval()
    return Traced(graphs, list(dict.fromkeys(notes)), stay)


def _one_mode(
    tracer: ValueTracer, root: nn.Module, call: ForwardCall, fake: FakeTensorMode, notes: list[str]
) -> fx.Graph:
    name = type(root).__name__
    try:
        graph = tracer.graph_of(root, call)
        notes += tracer.notes
        return graph
    except Untraceable as e:
        raise CompactError(
            f"{name} cannot be shrunk: {e}{_at(e)}. A graph has one path for all inputs; move that part into a module "
            "of its own without BatchNorm layers, which then stays as it is."
        ) from e
    except CompactError:
        raise
    except Exception as e:  # the network's own code runs here: anything can come out of it
        _refuse_example(root, call, fake)
        reason = str(e).strip().split("\n")[0][:200]
        if isinstance(e, DynamicOutputShapeException):
            reason = f"the size of a tensor depends on values of another, {reason}"
        raise CompactError(
            f"{name} cannot be traced, so it cannot be shrunk ({type(e).__name__}: {reason}{_at(e)}). "
            "Move that part into a module of its own without BatchNorm layers, which then stays as it is."
        ) from e


def _refuse_example(root: nn.Module, call: ForwardCall, fake: FakeTensorMode) -> None:
    """CompactError when the network does not take this input, traced or not."""
    root.eval()
    try:
        with torch.no_grad(), fake:
            args, kwargs = call.fill([fake.from_tensor(t) for t in call.tensors])
            root(*args, **kwargs)
        return
    except Exception:
        pass  # values are missing there: only a real run tells
    try:
        with torch.no_grad():
            args, kwargs = call.fill([torch.randn_like(t) if t.is_floating_point() else t for t in call.tensors])
            root(*args, **kwargs)
    except Exception as e:
        reason = str(e).strip().split("\n")[0][:200]
        shapes = [list(t.shape) for t in call.tensors]
        raise CompactError(
            f"{type(root).__name__} does not accept the example input {shapes} ({type(e).__name__}: {reason}). "
            "Give an example with the shape that it is trained on."
        ) from e


def _at(error: BaseException) -> str:
    place = place_of(error)
    return f" ({place})" if place else ""


def _remove_unread(graph: fx.Graph) -> None:
    """Erase nodes that are not read and change nothing."""
    for node in reversed(list(graph.nodes)):
        keeps = node.op in ("placeholder", "output") or node.target in (expect, torch._assert, assigned)
        changes = acts_when_traced(node) or node.target in _OUT_OF_PLACE or node.kwargs.get("inplace")
        if not (node.users or keeps or changes):
            graph.erase_node(node)


def _drop_in_place(graph: fx.Graph, root: nn.Module) -> dict[fx.Node, fx.Node]:
    """Redirect reads of a tensor after an in-place operation to that operation's result.

    Channels may be selected in between, so nothing may depend on the side effect. `a += b` and `a.relu_()` become plain
    operations, other methods work on a copy; what in-place modules and `inplace=True` may overwrite is settled after
    the rewriting. Returns operation -> what it overwrites.
    """
    order = {node: i for i, node in enumerate(graph.nodes)}
    found = {}
    for node in list(graph.nodes):
        method = node.target if node.op == "call_method" else ""
        in_place = is_in_place(method)
        writes = in_place or overwrites(node, root) or node.target in _OUT_OF_PLACE or node.target is assigned
        if not writes or not node.all_input_nodes:
            continue
        victim = node.all_input_nodes[0]
        victim.replace_all_uses_with(node, partial(_comes_after, order, order[node]))
        found[node] = victim
        node.target = _OUT_OF_PLACE.get(node.target, node.target)
        if in_place and hasattr(Tensor, method[:-1]):
            node.target = method[:-1]
        elif in_place:
            with graph.inserting_before(node):
                copied = graph.call_method("clone", (victim,))
                copied.meta["val"] = victim.meta["val"]
                node.replace_input_with(victim, copied)
    return found


def overwrites(node: fx.Node, root: nn.Module) -> bool:
    """Whether a node calls a module or function that was told to work in place."""
    if node.op == "call_module":
        return bool(getattr(root.get_submodule(str(node.target)), "inplace", False))
    return node.op == "call_function" and bool(node.kwargs.get("inplace"))


def _refuse_overwritten_views(graph: fx.Graph, overwritten: dict[fx.Node, fx.Node]) -> None:
    """CompactError where an in-place operation changes a tensor that is also read through a view, or the reverse."""
    if not overwritten:
        return
    order = {node: i for i, node in enumerate(graph.nodes)}
    memory = {n: n.meta["val"].untyped_storage()._cdata for n in graph.nodes if isinstance(n.meta.get("val"), Tensor)}
    sharing: dict[int, list[fx.Node]] = {}
    for node, place in memory.items():
        sharing.setdefault(place, []).append(node)
    for node, victim in overwritten.items():
        for other in sharing.get(memory.get(victim, -1), []):
            shares = other is not victim and _comes_after(order, order[other], node)
            if shares and any(order.get(user, 0) > order[node] for user in other.users):
                raise CompactError(
                    f"{node.name} overwrites {victim.name}, whose memory is read again as {other.name}; such views "
                    "cannot be followed. Use the operation that is not in place there."
                )


def _comes_after(order: dict[fx.Node, int], position: int, user: fx.Node) -> bool:
    return order.get(user, -1) > position


_OUT_OF_PLACE: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    torch.relu_: torch.relu,
}


def _text(graph: fx.Graph) -> list[str]:
    return [f"{n.op} {n.target} {n.name} {map_arg(n.args, lambda a: a.name)} {n.kwargs}" for n in graph.nodes]
