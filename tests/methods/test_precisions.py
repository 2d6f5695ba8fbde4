"""Precisions of an experiment: found out before anything runs, known by what they do, wherever their files lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebsim import config, pipeline
from ebsim.config import Experiment
from ebsim.errors import ConfigError
from ebsim.files import read_json
from ebsim.grid import open_grid
from ebsim.pipeline import validation
from ebsim.precision import registry
from tests.precision.test_plugins import GRID

TOML = """\
name = "own"
methods = ["dense", "eb-train"]
[model]
depth = 11
[data]
subset = 20
[train]
epochs = 2
batch_size = 10
milestones = []
[hardware]
hypothetical = true
[precision]
plugins = ["formats/own.py:FP6"]
search = "mine"
[precision.backends.mine]
weight = "fp6"
"""
MORE = """\
error = "fp6 stochstic"
momentum = 8
[[precision.backends.mine.rule]]
layers = ["layer1.*"]
weight = "int8"
[[precision.backends.mine.rule]]
phase = "forwrd"
weight = "int9"
[precision.backends.other]
accumulator = "bananas"
[precision.backends.third]
rule = [{ layers = ["layr3.*", "layer1.*"], weight = "bf16" }]
"""


@pytest.fixture(autouse=True)
def forget_registered() -> None:
    yield
    for known in (registry.FORMATS, registry.BACKENDS):
        known.registered.clear()


def written(folder: Path, text: str = TOML, formats: str = GRID) -> Path:
    (folder / "formats").mkdir(parents=True, exist_ok=True)
    (folder / "formats" / "own.py").write_text(formats)
    (folder / "own.toml").write_text(text)
    return folder / "own.toml"


def test_all_mistakes_at_once_with_their_lines(tmp_path: Path) -> None:
    path = written(tmp_path, TOML.replace('FP6"]', 'FP6", "formats/none.py:X"]') + MORE)
    with pytest.raises(ConfigError) as caught:
        pipeline.load(path, {"precision.retrain": "fp9", "precision.low": "third"})
    lines = str(caught.value).splitlines()
    expected = [
        (":14: precision.plugins: no such file", "none.py"),
        (":18: precision.backends.mine.error = 'fp6 stochstic'", "did you mean 'stochastic'"),
        (":19: precision.backends.mine.momentum = 8", "write a format as text"),
        (":24: precision.backends.mine.rule.1.phase = 'forwrd'", "did you mean 'forward'"),
        (":25: precision.backends.mine.rule.1.weight = 'int9'", "did you mean 'int8'"),
        (":27: precision.backends.other.accumulator = 'bananas'", "fp32"),
        ('--set precision.retrain: precision.retrain = "fp9"', "did you mean 'fp8'"),
        (":29: precision.backends.third.rule.0.layers: a rule matches no layer: 'layr3.*'", "did you mean 'layer3.*'"),
    ]
    for start, rest in expected:
        assert [line for line in lines if start in line and rest in line], (start, lines)
    assert len(lines) == len(expected) + 1


def test_a_state_that_the_optimizer_lacks_and_sums_that_cannot_be_simulated(tmp_path: Path) -> None:
    path = written(tmp_path, TOML + 'second_moment = "bf16"\n')
    with pytest.raises(ConfigError, match="train with SGD, which keeps no second moment"):
        pipeline.load(path, {})
    path = written(tmp_path, TOML + 'accumulator = "int32"\npartial_sums = { step = 0 }\n')
    with pytest.raises(ConfigError) as caught:
        pipeline.load(path, {})
    assert "declared only" in str(caught.value) and "partial_sums.step = 0: step is a number" in str(caught.value)


def test_a_grid_is_refused_before_its_first_cell(tmp_path: Path) -> None:
    path = written(tmp_path, TOML + '[[precision.backends.mine.rule]]\nlayers = ["layer9.*"]\nweight = "bf16"\n')
    with pytest.raises(ConfigError, match=r"own.toml:19: .*matches no layer: 'layer9"):
        open_grid(path, ["precision.search=fp32,mine"], runs_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_run_is_known_by_what_its_formats_do(tmp_path: Path) -> None:
    def folder(path: Path, **settings: object) -> str:
        experiment = config.load(path, settings, pipeline.choices(), pipeline.RULES)
        return pipeline.run_folder(experiment, tmp_path, "0").name

    here = folder(written(tmp_path / "here"))
    assert folder(written(tmp_path / "there")) == here
    assert folder(written(tmp_path / "here", TOML + "[precision.backends.unused]\nweight = 'int8'\n")) == here
    assert folder(tmp_path / "here" / "own.toml", **{"precision.low": "fp8"}) == here  # of no method of it
    changed = folder(written(tmp_path / "here", formats=GRID.replace("MANTISSA = 2", "MANTISSA = 1")))
    assert changed != here
    assert folder(written(tmp_path / "here", formats=GRID.replace("fp:3,2", "fp:4,1"))) not in (here, changed)


def test_which_keys_count(tmp_path: Path) -> None:
    plain = Experiment.model_validate({"name": "a"})
    assert validation.used(plain) == {"search": "fp32", "retrain": "fp32"} and validation.outsiders(plain) == []
    assert validation.used(Experiment.model_validate({"name": "a", "methods": ["eb-train-lf"]}))["low"] == "bfp8"


def test_a_plug_in_of_the_experiment_trains_and_is_told_of(tmp_path: Path) -> None:
    path = written(tmp_path)
    done = pipeline.run(path, {"train.epochs": 1, "methods": ["eb-train"]}, runs_dir=tmp_path / "runs")
    [told] = read_json(done.path / "provenance.json")["precision_plugins"]
    assert told["name"] == "fp6" and told["origin"].endswith("formats/own.py:FP6") and len(told["digest"]) == 12
    [stage] = (tmp_path / "runs" / "stages").glob("dense-*")
    roles = read_json(stage / "identity.json")["precision"]["roles"]
    assert roles == {"weight": f"fp6 {told['digest']}"}
    assert pipeline.run(path, {"train.epochs": 1, "methods": ["eb-train"]}, runs_dir=tmp_path / "runs").reused
    written(tmp_path, formats=GRID.replace("MANTISSA = 2", "MANTISSA = 1"))
    again = pipeline.run(path, {"train.epochs": 1, "methods": ["eb-train"]}, runs_dir=tmp_path / "runs")
    assert not again.reused and len(list((tmp_path / "runs" / "stages").glob("dense-*"))) == 2
