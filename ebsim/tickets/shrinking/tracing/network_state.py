"""Snapshot of a network's attributes, tensors and random state, to detect and undo what tracing its code changes."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ebsim.tickets.shrinking.tracing.value_proxy import ValueProxy


class NetworkState:
    """Attributes, parameters and buffers of every module in `root`, now."""

    def __init__(self, root: nn.Module) -> None:
        held = (
            m for m in root.modules() if not isinstance(m, torch.jit.ScriptModule)
        )  # that does not change in Python
        self._before = {module: _Held(module) for module in held}
        self._names = {module: name for name, module in root.named_modules()}
        self._random = random_state()

    def changed(self) -> str:
        """The first thing that decides what the network computes and has changed: a tensor, a number, a generator."""
        for module, held in self._before.items():
            if (key := held.changed(module)) is not None:
                return ".".join(filter(None, (self._names[module], key)))
        return "the state of the random number generators" if random_state() != self._random else ""

    def by_products(self) -> list[str]:
        """Attributes that were set to something else than a tensor or a number."""
        return [
            ".".join(filter(None, (self._names[module], key)))
            for module, held in self._before.items()
            for key in held.set_since(module)
        ]

    def restore(self) -> None:
        for module, held in self._before.items():
            held.restore(module)


class _Held:
    """The state of one module."""

    def __init__(self, module: nn.Module) -> None:
        self.parameters, self.buffers = dict(module._parameters), dict(module._buffers)
        self.own = {k: v for k, v in vars(module).items() if k not in _INTERNAL}
        self.contents = {k: _contents(v) for k, v in self.own.items() if isinstance(v, _CONTAINERS)}
        tensors = {**self.buffers, **{k: v for k, v in self.own.items() if isinstance(v, Tensor)}}
        self.values = {k: v.detach().clone() for k, v in tensors.items() if v is not None and v.device.type != "meta"}

    def changed(self, module: nn.Module) -> str | None:
        now = {**vars(module), **module._parameters, **module._buffers}
        for key, old in (*self.parameters.items(), *self.buffers.items()):
            if now.get(key) is not old:
                return key
        for key, value in self.values.items():
            if isinstance(now.get(key), Tensor) and not torch.equal(now[key], value):
                return key
        for key, old in self.own.items():
            number = isinstance(old, bool | int | float) and key in now and not _same(old, now[key])
            if number or (isinstance(old, Tensor) and _replaced(old, now.get(key))):
                return key
        for key, contents in self.contents.items():
            if (at := _differs(contents, _contents(self.own[key]))) is not None:
                return f"{key}{at}"
        return None

    def set_since(self, module: nn.Module) -> list[str]:
        now = {k: v for k, v in vars(module).items() if k not in _INTERNAL and not k.startswith("_tensor_constant")}
        return [k for k, v in now.items() if k not in self.own or (v is not self.own[k] and not _same(v, self.own[k]))]

    def restore(self, module: nn.Module) -> None:
        for key in self.set_since(module):
            if key in self.own:
                vars(module)[key] = self.own[key]
            else:
                del vars(module)[key]
        for contents in self.contents.values():
            _refill(contents)
        module._parameters.update(self.parameters)
        module._buffers.update(self.buffers)
        with torch.no_grad():
            for key, value in self.values.items():
                current = self.buffers.get(key, self.own.get(key))
                if isinstance(current, Tensor) and not torch.equal(current, value):
                    current.copy_(value)


_CONTAINERS = (list, dict, set)


class _Contents(NamedTuple):
    """A list, dictionary or set, and copies of what it holds: numbers, tensors and containers by key."""

    container: Any
    shallow: Any
    held: dict[Any, Any]


def _contents(value: Any) -> _Contents:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    held: dict[Any, Any] = {}
    for key, item in items:
        if isinstance(item, _CONTAINERS):
            held[key] = _contents(item)
        elif type(item) is Tensor and item.device.type != "meta":
            held[key] = item.detach().clone()
        elif isinstance(item, bool | int | float):
            held[key] = item
    return _Contents(value, value.copy(), held)


def _differs(before: _Contents, now: _Contents) -> str | None:
    """Where a number or a tensor (of the same size: another is a memo for another input) is not what it was."""
    for key, old in before.held.items():
        new = now.held.get(key)
        if isinstance(old, _Contents) and isinstance(new, _Contents):
            if (at := _differs(old, new)) is not None:
                return f"[{key!r}]{at}"
        elif isinstance(old, Tensor):
            held = now.shallow[key] if key in _keys(now.shallow) else None
            if _replaced(before.shallow[key], held) or (held is before.shallow[key] and not torch.equal(held, old)):
                return f"[{key!r}]"
        elif isinstance(old, bool | int | float) and new is not None and not _same(old, new):
            return f"[{key!r}]"
    return None


def _keys(container: Any) -> Any:
    return range(len(container)) if isinstance(container, list) else container


def _replaced(old: Any, new: Any) -> bool:
    """Whether a tensor is another now, of the same size: one of another size is a memo, made for another input."""
    if old is new or not isinstance(old, Tensor) or not isinstance(new, Tensor):
        return False
    return bool((new.value if type(new) is ValueProxy else new).shape == old.shape)


def _refill(before: _Contents) -> None:
    if isinstance(before.container, list):
        before.container[:] = before.shallow
    else:
        before.container.clear()
        before.container.update(before.shallow)
    for inner in before.held.values():
        if isinstance(inner, _Contents):
            _refill(inner)


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and isinstance(one, bool | int | float | str) and one == other


_INTERNAL = set(vars(nn.Module()))


class Generators(NamedTuple):
    """State of the generators of torch (CPU), Python and numpy."""

    torch: bytes
    python: Any
    numpy: tuple[Any, ...]


def random_state() -> Generators:
    kind, keys, *rest = np.random.get_state()
    assert isinstance(keys, np.ndarray)
    return Generators(torch.get_rng_state().numpy().tobytes(), random.getstate(), (kind, keys.tobytes(), *rest))


def restore_random(state: Generators) -> None:
    torch.set_rng_state(torch.frombuffer(bytearray(state.torch), dtype=torch.uint8))
    random.setstate(state.python)
    kind, keys, *rest = state.numpy
    np.random.set_state((kind, np.frombuffer(keys, np.uint32), *rest))
