"""Checking an experiment runs none of the code beside it; `run` says what it runs, and --no-plugins refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """\
from pathlib import Path
Path("the-code-ran").touch()
BACKEND = {"weight": "int8"}
"""
TINY = """\
name = "tiny"
methods = ["dense"]
[data]
subset = 40
[model]
depth = 11
[train]
epochs = 1
milestones = []
batch_size = 40
[precision]
search = "mine.py:BACKEND"
"""


def cli(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "cli.py"), *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def received(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "tiny.toml").write_text(TINY)
    return tmp_path


@pytest.mark.parametrize("how", ["search", "plugins", "table"])
def test_check_runs_no_code(received: Path, how: str) -> None:
    text = {
        "search": TINY,
        "plugins": TINY.replace('search = "mine.py:BACKEND"', 'plugins = ["mine.py:BACKEND"]\nsearch = "BACKEND"'),
        "table": TINY.replace('search = "mine.py:BACKEND"', 'search = "own"')
        + '[precision.backends.own]\nweight = "mine.py:FORMAT"\n',
    }[how]
    (received / "tiny.toml").write_text(text)
    done = cli(received, "check", "tiny.toml")
    assert done.returncode == 0, done.stderr
    assert "only a run runs the code of plug-ins" in done.stdout and "mine.py" in done.stdout
    assert not (received / "the-code-ran").exists()
    refused = cli(received, "run", "tiny.toml", "--no-plugins")
    assert refused.returncode == 2 and "--no-plugins refuses" in refused.stderr
    assert not (received / "the-code-ran").exists()


def test_other_mistakes_are_still_found(received: Path) -> None:
    (received / "tiny.toml").write_text(TINY.replace("epochs = 1", "epohcs = 1"))
    done = cli(received, "check", "tiny.toml")
    assert done.returncode == 2 and "train.epohcs" in done.stderr
    assert not (received / "the-code-ran").exists()


def test_a_run_names_the_code_that_it_runs(received: Path) -> None:
    done = cli(received, "run", "tiny.toml")
    assert f"runs the code of {received / 'mine.py'}" in done.stderr
    assert (received / "the-code-ran").exists()
    assert done.returncode == 0, done.stderr
