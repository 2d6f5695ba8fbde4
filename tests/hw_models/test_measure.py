"""Measured energy: real when a sensor answers, honestly absent otherwise, never mixed with modelled numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hw_models import measure as m
from hw_models.table import COMPONENTS


class Monitor:
    """Stands for Zeus' monitor: windows with energies per rail."""

    def __init__(self, gpu: Any = None, cpu: Any = None, fail: str = "") -> None:
        self.gpu, self.cpu, self.fail, self.open = gpu, cpu, fail, False

    def begin_window(self, name: str) -> None:
        if self.fail == "begin":
            raise RuntimeError("no permission")
        self.open = True

    def end_window(self, name: str) -> Any:
        assert self.open
        if self.fail == "end":
            raise RuntimeError("lost")
        return SimpleNamespace(gpu_energy=self.gpu, cpu_energy=self.cpu, dram_energy=None)


def test_rails_are_added_and_named() -> None:
    done: list[int] = []
    found = m.measure(lambda: done.append(1), monitor=Monitor({0: 5.0, 1: 2.0}, {0: 1.5}))
    assert done == [1] and found.joules == 8.5 and found.seconds >= 0
    assert found.rails == {"GPU 0": 5.0, "GPU 1": 2.0, "CPU 0": 1.5} and "GPU 0" in found.source


@pytest.mark.parametrize(("monitor", "words"), [
    (Monitor(fail="begin"), "no permission"), (Monitor(fail="end"), "lost"), (Monitor(None, {}), "no rail")])
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
    m.measure(lambda: calls.append("work"), synchronise=lambda: calls.append("sync"), monitor=Monitor({0: 1.0}))
    assert calls == ["sync", "work", "sync"]
    with pytest.raises(ZeroDivisionError):
        m.measure(lambda: 1 / 0, monitor=Monitor({0: 1.0}))
