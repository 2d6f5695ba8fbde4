"""`Checkpoint`: the state of a training after an epoch, in one file that is whole or absent.

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

from ebsim import tickets
from ebsim.errors import DamagedError
from ebsim.files import load_tensors, save_tensors
from ebsim.precision.formats.number_format import HISTORY
from ebsim.precision.quantization import delayed
from ebsim.training.loop import EpochPart


@dataclass
class Checkpoint:
    """Everything that continuing needs, after `epoch` epochs (absolute) and `step` optimizer steps.

    history: the environments (`runs.provenance.environment`) under which the epochs were trained, oldest first, each
    with the `first_epoch` that it held for.
    """

    epoch: int
    step: int
    model: dict[str, Tensor]
    momentum: dict[str, Tensor]
    gammas: Tensor
    curve: list[dict[str, Any]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    extra: dict[str, Tensor] = field(default_factory=dict)
    part: EpochPart | None = None
    """Of the next epoch, in a checkpoint within an epoch."""

    @property
    def environment(self) -> dict[str, Any]:
        """What the last epoch was trained under; empty before the first."""
        return {key: value for key, value in self.history[-1].items() if key != _SINCE} if self.history else {}

    def under(self, here: dict[str, Any]) -> list[dict[str, Any]]:
        """The history if training goes on in the environment `here`."""
        return self.history if self.environment == here else [*self.history, {_SINCE: self.epoch + 1, **here}]

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Named tensors and plain JSON; `unpack` puts them together again."""
        tensors = {
            **{f"model/{name}": tensor for name, tensor in self.model.items()},
            **{f"momentum/{name}": tensor for name, tensor in self.momentum.items()},
            **{f"extra/{name}": tensor for name, tensor in self.extra.items()},
            "gammas": self.gammas,
        }
        meta: dict[str, Any] = {
            "epoch": self.epoch,
            "step": self.step,
            "curve": self.curve,
            "environment": self.environment,
            "history": self.history,
        }
        if self.part is not None:
            tensors |= {f"part/{name}": tensor for name, tensor in self.part.sums.items()}
            meta["part"] = {"steps": self.part.steps, "images": self.part.images, "seconds": self.part.seconds}
        return tensors, meta

    @classmethod
    def unpack(cls, tensors: dict[str, Tensor], meta: dict[str, Any]) -> Checkpoint:
        """The checkpoint that `pack` took apart; KeyError or TypeError for anything else."""
        return cls(
            epoch=meta["epoch"],
            step=meta["step"],
            model=_below(tensors, "model/"),
            momentum=_below(tensors, "momentum/"),
            gammas=tensors["gammas"],
            curve=meta["curve"],
            history=_history(meta),
            extra=_below(tensors, "extra/"),
            part=EpochPart(sums=_below(tensors, "part/"), **meta["part"]) if "part" in meta else None,
        )

    def save(self, path: Path, stage: str) -> None:
        """Write atomically; `stage` is the id of the stage that it belongs to."""
        tensors, meta = self.pack()
        save_tensors(path, tensors, {"stage": stage, **meta})

    @classmethod
    def load(cls, path: Path, stage: str) -> Checkpoint:
        """Read back; `DamagedError` if the file is torn, altered, belongs to another stage or does not make sense."""
        tensors, meta = load_tensors(path)
        try:
            if meta["stage"] != stage:
                raise DamagedError(f"{path}: a checkpoint of {meta['stage']!r}, not of {stage}.")
            found = cls.unpack(tensors, meta)
        except TypeError as error:
            raise DamagedError(f"{path}: not a checkpoint of ebsim ({error}).") from error
        except KeyError as error:
            raise DamagedError(f"{path}: not a checkpoint of ebsim ({error} is missing).") from error
        if problem := found._problem():
            raise DamagedError(f"{path}: not a checkpoint of ebsim ({problem}).")
        return found

    def _problem(self) -> str:
        """Which of its values are impossible; empty if none. Shapes of weights are checked by `fits`."""
        if not (_count(self.epoch) and _count(self.step)):
            return f"epoch {self.epoch!r} and step {self.step!r} must be counts"
        if not (isinstance(self.history, list) and all(isinstance(item, dict) for item in self.history)):
            return "its environments are no list of tables"
        if not isinstance(self.curve, list) or not all(_is_row(row) for row in self.curve):
            return "its curve is no list of epochs"
        if [row["epoch"] for row in self.curve] != list(range(self.epoch - len(self.curve) + 1, self.epoch + 1)):
            return "the epochs of its curve do not end in its own"
        if self.gammas.dim() != 2 or not self.gammas.is_floating_point() or len(self.gammas) != len(self.curve) + 1:
            return f"its scales have the shape {list(self.gammas.shape)} for {len(self.curve)} epochs"
        if not bool(torch.isfinite(self.gammas).all()):
            return "its scales are not all finite"
        if (part := self.part) is not None:
            sums = {"loss": torch.float32, "hits": torch.int64}
            counts = _count(part.steps) and _count(part.images) and isinstance(part.seconds, int | float)
            own = {name: part.sums[name].dtype for name in sums if name in part.sums and not part.sums[name].dim()}
            if not counts or own != sums:
                return "its part of an epoch has no proper sums"
        return ""

    def fits(self, network: nn.Module, path: Path | str) -> None:
        """`DamagedError` unless the weights are those of such a network: names, shapes, types."""
        expected = {name: (tensor.shape, tensor.dtype) for name, tensor in network.state_dict().items()}
        actual = {name: (tensor.shape, tensor.dtype) for name, tensor in self.model.items()}
        for name in sorted(expected.keys() | actual.keys()):
            if expected.get(name) != actual.get(name):
                raise DamagedError(f"{path}: does not fit the network: {name} is {actual.get(name, 'missing')}.")
        for name, tensor in self.momentum.items():
            if (tensor.shape, tensor.dtype) != expected.get(name):
                raise DamagedError(f"{path}: does not fit the network: momentum of {name}.")
        for name, tensor in self.extra.items():
            if name.startswith(delayed.PREFIX):
                if (tensor.shape, tensor.dtype) != (torch.Size([2 + HISTORY]), torch.int64):
                    raise DamagedError(f"{path}: {name} is no history of a delayed scale.")
                continue
            wanted = expected.get(name.removeprefix("module."), (torch.Size([]), torch.int64))
            if (tensor.shape, tensor.dtype) != wanted:
                raise DamagedError(f"{path}: does not fit the network: average of {name}.")
        channels = sum(tickets.bn_layers(network).values())
        if self.gammas.shape[1] != channels:
            raise DamagedError(
                f"{path}: does not fit the network: {self.gammas.shape[1]} scales for {channels} channels."
            )


