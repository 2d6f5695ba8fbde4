"""`ValueProxy`: traced values with a known type, length and, if they are numbers, value."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from typing import Any

from torch import Tensor, fx

from ebsim.tickets.shrinking.run_time import assigned


class Untraceable(Exception):
    """What the network's code does cannot be written as a graph; the message says what."""


class ValueProxy(fx.Proxy):
    """A traced value that can be asked for its type, its length and, if it is a number, for itself."""

    tracer: Any

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return Tensor if isinstance(self.value, Tensor) else type(self.value)

    @property
    def value(self) -> Any:
        return self.node.meta["val"]

    @classmethod
    def __torch_function__(cls, method: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = fx.node.map_aggregate((args, kwargs or {}), settled)  # type: ignore[misc, arg-type]
        found: list[Any] = []
        fx.node.map_aggregate((args, kwargs), lambda a: found.append(a) if type(a) is ValueProxy else a)
        return super().__torch_function__(method, types, args, kwargs) if found else method(*args, **kwargs)

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

    def __copy__(self) -> Any:
        if isinstance(self.value, Tensor):  # which has no derivative after it, and a graph would have one
            raise Untraceable("its forward copies a tensor with copy.copy")
        return self.value

    def __format__(self, spec: str) -> str:
        return repr(self.value) if isinstance(self.value, Tensor) else format(self.tracer.concrete(self), spec)

    def __str__(self) -> str:
        return format(self)


def settled(value: Any) -> Any:
    """What a traced value of a finished tracing stands for; any other value itself."""
    return value.tracer.settled(value) if type(value) is ValueProxy else value


class Method:
    """A method of a traced value, not called yet."""

    def __init__(self, proxy: ValueProxy, name: str) -> None:
        self.proxy, self.name = proxy, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.name in ("item", "tolist", "numpy") and isinstance(self.proxy.value, Tensor):
            raise Untraceable("its forward branches on tensor values")
        return self.proxy.tracer.create_proxy("call_method", self.name, (self.proxy, *args), kwargs)
