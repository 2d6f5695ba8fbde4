"""Symbolic tracing with values: every traced tensor knows its shape, every traced size its number.

torch.fx follows one path through a network's code and stops where the code asks for a value (`if`, `range`, `len`,
unpacking). Here every node carries what the operation gives for the example input, on fake tensors that have shapes
and types but no data. So a question about a size is answered, and the graph holds an `expect` that repeats the
question whenever the shrunk network runs: another answer there is a named error, not another function. A question
about the values of a tensor has no answer: the network is refused, or, where the asking module holds no BatchNorm,
the module stays whole.
"""

from __future__ import annotations

import copy
import operator
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.fx.node import map_arg
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from ebsim.tickets.shrinking.rules.base import argument, call_name
from ebsim.tickets.shrinking.run_time import expect
from ebsim.tickets.shrinking.tracing.calls import ForwardCall
from ebsim.tickets.shrinking.tracing.in_place import changes_in_place
from ebsim.tickets.shrinking.tracing.leaves import is_leaf, surprises
from ebsim.tickets.shrinking.tracing.network_state import NetworkState
from ebsim.tickets.shrinking.tracing.stray_values import forget, meaning
from ebsim.tickets.shrinking.tracing.trace_contexts import (
    RandomCalls,
    autocast_noted,
    autocast_state,
    factories,
    own_derivatives,
)
from ebsim.tickets.shrinking.tracing.value_proxy import Method, Untraceable, ValueProxy, settled

CONSTANT = "_tensor_constant"  # what tensors that the code makes by itself are called on the root


