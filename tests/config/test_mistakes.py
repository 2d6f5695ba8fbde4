"""Every kind of mistake is told in one go, in file order, whatever else is wrong beside it."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from ebsim import config, pipeline
from ebsim.config.load import refusal
from ebsim.config.source import ExperimentSource
from ebsim.errors import ConfigError

# (section, line with a mistake, what must be said of it); together they make one file.
MISTAKES = [
    ("", 'methods = ["dense", "eb-tran"]', 'methods = "eb-tran": not known. Did you mean eb-train\\? There are: .*'),
    ("", "seed = -1", "seed = -1: must be greater than or equal to 0"),
    ("data", 'name = "digit"', 'data.name = "digit": not known. Did you mean digits\\? There are: .*'),
    ("data", "subset = 0", "data.subset = 0: must be greater than or equal to 1"),
    ("model", "depth = 12", "model.depth = 12: PreResNet has no depth 12; .*nearest: 11"),
    ("model", "dept = 11", "model.dept: unknown key. Did you mean model.depth\\?"),
    ("train", "milestones = [30, 10]", "train.milestones = \\[30, 10\\]: must be rising"),
    ("train", "ratio = 0.5", "train.ratio: unknown key. Did you mean prune.ratio\\?"),
    ("train", "device = 'gpu'", "train.device = 'gpu': must be auto, cpu, cuda or cuda:N"),
    ("prune", "ratio = [0.5, 0.5]", "prune.ratio = \\[0.5, 0.5\\]: names a ratio twice"),
    ("prune", "window = 1", "prune.window = 1: must be greater than or equal to 2"),
    ("precision", 'search = "fp9"', 'precision.search = "fp9": unknown precision; did you mean .fp8'),
    ("precision", 'plugins = ["gone.py:X"]', "precision.plugins: no such file: gone.py"),
    ("hardware", 'profile = "nvidia-a100"', 'hardware.profile = "nvidia-a100": not known.* There are: .*tpu-like-7nm'),
    ("hardware", 'reuse = "closd"', 'hardware.reuse = "closd": not known. Did you mean closed\\? There are: .*'),
    ("nonsense", "a = 1", "nonsense: unknown key."),
]


def laid_out(folder: Path, chosen: list[tuple[str, str, str]]) -> tuple[Path, list[tuple[int, str]]]:
    """A file with these mistakes, grouped by section, and (line, pattern) of each."""
    lines, expected = ['name = "broken"'], []
    for section in dict.fromkeys(section for section, _, _ in chosen):
        if section:
            lines.append(f"[{section}]")
        for own, line, pattern in chosen:
            if own == section:
                lines.append(line)
                expected.append((len(lines) - (section == "nonsense"), pattern))
    path = folder / "broken.toml"
    path.write_text("\n".join(lines) + "\n")
    return path, expected


def told(path: Path, overrides: dict | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        pipeline.load(path, overrides)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("trial", range(25))
def test_any_set_of_mistakes_is_told_whole_and_in_order(tmp_path: Path, trial: int) -> None:
    dice = random.Random(trial)
    size = len(MISTAKES) if trial == 0 else dice.randint(1, len(MISTAKES))
    sample = dice.sample(MISTAKES, size)
    chosen = [item for item in MISTAKES if item in sample]
    path, expected = laid_out(tmp_path, chosen)
    *lines, count = told(path)
    assert count == f"{len(chosen)} error{'s' if len(chosen) > 1 else ''}. Nothing was run."
    for line, (number, pattern) in zip(lines, expected, strict=True):
        assert re.fullmatch(f"{re.escape(str(path))}:{number}: {pattern}.*", line), line


def test_mistakes_of_overrides_come_after_those_of_the_file(tmp_path: Path) -> None:
    path, _ = laid_out(tmp_path, MISTAKES[1:2])
    lines = told(path, {"model.depth": 12, "hardware.reuse": "all", "train.lr": 0})
    assert [line.partition(": ")[0] for line in lines[:-1]] == [
        f"{path}:2", "--set model.depth", "--set hardware.reuse", "--set train.lr",
    ]  # fmt: skip
    assert lines[1].startswith("--set model.depth: model.depth = 12: PreResNet has no depth 12")


def test_a_rule_is_silent_about_a_key_that_is_wrong_itself(tmp_path: Path) -> None:
    """With `epochs` unreadable nobody knows whether a milestone lies before the last epoch."""
    path = tmp_path / "x.toml"
    path.write_text('name = "x"\n[train]\nepohcs = 300\nmilestones = [200]\n')
    assert told(path)[:-1] == [f"{path}:3: train.epohcs: unknown key. Did you mean train.epochs?"]
    path.write_text('name = "x"\n[train]\nepochs = "many"\nmilestones = [200]\n')
    assert len(told(path)) == 2


@pytest.mark.parametrize(
    ("key", "meant"),
    [("nonsense", ""), ("trian", "train"), ("train.sead", ""), ("train.momentun", "train.momentum"),
     ("prune.epochs", "prune.draw_epochs"), ("prune.lr", "train.lr"), ("data.models", ""), ("hardware.name", "")],
)  # fmt: skip
def test_a_suggestion_stays_in_its_section(key: str, meant: str) -> None:
    source = ExperimentSource("here", {"name": "a"})
    config.override(source, {key: {} if "." not in key else 1})
    _, mistakes = config.check(source)
    [line] = [mistake.text for mistake in mistakes]
    assert line.endswith(f"unknown key.{f' Did you mean {meant}?' if meant else ''}"), line


def test_the_cells_of_a_grid_tell_theirs_in_order_too(tmp_path: Path) -> None:
    from ebsim.grid.expand import expand

    path = tmp_path / "x.toml"
    path.write_text('name = "x"\n[train]\nlr = 0\n[grid]\nmodel.depth = [11, 12]\nseed = [1, -1]\n')
    with pytest.raises(ConfigError) as caught:
        expand(path, choices=pipeline.choices(), rules=pipeline.RULES)
    places = [line.split(": ")[0] for line in str(caught.value).splitlines()[:-1]]
    assert places == sorted(places) and {f"{path}:3", f"{path}:5", f"{path}:6"} == set(places)


def test_each_mistake_is_told_once() -> None:
    twice = [config.Mistake((0, 2), "b"), config.Mistake((0, 1), "a"), config.Mistake((0, 2), "b")]
    assert str(refusal(twice)) == "a\nb\n2 errors. Nothing was run."
