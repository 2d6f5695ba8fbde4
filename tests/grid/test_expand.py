"""A grid becomes its cells, or every mistake in it."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from ebsim import pipeline
from ebsim.errors import ConfigError
from ebsim.grid.expand import MAX_CELLS, Grid, expand, parse_axes

BASE = 'name = "g"\n[train]\nepochs = 6\nmilestones = [3]\n'


def grid(folder: Path, *options: str, text: str = BASE, **settings: object) -> Grid:
    (folder / "x.toml").write_text(text)
    return expand(folder / "x.toml", options, settings, pipeline.choices(), pipeline.RULES)


def test_product_in_order(tmp_path: Path) -> None:
    found = grid(tmp_path, "precision.search=fp32,fp8", "prune.ratio=0.3,0.5,0.7", "seed=0..1")
    expected = list(itertools.product(["fp32", "fp8"], [0.3, 0.5, 0.7], [0, 1]))
    assert [tuple(cell.settings.values()) for cell in found.cells] == expected
    assert [cell.number for cell in found.cells] == list(range(1, 13))
    for cell, (precision, ratio, seed) in zip(found.cells, expected, strict=True):
        own = cell.experiment
        assert (own.precision.search, own.prune.ratio, own.seed) == (precision, (ratio,), seed)
        assert own.train.epochs == 6 and own.grid == {}


def test_values_are_toml_and_bare_words_are_strings() -> None:
    axes = parse_axes(["prune.ratio=[0.3, 0.5],0.7", 'data.name="digits",cifar10', "train.milestones=[1,2],[3]"])
    assert axes == {"prune.ratio": [[0.3, 0.5], 0.7], "data.name": ["digits", "cifar10"],
                    "train.milestones": [[1, 2], [3]]}  # fmt: skip


@pytest.mark.parametrize("table", ["precision.search = ['fp32', 'fp8']", "'precision.search' = ['fp32', 'fp8']"])
def test_table_in_the_file_and_options_over_it(tmp_path: Path, table: str) -> None:
    text = f"{BASE}[grid]\n{table}\nseed = ['1..3', 7]\n"
    assert grid(tmp_path, text=text).axes == {"precision.search": ["fp32", "fp8"], "seed": [1, 2, 3, 7]}
    over = grid(tmp_path, "seed=9", "prune.ratio=0.3,0.4", text=text)
    assert over.axes == {"precision.search": ["fp32", "fp8"], "seed": [9], "prune.ratio": [0.3, 0.4]}
    with pytest.raises(ConfigError, match="ablate"):
        pipeline.load(tmp_path / "x.toml")


def test_overrides_reach_every_cell(tmp_path: Path) -> None:
    found = grid(tmp_path, "seed=0..2", **{"train.lr": 0.5})
    assert {cell.experiment.train.lr for cell in found.cells} == {0.5}


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    text = BASE + "[grid]\nprune.ratio = [0.3, 1.5]\n"
    with pytest.raises(ConfigError) as caught:
        grid(tmp_path, "precision.search=fp9", "train.epohcs=3,4", "train.lr=0.1,-1", text=text)
    message = str(caught.value)
    for part in ("x.toml:6: prune.ratio = 1.5", '"fp9"', "train.epohcs: unknown key. Did you mean train.epochs", "-1"):
        assert part in message
    assert message.splitlines()[-1].startswith("4 errors")


def test_a_value_that_is_only_valid_with_another_axis_is_accepted(tmp_path: Path) -> None:
    found = grid(tmp_path, "train.epochs=2", "train.milestones=[1]")  # alone, milestone 3 would lie past epoch 2
    assert len(found.cells) == 1


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ((), "no grid"),
        (("seed",), "write it as"),
        (("seed=1", "seed=2"), "given twice"),
        (("seed=1,,2",), "empty value"),
        (("seed=1,1",), "twice"),
        (("seed=4..0",), "rises"),
        ((f"seed=0..{MAX_CELLS}",), "rises"),
        (("name=a,b",), "cannot be an axis"),
        (("train.threads=1,2",), "same experiment"),
        (("prune.ratio=0.5,[0.5]",), "same experiment"),
        (("seed=0..99", "train.epochs=7..99", "prune.ratio=0.1,0.2"), "at most"),
    ],
)
def test_refused(tmp_path: Path, options: tuple[str, ...], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        grid(tmp_path, *options)


def test_table_of_the_wrong_shape(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x\.toml:6: grid\.seed must be a list"):
        grid(tmp_path, text=BASE + "[grid]\nseed = 3\n")
    with pytest.raises(ConfigError, match="grid must be a table"):
        grid(tmp_path, text="grid = 3\n" + BASE)
