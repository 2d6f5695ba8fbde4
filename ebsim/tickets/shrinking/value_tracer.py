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
import linecache
import math
import operator
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.fx.node import map_arg
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils import checkpoint

from ebsim.tickets.shrinking.calls import Call
from ebsim.tickets.shrinking.leaves import is_leaf, surprises
from ebsim.tickets.shrinking.run_time import assigned, expect
from ebsim.tickets.shrinking.state import State

CONSTANT = "_tensor_constant"  # what tensors that the code makes by itself are called on the root


class Untraceable(Exception):
    """What the network's code does cannot be written as a graph; the message says what."""


class ValueProxy(fx.Proxy):
    """A traced value that can be asked for its type, its length and, if it is a number, for itself."""

    tracer: ValueTracer

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return Tensor if isinstance(self.value, Tensor) else type(self.value)

    @property
    def value(self) -> Any:
        return self.node.meta["val"]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__fx_"):
            raise AttributeError(name)
        return self.tracer.attribute(self, name)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))  # type: ignore[index]

    def __len__(self) -> int:
        return self.tracer.length(self)

    def __bool__(self) -> bool:
        return self.tracer.to_bool(self)

    def __index__(self) -> int:
        return operator.index(self.tracer.concrete(self))

    def __int__(self) -> int:
        return int(self.tracer.concrete(self))

    def __float__(self) -> float:
        return float(self.tracer.concrete(self))

    def __hash__(self) -> int:
        return id(self) if isinstance(self.value, Tensor) else hash(self.tracer.concrete(self))

    def __contains__(self, item: Any) -> bool:
        return any(bool(item == own) for own in self)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", assigned, (self, index, value), {})

    def __ceil__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.ceil, (self,), {})

    def __floor__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.floor, (self,), {})

    def __round__(self, digits: Any = None) -> Any:
        return self.tracer.create_proxy("call_function", round, (self, digits), {})

    def __format__(self, spec: str) -> str:
        return repr(self.value)


