"""One epoch of training and one evaluation: the only place where a network meets data.

The loop never waits for a GPU: losses and hits are summed on the device and read once per epoch, and a
non-finite loss or gradient is caught without a read (the fused optimizer skips the update on a device flag).
On a CPU the check is immediate. In both cases no update is applied from the first non-finite step on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebsim.errors import DivergedError
from ebsim.training import stop

Batches = Iterable[tuple[Tensor, Tensor]]
CHECK_EVERY = 64  # steps between two reads of the device's divergence flag


@dataclass(frozen=True)
class Sums:
    """Count-weighted results of one pass over a dataset."""

    images: int
    steps: int
    loss: float
    accuracy: float
    top5: float | None = None


def make_optimizer(model: nn.Module, *, lr: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """Plain SGD with momentum and decay on every parameter, as in the paper; fused on a GPU."""
    on_gpu = any(parameter.is_cuda for parameter in model.parameters())
    return torch.optim.SGD(
        model.parameters(),
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        foreach=None if on_gpu else True,
        fused=True if on_gpu else None,
    )


def bn_scales(model: nn.Module) -> list[Tensor]:
    """The gammas that the L1 term pushes."""
    kinds = (nn.BatchNorm2d, nn.BatchNorm1d, nn.BatchNorm3d)
    return [module.weight for module in model.modules() if isinstance(module, kinds) and module.affine]


def autocast(device: torch.device, amp: str) -> contextlib.AbstractContextManager[object]:
    """bf16 mixed precision, or nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if amp == "bf16" else contextlib.nullcontext()


def train_epoch(
    model: nn.Module,
    forward: Callable[[Tensor], Tensor],
    optimizer: torch.optim.SGD,
    batches: Batches,
    *,
    l1: float,
    amp: str = "none",
    before_step: Callable[[], None] = lambda: None,
    after_step: Callable[[int], None] = lambda done: None,
) -> Sums:
    """Train one epoch. `forward` is the model or its compiled form; images [B, C, H, W], labels [B].

    The L1 sub-gradient `l1 * sign(gamma)` is added to the gradients, after the backward pass and before the step.
    Raises `DivergedError` naming the first bad parameter; no update is applied from that step on.
    """
    device = next(model.parameters()).device
    gammas = bn_scales(model) if l1 > 0 else []
    model.train()
    loss_sum = torch.zeros((), device=device)
    hits = torch.zeros((), device=device, dtype=torch.int64)
    bad = torch.zeros((), device=device, dtype=torch.bool)
    images = steps = 0
    for inputs, labels in batches:
        stop.check()
        before_step()
        with autocast(device, amp):
            logits = forward(inputs)
            loss = functional.cross_entropy(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        bad = bad | ~torch.isfinite(loss.detach() + _gradient_size(model))
        if device.type == "cpu" or steps % CHECK_EVERY == CHECK_EVERY - 1:
            _raise_if(bad, model, loss, steps)
        if device.type == "cuda":
            optimizer.found_inf = bad.float()  # type: ignore[attr-defined]  # read by the fused kernel
        if gammas:
            with torch.no_grad():
                gradients = [gamma.grad for gamma in gammas if gamma.grad is not None]
                torch._foreach_add_(gradients, torch._foreach_sign(gammas), alpha=l1)
        optimizer.step()
        loss_sum += loss.detach().float() * len(labels)
        hits += (logits.detach().argmax(1) == labels).sum()
        images += len(labels)
        steps += 1
        after_step(steps)
    _raise_if(bad, model, loss_sum, steps)
    return Sums(images, steps, float(loss_sum) / images, int(hits) / images)


def _gradient_size(model: nn.Module) -> Tensor:
    """Sum of the norms of all gradients; non-finite as soon as one of them is."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return torch.stack(torch._foreach_norm(gradients)).sum()


def _raise_if(bad: Tensor, model: nn.Module, loss: Tensor, step: int) -> None:
    if not bool(bad):
        return
    names = (
        name for name, p in model.named_parameters() if p.grad is not None and not bool(torch.isfinite(p.grad).all())
    )
    where = next(names, None)
    what = f"the gradient of {where}" if where and bool(torch.isfinite(loss)) else "the loss"
    raise DivergedError(
        f"{what} became NaN or infinite at step {step + 1} of the epoch (loss {float(loss.detach()):.4g}); no update "
        "was applied and the last epoch's checkpoint is untouched. Try a smaller train.lr, or another precision."
    )


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Batches, *, amp: str = "none") -> Sums:
    """Mean loss, top-1 and (with more than 10 classes) top-5 accuracy over all images, each counted once."""
    device = next(model.parameters()).device
    model.eval()
    loss_sum = torch.zeros((), device=device)
    hits = torch.zeros((), device=device, dtype=torch.int64)
    hits5 = torch.zeros((), device=device, dtype=torch.int64)
    images = steps = classes = 0
    for inputs, labels in batches:
        stop.check()
        with autocast(device, amp):
            logits = model(inputs)
        classes = logits.shape[1]
        loss_sum += functional.cross_entropy(logits.float(), labels, reduction="sum")
        hits += (logits.argmax(1) == labels).sum()
        if classes > 10:
            hits5 += (logits.topk(5, dim=1).indices == labels[:, None]).sum()
        images += len(labels)
        steps += 1
    top5 = int(hits5) / images if classes > 10 else None
    return Sums(images, steps, float(loss_sum) / images, int(hits) / images, top5)
