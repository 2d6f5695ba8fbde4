"""Is a shrunk network the masked one? Compared by what they compute, knowing nothing of how the shrinking was done.

Weights are matched by value: with random float64 weights every number occurs once, so each compact weight says where
in the dense network it came from. What the compact network lacks must have had no influence: its gradient is zero in
the masked network, except for the pruned gammas and betas themselves.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ebsim.tickets import ChannelMask, Shrunk, apply_mask, compact

TOLERANCE = 1e-10


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """float64, every weight and statistic random and distinct, dropout off."""
    g = torch.Generator().manual_seed(seed)
    model.double()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            for value in (module.weight, module.bias, module.running_mean):
                if value is not None:
                    value.data.copy_(torch.randn(value.shape, generator=g))
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=g) + 0.5)
        elif "Dropout" in type(module).__name__ or type(module).__name__ == "StochasticDepth":
            module.p = 0.0
    for p in model.parameters():  # constants and float32 values become distinct float64 ones
        p.data.mul_(1 + 0.1 * torch.rand(p.shape, generator=g, dtype=p.dtype))
        p.data.add_(0.01 * torch.rand(p.shape, generator=g, dtype=p.dtype))
    return model


def assert_same(model: nn.Module, mask: ChannelMask, *inputs: Tensor, tolerance: float = TOLERANCE) -> Shrunk:
    """Outputs and gradients in both modes, and in evaluation after a training step moved the statistics."""
    masked = copy.deepcopy(model)
    apply_mask(masked, mask)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        shrunk = compact(model, mask, inputs)
    dense = dict(masked.named_parameters())
    origins = {name: _origin(dense[name], small) for name, small in shrunk.named_parameters()}
    for mode in (False, True, False):
        masked.train(mode)
        shrunk.train(mode)
        expected, found = flat(masked(*inputs)), flat(shrunk(*inputs))
        assert len(expected) == len(found)
        for a, b in zip(expected, found, strict=True):
            assert a.shape == b.shape
            assert (a - b).abs().max() <= tolerance * a.abs().max(), f"outputs differ, training={mode}"
        _assert_same_gradients(masked, shrunk, origins, expected, found, tolerance * 10)
    return shrunk


def flat(output: Any) -> list[Tensor]:
    """All tensors of a network's output."""
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, dict) else output
    return [t for value in values if value is not None for t in flat(value)]


def _assert_same_gradients(
    masked: nn.Module,
    shrunk: nn.Module,
    origins: dict[str, np.ndarray],
    expected: list[Tensor],
    found: list[Tensor],
    tolerance: float,
) -> None:
    g = torch.Generator().manual_seed(7)
    pull = [torch.randn(t.shape, generator=g, dtype=t.dtype) for t in expected]
    for network, outputs in ((masked, expected), (shrunk, found)):
        network.zero_grad()
        sum((t * w).sum() for t, w in zip(outputs, pull, strict=True)).backward()
    dense = dict(masked.named_parameters())
    norms = {m.weight for m in masked.modules() if isinstance(m, _BatchNorm)}
    norms |= {m.bias for m in masked.modules() if isinstance(m, _BatchNorm)}
    scale = max(float(p.grad.abs().max()) for p in dense.values() if p.grad is not None)
    for name, small in shrunk.named_parameters():
        origin = origins[name]
        full = _gradient(dense[name])
        difference = np.abs(full[origin] - _gradient(small)).max()
        assert difference <= tolerance * scale, f"gradients of {name} differ by {difference / scale}"
        if dense[name] not in norms:
            full[origin] = 0
            assert np.abs(full).max() <= tolerance * scale, f"{name}: a weight that mattered was left out"
    for name in dense.keys() - dict(shrunk.named_parameters()).keys():
        assert np.abs(_gradient(dense[name])).max() <= tolerance * scale, f"{name} mattered and was left out"


def _gradient(p: Tensor) -> np.ndarray:
    return np.zeros(p.numel()) if p.grad is None else p.grad.numpy().ravel().copy()


def _origin(dense: Tensor, small: Tensor) -> np.ndarray:
    """Where each of the small tensor's values stands in the dense one."""
    values, wanted = dense.detach().numpy().ravel(), small.detach().numpy().ravel()
    order = np.argsort(values)
    at = order[np.searchsorted(values, wanted, sorter=order).clip(max=len(values) - 1)]
    assert (values[at] == wanted).all(), "a weight that the dense network does not have"
    return at
