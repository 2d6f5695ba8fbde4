"""What a training tells the outside world; the terminal, a notebook or nobody listens."""

from __future__ import annotations

from typing import Any, Protocol


class Progress(Protocol):
    """Called by a trajectory. Implementations only show; they never change what is computed."""

    def begin(self, stage: str, first: int, last: int) -> None:
        """Epochs `first`..`last` of `stage` are about to be trained (a search may end earlier)."""

    def step(self, done: int, total: int) -> None:
        """`done` of `total` steps of the current epoch are over."""

    def epoch(self, stage: str, row: dict[str, Any]) -> None:
        """An epoch is over and its checkpoint written; `row` is its line of the curve."""

    def end(self, stage: str) -> None:
        """No more epochs of this stage for now."""

    def note(self, text: str) -> None:
        """Something worth a line: a reused stage, a damaged checkpoint that was passed over."""


class Silent:
    """Shows nothing."""

    def begin(self, stage: str, first: int, last: int) -> None: ...

    def step(self, done: int, total: int) -> None: ...

    def epoch(self, stage: str, row: dict[str, Any]) -> None: ...

    def end(self, stage: str) -> None: ...

    def note(self, text: str) -> None: ...
