"""Locates a divergence: the first layer whose output, or gradient, is NaN or infinite.

Looked for only after it has happened, by running the offending batch once more with hooks on every layer. The weights
are still those of the step before, because no update is applied from the first bad step on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def first_bad_layer(
    model: nn.Module, inputs: Tensor, loss: Callable[[Tensor], Tensor] | None = None, *, amp: Any = None
) -> str:
    """In words: which layer of `model` (in its present mode) is the first to go bad on `inputs` [B, C, H, W].

    In the forward pass the first in order of execution; in the backward pass of `loss(logits)` likewise, that is the
    last layer first. Weights, buffers and gradients are as before afterwards.
    """
    if not _finite(inputs):
        return "the input images"
    for name, parameter in model.named_parameters():
        if not _finite(parameter):
            return f"the weights ({name})"
    for name, buffer in model.named_buffers():
        if not _finite(buffer):
            return f"the statistics ({name})"
    with _unchanged(model), torch.enable_grad() if loss is not None else torch.no_grad():
        order: list[str] = []
        with _watch_outputs(model, order):
            logits = model(inputs)
        if order:
            return f"the output of {order[0]}"
        if not _finite(logits):
            return "the output of the network"
        if loss is None:
            return "the loss"
        value = loss(logits)
        if not _finite(value):
            return "the loss"
        with _watch_gradients(model, order):
            value.backward()
        return f"the gradient of {order[0]}" if order else "the size of the gradients"


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Gradients and buffers (the statistics of BatchNorm) are put back."""
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        for parameter in model.parameters():
            parameter.grad = None
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.grad = gradients[name]
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])


@contextmanager
def _watch_outputs(model: nn.Module, bad: list[str]) -> Iterator[None]:
    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not _finite(output):
                bad.append(name)

        return look

    handles = [
        module.register_forward_hook(hook(name)) for name, module in model.named_modules() if not _has_children(module)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _watch_gradients(model: nn.Module, bad: list[str]) -> Iterator[None]:
    def hook(name: str) -> Callable[[Tensor], None]:
        def look(parameter: Tensor) -> None:
            if parameter.grad is not None and not _finite(parameter.grad):
                bad.append(name)

        return look

    handles = [
        parameter.register_post_accumulate_grad_hook(hook(name))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _has_children(module: nn.Module) -> bool:
    return any(True for _ in module.children())


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor.detach()).all())
