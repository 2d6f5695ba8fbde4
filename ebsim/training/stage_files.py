"""`StageFiles`: the checkpoints of a training stage on disk, written in an order that a kill cannot spoil.

last.safetensors          the state after the newest epoch; previous.safetensors: after the one before it
epoch-00042.safetensors   the state after an epoch that was to be kept
within.safetensors        the state between two steps of the epoch under way
test-00042.json           the test metrics of an epoch that was trained without them
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from torch import nn

from ebsim.errors import DamagedError
from ebsim.files import link, remove
from ebsim.runs.store import Stage
from ebsim.training.checkpoint import Checkpoint


class StageFiles:
    """Reads and writes the checkpoints of `stage`.

    first: epochs that lie behind its start. network: builds the network that checkpoints must fit. note: told of a
    damaged checkpoint that is passed over, and of one within an epoch from which training goes on.
    """

    def __init__(self, stage: Stage, first: int, network: Callable[[], nn.Module], note: Callable[[str], None]) -> None:
        self.stage, self.first, self.network, self.note = stage, first, network, note

    def path(self, name: str) -> Path:
        """The file of a checkpoint."""
        return self.stage.folder / f"{name}.safetensors"

    def kept(self, epoch: int) -> Path:
        """Where the state after an epoch is kept."""
        return self.path(f"epoch-{epoch:05d}")

    def late_test(self, epoch: int) -> Path:
        """Where the test columns of an epoch are kept that was trained without them."""
        return self.stage.folder / f"test-{epoch:05d}.json"

    def last_saved_at(self) -> int | None:
        """Time of change of the newest checkpoint, in ns; None without one."""
        marker = self.path("last")
        return marker.stat().st_mtime_ns if marker.exists() else None

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint, None without any; damaged ones are passed over; none whole is an error."""
        kept = sorted(self.stage.folder.glob("epoch-*.safetensors"), reverse=True)
        paths = [path for path in (self.path("last"), self.path("previous"), *kept) if path.exists()]
        problems = []
        for path in paths:
            try:
                return self._after_epoch(path)
            except DamagedError as error:
                problems.append(str(error))
                self.note(f"passed over a damaged checkpoint: {error}")
                self.stage.log("fell_back", file=path.name)
        if problems:
            raise DamagedError(
                "no whole checkpoint is left:\n  " + "\n  ".join(problems) + f"\nNothing was overwritten. To train "
                f"this stage again from its start, move {self.stage.folder} away and run the same command."
            )
        return None

    def _after_epoch(self, path: Path) -> Checkpoint:
        """The checkpoint of a file; `DamagedError` also for a sound one of another moment than its name says."""
        found = Checkpoint.load(path, self.stage.id)
        if found.part is not None:
            raise DamagedError(f"{path}: a checkpoint within an epoch, not one after it.")
        if path.stem.startswith("epoch-") and path != self.kept(found.epoch):
            raise DamagedError(f"{path}: the state after epoch {found.epoch}, not the one of its name.")
        return found

    def within(self, head: Checkpoint) -> Checkpoint | None:
        """The checkpoint within the epoch that follows `head`, if there is a whole one."""
        if not self.path("within").exists():
            return None
        try:
            found = Checkpoint.load(self.path("within"), self.stage.id)
            if found.part is None or (found.epoch, found.step - found.part.steps) != (head.epoch, head.step):
                return None  # of an epoch that has ended since
            found.fits(self.network(), self.path("within"))
        except DamagedError as error:
            self.note(f"passed over a damaged checkpoint: {error}")
            return None
        self.note(f"{self.stage.id}: going on after step {found.part.steps} of epoch {found.epoch + 1}")
        return found

    def fitting(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint, once it is known to be one of this network."""
        if checkpoint.epoch != self.first:
            checkpoint.fits(self.network(), f"{self.stage.folder}, epoch {checkpoint.epoch}")
        return checkpoint

    def stored(self, epoch: int) -> Checkpoint | None:
        """The state after an epoch that was kept; None where it was not, or is damaged."""
        if self.kept(epoch).exists():
            with contextlib.suppress(DamagedError):
                return self.fitting(self._after_epoch(self.kept(epoch)))
        return None

    def nearest(self, epoch: int) -> Checkpoint | None:
        """The last kept state before an epoch; None without any."""
        for path in sorted(self.stage.folder.glob("epoch-*.safetensors"), reverse=True):
            if int(path.stem.removeprefix("epoch-")) < epoch:
                with contextlib.suppress(DamagedError):
                    return self.fitting(self._after_epoch(path))
        return None

    def save_within(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint between two steps of an epoch."""
        checkpoint.save(self.path("within"), self.stage.id)

    def save_kept(self, checkpoint: Checkpoint) -> None:
        """Keep the state after an epoch."""
        checkpoint.save(self.kept(checkpoint.epoch), self.stage.id)

    def commit(self, checkpoint: Checkpoint, *, keep: bool) -> int:
        """Write the state after an epoch, the one before it staying as `previous`; its time of change in ns.

        The epoch is on record before it counts (one that has to be trained again is then seen to be), and a state to
        keep has its own name before it is the last one.
        """
        last = self.path("last")
        self.stage.log("epoch", epoch=checkpoint.epoch)
        if last.exists():
            link(last, self.path("previous"))
        if keep:
            self.save_kept(checkpoint)
            link(self.kept(checkpoint.epoch), last)
        else:
            checkpoint.save(last, self.stage.id)
        saved_at = last.stat().st_mtime_ns
        remove(self.path("within"))
        return saved_at

    def repair_after_kill(self, head: Checkpoint, *, keep: bool) -> None:
        """Make up for a process that was killed between writing the checkpoint `head` and noting it down."""
        if keep and not self.kept(head.epoch).exists():
            self.save_kept(head)
        if not any(event["event"] == "epoch" and event.get("epoch") == head.epoch for event in self.stage.events()):
            self.stage.log("epoch", epoch=head.epoch)
