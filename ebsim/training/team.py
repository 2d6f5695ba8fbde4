"""Several processes that train one network on shares of the same batches; one process alone is a team of one.

The processes are `torchrun`'s (gloo on CPUs, NCCL on GPUs). Each computes on its share of every batch; gradients are
summed over all, so every process holds the same weights after every step. Rank 0, the leader, reads and writes all
files and decides what is decided from scores; what it read and decided is handed to the others. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from ebsim.errors import BusyError, ConfigError, StoppedError
from ebsim.files import canonical_json, parse_json

PATIENCE = timedelta(days=7)  # the others wait while the leader waits for a stage that another run trains


def equal_shares(images: int, count: int) -> list[slice]:
    """Contiguous shares of a batch, the first ones larger by one; empty ones where there are too few images."""
    share, more = divmod(images, count)
    starts = [part * share + min(part, more) for part in range(count + 1)]
    return [slice(first, last) for first, last in itertools.pairwise(starts)]


class Team:
    """One process; the base of `Ranks`."""

    rank, size = 0, 1

    @property
    def leader(self) -> bool:
        """Whether this process reads, writes and decides."""
        return self.rank == 0

    def part(self, images: int) -> slice:
        """This process's share of a batch: contiguous, equal shares, the first ones larger by one.

        A batch with fewer images than there are processes is computed whole by each (see `shares`).
        """
        if not self.shares(images):
            return slice(0, images)
        return self.share_of_test(images)

    def shares(self, images: int) -> bool:
        """Whether a batch of so many images is shared out at all."""
        return 1 < self.size <= images

    def share_of_test(self, images: int) -> slice:
        """This process's share of a batch that is only counted over; may be empty."""
        return equal_shares(images, self.size)[self.rank]

    def any_(self, *wishes: bool) -> list[bool]:
        """For each wish, whether any process has it."""
        return list(wishes)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes; all of one type."""

    def largest(self, tensor: Tensor) -> Tensor:
        """The elementwise largest of all processes' tensors; a new tensor."""
        return tensor

    def broadcast_(self, tensor: Tensor) -> None:
        """Replace a tensor by the leader's."""

    def share(self, value: Any) -> Any:
        """The leader's value (JSON) on every process."""
        return value

    def share_tensors(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The leader's named tensors, on the CPU, on every process."""
        return tensors

    def check_equal(self, what: str, value: str) -> None:
        """An error on every process unless all hold the same value (a digest)."""


class Ranks(Team):
    """The processes of `torch.distributed`'s default group. `device`: where collectives run."""

    def __init__(self, device: torch.device) -> None:
        self.rank, self.size, self.device = dist.get_rank(), dist.get_world_size(), device

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        if len(tensors) == 1:
            dist.all_reduce(tensors[0])
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, summed in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(summed.view(tensor.shape))

    def any_(self, *wishes: bool) -> list[bool]:
        asked = torch.tensor(wishes, dtype=torch.int32, device=self.device)
        dist.all_reduce(asked, dist.ReduceOp.MAX)
        return [bool(wish) for wish in asked.tolist()]

    def largest(self, tensor: Tensor) -> Tensor:
        out = tensor.clone()
        dist.all_reduce(out, dist.ReduceOp.MAX)
        return out

    def broadcast_(self, tensor: Tensor) -> None:
        dist.broadcast(tensor, 0)

    def share(self, value: Any) -> Any:
        text = canonical_json(value).encode() if self.leader else b""
        length = torch.tensor([len(text)], device=self.device)
        dist.broadcast(length, 0)
        content = torch.empty(int(length), dtype=torch.uint8, device=self.device)
        if self.leader:
            content.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
        dist.broadcast(content, 0)
        return parse_json(bytes(content.cpu().numpy()))

    def share_tensors(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        described = [[name, list(t.shape), str(t.dtype).removeprefix("torch.")] for name, t in tensors.items()]
        out: dict[str, Tensor] = {}
        for name, shape, kind in self.share(described):
            place = torch.empty(shape, dtype=getattr(torch, kind), device=self.device)
            if self.leader:
                place.copy_(tensors[name])
            dist.broadcast(place, 0)
            out[name] = tensors[name] if self.leader else place.cpu()
        return out

    def check_equal(self, what: str, value: str) -> None:
        mine = torch.frombuffer(bytearray(bytes.fromhex(value)), dtype=torch.uint8).to(self.device, torch.int32)
        lowest, highest = mine.clone(), mine.clone()
        dist.all_reduce(lowest, dist.ReduceOp.MIN)
        dist.all_reduce(highest, dist.ReduceOp.MAX)
        if not torch.equal(lowest, highest):
            raise BusyError(
                f"rank {self.rank}: {what} differ between the processes of this training; nothing was written. Use "
                "machines of one kind, and run the same command again."
            )


ALONE = Team()
_team: Team = ALONE


def team() -> Team:
    """The team that this process belongs to."""
    return _team


def launched() -> bool:
    """Whether this process is one of several that a launcher (`torchrun`) has started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def join(device: torch.device) -> Team:
    """Meet the other processes of the launcher; once per process. NCCL on GPUs, gloo otherwise."""
    global _team
    if not launched() or _team is not ALONE:
        return _team
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError, OSError) as error:
        raise ConfigError(f"the processes of this training cannot meet ({error}); start them with torchrun") from error
    _team = Ranks(device)
    return _team


@contextlib.contextmanager
def told_if_lost() -> Iterator[None]:
    """Say in words, and with the exit code of a stop, that another process of the team has ended."""
    try:
        yield
    except RuntimeError as error:  # torch has no class of its own for what gloo says
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        if _team is ALONE or not (isinstance(error, dist.DistError) or "gloo" in text or "Connection" in text):
            raise
        raise StoppedError(
            f"rank {_team.rank}: another process of this training has ended ({text}). Run the same command again, with "
            "any number of processes."
        ) from error


def leave() -> None:
    """Part from the other processes."""
    global _team
    if _team is not ALONE:
        dist.destroy_process_group()
        _team = ALONE
