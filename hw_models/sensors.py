"""Measured energy, as an extra: a real sensor around real steps, never mixed with modelled numbers.

Needs `pip install 'ebsim[measure]'` (Zeus: NVML for NVIDIA GPUs, RAPL for CPUs) and a sensor that the machine
lets us read. Without either the answer is an honest "not available" with the reason, never a zero and never
an estimate. Measured values travel in a `Measured` of their own; nothing here converts between the two.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

WINDOW = "ebsim"
CURE = (
    "a GPU needs its NVIDIA driver (does nvidia-smi list it?), a CPU readable counters "
    "(/sys/class/powercap/*/energy_uj, root only on most systems)"
)
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


@functools.cache
def sensor() -> tuple[Any | None, str]:
    """(a Zeus monitor, "") or (None, why there is none and what to do about it); found once per process.

    One monitor serves any number of windows; making one may start a process that polls the sensor.
    """
    try:
        from zeus.monitor import ZeusMonitor
    except Exception as error:  # not installed, or its own imports fail
        return None, f"Zeus cannot be imported ({error}); pip install 'ebsim[measure]'"
    try:
        monitor = ZeusMonitor()
    except Exception as error:  # no driver, no permission: each in its own exception class
        return None, f"no sensor can be read ({_named(error)}); {CURE}"
    if not (getattr(monitor, "gpu_indices", None) or getattr(monitor, "cpu_indices", None)):
        return None, f"Zeus finds no sensor; {CURE}"
    return monitor, ""


def measure(work: Callable[[], Any], *, synchronize: Callable[[], Any] | None = None, monitor: Any = None) -> Measured:
    """Run `work()` once inside a measurement window.

    `synchronize` (e.g. `torch.cuda.synchronize`) is called before the window opens and before it closes.
    `monitor`: an object with Zeus' `begin_window`/`end_window`; by default the machine's own. Errors of `work`
    pass through (its window is thrown away); errors of the sensor become "not available".
    """
    reason = ""
    if monitor is None:
        monitor, reason = sensor()
    settle = synchronize or (lambda: None)
    settle()
    if monitor is not None:
        try:
            monitor.begin_window(WINDOW)
        except Exception as error:
            monitor, reason = None, f"the sensor did not start ({_named(error)}); {CURE}"
    start = time.perf_counter()
    try:
        work()
        settle()
    except BaseException:
        if monitor is not None:
            with contextlib.suppress(Exception):  # the error of the work is the one to show
                monitor.end_window(WINDOW, cancel=True)
        raise
    seconds = time.perf_counter() - start
    if monitor is not None:
        try:
            return _read(monitor.end_window(WINDOW), seconds)
        except Exception as error:
            reason = f"the sensor was lost while it measured ({_named(error)}); {CURE}"
    return Measured(None, seconds, f"not available: {reason}", {})


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _read(window: Any, seconds: float) -> Measured:
    """A window's rails. A rail that did not move, or gave no number, was not measured, and then the sum is not."""
    rails = {
        f"{kind} {i}": float(joules)
        for kind, energies in (
            ("GPU", window.gpu_energy),
            ("CPU", window.cpu_energy),
            ("DRAM", getattr(window, "dram_energy", None)),
        )
        for i, joules in (energies or {}).items()
        if joules or kind != "DRAM"
    }  # a CPU without that counter reads 0
    if not rails:
        return Measured(None, seconds, f"not available: the sensor reported no rail; {CURE}", {})
    for name, joules in rails.items():
        if not (math.isfinite(joules) and joules > 0):
            return Measured(
                None,
                seconds,
                f"not available: {name} read {joules:g} J over {seconds:.3g} s; measure "
                "longer (counters move every 20 to 100 ms), or the counter is broken",
                {},
            )
    return Measured(sum(rails.values()), seconds, f"Zeus: {', '.join(rails)}", rails)
