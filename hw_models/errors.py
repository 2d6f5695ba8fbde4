"""Every error a user of the hardware model can meet; each message names the thing and the cure."""

from __future__ import annotations


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
