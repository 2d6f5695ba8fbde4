"""Measured energy: one device's rail over a window long enough, or the reason why not; never mixed with modelled."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from hw_models.cost.step_cost import COMPONENTS
from hw_models.sensors import energy_meter as m
from hw_models.sensors import nvml

LONG = 10.0  # seconds of work that every counter resolves


class Clock:
    """Time that passes only when work is done; `synchronized` remembers what torch was asked to wait for."""

    def __init__(self) -> None:
        self.now = 0.0
        self.synchronized: list[Any] = []

    def work(self, seconds: float = LONG) -> Callable[[], None]:
        def pass_time() -> None:
            self.now += seconds

        return pass_time


@dataclass
class JetsonEnergy:
    """The fields that Zeus gives for a Jetson, in mJ."""

    cpu_energy_mj: float | None = 1000.0
    gpu_energy_mj: float | None = 4000.0
    total_energy_mj: float | None = 7000.0


class Monitor:
    """Stands for `zeus.monitor.ZeusMonitor`: same calls, same errors for windows opened twice or never."""

    def __init__(
        self, gpu: Any = None, cpu: Any = None, soc: Any = None, fail: str = "", dies_after: int = 10**6
    ) -> None:
        self.gpu, self.cpu, self.soc, self.fail, self.dies_after = gpu, cpu, soc, fail, dies_after
        self.gpu_indices, self.cpu_indices, self.soc_is_present = list(gpu or {}), list(cpu or {}), soc is not None
        self.windows: set[str] = set()
        self.cancelled = self.calls = 0

    def _alive(self, at: str, sync_execution: bool) -> None:
        assert not sync_execution  # Zeus would wait for every GPU
        self.calls += 1
        if self.fail == at or self.calls > self.dies_after:
            raise RuntimeError("GPU is lost")

    def begin_window(self, key: str, sync_execution: bool = True, restart: bool = False) -> None:
        if key in self.windows:
            raise ValueError(f"Measurement window '{key}' already exists")
        self._alive("begin", sync_execution)
        self.windows.add(key)

    def end_window(self, key: str, sync_execution: bool = True, cancel: bool = False) -> Any:
        if key not in self.windows:
            raise ValueError(f"Measurement window '{key}' does not exist")
        self.windows.remove(key)
        self.cancelled += cancel
        self._alive("end", sync_execution)
        return SimpleNamespace(
            time=1.0, gpu_energy=self.gpu or {}, cpu_energy=self.cpu, dram_energy={0: 0.0}, soc_energy=self.soc
        )


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """No torch in the process, and a time of our own."""
    clock, find = Clock(), m.sensor
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(nvml, "LIBRARY", "no-such-library.so")  # this machine's own GPUs stay out of it
    monkeypatch.setattr(m, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    find.cache_clear()
    yield clock
    find.cache_clear()


def _torch(monkeypatch: pytest.MonkeyPatch, clock: Clock, device: int | None) -> None:
    """A torch that works on GPU `device`, or on the CPU."""
    cuda = SimpleNamespace(
        is_available=lambda: device is not None,
        is_initialized=lambda: device is not None,
        current_device=lambda: device,
        synchronize=clock.synchronized.append,
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))  # type: ignore[arg-type]


def _zeus(monkeypatch: pytest.MonkeyPatch, make: Callable[..., Any]) -> None:
    """A module `zeus.monitor` whose ZeusMonitor has the documented parameters."""

    def zeus_monitor(
        gpu_indices: Any = None,
        cpu_indices: Any = None,
        approx_instant_energy: bool = False,
        log_file: Any = None,
        sync_execution_with: str = "torch",
    ) -> Any:
        return make()

    monkeypatch.setitem(sys.modules, "zeus", ModuleType("zeus"))
    monkeypatch.setitem(sys.modules, "zeus.monitor", ModuleType("zeus.monitor"))
    sys.modules["zeus.monitor"].ZeusMonitor = zeus_monitor  # type: ignore[attr-defined]


def test_zeus_is_found_once_and_used_as_documented(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    made: list[Monitor] = []

    def make() -> Monitor:
        made.append(Monitor({0: 5.0}))
        return made[-1]

    _zeus(monkeypatch, make)
    for _ in range(3):
        found = m.measure(clock.work())
        assert (found.joules, found.seconds, found.source) == (5.0, LONG, "Zeus: GPU 0")
    assert len(made) == 1 and made[0].calls == 6 and not made[0].windows


def test_without_zeus_the_cure_is_its_installation(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setitem(sys.modules, "zeus", None)
    found = m.measure(clock.work())
    assert found.joules is None and "Zeus cannot be imported" in found.source and "pip install" in found.source


@pytest.mark.parametrize("make", [Monitor, lambda: Monitor({}, {}), lambda: 1 / 0])
def test_without_a_sensor_the_cure_is_the_driver_or_permission(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, make: Callable[[], Any]
) -> None:
    _zeus(monkeypatch, make)
    found = m.measure(clock.work())
    assert found.joules is None and found.source.startswith("not available: ")
    assert "nvidia-smi" in found.source and "energy_uj" in found.source


def test_one_devices_rail_is_the_measurement_and_the_others_stand_beside_it(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """The busy GPU took 500 J, the idle one 400 J and the processor 270 J: the work took 500."""
    _torch(monkeypatch, clock, 1)
    found = m.measure(clock.work(), monitor=Monitor({0: 400.0, 1: 500.0}, {0: 270.0}))
    assert (found.joules, found.rail, found.source) == (500.0, "GPU 1", "Zeus: GPU 1")
    assert found.columns() == {
        "measured_joules": 500.0,
        "measured_seconds": LONG,
        "measured_source": "Zeus: GPU 1",
        "measured_joules_gpu_0": 400.0,
        "measured_joules_cpu_0": 270.0,
    }
    assert clock.synchronized == [1, 1]  # that GPU alone, before and after
    named = m.measure(clock.work(), rail="GPU 0", monitor=Monitor({0: 400.0, 1: 500.0}))
    assert named.joules == 400.0 and clock.synchronized[2:] == [0, 0]


@pytest.mark.parametrize(
    ("device", "monitor", "rail"),
    [
        (None, Monitor({0: 9.0}, {0: 1.5}), "CPU 0"),  # torch is there and uses no GPU: the GPU's rail is another's
        (0, Monitor({0: 9.0}, {0: 1.5}), "GPU 0"),
        (0, Monitor({}, {0: 1.5}, JetsonEnergy()), "SoC total"),
        (0, Monitor({}, {0: 1.5}, JetsonEnergy(total_energy_mj=None)), "SoC gpu"),
    ],
)
def test_the_device_that_works_is_chosen(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, device: int | None, monitor: Monitor, rail: str
) -> None:
    _torch(monkeypatch, clock, device)
    assert m.measure(clock.work(), monitor=monitor).rail == rail


def test_without_torch_the_only_device_is_it() -> None:
    assert m._default({"GPU 0": 1.0, "CPU 0": 2.0}) == "GPU 0" and m._default({"CPU 0": 2.0}) == "CPU 0"
    assert m._default({"GPU 0": 1.0, "GPU 1": 2.0}) == ""


def test_which_of_several_is_not_guessed(clock: Clock) -> None:
    found = m.measure(clock.work(), monitor=Monitor({0: 1.0, 1: 2.0}))
    assert found.joules is None and "say rail=" in found.source and found.rails == {"GPU 0": 1.0, "GPU 1": 2.0}
    missing = m.measure(clock.work(), rail="GPU 7", monitor=Monitor({0: 1.0}))
    assert missing.joules is None and "no rail 'GPU 7'; there are GPU 0" in missing.source


def test_a_jetsons_rails_are_read_in_joules(clock: Clock) -> None:
    found = m.measure(clock.work(), monitor=Monitor(soc=JetsonEnergy()))
    assert found.rails == {"SoC cpu": 1.0, "SoC gpu": 4.0, "SoC total": 7.0}
    assert (found.joules, found.rail) == (7.0, "SoC total")


@pytest.mark.parametrize(
    ("monitor", "shortest"),
    [(Monitor({0: 9.0}), 5.0), (Monitor(cpu={0: 9.0}), 0.05), (Monitor(soc=JetsonEnergy()), 5.0)],
)
def test_a_window_shorter_than_the_sensor_resolves_is_refused_or_repeated(
    clock: Clock, monitor: Monitor, shortest: float
) -> None:
    refused = m.measure(clock.work(shortest * 0.9), monitor=monitor)
    assert refused.joules is None and "shorter than 50 periods" in refused.source and "repeat=True" in refused.source
    whole = m.measure(clock.work(shortest * 1.001), monitor=monitor)
    assert whole.runs == 1 and whole.joules is not None
    again = m.measure(clock.work(shortest * 0.3), monitor=monitor, repeat=True)
    assert again.runs == 4 and again.seconds == pytest.approx(shortest * 0.3)
    assert again.joules == pytest.approx(whole.joules / 4)  # the window's energy, shared by its runs


def test_a_sensor_that_disappears_leaves_what_was_measured_and_says_when_it_was_lost(clock: Clock) -> None:
    monitor = Monitor({0: 5.0}, dies_after=3)
    found = [m.measure(clock.work(), monitor=monitor) for _ in range(3)]
    assert [f.joules for f in found] == [5.0, None, None] and clock.now == 3 * LONG
    assert "lost while it measured (RuntimeError: GPU is lost)" in found[1].source
    assert "did not start (RuntimeError: GPU is lost)" in found[2].source
    assert all("nvidia-smi" in f.source and f.rails == {} for f in found[1:])


@pytest.mark.parametrize("joules", [0.0, -3.0, float("nan"), float("inf")])
def test_a_rail_that_did_not_move_is_no_measurement(clock: Clock, joules: float) -> None:
    found = m.measure(clock.work(), rail="GPU 1", monitor=Monitor({0: 5.0, 1: joules}))
    assert found.joules is None and "GPU 1 read" in found.source and "measure longer" in found.source


def test_a_window_of_failed_work_is_thrown_away(clock: Clock) -> None:
    monitor = Monitor({0: 1.0})
    with pytest.raises(ZeroDivisionError):
        m.measure(lambda: 1 / 0, monitor=monitor)
    assert monitor.cancelled == 1 and not monitor.windows
    assert m.measure(clock.work(), monitor=monitor).joules == 1.0
    with pytest.raises(ZeroDivisionError):  # not the sensor's own error
        m.measure(lambda: 1 / 0, monitor=Monitor({0: 1.0}, fail="end"))


@pytest.mark.parametrize(
    ("monitor", "words"),
    [(Monitor(fail="begin"), "did not start"), (Monitor(fail="end"), "lost"), (Monitor(None, {}), "no rail")],
)
def test_a_sensor_that_fails_gives_none_and_the_reason(clock: Clock, monitor: Monitor, words: str) -> None:
    found = m.measure(clock.work(), monitor=monitor)
    assert clock.now == LONG and found.joules is None
    assert found.source.startswith("not available") and words in found.source


def test_without_a_sensor_nothing_is_invented(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(m, "sensor", lambda: (None, "Zeus is not installed"))
    found = m.measure(clock.work(), repeat=True)
    assert found.joules is None and "Zeus is not installed" in found.source and found.rails == {} and found.runs == 1


def test_this_machines_own_answer_is_a_sensor_or_a_reason() -> None:
    monitor, reason = m.sensor()
    assert (monitor is None) == bool(reason)


def test_measured_columns_have_names_of_their_own(clock: Clock) -> None:
    columns = m.measure(clock.work(), monitor=Monitor({0: 1.0})).columns()
    assert tuple(columns) == m.COLUMNS and not set(columns) & {"joules", "seconds", *COMPONENTS}


def test_the_window_is_settled_on_both_sides() -> None:
    calls: list[str] = []
    m.measure(lambda: calls.append("work"), synchronize=lambda: calls.append("sync"), monitor=Monitor({0: 1.0}))
    assert calls == ["sync", "work", "sync"]


class Driver:
    """Stands for libnvidia-ml: three boards whose counters (mJ) a test moves."""

    def __init__(self, counters: tuple[int, ...], broken: str = "") -> None:
        self.counters, self.broken = list(counters), broken

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            if name == self.broken:
                return 3
            out = arguments[-1]._obj if arguments else None
            if name == "nvmlDeviceGetCount_v2":
                out.value = len(self.counters)
            elif name == "nvmlDeviceGetHandleByIndex_v2":
                if arguments[0].value >= len(self.counters):
                    return 6
                out.value = arguments[0].value + 1
            elif name == "nvmlDeviceGetHandleByUUID":
                out.value = int(arguments[0].value.decode().removeprefix("GPU-")) + 1
            elif name == "nvmlDeviceGetTotalEnergyConsumption":
                out.value = self.counters[arguments[0].value - 1]
            return 0

        return call


def test_without_zeus_the_drivers_counters_are_read(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    driver = Driver((1000, 50_000))

    def work() -> None:
        clock.now += LONG
        driver.counters[1] += 7_500

    found = m.measure(work, rail="GPU 1", monitor=nvml.Nvml(driver))
    assert (found.joules, found.source, found.rails) == (7.5, "NVML: GPU 1", {"GPU 0": 0.0, "GPU 1": 7.5})


@pytest.mark.parametrize(("visible", "rails"), [("1", {"GPU 0": 2.0}), ("GPU-1,0", {"GPU 0": 2.0, "GPU 1": 1.0})])
def test_gpus_are_numbered_as_the_process_sees_them(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, visible: str, rails: dict[str, float]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    driver = Driver((0, 0))

    def work() -> None:
        clock.now += LONG
        driver.counters = [1000, 2000]

    assert m.measure(work, rail="GPU 0", monitor=nvml.Nvml(driver)).rails == rails


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        (Driver(()), "shows no GPU"),
        (Driver((1,), "nvmlInit_v2"), "nvmlInit_v2 failed with NVML code 3"),
        (Driver((1,), "nvmlDeviceGetTotalEnergyConsumption"), "nvmlDeviceGetTotalEnergyConsumption failed"),
    ],
)
def test_a_driver_without_counters_says_so(monkeypatch: pytest.MonkeyPatch, driver: Driver, words: str) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(nvml.NvmlError, match=words):
        nvml.Nvml(driver)


def test_neither_zeus_nor_a_driver_is_one_reason(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setitem(sys.modules, "zeus", None)
    monitor, reason = m.sensor()
    assert monitor is None and "Zeus cannot be imported" in reason and "no NVIDIA driver" in reason
