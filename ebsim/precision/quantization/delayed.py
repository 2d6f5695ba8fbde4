"""Delayed scaling: the scale of a tensor follows from the absmax of earlier steps, whose history is state to be kept.

    scale = pow2(largest absmax of the last 16 steps, this one not among them; of this one where there are none)

As FP8 recipes have it, so that a tensor need not be read twice. What exceeds the range is clipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ebsim.precision.formats.number_format import HISTORY

PREFIX = "precision/"  # of the names in a checkpoint


class Histories:
    """By tensor ("layer/pass/role"): int32 bits of the absmax of the current step and of the 16 before it."""

    def __init__(self) -> None:
        self.bits: dict[str, Tensor] = {}
        self.step: dict[str, int] = {}  # which step the first entry is of

    def of(self, key: str, step: int, training: bool) -> Callable[[Tensor], Tensor]:
        """Bits of a tensor's absmax [1, 1] -> those that its scale is made of; remembers them in training."""

        def whole(now: Tensor) -> Tensor:
            bits = self.bits.get(key)
            if not training:
                return now if bits is None else torch.where(bits.amax() > 0, bits.amax(), now)
            if bits is None:
                bits = torch.zeros(1 + HISTORY, dtype=torch.int32, device=now.device)
            if self.step.get(key) != step:
                bits = torch.cat([bits.new_zeros(1), bits[:-1]])
                self.step[key] = step
            past = bits[1:].amax()
            self.bits[key] = torch.cat([torch.maximum(bits[:1], now.flatten()), bits[1:]])
            return torch.where(past > 0, past, now)

        return whole

    def state(self) -> dict[str, Tensor]:
        """Named tensors, for a checkpoint: the step, then the bits."""
        return {
            PREFIX + key: torch.cat([torch.tensor([self.step[key]], device=bits.device), bits])
            for key, bits in self.bits.items()
        }

    def load(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Go on from `state`; other names in it are left alone."""
        for name, values in state.items():
            if name.startswith(PREFIX):
                key = name.removeprefix(PREFIX)
                self.step[key], self.bits[key] = int(values[0]), values[1:].to(device, torch.int32)
