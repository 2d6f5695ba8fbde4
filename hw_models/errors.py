"""The errors that a user of the hardware model can meet, and the nearest name to one that was mistyped."""

from __future__ import annotations

import difflib
from collections.abc import Collection


class HardwareError(ValueError):
    """Base of the named errors of `hw_models`."""


class ProfileError(HardwareError):
    """An accelerator file that cannot be accepted: file, line, key, rule and cure are in the text."""


class FormatError(HardwareError):
    """A number format that is unknown, or that the accelerator does not have."""


class WorkloadError(HardwareError):
    """A network that cannot be traced or whose counts contradict each other."""


class WorkloadWarning(UserWarning):
    """Operations of a network that the layer table counts as traffic only, not knowing what they compute."""


class LedgerError(HardwareError):
    """A ledger entry that names an unknown network, or whose numbers contradict each other."""


class ConservationError(HardwareError):
    """Rows that do not sum to their total: always a bug of this package, never of the user."""


def nearest(name: str, known: Collection[str]) -> str:
    """The known name that was probably meant, or ""."""
    return next(iter(difflib.get_close_matches(name, known, 1)), "")


def did_you_mean(name: str, known: Collection[str], most: int = 20) -> str:
    """`; did you mean X?` with the nearest known name, else the first `most` that there are."""
    if near := nearest(name, known):
        return f"; did you mean {near}?"
    return f"; known here: {', '.join(list(known)[:most])}" if known else ""
