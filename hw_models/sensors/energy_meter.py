"""Measures the energy of a piece of work with a hardware sensor; never mixed with modelled energy.

NVIDIA GPUs are read from their driver; `pip install 'ebsim[measure]'` (Zeus) adds CPUs (RAPL) and a Jetson's rails.
Where no sensor can be read the result is "not available" with the reason, never a zero and never an estimate.
Measured values travel in a `Measured` of their own; nothing here converts between the two.

The energy of a measurement is that of one rail, the device that did the work; every other rail that was read stands
beside it under its own name and is added to nothing. A counter moves once per period, so a window is at least
MIN_PERIODS of them long: shorter work is repeated inside one window if it may be, and refused otherwise.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hw_models.sensors.nvml import Nvml, NvmlError

WINDOW = "ebsim"
CURE = (
    "a GPU needs its NVIDIA driver (does nvidia-smi list it?), a CPU readable counters "
    "(/sys/class/powercap/*/energy_uj, root only on most systems)"
)
COLUMNS = ("measured_joules", "measured_seconds", "measured_source")
# seconds between two values of a counter: NVML's moves every 20 to 100 ms, Zeus polls GPUs before Volta and a Jetson's
# rails every 100 ms, RAPL moves every ms
PERIODS = {"GPU": 0.1, "SoC": 0.1, "CPU": 0.001, "DRAM": 0.001}
MIN_PERIODS = 50  # at most 2 x 1/50 of the energy is lost at the two ends of a window


@dataclass(frozen=True)
class Measured:
    """Energy of one run of the work: J of the measured rail, seconds, and every rail that was read.

    `joules` is None when the rail was not measured; `source` then says why. `runs`: how often the work ran in the
    window.
    """

    joules: float | None
    seconds: float
    source: str  # "Zeus: GPU 0", or "not available: why"
    rails: dict[str, float]  # J of one run, by rail
    rail: str = ""
    runs: int = 1

    def columns(self) -> dict[str, Any]:
        """The values under their own names, for a table that also has modelled ones; other rails as further columns."""
        own = dict(zip(COLUMNS, (self.joules, self.seconds, self.source), strict=True))
        return own | {
            f"measured_joules_{name.lower().replace(' ', '_')}": joules
            for name, joules in self.rails.items()
            if name != self.rail
        }

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@functools.cache
def sensor() -> tuple[Any | None, str]:
    """(a monitor, "") or (None, why there is none and what to do about it); found once per process.

    Zeus' if it is installed and finds something, else the GPUs' own counters.

    One monitor serves any number of windows; making one may start a process that polls the sensor.
    """
    found, reason = _zeus()
    if found is None:
        try:
            return Nvml(), ""
        except NvmlError as error:
            reason = f"{reason}; nor can the driver be asked ({error})"
    return found, reason


def _zeus() -> tuple[Any | None, str]:
    try:
        from zeus.monitor import ZeusMonitor
    except Exception as error:  # not installed, or its own imports fail
        return None, f"Zeus cannot be imported ({error}); pip install 'ebsim[measure]'"
    try:
        monitor = ZeusMonitor()
    except Exception as error:  # no driver, no permission: each in its own exception class
        return None, f"no sensor can be read ({_named(error)}); {CURE}"
    if not (
        getattr(monitor, "gpu_indices", None)
        or getattr(monitor, "cpu_indices", None)
        or getattr(monitor, "soc_is_present", False)
    ):
        return None, f"Zeus finds no sensor; {CURE}"
    return monitor, ""


def measure(
    work: Callable[[], Any],
    *,
    rail: str | None = None,
    repeat: bool = False,
    synchronize: Callable[[], Any] | None = None,
    monitor: Any = None,
) -> Measured:
    """Run `work()` inside a measurement window and read one rail.

    `rail`: which ("GPU 1", "CPU 0", "SoC total"); by default a Jetson's whole board, the GPU that torch uses in this
    process (its CPU, if it uses none), else the only GPU or CPU. `repeat`: whether work shorter than the sensor allows
    may run several times in one window (joules and seconds are then those of one run). `synchronize`: waits for the
    device, before the window opens and before it closes; by default torch's, of that one GPU: no other device is waited
    for. `monitor`: an object with Zeus' `begin_window`/`end_window`; by default the machine's own. Errors of `work`
    pass through (its window is thrown away); errors of the sensor become "not available".
    """
    reason = ""
    if monitor is None:
        monitor, reason = sensor()
    settle = synchronize or _torch_synchronize(rail)
    settle()
    if monitor is not None:
        try:
            monitor.begin_window(WINDOW, sync_execution=False)
        except Exception as error:
            monitor, reason = None, f"the sensor did not start ({_named(error)}); {CURE}"
    shortest = _shortest(monitor, rail) if repeat and monitor is not None else 0.0
    start, runs, seconds = time.perf_counter(), 0, 0.0
    try:
        while runs == 0 or seconds < shortest:
            work()
            settle()
            runs, seconds = runs + 1, time.perf_counter() - start
    except BaseException:
        if monitor is not None:
            with contextlib.suppress(Exception):  # the error of the work is the one to show
                monitor.end_window(WINDOW, sync_execution=False, cancel=True)
        raise
    if monitor is not None:
        try:
            return _read(
                monitor.end_window(WINDOW, sync_execution=False),
                seconds,
                runs,
                rail,
                "NVML" if isinstance(monitor, Nvml) else "Zeus",
            )
        except Exception as error:
            reason = f"the sensor was lost while it measured ({_named(error)}); {CURE}"
    return Measured(None, seconds / runs, f"not available: {reason}", {}, runs=runs)


def _torch_synchronize(rail: str | None) -> Callable[[], Any]:
    """torch's wait for the measured GPU, if this process uses torch on one."""
    device = _torch_device()
    if device is None or (rail is not None and not rail.startswith("GPU ")):
        return lambda: None
    index = device if rail is None else int(rail.removeprefix("GPU "))
    return functools.partial(sys.modules["torch"].cuda.synchronize, index)


