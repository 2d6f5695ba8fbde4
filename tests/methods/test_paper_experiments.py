"""Every experiment of the paper: a lab card, valid as it is, and valid with the trial that its card names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ebsim import config, pipeline
from ebsim.config import Experiment, parse_settings
from ebsim.methods import METHODS

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "experiments" / "paper").glob("*.toml"))


def load(path: Path, settings: dict | None = None) -> Experiment:
    return config.load(path, settings, pipeline.choices(), pipeline.RULES)


def card(path: Path) -> dict[str, str]:
    """The comment at the top: heading -> text, continuation lines joined."""
    out: dict[str, str] = {}
    text = path.read_text().removeprefix("#:schema ../../schemas/experiment.schema.json\n")
    for line in text.split("\n\nname = ")[0].splitlines()[2:]:
        found = re.match(r"# (\w+) +(.*)", line)
        if found:
            heading = found[1]
            out[heading] = found[2]
        else:
            out[heading] = out[heading].removesuffix("\\") + " " + line.removeprefix("#").strip()
    return out


def trial(path: Path) -> tuple[list[str], dict]:
    """(words of the command, settings) of the card's trial; the first value of each --grid axis stands for all."""
    words = shlex.split(card(path)["Trial"])
    settings = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
    axes = [words[at + 1].split(",")[0] for at, word in enumerate(words) if word == "--grid"]
    return words, parse_settings([*settings, *axes])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_card_and_trial(path: Path) -> None:
    text = card(path)
    assert {"Shows", "Command", "Trial", "Takes", "Expect"} <= set(text)
    full = load(path)
    assert full.name == path.stem
    words, settings = trial(path)
    assert words[:2] == ["python", "cli.py"]
    assert ROOT / words[3] == path
    assert (words[2] == "ablate") == bool(full.grid)
    assert words[2] == text["Command"].split()[2]
    small = load(path, settings)
    assert small.data.name == "digits"
    assert small.methods == full.methods
    load(path, {"data.name": "digits"})


def test_all_of_the_paper_is_there() -> None:
    names = {path.stem for path in FILES}
    cifar = [f"{network}-{data}" for network in ("vgg16", "preresnet101") for data in ("cifar10", "cifar100")]
    assert names == {
        *(f"fig1-{one}" for one in cifar),
        *(f"table2-{one}" for one in cifar),
        "table1",
        *(f"{kind}-{network}" for kind in ("lowprecision-search", "maps") for network in ("vgg16", "preresnet101")),
        "table3-resnet18",
        "table3-resnet50",
    }
    used = {name for path in FILES for name in load(path).methods}
    assert used <= set(METHODS)


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_trial_runs(path: Path, tmp_path: Path) -> None:
    """As the card says, but fewer images and epochs, the first cell of a grid, and no waiting for a settled mask."""
    _, settings = trial(path)
    settings |= {"train.epochs": 3, "train.milestones": [2], "prune.threshold": 1.0, "prune.window": 2}
    settings |= {"prune.draw_epochs": [1, 3], "data.subset": 200}
    done = pipeline.run_experiment(load(path, settings).model_copy(update={"grid": {}}), tmp_path)
    assert (done.path / "report.html").exists()
