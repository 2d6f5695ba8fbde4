"""The training loop: one epoch of training, and one evaluation.

The loop never waits for a GPU: losses and hits are summed on the device and read once per epoch, in one transfer. A
non-finite loss or gradient is caught without a read: the fused optimizer skips every update from that step on by a
flag on the device, and the epoch ends in an error. On a CPU the flag is read at every step, before the update.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebsim import stop
from ebsim.errors import DivergedError
from ebsim.tickets.batchnorms import bn_modules
from ebsim.training.divergence import first_bad_layer
from ebsim.training.synced_batchnorm import together
from ebsim.training.team import ALONE, Team

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Sums:
    """Count-weighted results of one pass over a dataset."""

    images: int
    steps: int
    loss: float
    accuracy: float
    top5: float | None = None


def make_optimizer(
    model: nn.Module, *, lr: float, momentum: float, weight_decay: float, fused: bool | None = None
) -> torch.optim.SGD:
    """Plain SGD with momentum and decay on every parameter, as in the paper; fused on a GPU unless said otherwise.

    The fused kernel does all parameters in one pass and reads the divergence flag of `TrainStep`; its rounding differs
    from the others' in the last bit. On a CPU: parameter lists by `foreach`, bit for bit the textbook loop.
    """
    if fused is None:
        fused = any(parameter.is_cuda for parameter in model.parameters())
    return torch.optim.SGD(
        model.parameters(),
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        foreach=None if fused else True,
        fused=True if fused else None,
    )


def autocast(device: torch.device, amp: str) -> contextlib.AbstractContextManager[object]:
    """bf16 mixed precision, or nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if amp == "bf16" else contextlib.nullcontext()


@dataclass(frozen=True)
class EpochPart:
    """The part of an epoch that lies behind: steps, images, seconds, and running sums by name (tensors on the CPU)."""

    steps: int
    images: int
    seconds: float
    sums: dict[str, Tensor]


