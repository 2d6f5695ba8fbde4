"""A trajectory: one network trained by one recipe from one seed, as far as anybody has asked so far.

`weights after epoch e` is a pure function of the stage's identity and e. So a trajectory can be continued
("go on until epoch 160", "go on until p = 0.5 has emerged"), stopped anywhere, shared by everything that needs a
prefix of it, and asked for the state at any past epoch: what was kept is read, what was not is trained again from
the nearest state that was. All gammas of every epoch are kept (30 kB an epoch for PreResNet101), so every mask at
every ratio under every rule comes from them, after the fact.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import swa_utils

from ebsim import precision, tickets
from ebsim.config import Train
from ebsim.errors import DamagedError
from ebsim.runs.provenance import environment
from ebsim.runs.store import Stage
from ebsim.training import step as steps
from ebsim.training.checkpoint import Checkpoint, momentum_of, restore_momentum
from ebsim.training.progress import Progress, Silent

Gammas = Tensor  # [epochs + 1, channels]


class Constraint(Protocol):
    """Something a method holds the network to while it trains (a weight mask, soft filter pruning)."""

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None: ...

    def after_epoch(self, model: nn.Module, epoch: int) -> None: ...


@dataclass(frozen=True)
class Averaging:
    """Stochastic weight averaging from epoch `start` on, at the schedule's learning rate or a constant one."""

    start: int
    lr: float | None = None


