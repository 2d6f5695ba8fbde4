"""The state of a training after an epoch, as one file that is whole or absent.

One safetensors file holds the network (`model/...`), the momentum (`momentum/...`), every epoch's gammas
(`gammas`, [epochs + 1, channels], row 0 before the first epoch) and, as JSON, the epoch, the step count and the
curve. Because it is one file there is nothing that could disagree. Random numbers need no state: they are pure
functions of (seed, epoch, step).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ebsim.errors import DamagedError
from ebsim.files import load_tensors, save_tensors


@dataclass
class Checkpoint:
    """Everything that continuing needs, after `epoch` epochs (absolute) and `step` optimizer steps."""

    epoch: int
    step: int
    model: dict[str, Tensor]
    momentum: dict[str, Tensor]
    gammas: Tensor
    curve: list[dict[str, Any]] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Tensor] = field(default_factory=dict)

    def save(self, path: Path, stage: str) -> None:
        """Write atomically; `stage` is the id of the stage that it belongs to."""
        tensors = {
            **{f"model/{name}": tensor for name, tensor in self.model.items()},
            **{f"momentum/{name}": tensor for name, tensor in self.momentum.items()},
            **{f"extra/{name}": tensor for name, tensor in self.extra.items()},
            "gammas": self.gammas,
        }
        meta = {
            "stage": stage,
            "epoch": self.epoch,
            "step": self.step,
            "curve": self.curve,
            "environment": self.environment,
        }
        save_tensors(path, tensors, meta)

    @classmethod
    def load(cls, path: Path, stage: str) -> Checkpoint:
        """Read back; `DamagedError` if the file is torn, altered or belongs to another stage."""
        tensors, meta = load_tensors(path)
        try:
            if meta["stage"] != stage:
                raise DamagedError(f"{path}: a checkpoint of {meta['stage']}, not of {stage}.")
            return cls(
                epoch=meta["epoch"],
                step=meta["step"],
                model=_below(tensors, "model/"),
                momentum=_below(tensors, "momentum/"),
                gammas=tensors["gammas"],
                curve=meta["curve"],
                environment=meta["environment"],
                extra=_below(tensors, "extra/"),
            )
        except KeyError as error:
            raise DamagedError(f"{path}: not a checkpoint of ebsim ({error} is missing).") from error


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def momentum_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Momentum buffers by parameter name (parameters without one yet are left out)."""
    out = {}
    for name, parameter in model.named_parameters():
        buffer = optimizer.state.get(parameter, {}).get("momentum_buffer")
        if buffer is not None:
            out[name] = buffer
    return out


def restore_momentum(model: nn.Module, optimizer: torch.optim.Optimizer, buffers: dict[str, Tensor]) -> None:
    """Put momentum buffers back, in each parameter's own memory layout."""
    for name, parameter in model.named_parameters():
        if name in buffers:
            optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(buffers[name])