class TrainStep:
    """One step of the recipe as work for the device alone: no value is read on the host unless `checked`.

    Called with images [B, C, H, W] and labels [B]. The L1 sub-gradient `l1 * sign(gamma)` is added to the gradients,
    after the backward pass and before the update. Sums over the steps since `begin` stay on the device, at fixed
    addresses, so that a CUDA graph of a step can add to them.

    team: the processes that train together. Each is called with its share of a batch, after `images` was set to the
    size of the whole one; gradients and the loss are summed over the team, hits at the end of the epoch.
    forward: the model or its compiled form. checked (default: on a CPU): read the divergence flag at every step, before
    the update, and raise `DivergedError`; otherwise the fused optimizer skips the updates and `totals` raises.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Callable[[Tensor], Tensor],
        optimizer: torch.optim.SGD,
        *,
        l1: float,
        amp: str = "none",
        checked: bool | None = None,
        team: Team = ALONE,
    ) -> None:
        self.team, self.images = team, 0
        self.model, self.forward, self.optimizer, self.l1, self.amp = model, forward, optimizer, l1, amp
        self.device = next(model.parameters()).device
        self.checked = self.device.type == "cpu" if checked is None else checked
        self._gammas: list[Tensor] = [bn.weight for _, bn in bn_modules(model)] if l1 > 0 else []
        self._loss_sum = torch.zeros((), device=self.device)
        self._hits = torch.zeros((), device=self.device, dtype=torch.int64)
        self._bad = torch.zeros((), device=self.device, dtype=torch.bool)
        self._bad_steps = torch.zeros((), device=self.device, dtype=torch.int64)  # the first and all later
        self._images = self._steps = 0
        self._batch: tuple[Tensor, Tensor] | None = None  # the last one, to look for what went wrong
        if not self.checked:
            self._found_inf = torch.zeros((), device=self.device)
            optimizer.found_inf = self._found_inf  # type: ignore[attr-defined]  # read by the fused kernel

    def begin(self, done: EpochPart | None = None) -> None:
        """Start an epoch: training mode, sums at zero, or at those of the part of it that lies behind."""
        self.model.train()
        self._images, self._steps = (0, 0) if done is None else (done.images, done.steps)
        for tensor in (self._loss_sum, self._hits, self._bad, self._bad_steps):
            tensor.zero_()
        if done is not None:
            self._loss_sum.copy_(done.sums["loss"])
            self._hits.copy_(done.sums["hits"] if self.team.leader else torch.zeros_like(self._hits))

    def part(self, seconds: float) -> EpochPart:
        """The sums since `begin`, as copies on the CPU. Raises `DivergedError` if a step was not finite."""
        if bad := int(self._bad_steps):
            raise self._diverged(self._loss_sum, self._steps - bad + 1)
        hits = self._hits.clone()
        self.team.sum_([hits])
        sums = {"loss": self._loss_sum.cpu().clone(), "hits": hits.cpu()}
        return EpochPart(self._steps, self._images, seconds, sums)

    def __call__(self, inputs: Tensor, labels: Tensor) -> None:
        self._batch = inputs, labels
        images = self.images or len(labels)
        shared = self.team.shares(images)
        if self.team.size > 1:
            together(self.model, shared)
        with autocast(self.device, self.amp):
            logits = self.forward(inputs)
            loss = functional.cross_entropy(logits, labels, reduction="sum" if shared else "mean")
        self.optimizer.zero_grad(set_to_none=True)
        if shared:
            loss = loss / images
        loss.backward()
        if shared:
            loss = loss.detach()
            self.team.sum_([p.grad for p in self.model.parameters() if p.grad is not None] + [loss.view(1)])
        self._bad.logical_or_(~torch.isfinite(loss.detach() + _gradient_size(self.model)))
        if self.checked:
            if bool(self._bad):
                raise self._diverged(loss, self._steps + 1)
        else:
            self._bad_steps.add_(self._bad)
            self._found_inf.copy_(self._bad)
        if self._gammas:
            with torch.no_grad():
                gradients = [gamma.grad for gamma in self._gammas if gamma.grad is not None]
                torch._foreach_add_(gradients, torch._foreach_sign(self._gammas), alpha=self.l1)
        self.optimizer.step()
        self._loss_sum.add_(loss.detach().float() * images)
        if shared or self.team.leader:
            self._hits.add_((logits.detach().argmax(1) == labels).sum())

    @property
    def seen(self) -> int:
        """Images since `begin`, of all processes."""
        return self._images

    def state(self) -> list[Tensor]:
        """All tensors that a step changes: weights, statistics, momentum, and the sums since `begin`."""
        momentum = [
            values["momentum_buffer"] for values in self.optimizer.state.values() if "momentum_buffer" in values
        ]
        sums = [self._loss_sum, self._hits, self._bad, self._bad_steps, *([] if self.checked else [self._found_inf])]
        return [*self.model.state_dict().values(), *(buffer for buffer in momentum if buffer is not None), *sums]

    def count(self, images: int) -> int:
        """Count a step over `images` images; returns the steps since `begin`. On the host, so never part of a graph."""
        self._images += images
        self._steps += 1
        return self._steps

    def totals(self) -> Sums:
        """The sums since `begin`: the only read of an epoch. Raises `DivergedError` if a step was not finite."""
        self.team.sum_([self._hits])
        read = torch.stack([self._loss_sum.double(), self._hits.double(), self._bad_steps.double()]).tolist()
        loss, hits, bad = read
        if bad:
            raise self._diverged(self._loss_sum, self._steps - int(bad) + 1)
        return Sums(self._images, self._steps, loss / self._images, int(hits) / self._images)

    def _diverged(self, loss: Tensor, step: int) -> DivergedError:
        """The error of a step: the first layer that goes bad on its batch (on a GPU: on the last one, same weights)."""
        assert self._batch is not None
        inputs, labels = self._batch

        def batch_loss(logits: Tensor) -> Tensor:
            return functional.cross_entropy(logits, labels)

        if self.team.size > 1:  # each process looks at its own share
            together(self.model, False)
        with autocast(self.device, self.amp):
            what = first_bad_layer(self.model, inputs, batch_loss)
        return DivergedError(
            f"{what} became NaN or infinite at step {step} of the epoch (loss {float(loss.detach()):.4g}); no update "
            "was applied and the last epoch's checkpoint is untouched. Try a smaller train.lr, or another precision."
        )


def train_epoch(
    step: TrainStep,
    batches: Batches,
    *,
    run: Callable[[Tensor, Tensor], None] | None = None,
    before_step: Callable[[], None] = lambda: None,
    after_step: Callable[[int], None] = lambda done: None,
    done: EpochPart | None = None,
) -> Sums:
    """Train one epoch by `step`, or by `run`, which does the same work in another way (as a replayed CUDA graph).

    done: the part of the epoch that was trained before; `batches` are those that follow it. Raises `DivergedError`
    naming the first bad layer; no update is applied from that step on.
    """
    run = run or step
    step.begin(done)
    for inputs, labels in batches:
        if step.team.size == 1:
            stop.check()
        before_step()
        run(inputs, labels)
        after_step(step.count(step.images or len(labels)))
    return step.totals()


def _gradient_size(model: nn.Module) -> Tensor:
    """Sum of the norms of all gradients; non-finite as soon as one of them is."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return torch.stack(torch._foreach_norm(gradients)).sum()


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Batches, *, amp: str = "none", team: Team = ALONE) -> Sums:
    """Mean loss, top-1 and (with more than 10 classes) top-5 accuracy over all images, each counted once.

    team: the processes that have a share of each batch each.
    """
    device = next(model.parameters()).device
    model.eval()
    loss_sum = torch.zeros((), device=device)
    hits = torch.zeros((), device=device, dtype=torch.int64)
    hits5 = torch.zeros((), device=device, dtype=torch.int64)
    images = steps = classes = 0
    for inputs, labels in batches:
        if team.size == 1:
            stop.check()
        if not len(labels):  # a small last batch that other processes have
            continue
        with autocast(device, amp):
            logits = model(inputs)
        classes = logits.shape[1]
        loss_sum += functional.cross_entropy(logits.float(), labels, reduction="sum")
        hits += (logits.argmax(1) == labels).sum()
        if classes > 10:
            hits5 += (logits.topk(5, dim=1).indices == labels[:, None]).sum()
        images += len(labels)
        steps += 1
    counted = torch.tensor(images, device=device)
    team.sum_([counted])
    images = int(counted)
    team.sum_([loss_sum])
    for count in (hits, hits5):
        team.sum_([count])
    if not bool(torch.isfinite(loss_sum)):
        raise DivergedError(
            f"{first_bad_layer(model, inputs)} became NaN or infinite in the evaluation; the checkpoint of the "
            "epoch before is untouched. Try a smaller train.lr, or another precision."
        )
    loss, top1, top5 = torch.stack([loss_sum.double(), hits.double(), hits5.double()]).tolist()
    return Sums(images, steps, loss / images, int(top1) / images, int(top5) / images if classes > 10 else None)
