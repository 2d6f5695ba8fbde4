"""`train.devices` and torchrun: one command for several processes; a rank that dies ends them, and it goes on."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ebsim.files import load_tensors
from tests.cli.test_cli import ROOT

TINY = """\
name = "tiny"
methods = ["dense", "eb-train"]
[data]
subset = 120
[model]
depth = 11
[train]
epochs = 5
milestones = [3]
batch_size = 30
threads = 1
checkpoint_minutes = 1e-9
[prune]
ratio = [0.3]
threshold = 0.9
window = 2
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    (folder / "tiny.toml").write_text(TINY)
    command = [sys.executable, str(ROOT / "cli.py"), "run", "tiny.toml", *words]
    return subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)


def two(folder: Path) -> subprocess.Popen[str]:
    return start(folder, "--set", "train.devices=2")


def ends(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=180)[1]


def essence(folder: Path) -> dict[str, object]:
    """Results and weights, as far as they do not depend on the clock."""
    (run,) = folder.glob("runs/tiny-*")
    results = json.loads((run / "results.json").read_text())
    for key in ("seconds", "epochs_trained", "epochs_reused"):
        del results[key]
    results["train"].pop("devices")
    weights = {
        path.parent.name: {name: tensor.tolist() for name, tensor in load_tensors(path)[0].items()}
        for path in folder.glob("runs/stages/*/last.safetensors")
    }
    return {"results": results, "weights": weights}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    process = two(folder)
    said = ends(process)
    assert process.returncode == 0, said
    return folder


def children(process: subprocess.Popen[str]) -> list[int]:
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(word) for word in text.split()]


@pytest.mark.slow
def test_one_command_trains_with_two_processes(clean: Path) -> None:
    (run,) = clean.glob("runs/tiny-*")
    stages = json.loads((run / "provenance.json").read_text())["stages"]
    assert {item["processes"] for history in stages.values() for item in history} == {2}
    rows = json.loads((run / "results.json").read_text())["rows"]
    for row in rows:  # what all ranks did: every image of every epoch once
        assert sum(entry["images"] for entry in row["ledger"]) == 5 * 120
    again = two(clean)
    assert "Already done" in ends(again) and again.returncode == 0


@pytest.mark.slow
def test_torchrun_is_the_same(clean: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(ROOT / "cli.py"), "run", "tiny.toml"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert essence(tmp_path) == essence(clean)


@pytest.mark.slow
def test_a_rank_killed_at_random_moments(clean: Path, tmp_path: Path) -> None:
    """Either rank; the job ends within seconds, not with 0, and the same command ends in the same bytes."""
    rng, kills, slowest = random.Random(4), 0, 0.0
    for trial in range(5):
        folder = tmp_path / str(trial)
        folder.mkdir()
        for _ in range(20):
            process = two(folder)
            time.sleep(rng.uniform(2, 12))
            ranks = children(process) if process.poll() is None else []
            if not ranks:
                assert process.poll() == 0 or ends(process)
                break
            os.kill(rng.choice(ranks), signal.SIGKILL)
            began = time.monotonic()
            said = ends(process)
            slowest = max(slowest, time.monotonic() - began)
            if process.returncode == 0:
                break
            kills += 1
            assert process.returncode != 0, said
        assert ends(two(folder)) is not None
        assert essence(folder) == essence(clean)
    print(f"{kills} kills of a rank, the slowest end {slowest:.1f} s")
    assert kills >= 5


@pytest.mark.slow
def test_a_stop_ends_all_with_75_and_one_process_goes_on(tmp_path: Path) -> None:
    process = two(tmp_path)
    assert process.stderr is not None
    for line in process.stderr:
        if "epoch   1/" in line:
            break
    process.send_signal(signal.SIGTERM)
    ends(process)
    assert process.returncode == 75
    alone = start(tmp_path)
    said = ends(alone)
    assert alone.returncode == 0 and "processes changed" in said, said