class Trajectory:
    """Training of one stage. `network` builds it with its starting weights; `first` epochs lie behind it already.

    `keep(gammas)` is asked after every epoch whether that epoch's state is to be kept for later. With `averaging` the
    weights are averaged (SWA, in fp32) and the average is evaluated, with BatchNorm statistics of its own, after the
    last epoch asked for.
    """

    def __init__(
        self,
        stage: Stage,
        network: Callable[[], nn.Module],
        data: Any,
        train: Train,
        *,
        seed: int,
        device: torch.device,
        first: int = 0,
        backend: Any = "fp32",
        stats_every: int = 0,
        averaging: Averaging | None = None,
        keep: Callable[[Gammas], bool] = lambda gammas: False,
        score: Callable[[nn.Module, int], Tensor] = lambda model, epoch: tickets.gammas(model),
        constraint: Constraint | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.stage = stage
        self.first = first
        self.trained = 0  # epochs really trained by this object, replays included
        self._network = network
        self._data = data
        self._train = train
        self._seed = seed
        self._device = device
        self._backend = backend
        self._stats_every = stats_every
        self._averaging = averaging
        self._keep = keep
        self._score = score
        self._constraint = constraint
        self._progress = progress or Silent()
        self._live: _Live | None = None
        self._head: Checkpoint | None = None

    # -- what is known so far ------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Last epoch (absolute) that has been trained."""
        return self._newest().epoch

    @property
    def gammas(self) -> Gammas:
        """|gamma| source of every epoch so far: [epoch - first + 1, channels], row 0 before the first epoch."""
        return self._newest().gammas

    @property
    def curve(self) -> list[dict[str, Any]]:
        """One row per epoch so far: epoch, lr, loss, accuracy, test_loss, test_accuracy, images, seconds, ..."""
        return self._newest().curve

    # -- training ------------------------------------------------------------------------------------------------

    def extend(self, to: int, until: Callable[[Gammas], bool] | None = None) -> int:
        """Train on to epoch `to`, or until `until(gammas)` is true after an epoch; returns the epoch reached.

        `until` is asked about the whole history, so once true it stays true. Does nothing where that much has been
        trained before. Every epoch ends in a checkpoint.
        """
        with self.stage.locked(lambda: self._progress.note(f"waiting for another process to train {self.stage.id}")):
            self._refresh()
            head = self._newest()
            if head.epoch >= to or (until is not None and until(head.gammas)):
                return self.epoch
            live = self._resume(head)
            self._progress.begin(self.stage.id, live.epoch + 1, to)
            while live.epoch < to:
                row = self._one_epoch(live, last=live.epoch + 1 == to)
                keep = self._keep(live.gammas)
                self._commit(live, keep=keep)
                self._progress.epoch(self.stage.id, row)
                if until is not None and until(live.gammas):
                    break
            self._progress.end(self.stage.id)
            return live.epoch

    def state_at(self, epoch: int) -> dict[str, Tensor]:
        """Weights and buffers after `epoch`; read if they were kept, trained again if not."""
        return self._checkpoint_at(epoch).model

    def accuracy_at(self, epoch: int) -> dict[str, Any]:
        """The curve's row of an epoch, evaluated now if it was not evaluated then."""
        row = dict(self.curve[epoch - self.first - 1])
        if "test_accuracy" not in row:
            model = self._build()
            model.load_state_dict(self.state_at(epoch))
            row |= self._evaluate(model)
        return row

    def release(self) -> None:
        """Let go of the network in memory (the files stay)."""
        self._live = None

    def total_steps(self) -> int:
        """Optimiser steps from the first epoch to epoch N."""
        return (self._train.epochs - self.first) * -(-self._data.train_images // self._train.batch_size)

    # -- the pieces ----------------------------------------------------------------------------------------------

    def _path(self, name: str) -> Path:
        return self.stage.folder / f"{name}.safetensors"

    def _kept(self, epoch: int) -> Path:
        return self._path(f"epoch-{epoch:05d}")

    def _newest(self) -> Checkpoint:
        if self._head is None:
            self._refresh()
        assert self._head is not None
        return self._head

    def _refresh(self) -> None:
        """Look at the files again: the newest checkpoint that is whole, else the start."""
        if self._live is not None and self._head is not None and self._head.epoch == self._live.epoch:
            marker = self._path("last")
            if marker.exists() and marker.stat().st_mtime_ns == self._live.saved_at:
                return
        self._live = None
        self._head = self._newest_file() or self._start()

    def _newest_file(self) -> Checkpoint | None:
        """The newest whole checkpoint; a damaged one is passed over, aloud; none whole is an error."""
        kept = sorted(self.stage.folder.glob("epoch-*.safetensors"), reverse=True)
        paths = [path for path in (self._path("last"), self._path("previous"), *kept) if path.exists()]
        problems = []
        for path in paths:
            try:
                return Checkpoint.load(path, self.stage.id)
            except DamagedError as error:
                problems.append(str(error))
                self._progress.note(f"passed over a damaged checkpoint: {error}")
                self.stage.log("fell_back", file=path.name)
        if problems:
            raise DamagedError(
                "no whole checkpoint is left:\n  " + "\n  ".join(problems) + f"\nNothing was overwritten. To train "
                f"this stage again from its start, move {self.stage.folder} away and run the same command."
            )
        return None

    def _build(self) -> nn.Module:
        model = self._network().to(self._device)
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _start(self) -> Checkpoint:
        model = self._network()
        scores = self._score(model, self.first).detach().cpu()[None].clone()
        return Checkpoint(self.first, 0, model.state_dict(), {}, scores)

    def _resume(self, head: Checkpoint) -> _Live:
        """The network in memory, at `head`."""
        if self._live is None or self._live.epoch != head.epoch:
            here = environment(str(self._device))
            if head.environment and head.environment != here:
                changed = [key for key in here if head.environment.get(key) != here[key]]
                what = ", ".join(changed)
                self._progress.note(f"{self.stage.id}: {what} changed; results may differ in the last bits")
            self._live = _Live(self, head)
        return self._live

    def _checkpoint_at(self, epoch: int) -> Checkpoint:
        if epoch == self.first:
            return self._start()
        head = self._newest()
        if head.epoch == epoch:
            return head
        with self.stage.locked():
            if self._kept(epoch).exists():
                with contextlib.suppress(DamagedError):
                    return Checkpoint.load(self._kept(epoch), self.stage.id)
            return self._replay(epoch)

    def _replay(self, epoch: int) -> Checkpoint:
        """Train again from the nearest earlier state to one that was not kept, and keep it this time."""
        start = self._start()
        for path in sorted(self.stage.folder.glob("epoch-*.safetensors"), reverse=True):
            if int(path.stem.removeprefix("epoch-")) < epoch:
                with contextlib.suppress(DamagedError):
                    start = Checkpoint.load(path, self.stage.id)
                    break
        self._progress.note(f"{self.stage.id}: epoch {epoch} was not kept; training it again from {start.epoch}")
        live = _Live(self, start)
        self._progress.begin(self.stage.id, live.epoch + 1, epoch)
        while live.epoch < epoch:
            self._progress.epoch(self.stage.id, self._one_epoch(live, last=False))
            self.stage.log("epoch", epoch=live.epoch, replayed=True)
        self._progress.end(self.stage.id)
        checkpoint = live.checkpoint()
        checkpoint.save(self._kept(epoch), self.stage.id)
        return checkpoint

    def _averages(self, epoch: int) -> bool:
        return self._averaging is not None and epoch >= self._averaging.start

    def _learning_rate(self, epoch: int) -> float:
        if self._averages(epoch) and self._averaging.lr is not None:  # type: ignore[union-attr]
            return self._averaging.lr  # type: ignore[union-attr]
        passed = sum(epoch > milestone for milestone in self._train.milestones)
        return self._train.lr * self._train.lr_decay**passed

    def _evaluate(self, model: nn.Module) -> dict[str, Any]:
        batches = self._data.test_batches(max(self._train.batch_size, 500), memory_format=torch.channels_last)
        sums = steps.evaluate(model, batches, amp=self._train.amp)
        top5 = {} if sums.top5 is None else {"test_top5": sums.top5}
        return {"test_loss": sums.loss, "test_accuracy": sums.accuracy, "test_images": sums.images, **top5}

    def _evaluate_average(self, average: swa_utils.AveragedModel, epoch: int) -> dict[str, Any]:
        """The averaged weights, after one pass over the training images for their BatchNorm statistics."""
        batches = self._data.train_batches(
            self._train.batch_size, seed=self._seed, epoch=epoch, memory_format=torch.channels_last
        )
        swa_utils.update_bn(batches, average)
        found = self._evaluate(average.module)
        return {"average_accuracy": found["test_accuracy"], "average_images": self._data.train_images} | (
            {"average_top5": found["test_top5"]} if "test_top5" in found else {}
        )

    def _one_epoch(self, live: _Live, *, last: bool) -> dict[str, Any]:
        """Train epoch `live.epoch + 1`, evaluate, append its row and its gammas."""
        train, epoch = self._train, live.epoch + 1
        began = time.monotonic()
        rate = self._learning_rate(epoch)
        for group in live.optimizer.param_groups:
            group["lr"] = rate
        total = -(-self._data.train_images // train.batch_size)  # steps of this epoch

        def before() -> None:
            live.placement.set_step(live.step)

        def after(done: int) -> None:
            live.step += 1
            if self._constraint is not None:
                self._constraint.after_step(live.model, live.optimizer)
            self._progress.step(done, total)

        sums = steps.train_epoch(
            live.model,
            live.forward,
            live.optimizer,
            self._data.train_batches(
                train.batch_size, seed=self._seed, epoch=epoch, memory_format=torch.channels_last
            ),
            l1=train.l1,
            amp=train.amp,
            before_step=before,
            after_step=after,
        )
        if self._constraint is not None:
            self._constraint.after_epoch(live.model, epoch)
        if live.average is not None and self._averages(epoch):
            live.average.update_parameters(live.model)
        row: dict[str, Any] = {
            "epoch": epoch,
            "lr": rate,
            "loss": sums.loss,
            "accuracy": sums.accuracy,
            "images": sums.images,
            "steps": sums.steps,
        }
        if last or epoch % train.eval_every == 0:
            row |= self._evaluate(live.model)
        if last and live.average is not None and self._averages(epoch):
            row |= self._evaluate_average(live.average, epoch)
        if observed := live.placement.stats():
            row["precision"] = _finite(observed)
        row["seconds"] = round(time.monotonic() - began, 3)
        live.advance(row)
        self.trained += 1
        return row

    def _commit(self, live: _Live, *, keep: bool) -> None:
        """Write the checkpoint; the one before it stays as `previous` until the next epoch."""
        last, previous = self._path("last"), self._path("previous")
        self._head = live.checkpoint()
        if last.exists():
            _link(last, previous)
        self._head.save(last, self.stage.id)
        live.saved_at = last.stat().st_mtime_ns
        if keep:
            _link(last, self._kept(live.epoch))
        self.stage.log("epoch", epoch=live.epoch)


class _Live:
    """A network in memory with its optimiser, at some epoch of a trajectory."""

    def __init__(self, owner: Trajectory, start: Checkpoint) -> None:
        train = owner._train
        torch.backends.cuda.matmul.allow_tf32 = train.tf32
        torch.backends.cudnn.allow_tf32 = train.tf32
        self.model = owner._build()
        self.model.load_state_dict(start.model)
        self.optimizer = steps.optimiser(
            self.model, lr=train.lr, momentum=train.momentum, weight_decay=train.weight_decay
        )
        restore_momentum(self.model, self.optimizer, start.momentum)
        self.placement = precision.apply(
            self.model, owner._backend, seed=owner._seed, steps=owner.total_steps(), stats_every=owner._stats_every
        )
        self.placement.attach(self.optimizer)
        # A plain fp32 network beside the trained one: its average has full precision whatever the backend is.
        self.average = None if owner._averaging is None else swa_utils.AveragedModel(owner._build())
        if self.average is not None and start.extra:
            self.average.load_state_dict(start.extra)
        self.forward: Callable[[Tensor], Tensor] = torch.compile(self.model) if train.compile else self.model
        self.epoch, self.step = start.epoch, start.step
        self.gammas = start.gammas
        self.curve = list(start.curve)
        self.environment = environment(str(owner._device))
        self.score = owner._score
        self.saved_at = 0

    def advance(self, row: dict[str, Any]) -> None:
        """One epoch further: remember its gammas and its line."""
        self.epoch += 1
        now = self.score(self.model, self.epoch).detach().cpu()[None]
        self.gammas = torch.cat([self.gammas, now.to(self.gammas.dtype)])
        self.curve = [*self.curve, row]

    def checkpoint(self) -> Checkpoint:
        """The state as it is now, as copies."""
        return Checkpoint(
            epoch=self.epoch,
            step=self.step,
            model=_on_cpu(self.model.state_dict()),
            momentum=_on_cpu(momentum_of(self.model, self.optimizer)),
            gammas=self.gammas,
            curve=self.curve,
            environment=self.environment,
            extra=_on_cpu({} if self.average is None else self.average.state_dict()),
        )


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU: later steps must not change them."""
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def _finite(observed: Any) -> Any:
    """The same tables with None for infinite figures (JSON has none): an SQNR where nothing was lost."""
    if isinstance(observed, dict):
        return {key: _finite(value) for key, value in observed.items()}
    return observed if math.isfinite(observed) else None


def _link(source: Path, target: Path) -> None:
    """`target` becomes another name of the file `source`, in one step; a copy where links are not possible."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        temporary.write_bytes(source.read_bytes())
    os.replace(temporary, target)