class _RandomCalls(TorchFunctionMode):
    """Records random tensors that do not depend on any traced value; otherwise one draw would be frozen in."""

    def __init__(self, tracer: ValueTracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _RANDOM and not self.tracer.busy:
            return self.tracer.create_proxy("call_function", func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


_RANDOM = {torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal}


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
        self._autocast = _autocast()

    def graph_of(self, root: nn.Module, call: Call) -> fx.Graph:
        """The graph of one call of `root`."""
        self.call = call
        self._names = {id(t): name for name, t in (*root.named_parameters(), *root.named_buffers())}
        with _RandomCalls(self), _autocast_noted(self.notes), _own_derivatives(self):
            return self.trace(root)

    # -- what fx asks ------------------------------------------------------------------------------

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return ValueProxy(node, self)

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
        if _autocast() != self._autocast:
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
        path = (self.submodule_paths or {}).get(m)
        if path is None:  # made while the network runs
            return forward(*args, **kwargs)
        if is_leaf(m):
            return super().call_module(m, forward, args, kwargs)
        if any(isinstance(child, _BatchNorm) for child in m.modules()):
            return super().call_module(m, forward, args, kwargs)
        mark, state, stack = next(iter(reversed(self.graph.nodes))), State(m), OrderedDict(self.module_stack)
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
        if isinstance(value, Tensor):
            raise Untraceable("its forward branches on tensor values")
        if proxy.node not in self._expected:
            self._expected.add(proxy.node)
            self.create_node("call_function", expect, (proxy.node, value), {})
        return value

    def length(self, proxy: ValueProxy) -> int:
        value, node = proxy.value, proxy.node
        if isinstance(value, Tensor):
            return int(proxy.shape[0])
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if node.op in ("call_method", "call_function") and name in ("split", "unbind", "tensor_split"):
            source = node.args[0]
            by = node.args[1] if len(node.args) > 1 else None
            default = by if name == "unbind" and by is not None else node.args[2] if len(node.args) > 2 else 0
            dim = node.kwargs.get("dim", default)
            if isinstance(source, fx.Node) and isinstance(dim, int) and not isinstance(by, list | tuple):
                int(ValueProxy(source, self).shape[dim])  # as many parts as this size gives
        return len(value)

    def attribute(self, proxy: ValueProxy, name: str) -> Any:
        with self._computing():
            found = getattr(proxy.value, name)
        own = proxy.node.op == "get_attr"
        if callable(found) and not isinstance(found, Tensor):
            if own and name in ("size", "dim", "numel", "ndimension", "stride", "is_floating_point"):
                return found
            return _Method(proxy, name)
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
            state = State(module) if surprises(module) else None  # old weight_norm sets attributes
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


class _Method:
    """A method of a traced value, not called yet."""

    def __init__(self, proxy: ValueProxy, name: str) -> None:
        self.proxy, self.name = proxy, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.name in ("item", "tolist", "numpy") and isinstance(self.proxy.value, Tensor):
            raise Untraceable("its forward branches on tensor values")
        return self.proxy.tracer.create_proxy("call_method", self.name, (self.proxy, *args), kwargs)


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


def changes_in_place(node: fx.Node) -> bool:
    """Whether a node overwrites its first argument: `a += b`, `a.relu_()`, `a[i] = b`, F.relu_(a)."""
    if node.op == "call_method":
        return is_in_place(str(node.target))
    name = getattr(node.target, "__name__", "")
    own = node.op == "call_function" and (node.target is assigned or name in _IN_PLACE or is_in_place(name))
    return own or (node.op == "call_function" and bool(node.kwargs.get("inplace")))


def is_in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


_IN_PLACE = {"iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor"}


@contextmanager
def _own_derivatives(tracer: ValueTracer) -> Iterator[None]:
    """Follow the code inside activation checkpoints; stop at functions with a derivative of their own or scripted.

    They look into tensors past what Python sees, and a traced value has nothing there.
    """
    own, generator = vars(torch.autograd.Function)["apply"], checkpoint._checkpoint_without_reentrant_generator
    scripted = [(kind, kind.__call__) for kind in (torch._C.ScriptFunction, torch._C.ScriptMethod)]
    note = (
        "forward uses activation checkpoints, the shrunk network keeps its activations "
        "(so BatchNorm statistics are updated once a step, not again when a block is recomputed)"
    )

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if not _traced(args, kwargs):
            return own.__func__(cls, *args, **kwargs)
        if cls is checkpoint.CheckpointFunction:
            tracer.notes.append(note)
            return args[0](*args[2:])
        raise Untraceable(f"its forward calls {cls.__name__}, a function with a derivative of its own")

    def script(kind: Any, call: Any) -> Any:
        def called(self: Any, *args: Any, **kwargs: Any) -> Any:
            if _traced(args, kwargs):
                raise Untraceable(f"its forward calls {getattr(self, 'name', 'a function')}, which is scripted")
            return call(self, *args, **kwargs)

        return called

    def followed(*args: Any, **kwargs: Any) -> Iterator[None]:
        tracer.notes.append(note)
        yield

    torch.autograd.Function.apply = classmethod(apply)  # type: ignore[method-assign, assignment]
    checkpoint._checkpoint_without_reentrant_generator = followed
    for kind, call in scripted:
        kind.__call__ = script(kind, call)  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.autograd.Function.apply = own  # type: ignore[method-assign]
        for kind, call in scripted:
            kind.__call__ = call  # type: ignore[method-assign]
        checkpoint._checkpoint_without_reentrant_generator = generator


def _traced(*arguments: Any) -> bool:
    return any(type(leaf) is ValueProxy for leaf in pytree.tree_leaves(arguments))


@contextmanager
def _autocast_noted(notes: list[str]) -> Iterator[None]:
    """Note where the network's code switches autocast off for itself: a graph does not say so."""
    enter = torch.autocast.__enter__

    def noted(self: Any) -> Any:
        notes.append("forward sets autocast for a part of the network, the shrunk network does not")
        return enter(self)

    torch.autocast.__enter__ = noted  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.autocast.__enter__ = enter  # type: ignore[method-assign]


def _autocast() -> tuple[bool, ...]:
    return tuple(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda"))


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


def place_of(error: BaseException) -> str:
    """Where in the network's own code an error came up: "file:line: code"; empty where that is not known."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_library(f.filename)]
    if not frames:
        return ""
    last = frames[-1]
    code = linecache.getline(last.filename, last.lineno or 0).strip()
    return f"{last.filename.rpartition('/')[2]}:{last.lineno}: {code}"


def _is_library(path: str) -> bool:
    return any(part in path for part in ("/torch/", "ebsim/tickets/", "<eval_with_key>", "<frozen"))
