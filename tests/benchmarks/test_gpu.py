"""The GPU command without a GPU: its experiments are valid, and all of its phases run at toy size on a CPU."""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

import hw_models
from ebsim import pipeline
from ebsim.grid.expand import expand

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import gpu  # noqa: E402
import gpu_checks  # noqa: E402
import gpu_steps  # noqa: E402
import gpu_trainings  # noqa: E402
import roofline  # noqa: E402

RESULTS = sorted((ROOT / "experiments" / "results").glob("*.toml"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_the_experiments_behind_the_results_have_cards_and_are_valid(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for heading in ("Shows", "Command", "Takes", "Expect"):
        assert f"# {heading} " in text.split("\nname = ")[0], heading
    assert f"experiments/results/{path.name}" in text
    cells = expand(path, (), {}, pipeline.choices(), pipeline.RULES).cells
    assert {cell.experiment.seed for cell in cells} == {1, 2, 3}
    assert {cell.experiment.name for cell in cells} == {f"results-{path.stem}"}


@pytest.mark.parametrize("quick", [False, True])
def test_every_job_is_a_valid_grid(quick: bool) -> None:
    for job in gpu_trainings.jobs(quick):
        file = ROOT / "experiments" / job.file
        assert expand(file, job.axes, job.settings, pipeline.choices(), pipeline.RULES).cells, job.name
    names = [job.name for job in gpu_trainings.jobs(quick)]
    assert len(set(names)) == len(names)


def test_cases_have_names_of_their_own() -> None:
    names = [case.name for case in gpu_steps.cases(quick=False)]
    assert len(set(names)) == len(names)
    assert all(gpu_steps.Case(**vars(case)) == case for case in gpu_steps.cases(quick=False))


def test_the_tables_hold_every_figure() -> None:
    row = {**vars(gpu_steps.cases(quick=True)[0]), "step_ms": 2.0, "images_per_s": 4000.0, "peak_bytes": 3e9,
           "measured_joules_per_step": None}  # fmt: skip
    fast = {**row, "mode": "graph", "step_ms": 0.5}
    content = {
        "provenance": {"device": "cpu", "torch_build": "2.11", "commit": "abc"},
        "checks": {"one": {"passed": True, "figure": 0.25}, "two": {"passed": False, "error": "a|b"}},
        "steps": {"slow": row, "fast": fast, "broken": {"error": "no"}},
        "trainings": {"job": {"cells": 3, "done": 2, "seconds": 9.5, "errors": {"3": "why"}}},
    }
    text = gpu.markdown(content)
    assert "| one | yes | figure 0.25 |" in text
    assert "| two | **no** | error a/b |" in text
    assert "| fast | 0.500 | 4,000 | 4.00 | 3.00 | – |" in text
    assert "| job | 2 of 3 | 9.5 | cell 3: why |" in text


@pytest.mark.slow
def test_all_phases_run_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0)
    for split, images in (("train", 8), ("test", 8)):
        for label in "0123456789":
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for number in range(images):
                picture = Image.fromarray(pixels.integers(0, 256, (32, 32, 3), np.uint8))
                picture.save(folder / f"{number}.png")
    out = tmp_path / "out"
    words = ["gpu.py", "--data", str(tmp_path / "data"), "--out", str(out), "--quick", "--device", "cpu", "--stages"]
    monkeypatch.setattr(sys, "argv", [*words, "--minutes", "9", "--slots", "2"])
    monkeypatch.setattr(gpu_checks, "compiled_step", lambda device: {"passed": True})  # a minute of compiling
    gpu.main()
    content = json.loads((out / "gpu.json").read_text())
    assert all(check["passed"] for check in content["checks"].values()), content["checks"]
    assert all("error" not in row for name, row in content["steps"].items() if name != "calibration")
    assert [(job["done"], job["failed"]) for job in content["trainings"].values()] == [(1, 0)]
    with tarfile.open(out / "runs.tar.xz") as packed:
        assert any(name.endswith("results.json") for name in packed.getnames())
    gpu_trainings.unpack(out / "stages.tar.xz", tmp_path / "elsewhere")
    assert list((tmp_path / "elsewhere" / "stages").glob("*/last.safetensors"))


def test_the_fewest_bytes_of_a_small_network_by_hand() -> None:
    """conv (3 -> 2 channels, 4x4) - bn - relu - conv (2 -> 2): 16 positions a channel."""
    layers = hw_models.trace(
        nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 1, bias=False)),
        (3, 4, 4),
    )
    image, inner = 3 * 16, 2 * 16
    first, second = 2 * (image + inner), 3 * (inner + inner)  # no gradient for the image
    norm = 3 * inner + 5 * inner  # the ReLU comes for nothing
    assert roofline.least_elements(layers) == first + second + norm
    weights = 6 + 4 + 4
    assert roofline.least_bytes(layers, 10, "bf16") == 20 * (first + second + norm) + 24 * weights
    assert roofline.flops(layers, 10) == 10 * 2 * (2 * 16 * 6 + 3 * 16 * 4)


def test_a_step_is_held_against_the_limit_that_binds() -> None:
    layers = hw_models.trace(nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2)), (3, 4, 4))
    row = {"name": "one", "step_ms": 2.0, "arithmetic": "fp32", "batch": 5}
    moved = roofline.least_bytes(layers, 5, "fp32")
    found = roofline.bound(row, layers, {"copy_gbytes_per_s": 2 * moved / 2e-3 / 1e9, "fp32_tflops": 1.0})
    assert found["bound_by"] == "bytes"
    assert found["share_of_copy"] == found["share_of_bound"] == pytest.approx(0.5)
