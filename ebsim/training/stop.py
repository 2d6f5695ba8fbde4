"""Stopping on request: a signal sets a flag, the loop looks at it between two steps.

Nothing is written inside a signal handler; the last epoch's checkpoint is whole, and the same command goes on.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

from ebsim.errors import StoppedError

_requested = False


def check() -> None:
    """Raise `StoppedError` if a stop was asked for."""
    if _requested:
        raise StoppedError("Stopped at the last epoch's checkpoint. Run the same command again to go on.")


@contextlib.contextmanager
def on_signals() -> Iterator[None]:
    """SIGTERM and the first Ctrl-C ask for a stop; a second one ends the process at once (exit 130)."""
    global _requested
    _requested = False

    def ask(number: int, frame: FrameType | None) -> None:
        global _requested
        if _requested:
            os._exit(130)
        _requested = True

    names = [getattr(signal, name) for name in ("SIGTERM", "SIGINT") if hasattr(signal, name)]
    before = {name: signal.signal(name, ask) for name in names}
    try:
        yield
    finally:
        _requested = False
        for name, handler in before.items():
            signal.signal(name, handler)
