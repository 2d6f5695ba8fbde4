"""kill -9 at any moment of a whole run, the same command again: the same bits as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ebsim import pipeline
from ebsim.files import load_tensors
from tests.cli.test_cli import TINY

VOLATILE = {"seconds", "epochs_trained", "epochs_reused"}


def run(folder: Path) -> pipeline.Run:
    (folder / "tiny.toml").write_text(TINY)
    return pipeline.run(folder / "tiny.toml", runs_dir=folder / "runs")


def essence(folder: Path, done: pipeline.Run) -> tuple[dict[str, Any], dict[str, dict[str, torch.Tensor]]]:
    """Results without wall-clock figures, and the final weights, momentum and gammas of every stage."""
    results = {key: value for key, value in done.results.items() if key not in VOLATILE}
    weights = {}
    for path in folder.glob("runs/stages/*/last.safetensors"):
        weights[path.parent.name] = load_tensors(path)[0]
    return results, weights


def storm(folder: Path, rng: random.Random, longest: float) -> int:
    """Run in forked children that are killed at random moments, until one gets through; the number of kills."""
    kills = 0
    while True:
        child = os.fork()
        if child == 0:
            try:
                run(folder)
                os._exit(0)
            except BaseException:
                os._exit(1)
        time.sleep(rng.uniform(0.05, longest))
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            return kills
        kills += 1


@pytest.mark.slow
def test_kill_storm(tmp_path: Path) -> None:
    clean = tmp_path / "clean"
    clean.mkdir()
    began = time.monotonic()
    results, weights = essence(clean, run(clean))
    whole = time.monotonic() - began
    assert len(weights) == 3
    rng, kills = random.Random(1), 0
    for trial in range(6):
        folder = tmp_path / f"{trial}"
        folder.mkdir()
        kills += storm(folder, rng, longest=whole * 0.6)
        again = run(folder)
        assert again.reused
        got, bits = essence(folder, again)
        assert json.dumps(got, sort_keys=True) == json.dumps(results, sort_keys=True)
        assert bits.keys() == weights.keys()
        for stage, tensors in weights.items():
            assert tensors.keys() == bits[stage].keys()
            assert all(torch.equal(tensor, bits[stage][name]) for name, tensor in tensors.items())
    assert kills >= 6
