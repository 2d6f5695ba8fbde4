"""`export` on the command line: of a finished run, and of one that is still going on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import cli
from ebsim.export import stage_series
from ebsim.runs.run_folder import RunFolder
from ebsim.training import Checkpoint
from tests.export.test_series import made_up

CURVE = [
    {"epoch": epoch, "lr": 0.1, "loss": 1.0 / epoch, "accuracy": 0.5, "images": 10, "steps": 1, "seconds": 2.0}
    for epoch in (1, 2)
]


def export(root: Path, run: str, *words: str) -> Any:
    return CliRunner().invoke(cli.main, ["export", run, *words, "--runs-dir", str(root)])


def points(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One finished run, and one that has trained two epochs of a stage."""
    run = made_up(tmp_path / "done-1")
    (run / "experiment.toml").write_text('name = "done"\n')
    (run / "provenance.json").write_text('{"finished": "2026-01-02T03:04:05+00:00"}')
    RunFolder(run).finish()
    going = tmp_path / "going-2"
    going.mkdir()
    (going / "experiment.toml").write_text('name = "going"\n')
    (going / ".progress.jsonl").write_text('{"kind": "begin", "stage": "dense-7", "first": 1, "last": 9}\n')
    stage = tmp_path / "stages/dense-7"
    stage.mkdir(parents=True)
    Checkpoint(2, 2, {"w": torch.ones(2)}, {}, torch.zeros(3, 4), CURVE).save(stage / "last.safetensors", "dense-7")
    return tmp_path


def test_a_finished_run(root: Path) -> None:
    done = export(root, "done", "--to", "jsonl")
    assert done.exit_code == 0, done.output
    path = root / "exports/done-1/jsonl/curves.jsonl"
    assert done.stdout.strip() == str(path)
    last = [point for point in points(path) if point["series"] == "eb-train p=0.5"][-1]
    assert last["energy/modelled_joules"] == 10.75 and last["step"] == 3
    assert last["time"] == 1767323045.0  # when the run was finished; the epochs lie before it


def test_a_run_that_is_going_on(root: Path) -> None:
    done = export(root, "going", "--to", "jsonl", "--out", str(root / "out"))
    assert done.exit_code == 0, done.output
    told = points(root / "out/curves.jsonl")
    assert [(point["series"], point["step"], point["train/loss"]) for point in told] == [
        ("dense-7", 1, 1.0), ("dense-7", 2, 0.5),
    ]  # fmt: skip
    assert not any("energy/modelled_joules" in point for point in told)


def test_a_run_without_an_epoch_is_told_so(root: Path) -> None:
    (root / "going-2/.progress.jsonl").unlink()
    done = export(root, "going", "--to", "jsonl")
    assert done.exit_code == 2 and "no epoch has been trained yet" in done.stderr
    assert stage_series(root / "stages/none") is None
    (root / "stages/dense-7/last.safetensors").write_bytes(b"torn")
    assert stage_series(root / "stages/dense-7") is None
