"""`Trajectory`: one network trained by one recipe from one seed, resumable, extensible and shared.

`weights after epoch e` is a pure function of the stage's identity and e. So a trajectory can be continued
("go on until epoch 160", "go on until p = 0.5 has emerged"), stopped anywhere, shared by everything that needs a
prefix of it, and asked for the state at any past epoch: what was kept is read, what was not is trained again from
the nearest state that was. All gammas of every epoch are kept (30 kB an epoch for PreResNet101), so every mask at
every ratio under every rule comes from them, after the fact.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ebsim import stop, tickets
from ebsim.config import Train
from ebsim.errors import DamagedError
from ebsim.files import read_json, write_json
from ebsim.runs.store import Stage
from ebsim.training import team as teams
from ebsim.training.checkpoint import Checkpoint
from ebsim.training.compilation import conditions
from ebsim.training.progress import Progress, Silent
from ebsim.training.setup import Averaging, Constraint, Meter, Setup, tested
from ebsim.training.stage_files import StageFiles
from ebsim.training.trainer import Trainer

Gammas = Tensor  # [epochs + 1, channels]


class Trajectory:
    """Training of one stage. `network` builds it with its starting weights; `first` epochs lie behind it already.

    `keep(gammas)` is asked after every epoch whether that epoch's state is to be kept for later. With `averaging` the
    weights are averaged (SWA, in fp32) and the average is evaluated, with BatchNorm statistics of its own, after epoch
    N.
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
        meter: Meter | None = None,
        progress: Progress | None = None,
        strict: bool = False,
    ) -> None:
        self.stage = stage
        self.strict = strict
        self.first = first
        self.trained = 0  # epochs really trained by this object, replays included
        network = network if self._team.size == 1 else _built_once(network)
        self._setup = Setup(
            network, data, train, seed, device, score, first, backend, stats_every, averaging, constraint, meter
        )
        self._keep = keep
        self._progress = progress or Silent()
        self._live: Trainer | None = None
        self._start: Checkpoint | None = None  # what the leader has handed out, until a network is made of it
        self._head: Checkpoint | None = None
        self._files = StageFiles(stage, first, self._setup.network, self._progress.note)

    @property
    def _team(self) -> teams.Team:
        """The processes that train together at this moment; the leader reports alone when the others have left."""
        return teams.team()

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

    def averages(self, epoch: int) -> bool:
        """Whether the weights after `epoch` enter the average (SWA)."""
        averaging = self._setup.averaging
        return averaging is not None and averaging.includes(epoch)

    @property
    def history(self) -> list[dict[str, Any]]:
        """The environments under which the epochs so far were trained, each with its `first_epoch`."""
        return self._newest().history

    # -- training ------------------------------------------------------------------------------------------------

    def extend(self, to: int, until: Callable[[Gammas], bool] | None = None) -> int:
        """Train on to epoch `to`, or until `until(gammas)` is true after an epoch; returns the epoch reached.

        `until` is asked about the whole history, so once true it stays true. Does nothing where that much has been
        trained before. Every epoch ends in a checkpoint.
        """
        self._prepare()
        with self._locked(lambda: self._progress.note(f"waiting for another process to train {self.stage.id}")):
            if self._team.leader:
                self._refresh()
                head = self._newest()
                if head.epoch != self.first:
                    self._files.repair_after_kill(head, keep=self._keep(head.gammas))
                self._compare_environment(self._newest())
            self._share_head()
            head = self._newest()
            if head.epoch >= to or (until is not None and until(head.gammas)):
                return head.epoch
            live = self._resume(head)
            for row in self._epochs(
                live, to, evaluate=True, keep=self._files.save_within if self._team.leader else None
            ):
                with stop.deferred():
                    self._commit(live)
                self._progress.epoch(self.stage.id, row)
                if until is not None and until(live.gammas):
                    break
            return live.epoch

    def state_at(self, epoch: int) -> dict[str, Tensor]:
        """Weights and buffers after `epoch`; read if they were kept, trained again if not."""
        return self._checkpoint_at(epoch).model

    def own_curve(self) -> list[dict[str, Any]]:
        """The curve as if this experiment alone had asked for it: up to epoch N, tested where its recipe says so.

        The stage may be shared with experiments of another N. An epoch that none of them tested is tested now.
        """
        for epoch in self._team.share(self._untested() if self._team.leader else None):
            state = self._checkpoint_at(epoch)
            if self._team.leader:
                write_json(self._files.late_test(epoch), Trainer(self._setup, state).test(epoch))
        return self._team.share(self._own_rows() if self._team.leader else None)

    def _untested(self) -> list[int]:
        """Epochs that this recipe tests and that are not tested yet."""
        rows = [row for row in self.curve if row["epoch"] <= self._setup.train.epochs and "test_accuracy" not in row]
        asked = [row["epoch"] for row in rows if tested(row["epoch"], self._setup.train)]
        return [epoch for epoch in asked if not self._files.late_test(epoch).exists()]

    def _own_rows(self) -> list[dict[str, Any]]:
        rows = []
        for row in self.curve:
            if row["epoch"] > self._setup.train.epochs:
                break
            if not tested(row["epoch"], self._setup.train):
                row = {key: value for key, value in row.items() if not key.startswith(("test_", "average_"))}
            elif "test_accuracy" not in row:
                row = {**row, **read_json(self._files.late_test(row["epoch"]))}
            rows.append(row)
        return rows

    # -- several processes ---------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Build the network on every process at the same time: what it is made of may be another stage's state."""
        if self._team.size > 1:
            self._setup.network()

    @contextlib.contextmanager
    def _locked(self, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """The leader holds the stage for all."""
        with self.stage.locked(waiting) if self._team.leader else contextlib.nullcontext():
            yield

    def _share_head(self) -> None:
        """Everybody starts where the leader's files, or the networks in memory, stand."""
        if self._team.size == 1:
            return
        here = -1 if self._live is None else self._live.epoch
        found = self._head if self._team.leader else None
        stage, epoch = self._team.share([self.stage.id, found.epoch] if found is not None else None)
        if stage != self.stage.id:
            raise AssertionError(f"{self.stage.id} here, {stage} on the leader")
        if self._team.any_(here != epoch)[0]:
            self._live = None
            self._start = self._share(None if found is None else self._saved(found))
            self._head = found or self._start

    def _share(self, checkpoint: Checkpoint | None) -> Checkpoint:
        """The leader's checkpoint on every process; what the others hand in does not count."""
        if self._team.size == 1:
            assert checkpoint is not None
            return checkpoint
        tensors, meta = checkpoint.pack() if checkpoint is not None else ({}, {})
        return Checkpoint.unpack(self._team.share_tensors(tensors), self._team.share(meta))

    def release(self) -> None:
        """Let go of the network in memory (the files stay)."""
        self._live = None
        self._setup.release()

    def _epochs(
        self, live: Trainer, to: int, *, evaluate: bool, keep: Callable[[Checkpoint], None] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Train epoch by epoch up to `to`."""
        self._progress.begin(self.stage.id, live.epoch + 1, to)
        try:
            while live.epoch < to:
                row = live.one_epoch(evaluate=evaluate, tick=self._progress.step, keep=keep)
                self.trained += 1
                yield row
        finally:
            self._progress.end(self.stage.id)

    # -- states --------------------------------------------------------------------------------------------------

    def _newest(self) -> Checkpoint:
        if self._head is None:
            self._prepare()
            if self._team.leader:
                self._refresh()
            self._share_head()
        assert self._head is not None
        return self._head

    def _refresh(self) -> None:
        """Look at the files again: the newest checkpoint that is whole, else the start."""
        live, head = self._live, self._head
        if live and head and head.epoch == live.epoch and self._files.last_saved_at() == live.saved_at:
            return
        self._live = None
        self._head = self._files.newest() or self._setup.start()

    def _resume(self, head: Checkpoint) -> Trainer:
        """The network in memory, at `head`."""
        if self._live is None or self._live.epoch != head.epoch:
            start = self._start or self._saved(head)
            self._live, self._start = Trainer(self._setup, start, self._graph_note), None
        return self._live

    def _saved(self, head: Checkpoint) -> Checkpoint:
        """The state to go on from: within the epoch that follows `head` where there is a checkpoint, else `head`."""
        return self._files.within(head) or self._files.fitting(head)

    def _graph_note(self, text: str) -> None:
        self._progress.note(f"{self.stage.id}: {text}")

    def _compare_environment(self, head: Checkpoint) -> None:
        """Say, or with `strict` refuse, that the epochs so far were trained by other code or under other conditions."""
        here = conditions(self._setup.train, self._setup.device)
        changed = sorted({key for past in head.history for key in here if past.get(key) != here[key]})
        if not changed:
            return
        what = f"{self.stage.id}: {', '.join(changed)} changed since epochs up to {head.epoch} were trained"
        if self.strict:
            raise DamagedError(
                f"{what}, and --strict accepts no other. Use the environment they were trained in, or another "
                "--runs-dir."
            )
        self._progress.note(f"{what}; results may differ from those of one environment")

    def _commit(self, live: Trainer) -> None:
        """Take the state after an epoch as the newest; the leader writes it."""
        self._head = live.checkpoint()
        if self._team.leader:
            live.saved_at = self._files.commit(self._head, keep=self._keep(live.gammas))

    def _checkpoint_at(self, epoch: int) -> Checkpoint:
        if epoch == self.first:
            return self._setup.start()
        head = self._newest()
        if head.epoch == epoch:
            return self._share(self._files.fitting(head) if self._team.leader else None)
        with self._locked():
            found = self._files.stored(epoch) if self._team.leader else None
            if self._team.share(found is not None):
                return self._share(found)
            return self._replay(epoch)

    def _replay(self, epoch: int) -> Checkpoint:
        """Train again from the nearest earlier state to one that was not kept, and keep it this time."""
        start = self._share((self._files.nearest(epoch) or self._setup.start()) if self._team.leader else None)
        self._progress.note(f"{self.stage.id}: epoch {epoch} was not kept; training it again from {start.epoch}")
        live = Trainer(self._setup, start)
        for row in self._epochs(live, epoch, evaluate=False):
            if self._team.leader:
                self.stage.log("epoch", epoch=live.epoch, replayed=True)
            self._progress.epoch(self.stage.id, row)
        checkpoint = live.checkpoint()
        if self._team.leader:
            self._files.save_kept(checkpoint)
        return checkpoint


def _built_once(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Copies of one network, which is built when the first is asked for."""
    made: list[nn.Module] = []

    def network() -> nn.Module:
        if not made:
            made.append(build())
        return copy.deepcopy(made[0])

    return network
