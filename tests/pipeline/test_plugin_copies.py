"""A run with plug-in files can be made again from its folder alone, wherever it is and whatever became of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ebsim import pipeline
from ebsim.config import Experiment, ExperimentSource, validate
from ebsim.errors import ConfigError
from ebsim.pipeline.plugin_copies import keep

FORMAT = """\
import torch
from ebsim.precision import NumberFormat

def nearest(x, u):
    return x.round() if u is None else (x + u).floor()

MINE = NumberFormat("mine", bits=5, mac="int:5", top=15.0, round=nearest, scaling="absmax")
"""
EXPERIMENT = """\
name = "own"
methods = ["eb-train"]
[data]
subset = 60
[model]
depth = 11
[train]
epochs = 4
milestones = []
batch_size = 30
threads = 1
[prune]
threshold = 0.9
window = 2
[precision]
search = "w5"
backends.w5 = { weight = "formats/mine.py:MINE" }
[hardware]
hypothetical = true
"""
VOLATILE = ("seconds", "epochs_trained", "epochs_reused")


def essence(run: pipeline.Run) -> str:
    return json.dumps({key: value for key, value in run.results.items() if key not in VOLATILE}, sort_keys=True)


def test_the_stored_experiment_needs_nothing_but_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebsim.report.figures.PLOTS", ())
    (tmp_path / "exp/formats").mkdir(parents=True)
    (tmp_path / "exp/formats/mine.py").write_text(FORMAT)
    (tmp_path / "exp/own.toml").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    first = pipeline.run("exp/own.toml", runs_dir="runs")
    assert (first.path / "plugins/mine.py").read_text() == FORMAT
    assert "plugins/mine.py" in json.loads((first.path / "MANIFEST.json").read_text())["files"]
    assert pipeline.run(first.path / "experiment.toml", runs_dir="runs").reused  # one run, under either path

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copytree(first.path, elsewhere / "moved")
    shutil.rmtree(tmp_path / "exp")
    shutil.rmtree(tmp_path / "runs")
    monkeypatch.chdir(elsewhere)
    again = pipeline.run("moved/experiment.toml", runs_dir="runs")
    assert again.path.name == first.path.name and not again.reused
    assert essence(again) == essence(first)


def experiment(**section: object) -> Experiment:
    return validate(ExperimentSource("here", {"name": "a", "precision": section}))


def test_every_place_of_a_path_is_rewritten_and_no_other(tmp_path: Path) -> None:
    for name in ("a/x.py", "b/x.py", "c/x.py", "y.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("2" if name.startswith("b") else "1")
    own = experiment(
        search=f"{tmp_path}/y.py:S",
        plugins=(f"{tmp_path}/a/x.py:P", f"{tmp_path}/b/x.py:P"),
        backends={
            "m": {"weight": f"{tmp_path}/c/x.py:F/row stochastic", "rule": [{"layers": ["*"], "weight": "int8"}]}
        },
    )
    made = keep(own, tmp_path / "run").precision
    files = {path.name: path.read_text() for path in (tmp_path / "run/plugins").iterdir()}
    assert sorted(files.values()) == ["1", "1", "2"]
    assert made.search == "plugins/y.py:S" and made.retrain == "fp32"
    one, two = made.plugins
    other = made.backends["m"]["weight"]
    assert one != two and other == one.replace(":P", ":F/row stochastic")  # equal contents are one file
    assert files[one.partition(":")[0].partition("/")[2]] == "1"
    assert made.backends["m"]["rule"] == [{"layers": ["*"], "weight": "int8"}]


def test_without_plug_ins_nothing_is_written(tmp_path: Path) -> None:
    own = experiment(search="fp8")
    assert keep(own, tmp_path) is own and list(tmp_path.iterdir()) == []


def test_a_plug_in_that_has_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone.py: no such file, so it cannot be kept"):
        keep(experiment(search="gone.py:X"), tmp_path)
