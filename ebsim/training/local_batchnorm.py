"""BatchNorm with statistics of parts of a batch: what so many processes compute that do not synchronize them.

With `train.batchnorm_parts = n` a batch is cut into n contiguous parts (`Team.part`'s), and each is normalized by its
own mean and variance, by torch's own layer. Running statistics take the mean of the parts' statistics, so that they are
no single process's. That is a recipe of its own and part of a stage's identity: one process computes all parts, or n
processes one each, and both are the same training up to the order of sums. A batch of fewer images is one part.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from ebsim.training.team import ALONE, Team, equal_shares


def parts(images: int, count: int) -> list[slice]:
    """The contiguous parts of a batch, the first ones larger by one; the whole where there are fewer images."""
    return equal_shares(images, count) if images >= count else [slice(0, images)]


class _Local:
    """Mixed into a BatchNorm class, whose `forward` it replaces in training."""

    team: Team

    def forward(self: Any, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)  # type: ignore[misc]
        self._check_input_dim(x)
        outputs, statistics = [], []
        for part in parts(len(x), self.parts if self.team is ALONE else 1):
            mean, variance = torch.zeros_like(self.running_mean), torch.ones_like(self.running_var)
            outputs.append(functional.batch_norm(x[part], mean, variance, self.weight, self.bias, True, 1.0, self.eps))
            statistics.append(torch.stack([mean, variance]))  # torch wrote the part's own there
        with torch.no_grad():
            summed, count = torch.stack(statistics).sum(0), len(statistics)
            if self.team is not ALONE and self.together:
                self.team.sum_([summed])
                count = self.team.size
            self.num_batches_tracked += 1
            share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
            self.running_mean.lerp_(summed[0] / count, share)
            self.running_var.lerp_(summed[1] / count, share)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


_classes: dict[type, type] = {}


def _class(kind: type) -> type:
    """The local class of a BatchNorm class; under its name, so that tracing still sees a layer of torch."""
    if kind not in _classes:
        _classes[kind] = type(kind.__name__, (_Local, kind), {"__module__": kind.__module__})
    return _classes[kind]


def localize(model: nn.Module, count: int, team: Team) -> None:
    """Let the BatchNorm layers of a network take their statistics over parts, in place; names and state stay."""
    for module in model.modules():
        if isinstance(module, _BatchNorm) and not isinstance(module, _Local) and module.track_running_stats:
            module.__class__ = _class(type(module))
            vars(module).update(team=team, together=True, parts=count)
