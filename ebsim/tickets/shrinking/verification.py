"""Verifies that a shrunk network computes what the masked one does: both are run in float64, in both modes.

A few samples of the example input are used, or numbers from a normal distribution where it has none to tell anything
from (a single value throughout, a tensor without data). Scales that are zero in the network are replaced by others, in
both networks: behind a zero nothing could be seen. Equal means to 1e-9 of the largest value, or to a thousand times
what the masked network itself differs by when its input changes in the last bit: BatchNorm over few values amplifies
rounding. A network with some modules in training and some in evaluation mode is run in that state too.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from ebsim.errors import CompactError
from ebsim.tickets.shrinking.shrunk import Shrunk
from ebsim.tickets.shrinking.slice_weights import SlicePlan
from ebsim.tickets.shrinking.tracing.calls import ForwardCall

TOLERANCE = 1e-9


def verify(masked: nn.Module, shrunk: Shrunk, call: ForwardCall, plans: Mapping[str, SlicePlan]) -> None:
    """CompactError when the networks differ beyond rounding; `masked` (with the mask applied) is used up."""
    given = {name: module.training for name, module in masked.named_modules()}
    small = copy.deepcopy(shrunk).double()
    dense = masked.double()
    _fill_zero_scales(dense, small, plans)
    whole = _sample(call)
    few = _few(whole)
    modes: list[dict[str, bool]] = [{"": True}, {"": False}]  # evaluation reads the statistics that training left
    modes += [given] if len(set(given.values())) > 1 else []
    for mode in modes:
        problem = _compare(dense, small, few, mode, plans)
        if problem is None or (problem and few is not whole):  # not a batch that this network takes
            problem = _compare(dense, small, whole, mode, plans)
        if problem:
            raise CompactError(
                f"{type(masked).__name__} cannot be shrunk: in {_named(mode)} the result would differ from the masked "
                f"network ({problem}). Something in it is not what its graph says; "
                "notes, hooks and replaced methods are where to look. verify=False returns the network all the same."
            )


def _compare(
    dense: nn.Module, small: nn.Module, call: ForwardCall, mode: Mapping[str, bool], plans: Mapping[str, SlicePlan]
) -> str | None:
    """What differs; "" for nothing, None where the masked network itself does not run in this mode on this input."""
    shadow = copy.deepcopy(dense)
    expected = _run(dense, call, mode)
    if isinstance(expected, str):
        return None
    found = _run(small, call, mode)
    if isinstance(found, str):
        return f"it fails with {found}"
    error = _error(expected, found)
    if error <= TOLERANCE:
        return _state_error(dense, small, plans) if mode[""] else ""
    turned = call.with_tensors([t * (1 + 2**-50) if t.is_floating_point() else t for t in call.tensors])
    floor = _error(expected, _run(shadow, turned, mode))
    return "" if error <= min(1000 * floor, 1e-2) else f"relative error {error:.1e}"


def _named(mode: Mapping[str, bool]) -> str:
    if len(mode) > 1:
        return "the mixture of modes that its modules are in (call train() or eval() on the whole network)"
    return "training mode" if mode[""] else "evaluation mode"


def _run(network: nn.Module, call: ForwardCall, mode: Mapping[str, bool]) -> list[Tensor] | str:
    """The tensors of the output, or the error that came instead."""
    network.train(mode[""])
    if len(mode) > 1:
        for name, module in network.named_modules():
            module.training = mode.get(name, mode[""])
    args, kwargs = call.fill(call.tensors)
    try:
        with torch.no_grad(), _seeded(call), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            output = network(*args, **kwargs)
    except Exception as e:
        return f"{type(e).__name__}: {str(e)[:200]}"
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


@contextmanager
def _seeded(call: ForwardCall) -> Iterator[None]:
    devices = [t.device for t in call.tensors if t.device.type == "cuda"][:1]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        yield


def _error(expected: list[Tensor] | str, found: list[Tensor] | str) -> float:
    """Largest difference, relative to the largest value of the tensor; infinite for other shapes."""
    if isinstance(expected, str) or isinstance(found, str) or [t.shape for t in expected] != [t.shape for t in found]:
        return float("inf")
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        if not a.numel():
            continue
        a, b = (torch.nan_to_num(t.double() if not t.is_complex() else torch.view_as_real(t)) for t in (a, b))
        scale = max(float(a.abs().max()), 1e-300)
        worst = max(worst, float((a - b).abs().max()) / scale)
    return worst


def _state_error(dense: nn.Module, small: nn.Module, plans: Mapping[str, SlicePlan]) -> str:
    """Which buffer a training step left otherwise than in the masked network."""
    state = dict(dense.named_buffers())
    for name, value in small.named_buffers():
        whole = state.get(name)
        if whole is None or name.rpartition(".")[0] in plans or not whole.is_floating_point():
            continue  # the statistics of BatchNorm channels that are not read do not count
        if whole.shape == value.shape and _error([whole], [value]) > 1e-6:
            return f"{name} is updated otherwise"
    return ""


def _fill_zero_scales(dense: nn.Module, small: nn.Module, plans: Mapping[str, SlicePlan]) -> None:
    """Kept scales that are zero get a value, the same in both networks."""
    layers = dict(small.named_modules())
    with torch.no_grad():
        for name, module in dense.named_modules():
            other: Any = layers.get(name)
            if not isinstance(module, _BatchNorm) or not module.affine or name not in plans or other is None:
                continue
            kept = torch.from_numpy(plans[name].outs).to(module.weight.device)
            zero = (other.weight == 0) & (other.bias == 0)
            if zero.any():
                values = torch.linspace(0.5, 1.5, len(zero), dtype=other.weight.dtype, device=zero.device)
                other.weight[zero] = values[zero]
                module.weight[kept[zero]] = values[zero]


def _few(call: ForwardCall) -> ForwardCall:
    """Two samples of the example, of small images eight: enough for a BatchNorm's statistics in training."""
    if call.batch is None:
        return call
    count = 2 if sum(t[0].numel() for t in call.tensors) >= 3 * 64 * 64 else 8
    if call.batch > count:
        return call.with_tensors([t[:count] for t in call.tensors])
    if call.batch == 1:
        return call.with_tensors([torch.cat([t, t.flip(-1)]) for t in call.tensors])
    return call


def _sample(call: ForwardCall) -> ForwardCall:
    """The example in float64, with values that tell channels apart."""
    generator = torch.Generator("cpu").manual_seed(0)

    def values(t: Tensor) -> Tensor:
        if not t.is_floating_point():
            return t
        if t.numel() and t.device.type != "meta" and bool((t != t.flatten()[0]).any()) and bool(t.isfinite().all()):
            return t.double()
        return torch.randn(t.shape, generator=generator, dtype=torch.float64, device="cpu").to(t.device)

    tensors = [values(t) for t in call.tensors]
    return call.with_tensors(tensors)