class ValueTracer(fx.Tracer):
    """Traces `root` called with `inputs`; see the module. `notes` are what the graph leaves out."""

    proxy_buffer_attributes = True

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()
        self.fake = fake
        self.notes: list[str] = []
        self.busy = 0  # computing a node's value: what runs then is not traced
        self._expected: set[fx.Node] = set()
        self._attributes: dict[str, Any] = {}
        self._names: dict[int, str] = {}
        self._stored: dict[int, str] = {}  # memory of parameters and buffers -> name
        self._grad = torch.is_grad_enabled()
        self._autocast = autocast_state()
        self._finished = False
        self._made: list[weakref.ref[ValueProxy]] = []

    def graph_of(self, root: nn.Module, call: ForwardCall) -> fx.Graph:
        """The graph of one call of `root`."""
        self.call = call
        self._names = {id(t): name for name, t in (*root.named_parameters(), *root.named_buffers())}
        with RandomCalls(self), autocast_noted(self.notes), own_derivatives(self), factories(self):
            return self.trace(root)

    def finish(self) -> None:
        """From here on its values are plain ones: none must be found by code that runs later."""
        self._finished = True
        self._attributes.clear()
        if stray := [proxy for made in self._made if (proxy := made()) is not None]:
            forget(stray)

    def settled(self, proxy: ValueProxy) -> Any:
        return meaning(proxy.node, self.root) if self._finished else proxy

    # -- what fx asks ------------------------------------------------------------------------------

    def proxy(self, node: fx.Node) -> fx.Proxy:
        proxy = ValueProxy(node, self)
        self._made.append(weakref.ref(proxy))
        return proxy

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        """One placeholder per tensor among the inputs; hooks and a replaced forward of the network itself run too."""
        placeholders = [self.create_proxy("placeholder", name, (), {}) for name in self.call.names]

        def run(*tensors: Any) -> Any:
            args, kwargs = self.call.fill(tensors)
            return _output(nn.Module._call_impl(self.root, *args, **kwargs))

        return run, placeholders

    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: Any = None, type_expr: Any = None
    ) -> fx.Node:
        self._refuse_contexts()
        node = super().create_node(kind, target, args, kwargs, name, type_expr)
        if kind != "output":
            try:
                self._refuse_updates(node)
                node.meta["val"] = self._value(node)
            except BaseException:
                self.graph.erase_node(node)
                raise
        if kind == "get_attr" and isinstance(node.meta["val"], Tensor):
            self._stored[node.meta["val"].untyped_storage()._cdata] = str(target)
        return node

    def _refuse_contexts(self) -> None:
        if torch.is_grad_enabled() != self._grad or torch.is_inference_mode_enabled():
            raise Untraceable("its forward switches gradients on or off for a part of the network")
        if autocast_state() != self._autocast:
            raise Untraceable("its forward switches autocast on or off for a part of the network")

    def _refuse_updates(self, node: fx.Node) -> None:
        """Untraceable where an operation overwrites what belongs to the network: its own state."""
        if not (changes_in_place(node) and node.all_input_nodes):
            return
        value = node.all_input_nodes[0].meta["val"]
        name = self._stored.get(value.untyped_storage()._cdata) if isinstance(value, Tensor) else None
        if name is not None and not name.endswith("num_batches_tracked"):  # that of a BatchNorm: see `normalize`
            raise Untraceable(f"its forward changes {name} while it runs")

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> Any:
        args, kwargs = fx.node.map_aggregate((args, kwargs), settled)
        if self._finished:
            return getattr(args[0], target)(*args[1:], **kwargs) if kind == "call_method" else target(*args, **kwargs)
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **more)
        return None if proxy.node.meta.get("val", proxy) is None else proxy

    def create_arg(self, a: Any) -> Any:
        if type(a) is ValueProxy:
            return a.node
        if isinstance(a, Tensor) and not isinstance(a, nn.Parameter) and id(a) not in self._names:
            return self._constant(a)
        return super().create_arg(a)

    def _constant(self, tensor: Tensor) -> fx.Node:
        """A tensor that the code made without any traced value: stored on the root, equal ones once."""
        for name, known in vars(self.root).items():
            same = isinstance(known, Tensor) and (known is tensor or _equal(known, tensor))
            if same:
                return self.create_node("get_attr", name, (), {})
        name = self.get_fresh_qualname(CONSTANT)
        setattr(self.root, name, tensor)
        return self.create_node("get_attr", name, (), {})

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self.busy or not isinstance(attr_val, Tensor) or type(attr_val) is ValueProxy:
            return attr_val
        name = self._names.get(id(attr_val))
        if name is None:
            return attr_val
        self._attributes = parameter_proxy_cache
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self.busy:
            return forward(*args, **kwargs)
        if type(m).__name__ == "OptimizedModule":  # a compiled part: what it was made from is followed
            return m._orig_mod(*args, **kwargs)  # type: ignore[operator]
        path = (self.submodule_paths or {}).get(m)
        if path is None:  # made while the network runs
            return forward(*args, **kwargs)
        if is_leaf(m):
            return super().call_module(m, forward, args, kwargs)
        if any(isinstance(child, _BatchNorm) for child in m.modules()):
            return super().call_module(m, forward, args, kwargs)
        mark, state, stack = next(iter(reversed(self.graph.nodes))), NetworkState(m), OrderedDict(self.module_stack)
        try:
            result = super().call_module(m, forward, args, kwargs)
            if not state.changed():
                return result
        except Exception:
            self.module_stack = stack
        state.restore()  # what cannot be followed stays whole: there is no channel to prune in it
        self._forget(mark)
        return self.create_proxy("call_module", path, args, kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_leaf(m)

    def to_bool(self, obj: Any) -> bool:
        return bool(self.concrete(obj))

    # -- questions about values --------------------------------------------------------------------

    def concrete(self, proxy: ValueProxy) -> Any:
        """The number itself; the graph will check that it is still that."""
        value = proxy.value
        if self._finished:
            return self.settled(proxy)
        if isinstance(value, Tensor):
            raise Untraceable("its forward branches on tensor values")
        if proxy.node not in self._expected:
            self._expected.add(proxy.node)
            self.create_node("call_function", expect, (proxy.node, value), {})
        return value

    def length(self, proxy: ValueProxy) -> int:
        value, node = proxy.value, proxy.node
        if self._finished:
            return len(self.settled(proxy))
        if isinstance(value, Tensor):
            return int(proxy.shape[0])
        name = call_name(node)
        if node.op in ("call_method", "call_function") and name in ("split", "chunk", "unbind", "tensor_split"):
            self._parts(node, name)
        return len(value)

    def _parts(self, node: fx.Node, name: str) -> None:
        """Code that goes by the number of parts goes by the size that gives it."""
        source = node.args[0]
        by = argument(node, 1, {"split": "split_size", "chunk": "chunks", "unbind": "dim"}.get(name, ""))
        dim = (0 if by is None else by) if name == "unbind" else argument(node, 2, "dim", 0)
        if isinstance(source, fx.Node) and isinstance(dim, int) and not isinstance(by, list | tuple):
            size = ValueProxy(source, self).shape[dim]
            if name == "chunk" and isinstance(by, int):
                each = (size + (by - 1)) // by  # rounded up, and again for the number of parts
                self.concrete((size + (each - 1)) // each == len(node.meta["val"]))
            else:
                int(size)

    def attribute(self, proxy: ValueProxy, name: str) -> Any:
        if self._finished:
            return getattr(self.settled(proxy), name)
        with self._computing():
            found = getattr(proxy.value, name)
        own = proxy.node.op == "get_attr"
        if callable(found) and not isinstance(found, Tensor):
            if own and name in ("size", "dim", "numel", "ndimension", "stride", "is_floating_point"):
                return found
            return Method(proxy, name)
        if (
            name.startswith("_")
            or name in ("ndim", "names")
            or isinstance(proxy.value, torch.device)
            or (own and name in ("shape", "requires_grad"))
        ):
            return found
        return self.create_proxy("call_function", getattr, (proxy, name), {})

    # -- values ------------------------------------------------------------------------------------

    def _computing(self) -> _Computing:
        return _Computing(self)

    def _value(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self.fake.from_tensor(self.call.tensors[self.call.names.index(str(node.target))])
        if node.op == "get_attr":
            self.busy += 1
            found = operator.attrgetter(str(node.target))(self.root)
            self.busy -= 1
            if str(node.target).startswith(CONSTANT):
                node.meta["constant"] = found
            return self.fake.from_tensor(found) if isinstance(found, Tensor) else found
        args, kwargs = map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
        with self._computing():
            if node.op == "call_module":
                return self._module_value(self.root.get_submodule(str(node.target)), args, kwargs)
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            if node.target is expect:
                return True
            assert callable(node.target)
            return node.target(*args, **kwargs)

    def _module_value(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        if isinstance(module, _BatchNorm) and args and isinstance(args[0], Tensor):
            return torch.empty_like(args[0])  # it refuses to train on a single value
        with unset_fake_temporarily():
            state = NetworkState(module) if surprises(module) else None  # old weight_norm sets attributes
        try:
            return module(*args, **kwargs)
        except Exception:
            with unset_fake_temporarily(), torch.random.fork_rng(devices=[]):
                args, kwargs = pytree.tree_map(_random_like, (args, kwargs))
                out = copy.deepcopy(module)(*args, **kwargs)
            return pytree.tree_map(lambda t: self.fake.from_tensor(t) if isinstance(t, Tensor) else t, out)
        finally:
            if state is not None:
                with unset_fake_temporarily():
                    state.restore()

    def _forget(self, mark: fx.Node) -> None:
        """Erase every node after `mark`."""
        for node in reversed(list(self.graph.nodes)):
            if node is mark:
                return
            self._expected.discard(node)
            for name in [n for n, p in self._attributes.items() if p.node is node]:
                del self._attributes[name]
            self.graph.erase_node(node)


class _Computing:
    def __init__(self, tracer: ValueTracer) -> None:
        self.tracer = tracer

    def __enter__(self) -> None:
        self.grad = torch.no_grad()
        self.grad.__enter__()
        self.tracer.busy += 1
        self.tracer.fake.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.tracer.fake.__exit__(*error)
        self.tracer.busy -= 1
        self.grad.__exit__(*error)


def _output(value: Any) -> Any:
    """An output that a graph can write: an OrderedDict is built by a call, other mappings and lists are literal."""
    if isinstance(value, dict) and type(value) not in (dict, ValueProxy):
        tracer = next((v.tracer for v in value.values() if type(v) is ValueProxy), None)
        items = [(key, _output(item)) for key, item in value.items()]
        named = {"args": (), "kwargs": dict(items)} if is_dataclass(value) else {"args": (items,), "kwargs": {}}
        return tracer.create_proxy("call_function", type(value), **named) if tracer else value
    if isinstance(value, list) and type(value) is not ValueProxy:
        return [_output(item) for item in value]
    if type(value) in (tuple, dict):
        pairs: Any = value.items() if type(value) is dict else enumerate(value)
        filled = {key: _output(item) for key, item in pairs}
        return filled if type(value) is dict else tuple(filled.values())
    return value


def _equal(one: Tensor, other: Tensor) -> bool:
    alike = one.dtype == other.dtype and one.device == other.device and one.shape == other.shape
    return alike and one.device.type != "meta" and torch.equal(one, other)


def _random_like(value: Any) -> Any:
    """A real tensor of this shape and type."""
    if not isinstance(value, Tensor):
        return value
    kind = value.dtype if value.is_floating_point() else torch.float32
    return torch.rand(value.shape, dtype=kind, device=value.device).to(value.dtype)
