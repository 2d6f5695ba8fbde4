"""Measured energy: real when a sensor answers, honestly absent otherwise, never mixed with modelled numbers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from hw_models import sensors as m
from hw_models.cost.step_cost import COMPONENTS


class Monitor:
    """Stands for `zeus.monitor.ZeusMonitor`: same calls, same errors for windows opened twice or never."""

    def __init__(self, gpu: Any = None, cpu: Any = None, fail: str = "", dies_after: int = 10**6) -> None:
        self.gpu, self.cpu, self.fail, self.dies_after = gpu, cpu, fail, dies_after
        self.gpu_indices, self.cpu_indices = list(gpu or {}), list(cpu or {})
        self.windows: set[str] = set()
        self.cancelled = self.calls = 0

    def _alive(self, at: str) -> None:
        self.calls += 1
        if self.fail == at or self.calls > self.dies_after:
            raise RuntimeError("GPU is lost")

    def begin_window(self, key: str, sync_execution: bool = True) -> None:
        if key in self.windows:
            raise ValueError(f"Measurement window '{key}' already exists")
        self._alive("begin")
        self.windows.add(key)

    def end_window(self, key: str, sync_execution: bool = True, cancel: bool = False) -> Any:
        if key not in self.windows:
            raise ValueError(f"Measurement window '{key}' does not exist")
        self.windows.remove(key)
        self.cancelled += cancel
        self._alive("end")
        return SimpleNamespace(time=1.0, gpu_energy=self.gpu or {}, cpu_energy=self.cpu, dram_energy={0: 0.0})


@pytest.fixture(autouse=True)
def _look_again() -> Iterator[None]:
    m.sensor.cache_clear()
    yield
    m.sensor.cache_clear()


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


def test_zeus_is_found_once_and_used_as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Monitor] = []

    def make() -> Monitor:
        made.append(Monitor({0: 5.0}, {0: 1.5}))
        return made[-1]

    _zeus(monkeypatch, make)
    for _ in range(3):
        found = m.measure(lambda: None)
        assert (found.joules, found.source) == (6.5, "Zeus: GPU 0, CPU 0")
    assert len(made) == 1 and made[0].calls == 6 and not made[0].windows


def test_without_zeus_the_cure_is_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeus", None)
    found = m.measure(lambda: None)
    assert found.joules is None and "Zeus cannot be imported" in found.source and "pip install" in found.source


@pytest.mark.parametrize("make", [Monitor, lambda: Monitor({}, {}), lambda: 1 / 0])
def test_without_a_sensor_the_cure_is_the_driver_or_permission(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], Any]
) -> None:
    _zeus(monkeypatch, make)
    found = m.measure(lambda: None)
    assert found.joules is None and found.source.startswith("not available: ")
    assert "nvidia-smi" in found.source and "energy_uj" in found.source


def test_a_sensor_that_disappears_leaves_what_was_measured_and_says_when_it_was_lost() -> None:
    monitor, done = Monitor({0: 5.0}, dies_after=3), []
    found = [m.measure(lambda: done.append(1), monitor=monitor) for _ in range(3)]
    assert [f.joules for f in found] == [5.0, None, None] and len(done) == 3
    assert "lost while it measured (RuntimeError: GPU is lost)" in found[1].source
    assert "did not start (RuntimeError: GPU is lost)" in found[2].source
    assert all("nvidia-smi" in f.source and f.rails == {} for f in found[1:])


@pytest.mark.parametrize("joules", [0.0, -3.0, float("nan"), float("inf")])
def test_a_rail_that_did_not_move_is_no_measurement(joules: float) -> None:
    """Zeus documents zero for windows shorter than the counter's period."""
    found = m.measure(lambda: None, monitor=Monitor({0: 5.0, 1: joules}))
    assert found.joules is None and "GPU 1 read" in found.source and "measure longer" in found.source


def test_a_window_of_failed_work_is_thrown_away() -> None:
    monitor = Monitor({0: 1.0})
    with pytest.raises(ZeroDivisionError):
        m.measure(lambda: 1 / 0, monitor=monitor)
    assert monitor.cancelled == 1 and not monitor.windows
    assert m.measure(lambda: None, monitor=monitor).joules == 1.0
    with pytest.raises(ZeroDivisionError):  # not the sensor's own error
        m.measure(lambda: 1 / 0, monitor=Monitor({0: 1.0}, fail="end"))


def test_rails_are_added_and_named() -> None:
    done: list[int] = []
    found = m.measure(lambda: done.append(1), monitor=Monitor({0: 5.0, 1: 2.0}, {0: 1.5}))
    assert done == [1] and found.joules == 8.5 and found.seconds >= 0
    assert found.rails == {"GPU 0": 5.0, "GPU 1": 2.0, "CPU 0": 1.5} and "GPU 0" in found.source


@pytest.mark.parametrize(
    ("monitor", "words"),
    [(Monitor(fail="begin"), "did not start"), (Monitor(fail="end"), "lost"), (Monitor(None, {}), "no rail")],
)
def test_a_sensor_that_fails_gives_none_and_the_reason(monitor: Monitor, words: str) -> None:
    done: list[int] = []
    found = m.measure(lambda: done.append(1), monitor=monitor)
    assert done == [1] and found.joules is None and found.source.startswith("not available") and words in found.source


def test_without_a_sensor_nothing_is_invented(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m, "sensor", lambda: (None, "Zeus is not installed"))
    found = m.measure(lambda: None)
    assert found.joules is None and "Zeus is not installed" in found.source and found.rails == {}


def test_this_machines_own_answer_is_a_sensor_or_a_reason() -> None:
    monitor, reason = m.sensor()
    assert (monitor is None) == bool(reason)


def test_measured_columns_have_names_of_their_own() -> None:
    columns = m.measure(lambda: None, monitor=Monitor({0: 1.0})).columns()
    assert tuple(columns) == m.COLUMNS and not set(columns) & {"joules", "seconds", *COMPONENTS}


def test_the_window_is_settled_on_both_sides_and_errors_of_the_work_pass() -> None:
    calls: list[str] = []
    m.measure(lambda: calls.append("work"), synchronize=lambda: calls.append("sync"), monitor=Monitor({0: 1.0}))
    assert calls == ["sync", "work", "sync"]
    with pytest.raises(ZeroDivisionError):
        m.measure(lambda: 1 / 0, monitor=Monitor({0: 1.0}))