def _torch_device() -> int | None:
    """The index of the GPU that torch works on in this process; None if it works on none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.current_device())


def _shortest(monitor: Any, rail: str | None) -> float:
    """Seconds of the shortest window that the rail's counter resolves."""
    kind = (
        rail.partition(" ")[0]
        if rail
        else (
            "GPU"
            if getattr(monitor, "gpu_indices", None)
            else "SoC"
            if getattr(monitor, "soc_is_present", False)
            else "CPU"
        )
    )
    return MIN_PERIODS * PERIODS.get(kind, 0.1)


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _read(window: Any, seconds: float, runs: int, rail: str | None, origin: str) -> Measured:
    """One rail of a window, the others beside it."""
    rails = {name: joules / runs for name, joules in _rails(window).items()}

    def none(why: str) -> Measured:
        return Measured(None, seconds / runs, f"not available: {why}", rails, runs=runs)

    if not rails:
        return none(f"the sensor reported no rail; {CURE}")
    chosen = rail or _default(rails)
    if chosen not in rails:
        return none(
            f"no rail {chosen!r}; there are {', '.join(rails)}"
            if rail
            else f"which of {', '.join(rails)} did the work is not known; say rail=..."
        )
    joules = rails[chosen] * runs
    if not (math.isfinite(joules) and joules > 0):
        return none(f"{chosen} read {joules:g} J over {seconds:.3g} s; measure longer, or the counter is broken")
    shortest = MIN_PERIODS * PERIODS.get(chosen.partition(" ")[0], 0.1)
    if seconds < shortest:
        return none(
            f"a window of {seconds:.3g} s is shorter than {MIN_PERIODS} periods of the counter of {chosen} "
            f"({shortest:g} s); measure longer, or let the work repeat (repeat=True)"
        )
    return Measured(rails[chosen], seconds / runs, f"{origin}: {chosen}", rails, chosen, runs)


def _rails(window: Any) -> dict[str, float]:
    """J by rail of a Zeus measurement."""
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
    soc = getattr(window, "soc_energy", None)
    fields = dataclasses.asdict(soc) if dataclasses.is_dataclass(soc) and not isinstance(soc, type) else {}
    for name, millijoules in fields.items():
        if name.endswith("_mj") and millijoules is not None:
            rails[f"SoC {name.removesuffix('_mj').removesuffix('_energy').replace('_', ' ')}"] = (
                float(millijoules) / 1e3
            )
    return rails


def _default(rails: Mapping[str, float]) -> str:
    """The rail of the device that works: a board's total, torch's GPU (or CPU), the only GPU or CPU."""
    for board in ("SoC total", "SoC gpu"):
        if board in rails:
            return board
    index = _torch_device()
    if index is not None:
        return f"GPU {index}" if f"GPU {index}" in rails else ""
    for kind in ("CPU",) if "torch" in sys.modules else ("GPU", "CPU"):
        if some := [name for name in rails if name.startswith(f"{kind} ")]:
            return some[0] if len(some) == 1 else ""
    return ""
