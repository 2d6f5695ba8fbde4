"""Snapshot of a network's attributes, tensors and random state, to detect and undo what tracing its code changes."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


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
            if (
                isinstance(old, bool | int | float | Tensor)
                and key in now
                and now[key] is not old
                and not _same(old, now[key])
            ):
                return key
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
        module._parameters.update(self.parameters)
        module._buffers.update(self.buffers)
        with torch.no_grad():
            for key, value in self.values.items():
                current = self.buffers.get(key, self.own.get(key))
                if isinstance(current, Tensor) and not torch.equal(current, value):
                    current.copy_(value)


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
