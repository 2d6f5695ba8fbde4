"""`Trainer`: a network in memory with its optimizer and precision, trained epoch by epoch.

Everything random is a function of (seed, epoch, step), so the state after an epoch depends on the state before it and
on the setup alone; a checkpoint therefore needs no generator states.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import swa_utils

from ebsim import precision, stop
from ebsim.errors import ConfigError, DivergedError
from ebsim.precision.quantization import delayed
from ebsim.training import loop as steps
from ebsim.training import team as teams
from ebsim.training.allocator import keep_freed_memory
from ebsim.training.checkpoint import Checkpoint, momentum_of, on_cpu, restore_momentum
from ebsim.training.compilation import conditions, step_forward
from ebsim.training.graph import StepGraphs, cuda_recorder, on_stream
from ebsim.training.local_batchnorm import localize
from ebsim.training.preconditions import check_team, no_graphs_reason, simulated
from ebsim.training.setup import LAYOUT, Meter, Setup, tested
from ebsim.training.synced_batchnorm import synchronize, together
from ebsim.training.team import ALONE, Team

WORTH_KEEPING = 30.0  # seconds of training that are worth a checkpoint within an epoch


class Trainer:
    """The network, its optimizer and its precision in memory, continuing from a checkpoint.

    note: told why the step is not replayed as a CUDA graph, where it could be expected to be.
    """

    def __init__(self, setup: Setup, start: Checkpoint, note: Callable[[str], None] = lambda text: None) -> None:
        self.setup = setup
        train = setup.train
        keep_freed_memory()
        torch.backends.cuda.matmul.allow_tf32 = train.tf32
        torch.backends.cudnn.allow_tf32 = train.tf32
        self.model = setup.build()
        self.model.load_state_dict(start.model)
        self.optimizer = steps.make_optimizer(
            self.model, lr=train.lr, momentum=train.momentum, weight_decay=train.weight_decay
        )
        restore_momentum(self.model, self.optimizer, start.momentum)
        total = (train.epochs - setup.first) * setup.steps_per_epoch
        self.placement = precision.apply(
            self.model, setup.backend, seed=setup.seed, steps=total, stats_every=setup.stats_every
        )
        self.placement.attach(self.optimizer)
        # A plain fp32 network beside the trained one: its average has full precision whatever the backend is.
        self.average = None if setup.averaging is None else swa_utils.AveragedModel(setup.build())
        self.placement.load_state(start.extra)
        averaged = {name: value for name, value in start.extra.items() if not name.startswith(delayed.PREFIX)}
        if self.average is not None and averaged:
            self.average.load_state_dict(averaged)
        forward = step_forward(self.model, train, rounded=simulated(setup) or setup.stats_every > 0)
        self.team = teams.team()
        if train.batchnorm_parts > 1:
            localize(self.model, train.batchnorm_parts, self.team)
        if self.team.size > 1:
            check_team(setup, self.team)
            if train.batchnorm_parts == 1:
                synchronize(self.model, self.team)
            self.placement.share_batches(self.team.largest)
        self._train_step = steps.TrainStep(
            self.model, forward, self.optimizer, l1=train.l1, amp=train.amp, team=self.team
        )
        self._stream, self._graphs = self._record_steps(note)
        self.epoch, self.step = start.epoch, start.step
        self.gammas, self.curve = start.gammas, list(start.curve)
        self.history = start.under(conditions(train, setup.device))
        self.saved_at = 0
        self._part = start.part

    def _record_steps(self, note: Callable[[str], None]) -> tuple[Any, StepGraphs | None]:
        """(the stream to train on, the step as replayed CUDA graphs), or two Nones: not wanted, or not possible."""
        setup, optimizer = self.setup, self.optimizer
        wanted = setup.train.graph
        reason = no_graphs_reason(setup)
        if wanted == "off" or (wanted == "auto" and setup.device.type != "cuda"):
            return None, None
        if reason and wanted == "on":
            raise ConfigError(f'train.graph = "on": {reason}; use auto or off.')
        if reason:
            note(f"no CUDA graphs: {reason}")
            return None, None
        stream = torch.cuda.Stream(setup.device)

        def rates() -> tuple[float, ...]:
            return tuple(group["lr"] for group in optimizer.param_groups)

        return stream, StepGraphs(self._train_step, rates, cuda_recorder(stream), note, self._train_step.state)

    def one_epoch(
        self,
        *,
        evaluate: bool,
        tick: Callable[[int, int], None],
        keep: Callable[[Checkpoint], None] | None = None,
    ) -> dict[str, Any]:
        """Train the next epoch; returns its line of the curve. `tick(done, total)` is called after every step.

        The network is tested where the recipe says so (`tested`), unless `evaluate` is off. `keep` is handed a
        checkpoint within the epoch every `train.checkpoint_minutes`, and when a stop is asked for or the training part
        of the epoch ends, if half a minute would be lost without one. Raises `DivergedError` with epoch, step and the
        first bad layer; nothing of the epoch counts then.
        """
        try:
            return self._one_epoch(evaluate, tick, keep)
        except DivergedError as error:
            raise DivergedError(f"epoch {self.epoch + 1}: {error}") from None

    def _one_epoch(
        self, evaluate: bool, tick: Callable[[int, int], None], keep: Callable[[Checkpoint], None] | None
    ) -> dict[str, Any]:
        setup, epoch, before = self.setup, self.epoch + 1, self._part
        began = saved = time.monotonic()
        behind = 0.0 if before is None else before.seconds

        def keep_if_older(seconds: float) -> None:
            nonlocal saved
            wanted = bool(keep and setup.train.checkpoint_minutes) and time.monotonic() - saved >= seconds
            if self.team.any_(wanted and self.team.leader)[0]:  # everybody takes part, the leader writes
                checkpoint = self._checkpoint_within(behind + time.monotonic() - began)
                if keep is not None:
                    keep(checkpoint)
                saved = time.monotonic()

        def before_step() -> None:
            first = 0
            if self.team.size > 1:
                if self.team.any_(stop.requested())[0]:
                    raise stop.Stop
                left = setup.data.train_images - self._train_step.seen
                self._train_step.images = min(setup.train.batch_size, left)
                first = self.team.part(self._train_step.images).start
            self.placement.set_step(self.step, first_sample=first)

        rate = setup.learning_rate(epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

        def after_step(done: int) -> None:
            self.step += 1
            if setup.constraint is not None:
                setup.constraint.after_step(self.model, self.optimizer)
            tick(done, setup.steps_per_epoch)
            keep_if_older(60 * setup.train.checkpoint_minutes)

        def train() -> steps.Sums:
            with on_stream(self._stream), stop.deferred():
                try:
                    return steps.train_epoch(
                        self._train_step,
                        self._train_batches(epoch, 0 if before is None else before.steps, shared=self.team.size > 1),
                        run=self._graphs,
                        before_step=before_step,
                        after_step=after_step,
                        done=before,
                    )
                except (stop.Stop, RuntimeError) as error:
                    # Between two steps: at a stop, or where a decoding process was ended by the same signal.
                    if isinstance(error, stop.Stop) or (stop.requested() and "DataLoader worker" in str(error)):
                        keep_if_older(WORTH_KEEPING)
                    raise

        if before is not None:
            self.placement.restore_statistics(before.sums)
        sums, measured = _metered(train, setup.meter)
        keep_if_older(WORTH_KEEPING)
        self._part = None
        if before is not None and "measured_joules" in measured:
            measured["measured_joules"] = None  # the part before was not within this reading
        if setup.constraint is not None:
            setup.constraint.after_epoch(self.model, epoch)
        self._check_state(sums.steps)
        row = {
            "epoch": epoch,
            "lr": rate,
            "loss": sums.loss,
            "accuracy": sums.accuracy,
            "images": sums.images,
            "steps": sums.steps,
            **measured,
            **self._gpu_columns(),
        }
        if self.average is not None and setup.averaging is not None and setup.averaging.includes(epoch):
            self.average.update_parameters(self.model)
        if evaluate and tested(epoch, setup.train):
            row |= self.test(epoch, self.team)
        if observed := self.placement.stats():
            row["precision"] = _finite(observed)
        row["seconds"] = round(behind + time.monotonic() - began, 3)
        self._advance(row)
        return row

    def _train_batches(self, epoch: int, skip: int = 0, *, shared: bool = False) -> Any:
        setup = self.setup
        options: dict[str, Any] = {"skip": skip} if skip else {}
        if shared:
            options["part"] = self.team.part
        return setup.data.train_batches(
            setup.train.batch_size, seed=setup.seed, epoch=epoch, memory_format=LAYOUT, **options
        )

    def test(self, epoch: int, team: Team = ALONE) -> dict[str, Any]:
        """The network after `epoch` on the test images, as columns of a curve; after the last epoch its average too."""
        return self.setup.evaluate(self.model, team) | (
            self._test_average(epoch) if epoch == self.setup.train.epochs else {}
        )

    def _test_average(self, epoch: int) -> dict[str, Any]:
        """The averaged weights, with BatchNorm statistics of their own from one pass over the training images."""
        averaging = self.setup.averaging
        if self.average is None or averaging is None or not averaging.includes(epoch):
            return {}
        swa_utils.update_bn(self._train_batches(epoch), self.average)
        found = self.setup.evaluate(self.average.module)
        top5 = {"average_top5": found["test_top5"]} if "test_top5" in found else {}
        return {
            "average_accuracy": found["test_accuracy"],
            "average_images": self.setup.data.train_images + found["test_images"],
            **top5,
        }

    def _gpu_columns(self) -> dict[str, int]:
        """On a GPU: the most memory that tensors have taken so far, and the steps of this process that were replays."""
        if self.setup.device.type != "cuda":
            return {}
        replayed = 0 if self._graphs is None else self._graphs.replayed
        return {"peak_bytes": torch.cuda.max_memory_allocated(self.setup.device), "replayed_steps": replayed}

    def _check_state(self, steps: int) -> None:
        """`DivergedError` if the last update left a weight or statistic that is not finite: no step comes to see it."""
        state = {name: value for name, value in self.model.state_dict().items() if value.is_floating_point()}
        if bool(torch.stack(torch._foreach_norm(list(state.values()))).isfinite().all()):
            return
        bad = next((name for name, value in state.items() if not bool(torch.isfinite(value).all())), None)
        if bad is not None:  # not just a norm that overflows
            raise DivergedError(
                f"{bad} became NaN or infinite by the update of step {steps}, the last of the epoch; the checkpoint "
                "before it is untouched. Try a smaller train.lr, or another precision."
            )

    def _advance(self, row: dict[str, Any]) -> None:
        if self.team.size > 1:
            together(self.model, False)  # every process scores the same batches
        now = self.setup.score(self.model, self.epoch + 1).detach().cpu()[None]
        now = self.team.share_tensors({"scores": now})["scores"]
        if self.team.size > 1:
            self.team.check_equal(f"the weights after epoch {self.epoch + 1}", _digest(self.model, now))
        if not bool(torch.isfinite(now).all()):
            raise DivergedError(
                "the scores of the channels became NaN or infinite after the epoch; the checkpoint before it is "
                "untouched. Try a smaller train.lr, or another prune.criterion."
            )
        self.epoch += 1
        self.gammas = torch.cat([self.gammas, now.to(self.gammas.dtype)])
        self.curve = [*self.curve, row]

    def _checkpoint_within(self, seconds: float) -> Checkpoint:
        """The state between two steps of an epoch, `seconds` after its start."""
        part = self._train_step.part(seconds)
        return self.checkpoint(replace(part, sums=part.sums | self.placement.statistics()))

    def checkpoint(self, part: steps.EpochPart | None = None) -> Checkpoint:
        """The state as it is now, as copies on the CPU."""
        return Checkpoint(
            part=part,
            epoch=self.epoch,
            step=self.step,
            model=on_cpu(self.model.state_dict()),
            momentum=on_cpu(momentum_of(self.model, self.optimizer)),
            gammas=self.gammas,
            curve=self.curve,
            history=self.history,
            extra=on_cpu({**({} if self.average is None else self.average.state_dict()), **self.placement.state()}),
        )


def _digest(model: nn.Module, scores: Tensor) -> str:
    """SHA-256 (hex) over the state of a network and the scores of its channels."""
    total = hashlib.sha256()
    for value in (*model.state_dict().values(), scores):
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _metered(train: Callable[[], steps.Sums], meter: Meter | None) -> tuple[steps.Sums, dict[str, Any]]:
    """The sums of an epoch's training, and what a sensor around it read."""
    if meter is None:
        return train(), {}
    results: list[steps.Sums] = []
    measured = meter(lambda: results.append(train()))
    return results[0], measured


def _finite(observed: Any) -> Any:
    """The same tables with None for infinite figures (JSON has none): an SQNR where nothing was lost."""
    if isinstance(observed, dict):
        return {key: _finite(value) for key, value in observed.items()}
    return observed if math.isfinite(observed) else None
