"""Context managers of the trace: random numbers, custom derivatives, activation checkpoints, autocast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils import checkpoint

from ebsim.tickets.shrinking.tracing.value_proxy import Untraceable, ValueProxy


class RandomCalls(TorchFunctionMode):
    """Records random tensors that do not depend on any traced value; otherwise one draw would be frozen in."""

    def __init__(self, tracer: Any) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _RANDOM and not self.tracer.busy:
            return self.tracer.create_proxy("call_function", func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


_RANDOM = {torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal}


@contextmanager
def factories(tracer: Any) -> Iterator[None]:
    """Tensors made for a traced size or type (`torch.rand(x.shape[0], 1, dtype=x.dtype)`) are traced too: torch's own
    parser of arguments wants numbers there."""
    own = {name: getattr(torch, name) for name in (*_FACTORIES, *_TRANSFORMS)}

    def followed(function: Any) -> Any:
        def make(*args: Any, **kwargs: Any) -> Any:
            traced = not tracer.busy and _traced(args, kwargs)
            return tracer.create_proxy("call_function", function, args, kwargs) if traced else function(*args, **kwargs)

        return make

    def refused(name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if tracer.busy:
                return function(*args, **kwargs)
            raise Untraceable(f"its forward {_TRANSFORMS[name]} (torch.{name})")

        return call

    for name, function in own.items():
        setattr(torch, name, refused(name, function) if name in _TRANSFORMS else followed(function))
    try:
        yield
    finally:
        for name, function in own.items():
            setattr(torch, name, function)


_TRANSFORMS = {"cond": "branches on tensor values", "vmap": "maps a function over samples"}
_FACTORIES = (
    "rand", "randn", "randint", "randperm", "zeros", "ones", "empty", "full", "arange", "linspace", "eye", "logspace",
)  # fmt: skip


@contextmanager
def own_derivatives(tracer: Any) -> Iterator[None]:
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
def autocast_noted(notes: list[str]) -> Iterator[None]:
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


def autocast_state() -> tuple[bool, ...]:
    return tuple(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda"))
