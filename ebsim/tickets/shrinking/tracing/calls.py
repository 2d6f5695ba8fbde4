"""`ForwardCall`: the arguments of one call of a network, which of them are tensors, and the call with other tensors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ebsim.errors import CompactError


@dataclass(frozen=True)
class ForwardCall:
    """Arguments of a forward call. `tensors` are those among them, in order, and `names` what a graph calls them."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    @property
    def tensors(self) -> list[Tensor]:
        return [leaf for leaf in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    @property
    def plain(self) -> bool:
        """Whether every argument is a tensor."""
        return all(isinstance(a, Tensor) for a in (*self.args, *self.kwargs.values()))

    def fill(self, tensors: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with other tensors in the places of the tensors."""
        rest = iter(tensors)
        leaves, spec = pytree.tree_flatten((self.args, self.kwargs))
        args, kwargs = pytree.tree_unflatten([next(rest) if isinstance(x, Tensor) else x for x in leaves], spec)
        return tuple(args), kwargs

    def tensors_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
        """The tensors of another call. CompactError when its other arguments are not those of this one."""
        own, other = (pytree.tree_flatten(both) for both in ((self.args, self.kwargs), (args, kwargs)))
        same = own[1] == other[1] and all(
            isinstance(b, Tensor) if isinstance(a, Tensor) else type(a) is type(b) and a == b
            for a, b in zip(own[0], other[0], strict=True)
        )
        if not same:
            raise CompactError(
                "this network was shrunk for another call: only the tensors among its arguments may change. "
                "Call compact with an example of this call."
            )
        return [leaf for leaf in other[0] if isinstance(leaf, Tensor)]

    def with_tensors(self, tensors: Sequence[Tensor]) -> ForwardCall:
        return ForwardCall(*self.fill(tensors), self.names)

    @property
    def batch(self) -> int | None:
        """How many samples the tensors hold, where all of them hold the same number."""
        counts = {t.shape[0] if t.ndim > 1 else None for t in self.tensors}
        return counts.pop() if len(counts) == 1 else None

    def with_batch(self, n: int) -> ForwardCall:
        """Tensors of these shapes, `n` samples of them, without values."""
        if self.batch is None:
            return self
        return self.with_tensors([t.new_empty((n, *t.shape[1:])) for t in self.tensors])


def call_of(model: nn.Module, example: Any) -> ForwardCall:
    """The call that an example stands for: a tensor, a tuple of arguments, or a mapping of named ones.

    CompactError without any tensor in it. Floating-point tensors get the type and the device of the weights.
    """
    named = isinstance(example, Mapping)
    args = () if named else tuple(example) if isinstance(example, tuple | list) else (example,)
    call = ForwardCall(args, dict(example) if named else {})
    if not call.tensors:
        raise CompactError("the example input holds no tensor; give a tensor, or a tuple or mapping of the arguments")
    weights = next((p for p in model.parameters() if p.is_floating_point()), None)

    def fitted(t: Tensor) -> Tensor:
        t = t.detach().as_subclass(Tensor)  # what a subclass adds is its own
        kind = weights.dtype if weights is not None and t.is_floating_point() else t.dtype
        device = t.device if weights is None else weights.device
        if t.device.type == "meta":
            return torch.empty(t.shape, dtype=kind, device=device)
        return t.to(device=device, dtype=kind)

    return ForwardCall(*call.fill([fitted(t) for t in call.tensors]), _names(model, call))


def _names(model: nn.Module, call: ForwardCall) -> tuple[str, ...]:
    """A name per tensor: that of its argument, numbered where an argument holds several."""
    try:
        positional = list(inspect.signature(model.forward).parameters)
    except (TypeError, ValueError):
        positional = []
    given = [(positional[i] if i < len(positional) else f"input_{i}", a) for i, a in enumerate(call.args)]
    names: list[str] = []
    for name, argument in (*given, *call.kwargs.items()):
        count = sum(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(argument))
        names += [name] if isinstance(argument, Tensor) else [f"{name}_{i}" for i in range(count)]
    return tuple(names)
