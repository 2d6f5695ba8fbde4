"""Stop requests at any moment of a command: exit code 75 within a second or a step, and the same command goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.test_cli import ROOT, TINY

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
REACTION = 10.0  # seconds; generous, because the machine that tests may be busy with other things


def start(folder: Path, *words: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "cli.py"), *words]
    return subprocess.Popen(  # type: ignore[call-overload]
        command, cwd=folder, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
    )


def until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"{text!r} was never said")


def stopped(process: subprocess.Popen[str], *signals: signal.Signals) -> str:
    """Send signals; the process must end with 75 soon."""
    began = time.monotonic()
    for number in signals:
        process.send_signal(number)
        time.sleep(0.05)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 75, rest
    assert time.monotonic() - began < REACTION
    assert "Run the same command again" in rest and "Traceback" not in rest
    return rest


@pytest.fixture
def long(tmp_path: Path) -> Path:
    (tmp_path / "tiny.toml").write_text(TINY.replace("epochs = 7", "epochs = 4000"))
    return tmp_path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_every_stop_signal_ends_a_training_with_75(long: Path, number: signal.Signals) -> None:
    process = start(long, "run", "tiny.toml", "--set", 'methods=["dense"]')
    until(process, "epoch   1/")
    stopped(process, number)


def test_repeated_signals_change_nothing_and_a_second_ctrl_c_ends_at_once(long: Path) -> None:
    process = start(long, "run", "tiny.toml", "--set", 'methods=["dense"]')
    until(process, "epoch   1/")
    stopped(process, signal.SIGTERM, signal.SIGTERM, signal.SIGUSR1)
    code = (
        "import signal, os, time\nfrom ebsim import stop\nstop.install()\n"
        "with stop.deferred():\n os.kill(os.getpid(), signal.SIGINT)\n os.kill(os.getpid(), signal.SIGINT)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=False).returncode == 130


def test_ignored_signals_stay_ignored(tmp_path: Path) -> None:
    code = "import signal, os\nfrom ebsim import stop\nstop.install()\nos.kill(os.getpid(), signal.SIGHUP)\n"
    prepared = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{code}"
    assert subprocess.run([sys.executable, "-c", prepared], env=ENVIRONMENT, check=False).returncode == 0


def test_stopped_while_waiting_for_another_process(long: Path) -> None:
    """The second run needs the stage that the first one trains."""
    first = start(long, "run", "tiny.toml", "--set", 'methods=["dense"]')
    try:
        until(first, "epoch   1/")
        second = start(long, "run", "tiny.toml", "--set", 'methods=["dense"]', "--set", 'name="other"')
        until(second, "waiting for another process")
        stopped(second, signal.SIGTERM)
    finally:
        first.kill()
        first.communicate()


def test_stopped_while_the_report_is_written(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    process = start(tmp_path, "run", "tiny.toml")
    while not list(tmp_path.glob("runs/tiny-*/provenance.json")):
        assert process.poll() is None
        time.sleep(0.01)
    stopped(process, signal.SIGTERM)
    again = start(tmp_path, "run", "tiny.toml")
    again.communicate(timeout=120)
    assert again.returncode == 0


@pytest.mark.slow
def test_signals_at_random_moments(tmp_path: Path) -> None:
    """From the first lines of the command on; before them, while Python itself starts, the signal simply kills."""
    rng, ends, slowest = random.Random(5), {0: 0, 75: 0}, 0.0
    for trial in range(40):
        folder = tmp_path / str(trial % 8)
        folder.mkdir(exist_ok=True)
        (folder / "tiny.toml").write_text(TINY)
        process = start(folder, "run", "tiny.toml")
        time.sleep(rng.uniform(0.3, 12))
        began = time.monotonic()
        process.send_signal(rng.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]))
        _, rest = process.communicate(timeout=60)
        slowest = max(slowest, time.monotonic() - began)
        assert process.returncode in ends, rest
        ends[process.returncode] += 1
    print(ends, f"slowest {slowest:.1f} s")
    assert ends[75] > 20
