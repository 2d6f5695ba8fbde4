"""Measured energy, as an extra: a real sensor around real steps, never mixed with modelled numbers.

Needs `pip install 'ebsim[measure]'` (Zeus: NVML for NVIDIA GPUs, RAPL for CPUs) and a sensor that the machine
lets us read. Without either the answer is an honest "not available" with the reason, never a zero and never
an estimate. Measured values travel in a `Measured` of their own; nothing here converts between the two.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

COLUMNS = ("measured_joules", "measured_seconds", "measured_source")


@dataclass(frozen=True)
class Measured:
    """Energy of a window: J by rail, seconds, and what was read. `joules` is None when nothing was."""

    joules: float | None
    seconds: float
    source: str  # "Zeus: NVML GPU 0", or "not available: why"
    rails: dict[str, float]

    def columns(self) -> dict[str, Any]:
        """The values under their own names, for a table that also has modelled ones."""
        return dict(zip(COLUMNS, (self.joules, self.seconds, self.source), strict=True))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def sensor() -> tuple[Any | None, str]:
    """(a Zeus monitor, "") or (None, why there is none)."""
    try:
        from zeus.monitor import ZeusMonitor
    except Exception as error:  # not installed, or its own imports fail
        return None, f"Zeus is not installed ({error}); pip install 'ebsim[measure]'"
    try:
        monitor = ZeusMonitor(log_file=None)
    except Exception as error:  # no driver, no permission: each in its own exception class
        return None, f"no sensor can be read ({type(error).__name__}: {error})"
    if not (getattr(monitor, "gpu_indices", None) or getattr(monitor, "cpu_indices", None)):
        return None, "no GPU (NVML) and no CPU energy counter (RAPL) on this machine"
    return monitor, ""


def measure(work: Callable[[], Any], *, synchronise: Callable[[], Any] | None = None,
            monitor: Any = None) -> Measured:
    """Run `work()` once inside a measurement window.

    `synchronise` (e.g. `torch.cuda.synchronize`) is called before the window opens and before it closes.
    `monitor`: an object with Zeus' `begin_window`/`end_window`; by default the machine's own. Errors of `work`
    pass through; errors of the sensor become "not available".
    """
    reason = ""
    if monitor is None:
        monitor, reason = sensor()
    settle = synchronise or (lambda: None)
    settle()
    opened = monitor is not None
    if opened:
        try:
            monitor.begin_window("ebsim")
        except Exception as error:
            opened, reason = False, f"the sensor failed ({type(error).__name__}: {error})"
    start = time.perf_counter()
    work()
    settle()
    seconds = time.perf_counter() - start
    if opened:
        try:
            return _read(monitor.end_window("ebsim"), seconds)
        except Exception as error:
            reason = f"the sensor failed ({type(error).__name__}: {error})"
    return Measured(None, seconds, f"not available: {reason}", {})


def _read(window: Any, seconds: float) -> Measured:
    rails = {f"{kind} {i}": float(joules) for kind, energies in (
        ("GPU", window.gpu_energy), ("CPU", window.cpu_energy), ("DRAM", getattr(window, "dram_energy", None)))
        for i, joules in (energies or {}).items()}
    if not rails:
        return Measured(None, seconds, "not available: the sensor reported no rail", {})
    return Measured(sum(rails.values()), seconds, f"Zeus: {', '.join(rails)}", rails)
