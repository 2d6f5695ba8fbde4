"""`prune.ignore`: layers that no method cuts, in masks and files; mistakes are told before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

import hw_models
from ebsim import tickets
from ebsim.config import Experiment
from ebsim.errors import ConfigError
from ebsim.experiment.training_stages import dense_training
from ebsim.methods import METHODS
from ebsim.pipeline import results, validation
from tests.methods.toy_context import context


def test_ignored_layers_keep_every_channel(tmp_path: Path) -> None:
    toy = context(tmp_path, prune={"ratio": [0.5], "ignore": ["layer1.*", "bn"]})
    whole = [n for n in toy.layers if n.startswith("layer1.") or n == "bn"]
    assert 0 < len(whole) < len(toy.layers)
    rows = [row for name in ("dense", "eb-train", "random-ticket") for row in METHODS[name].results(toy)]
    content = results.results(toy, rows, hw_models.load("horowitz-45nm"))
    assert content["prune"]["ignore"] == ["layer1.*", "bn"]
    for mask in toy.masks.values():
        kept, ranked = mask.kept(), [n for n in toy.layers if n not in whole]
        assert all(kept[n] == toy.layers[n] for n in whole)
        count = sum(toy.layers[n] for n in ranked)
        assert sum(kept[n] for n in ranked) == count - round(0.5 * count)
        again = tickets.ChannelMask.unpack(*mask.pack())
        assert set(again.ignored) == set(whole) and again == mask
    stored = results.masks(toy)
    assert {tuple(one["ignored"]) for one in stored.values()} == {tuple(whole)}
    gammas = dense_training(toy).trajectory.gammas
    found = tickets.emergence(gammas, toy.layers, 0.5, threshold=1.0, window=2, ignore=["layer1.*", "bn"])
    drawn = next(row for row in content["rows"] if row["method"] == "eb-train")["epoch_drawn"]
    assert found.epoch == drawn


@pytest.mark.parametrize(
    ("prune", "methods", "message"),
    [
        (
            {"ignore": ["stem.*"]},
            ["eb-train"],
            r'prune.ignore = "stem.\*": no BatchNorm layer has such a name; there are',
        ),
        ({"ignore": "*"}, ["eb-train"], "leaves no layer to prune"),
        ({"ignore": ["layer1.*"]}, ["dense", "synflow"], '"synflow" does not rank the channels'),
        ({"ignore": ["layer1.*"]}, ["random-uniform"], '"random-uniform" does not rank the channels'),
    ],
)
def test_mistakes_are_told_before_anything_runs(prune, methods, message, tmp_path):
    lines = ['name = "x"', f"methods = {methods}".replace("'", '"'), "[prune]"]
    lines += [
        f"{key} = {value}".replace("'", '"') if isinstance(value, list) else f'{key} = "{value}"'
        for key, value in prune.items()
    ]
    (tmp_path / "x.toml").write_text("\n".join([*lines, '[model]\nname = "preresnet"\ndepth = 11']))
    with pytest.raises(ConfigError, match=message):
        validation.load(tmp_path / "x.toml")


def test_an_experiment_without_it_is_the_experiment_of_before():
    assert "ignore" not in Experiment.model_validate({"name": "x"}).prune.identity()
    assert Experiment.model_validate({"name": "x", "prune": {"ignore": "a.*"}}).prune.identity()["ignore"] == ["a.*"]
