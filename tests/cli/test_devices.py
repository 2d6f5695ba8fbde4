"""`train.devices` and torchrun: one command for several processes; a rank that dies ends them, and it goes on."""

from __future__ import annotations

import functools
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
from ebsim.runs.run_folder import RunFolder
from tests import attacks
from tests.cli.test_cli import ROOT
from tests.training.ranks import free_port

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


def team(folder: Path, size: int) -> list[int]:
    """Forked processes that train the tiny experiment together, as torchrun would start them."""
    port = free_port()

    def work(rank: int) -> None:
        os.environ |= {
            "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }  # fmt: skip
        attacks.run(folder)

    return [attacks.forked(functools.partial(work, rank), folder / f"said-{rank}") for rank in range(size)]


def processes(folder: Path) -> set[int]:
    """How many processes the epochs of a finished run were trained by."""
    (run,) = folder.glob("runs/tiny-*")
    stages = json.loads((run / "provenance.json").read_text())["stages"]
    return {item["processes"] for history in stages.values() for item in history}


def killed_ranks(root: Path, moments: int, seed: int) -> tuple[int, float]:
    """One of two ranks killed at random moments: kills, and the longest that the other lived on in seconds of CPU.

    Every run ends in the bits of an undisturbed one; every third is finished by one or three processes instead.
    """
    alone = root / "alone"
    began = time.process_time()
    attacks.run(alone)
    whole = 1.5 * (time.process_time() - began)
    clean = root / "clean"
    clean.mkdir()
    assert [attacks.ended(child) for child in team(clean, 2)] == [0, 0], (clean / "said-0").read_text()
    expected, rng, kills, trial, longest = attacks.outcome(clean), random.Random(seed), 0, 0, 0.0
    while kills < moments:
        place = root / str(trial)
        place.mkdir()
        for _ in range(4):
            ranks = team(place, 2)
            victim = rng.randrange(2)
            if not attacks.killed_after(ranks[victim], whole * rng.random() ** 2):
                assert attacks.ended(ranks[1 - victim]) == 0
                break
            kills += 1
            used, end = attacks.cpu(ranks[1 - victim]), time.monotonic() + 60
            ended_by_starter = False
            while os.waitid(os.P_PID, ranks[1 - victim], os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                if time.monotonic() > end and not ended_by_starter:
                    os.kill(ranks[1 - victim], signal.SIGKILL)  # as torchrun does; only where they had not met yet
                    ended_by_starter = True
                longest = max(longest, attacks.cpu(ranks[1 - victim]) - used)
                time.sleep(0.01)
            code = attacks.ended(ranks[1 - victim])
            said = (place / f"said-{1 - victim}").read_text()
            if ended_by_starter:
                assert "epoch" not in said, said  # ranks that have met end by themselves
                continue
            done = any(RunFolder(path).is_done for path in place.glob("runs/tiny-*"))
            assert code in (75, 2) or (code == 0 and done), (code, said)  # 2: they had not met yet
            assert "Traceback" not in said, said
        size = (2, 2, rng.choice((1, 3)))[trial % 3]
        assert [attacks.ended(child) for child in team(place, size)] == [0] * size, (place / "said-0").read_text()
        if processes(place) == {2}:
            assert attacks.same(attacks.outcome(place), expected), place
        else:
            assert size != 2 and attacks.outcome(place)[1].keys() == expected[1].keys()
        trial += 1
    return kills, longest


def test_a_killed_rank_ends_the_other(tmp_path: Path) -> None:
    assert killed_ranks(tmp_path, 1, seed=0)[0] >= 1


@pytest.mark.slow
def test_a_rank_killed_at_twenty_moments(tmp_path: Path) -> None:
    kills, longest = killed_ranks(tmp_path, 20, seed=1)
    print(f"{kills} kills of one of two ranks: the other ended after at most {longest:.1f} s of CPU; 0 lost, 0 differ")


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
