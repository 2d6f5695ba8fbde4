"""The energy counters of NVIDIA GPUs, read from the driver's NVML library, for measuring without Zeus.

`Nvml` has the calls of Zeus' monitor that `hw_models.sensors` uses. Counters are those of boards from Volta on
(`nvmlDeviceGetTotalEnergyConsumption`, mJ since the driver was loaded). A GPU's index is that of the process: the
place in CUDA_VISIBLE_DEVICES where that is set, else the driver's.
"""

from __future__ import annotations

import ctypes
import os
from types import SimpleNamespace
from typing import Any

LIBRARY = "libnvidia-ml.so.1"


class NvmlError(RuntimeError):
    """The driver's library is missing, or refused a call."""


class Nvml:
    """Windows over the energy counters of the visible GPUs."""

    soc_is_present = False
    cpu_indices: tuple[int, ...] = ()

    def __init__(self, library: Any = None) -> None:
        """`library`: the loaded NVML (default: the machine's). Raises `NvmlError` without a driver or a counter."""
        try:
            self._nvml = ctypes.CDLL(LIBRARY) if library is None else library
        except OSError as error:
            raise NvmlError(f"{LIBRARY} cannot be loaded: no NVIDIA driver ({error})") from error
        self._call("nvmlInit_v2")
        self._handles = dict(enumerate(self._visible()))
        if not self._handles:
            raise NvmlError("the driver shows no GPU")
        self.gpu_indices = tuple(self._handles)
        self._windows: dict[str, dict[int, float]] = {}
        self._joules()  # boards before Volta have no counter: said now, not after the work

    def begin_window(self, key: str, sync_execution: bool = False) -> None:
        """Remember the counters under `key`; waits for no device."""
        if key in self._windows:
            raise NvmlError(f"window {key!r} is open")
        self._windows[key] = self._joules()

    def end_window(self, key: str, sync_execution: bool = False, cancel: bool = False) -> SimpleNamespace:
        """Joules by GPU since `begin_window`."""
        before, now = self._windows.pop(key), self._joules()
        return SimpleNamespace(gpu_energy={i: now[i] - before[i] for i in now}, cpu_energy=None)

    def _visible(self) -> list[Any]:
        """Handles in the order in which the process numbers its GPUs."""
        count = ctypes.c_uint()
        self._call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        wanted = (
            [str(i) for i in range(count.value)]
            if named is None
            else [n.strip() for n in named.split(",") if n.strip()]
        )
        handles = []
        for name in wanted:
            handle = ctypes.c_void_p()
            if name.isdecimal():
                self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(int(name)), ctypes.byref(handle))
            else:
                self._call("nvmlDeviceGetHandleByUUID", ctypes.c_char_p(name.encode()), ctypes.byref(handle))
            handles.append(handle)
        return handles

    def _joules(self) -> dict[int, float]:
        out = {}
        for i, handle in self._handles.items():
            millijoules = ctypes.c_ulonglong()
            self._call("nvmlDeviceGetTotalEnergyConsumption", handle, ctypes.byref(millijoules))
            out[i] = millijoules.value / 1e3
        return out

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._nvml, name)(*arguments)
        if code != 0:
            raise NvmlError(f"{name} failed with NVML code {code}")
