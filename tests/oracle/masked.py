"""Is a shrunk network the masked one? Compared by what they compute, knowing nothing of how the shrinking was done.

Weights are matched by value: with random float64 weights every number occurs once, so each compact weight says where
in the dense network it came from. What the compact network lacks must have had no influence: its gradient is zero in
the masked network, except for the pruned gammas and betas themselves.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from ebsim.errors import CompactError
from ebsim.tickets import ChannelMask, Shrunk, apply_mask, compact


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """float64, every weight and statistic random and distinct."""
    g = torch.Generator().manual_seed(seed)
    model.double()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            for value in (module.weight, module.bias, module.running_mean):
                if value is not None:
                    value.data.copy_(torch.randn(value.shape, generator=g))
            if module.running_var is not None:
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=g) + 0.5)
    for p in model.parameters():  # constants and float32 values become distinct float64 ones
        p.data.mul_(1 + 0.1 * torch.rand(p.shape, generator=g, dtype=p.dtype))
        p.data.add_(0.01 * torch.rand(p.shape, generator=g, dtype=p.dtype))
    return model


def assert_same(
    model: nn.Module,
    mask: ChannelMask,
    *inputs: Tensor,
    elsewhere: Sequence[tuple[Tensor, ...]] = (),
    verify: bool = True,
) -> Shrunk:
    """Outputs and gradients in both modes, and in evaluation after a training step moved the statistics.

    Equal means to 1e-10 of the largest value (gradients: 1e-9), or to 100 times what the masked network itself
    differs by when its weights change in their last bit: BatchNorm over few values amplifies rounding. Both networks
    start from the same random numbers, so dropout has to agree as well.

    elsewhere: inputs of other sizes, for which the shrunk network may also say (CompactError) that it cannot go there.
    verify: let compact do its own comparison too, which is as slow as this one.
    """
    masked = copied(model)
    apply_mask(masked, mask)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        shrunk = compact(model, mask, inputs, verify=verify)
    dense = dict(masked.named_parameters())
    origins = {name: _origin(dense[name], small) for name, small in shrunk.named_parameters()}
    for mode in (False, True, False):
        shadow = copied(masked)
        expected, found = _run(masked, inputs, mode), _run(shrunk, inputs, mode)
        problem = _difference(masked, shrunk, origins, expected, found, 1e-10)
        if problem:
            for i, p in enumerate(shadow.parameters()):
                p.data.mul_(1 + (-1) ** i * 2**-52)
            turned = _run(shadow, inputs, mode)
            own = {name: np.arange(p.numel()) for name, p in dense.items()}
            floor = next(
                t for t in 10.0 ** np.arange(-16, 1) if not _difference(masked, shadow, own, expected, turned, t)
            )
            problem = _difference(masked, shrunk, origins, expected, found, 100 * floor)
        assert not problem, f"training={mode}: {problem}"
    for other in elsewhere:
        _assert_same_elsewhere(masked, shrunk, other)
    return shrunk


def _assert_same_elsewhere(masked: nn.Module, shrunk: Shrunk, inputs: tuple[Tensor, ...]) -> None:
    """Outputs in evaluation mode, where the masked network takes the inputs and the shrunk one does not refuse them."""
    shapes = [tuple(t.shape) for t in inputs]
    with torch.no_grad():
        try:
            expected = flat(masked.eval()(*inputs))
        except Exception:
            return
        try:
            found = flat(shrunk.eval()(*inputs))
        except CompactError:
            return
    assert [t.shape for t in expected] == [t.shape for t in found], shapes
    for a, b in zip(expected, found, strict=True):
        assert (a - b).abs().max() <= 1e-8 * a.abs().max(), shapes


def copied(model: nn.Module) -> nn.Module:
    """A deep copy; what is computed from parameters (old weight_norm, a cache) comes along as a value."""
    own = (v for m in model.modules() for name, v in vars(m).items() if name not in ("_modules", "_parameters"))
    held = (t for t in pytree.tree_leaves(list(own)) if isinstance(t, Tensor) and not t.is_leaf)
    return copy.deepcopy(model, {id(t): t.detach().clone() for t in held})


def _run(network: nn.Module, inputs: tuple[Tensor, ...], mode: bool) -> list[Tensor]:
    """The outputs; the gradients of a random weighting of them are left in the network."""
    network.train(mode)
    network.zero_grad()
    torch.manual_seed(11)
    outputs = flat(network(*inputs))
    g = torch.Generator().manual_seed(7)
    sum((t * torch.randn(t.shape, generator=g, dtype=t.dtype)).sum() for t in outputs).backward()
    return outputs


def flat(output: Any) -> list[Tensor]:
    """All tensors of a network's output."""
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, dict) else output
    return [t for value in values if value is not None for t in flat(value)]


def _difference(
    masked: nn.Module,
    other: nn.Module,
    origins: dict[str, np.ndarray],
    expected: list[Tensor],
    found: list[Tensor],
    tolerance: float,
) -> str:
    """What differs, or nothing."""
    if [t.shape for t in expected] != [t.shape for t in found]:
        return "outputs of other shapes"
    for a, b in zip(expected, found, strict=True):
        if not (a - b).abs().max() <= tolerance * a.abs().max():
            return f"outputs differ by {float((a - b).detach().abs().max())}"
    tolerance *= 10
    dense, small = dict(masked.named_parameters()), dict(other.named_parameters())
    norms = {p for m in masked.modules() if isinstance(m, _BatchNorm) for p in (m.weight, m.bias)}
    scale = max(float(p.grad.abs().max()) for p in dense.values() if p.grad is not None)
    for name, p in dense.items():
        full = _gradient(p)
        if name in small:
            difference = np.abs(full[origins[name]] - _gradient(small[name])).max()
            if not difference <= tolerance * scale:
                return f"gradients of {name} differ by {difference / scale}"
            full[origins[name]] = 0
        if p not in norms and not np.abs(full).max() <= tolerance * scale:
            return f"{name}: a weight that mattered was left out"
    return ""


def _gradient(p: Tensor) -> np.ndarray:
    return np.zeros(p.numel()) if p.grad is None else p.grad.numpy().ravel().copy()


def _origin(dense: Tensor, small: Tensor) -> np.ndarray:
    """Where each of the small tensor's values stands in the dense one."""
    values, wanted = dense.detach().numpy().ravel(), small.detach().numpy().ravel()
    order = np.argsort(values)
    at = order[np.searchsorted(values, wanted, sorter=order).clip(max=len(values) - 1)]
    assert (values[at] == wanted).all(), "a weight that the dense network does not have"
    return at
