"""Every error a user can meet, each with the exit code the command line ends with.

A message names the thing that is wrong and the cure. Anything that is not an `EbsimError` is our bug (exit 1).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SHOWN = 24  # names in a message


class EbsimError(Exception):
    """Base of all named errors; `exit_code` is what the command line returns."""

    exit_code = 1


class ConfigError(EbsimError):
    """An experiment file, override, mask ratio or option that cannot be accepted."""

    exit_code = 2


class DataError(EbsimError):
    """A dataset that is missing, damaged or not what it says it is."""

    exit_code = 3


class DamagedError(EbsimError):
    """A run, checkpoint, mask or ticket file that is damaged or belongs to something else."""

    exit_code = 4


class BusyError(EbsimError):
    """Another live process holds the run or stage."""

    exit_code = 5


class DivergedError(EbsimError):
    """The loss became NaN or infinite; the weights were not touched by that step."""

    exit_code = 6


class CellsFailedError(EbsimError):
    """Some cells of a grid failed, or two runs that had to be equal differ."""

    exit_code = 7


class StorageError(EbsimError):
    """The disk is full or cannot be written; nothing that was complete is lost."""

    exit_code = 74


class StoppedError(EbsimError):
    """Stopped on request at a checkpoint: run the same command again to go on."""

    exit_code = 75


class CompactError(EbsimError):
    """A network that cannot be shrunk (does not trace, or a layer would lose every channel)."""

    exit_code = 2


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The known word that is most like `word`, or "" where none is alike."""
    return next(iter(difflib.get_close_matches(word, sorted(set(known)), n=1, cutoff=cutoff)), "")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ "; did you mean ...?", or the list of what there is."""
    known = sorted(set(known))
    close = nearest(name, known, 0.5)
    more = ", ..." if len(known) > _SHOWN else ""
    return f"; did you mean {close!r}?" if close else f"; there is: {', '.join(known[:_SHOWN])}{more}"
