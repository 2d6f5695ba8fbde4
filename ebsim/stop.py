"""Stopping on request: SIGTERM, SIGINT, SIGHUP or SIGUSR1 (Slurm's warning) end the command line with exit code 75.

The signal raises `Stop` where the program is: in an import, waiting for a lock, writing a report. That does no more
harm than SIGKILL would, because every file is whole or absent, and cleans up besides. Only what is `deferred` (training
between two steps, writing a checkpoint) is not interrupted: it looks at `check` when it can stop well.

Repeated signals change nothing, so a batch system may send several; a second Ctrl-C ends the process at once (130).
Signals that are ignored from the start (`nohup`) stay ignored. Libraries that use ebsim keep their own handlers.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

EXIT = 75
KILLED = 130
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")

_asked: list[int] = []  # the signals so far
_depth = 0  # of `deferred` sections
_process = 0  # that installed the handlers


class Stop(BaseException):
    """A stop was asked for; not an `Exception`, so that nothing takes it for a failure and goes on."""


def install() -> None:
    """Make the signals ask for a stop of this process; what the command line does first of all."""
    global _process
    _process = os.getpid()
    _asked.clear()
    for name in SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _ask)


def finish() -> None:
    """The process ends now, with the right exit code: further signals are ignored, also while Python cleans up."""
    for name in SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def requested() -> bool:
    """Whether a stop was asked for."""
    return bool(_asked)


def check() -> None:
    """Raise `Stop` if a stop was asked for."""
    if _asked:
        raise Stop


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Signals are only noted in here; `check` raises where the code inside calls it, and so does leaving."""
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
    if _asked and not _depth:
        raise Stop


def _ask(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _process:  # a forked helper (a decoding process) dies of the signal, as if we had no handler
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    if number == signal.SIGINT and signal.SIGINT in _asked:
        os._exit(KILLED)
    first = not _asked
    _asked.append(number)
    if first and not _depth:
        raise Stop
