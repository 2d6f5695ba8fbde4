"""Generated experiments through the command `run`: a documented exit code and a message, never a traceback."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

import cli
from tests import attacks
from tests.config.test_generated import KEYS, value

CODES = {0, 2, 3, 4, 5, 6, 7, 74, 75}
# Without those that start processes: they would be copies of whoever runs this test.
SAFE_KEYS = [key for key in KEYS if key not in ("train", "train.devices", "data", "data.workers")]
PATIENCE = 4.0  # seconds of CPU that an accepted experiment may take before it is asked to stop


def attempt(folder: Path, rng: random.Random) -> int:
    """One experiment: some keys of a tiny one replaced; its exit code, 75 where it had to be asked to stop."""
    words = ["run", "tiny.toml", "--runs-dir", "runs"]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        key, chosen = rng.choice(SAFE_KEYS), value(rng)
        words += ["--set", f"{key}={chosen!r}" if rng.random() < 0.2 else f"{key}={_toml(chosen)}"]
    said = folder / "said"

    def work() -> None:
        os.chdir(folder)
        cli.main(words)

    child, asked = attacks.forked(work, said), 0.0
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if not asked and attacks.cpu(child) > PATIENCE:
            os.kill(child, signal.SIGTERM)
            asked = attacks.cpu(child)
        assert attacks.cpu(child) < asked + 60, (words, "not stopped")
        time.sleep(0.005)
    code, text = attacks.ended(child), said.read_text(errors="replace")
    assert "Traceback" not in text, (words, text[-3000:])
    assert code in CODES, (words, code, text[-2000:])
    assert code == 0 or text.strip(), words
    return code


def _toml(chosen: object) -> str:
    from ebsim.config.write import _value

    return _value(chosen)


def through_the_command(folder: Path, count: int, seed: int) -> Counter[int]:
    (folder / "tiny.toml").write_text(attacks.TINY)
    rng = random.Random(seed)
    with attacks.no_figures():
        return Counter(attempt(folder, rng) for _ in range(count))


def test_a_few(tmp_path: Path) -> None:
    assert sum(through_the_command(tmp_path, 12, 0).values()) == 12


@pytest.mark.slow
def test_five_hundred(tmp_path: Path) -> None:
    ends = through_the_command(tmp_path, 500, 1)
    print(f"500 experiments through the command, by exit code: {dict(sorted(ends.items()))}")
    assert ends[0] > 5 and ends[2] > 100