_SINCE = "first_epoch"
_NUMBERS = ("lr", "loss", "accuracy", "test_loss", "test_accuracy", "test_top5", "average_accuracy", "seconds")
_COUNTS = ("epoch", "images", "steps", "test_images", "average_images")


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53


def _is_row(row: Any) -> bool:
    """Whether this can be one epoch of a curve."""
    return (
        isinstance(row, dict)
        and {"epoch", "lr", "loss", "accuracy", "images", "steps"} <= row.keys()
        and all(_count(row[key]) for key in _COUNTS if key in row)
        and all(isinstance(row[key], int | float) and not isinstance(row[key], bool) for key in _NUMBERS if key in row)
    )


def _history(meta: dict[str, Any]) -> list[dict[str, Any]]:
    """Checkpoints of earlier versions know the last environment only."""
    if "history" in meta:
        return meta["history"]
    curve, environment = meta["curve"], meta["environment"]
    if not environment or not isinstance(curve, list) or not curve or not _is_row(curve[0]):
        return []
    return [{_SINCE: curve[0]["epoch"], **environment}]


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


def on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU: later steps must not change them. From a GPU in one transfer per type of number."""
    if not any(tensor.is_cuda for tensor in tensors.values()):
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
    copies: dict[str, Tensor] = {}
    for dtype in {tensor.dtype for tensor in tensors.values()}:
        own = {name: tensor.detach() for name, tensor in tensors.items() if tensor.dtype == dtype}
        flat = torch.cat([tensor.reshape(-1) for tensor in own.values()]).cpu()
        parts = flat.split([tensor.numel() for tensor in own.values()])
        copies |= {name: part.clone().view(own[name].shape) for name, part in zip(own, parts, strict=True)}
    return {name: copies[name] for name in tensors}
