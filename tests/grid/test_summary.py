"""Lines, their statistics and the table, on runs whose every number is known."""

from __future__ import annotations

import csv as csv_module
import io
import itertools
from pathlib import Path
from typing import Any

import pytest
import scipy.stats

from ebsim import report
from ebsim.errors import ConfigError
from ebsim.report import to_markdown
from ebsim.report.comparison import figures, table
from ebsim.report.comparison.aggregate import Baseline, Member, Replicates, baseline_of, check_baseline, lines
from ebsim.report.display.text import csv
from tests.grid.made_up import row, write

RATIOS, SEEDS, SEARCHES = (0.3, 0.5), (0, 1, 2), ("fp32", "fp8")


def accuracy(ratio: float | None, seed: int, search: str) -> float:
    """Invented, and different for every combination that matters."""
    if ratio is None:
        return 0.9 + 0.01 * seed
    return 0.8 - 0.1 * ratio + 0.013 * seed**2 - (0.02 * (seed + 1) if search == "fp8" else 0)


def members(folder: Path) -> list[Member]:
    """A cell for each precision, ratio and seed: the dense row is the same one in all cells of a seed."""
    out = []
    for search, ratio, seed in itertools.product(SEARCHES, RATIOS, SEEDS):
        emerged = not (ratio == 0.5 and search == "fp8" and seed == 2)
        rows = [
            row("dense", accuracy(None, seed, search), 10.0, curve=f"dense-{seed}"),
            row("eb-train", accuracy(ratio, seed, search) if emerged else None, 4.0 + ratio + 0.1 * seed, ratio=ratio,
                search_precision=search, epoch_drawn=7 + seed if emerged else None,
                curve=f"ticket-{search}-{ratio}-{seed}"),
        ]  # fmt: skip
        path = write(folder / f"{search}-{ratio}-{seed}", seed, rows, search)
        out.append(Member({"precision.search": search, "prune.ratio": ratio}, seed, report.load_run(path)))
    return out


def find(every: list[Replicates], method: str, ratio: float | None = None, search: str = "fp32") -> Replicates:
    [line] = [one for one in every if (one.method, one.ratio, one.search_precision) == (method, ratio, search)]
    return line


def test_one_line_per_finding(tmp_path: Path) -> None:
    every = lines(members(tmp_path))
    assert [(one.method, one.ratio, one.search_precision) for one in every] == [
        ("dense", None, "fp32"), ("eb-train", 0.3, "fp32"), ("eb-train", 0.5, "fp32"),
        ("eb-train", 0.3, "fp8"), ("eb-train", 0.5, "fp8"),
    ]  # fmt: skip
    dense = find(every, "dense")
    assert sorted(dense.rows) == list(SEEDS) and dense.settings == {}  # one result, not twelve replicates
    assert find(every, "eb-train", 0.5).settings == {"precision.search": "fp32", "prune.ratio": 0.5}


def test_samples_and_paired_tests_are_scipys(tmp_path: Path) -> None:
    every = lines(members(tmp_path))
    line, dense = find(every, "eb-train", 0.3), find(every, "dense")
    mine = [accuracy(0.3, seed, "fp32") for seed in SEEDS]
    theirs = [accuracy(None, seed, "fp32") for seed in SEEDS]
    assert baseline_of(line, every, "dense") is dense and baseline_of(dense, every, "dense") is None
    sample, test = line.sample("accuracy"), line.against(dense, "accuracy")
    low, high = scipy.stats.t.interval(0.95, 2, sum(mine) / 3, scipy.stats.sem(mine))
    assert (sample.low, sample.high) == pytest.approx((low, high), rel=1e-9)
    assert test.p == pytest.approx(scipy.stats.ttest_rel(mine, theirs).pvalue, rel=1e-9)
    assert line.saving(dense).mean == pytest.approx(1 - (4.3 + 0.1) / 10)
    assert line.sample("epoch_drawn").mean == 8


def test_what_never_emerged_is_left_out_and_told(tmp_path: Path) -> None:
    every = lines(members(tmp_path))
    line = find(every, "eb-train", 0.5, "fp8")
    assert (len(line.rows), list(line.finished), line.sample("accuracy").n) == (3, [0, 1], 2)
    assert line.sample("joules").mean == pytest.approx(4.55)  # the third was a search without an end
    text = to_markdown(table.table(table.entries(every, "dense"), "made up", "dense"))
    assert "no ticket emerged before the last epoch for 1 of 3 seeds" in text


def test_a_baseline_of_settings_is_the_same_row_elsewhere(tmp_path: Path) -> None:
    every = lines(members(tmp_path))
    low, full = find(every, "eb-train", 0.3, "fp8"), find(every, "eb-train", 0.3)
    assert baseline_of(low, every, {"precision.search": "fp32"}) is full
    assert baseline_of(full, every, {"precision.search": "fp32"}) is None
    test = low.against(full, "accuracy")
    expected = scipy.stats.ttest_rel(*[[accuracy(0.3, s, search) for s in SEEDS] for search in ("fp8", "fp32")])
    assert test.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert baseline_of(low, every, {"prune.ratio": 0.5}) is find(every, "eb-train", 0.5, "fp8")


@pytest.mark.parametrize("wrong", ["snip", {"precision.search": "int8"}, {"train.lr": 0.1}])
def test_a_baseline_that_is_not_there_is_refused(wrong: Baseline) -> None:
    with pytest.raises(ConfigError, match="--baseline"):
        check_baseline(wrong, ["dense", "eb-train"], {"precision.search": ["fp32", "fp8"]})


def test_an_axis_that_rows_do_not_carry_keeps_equal_findings_apart(tmp_path: Path) -> None:
    """Two emergence rules that agree are two findings; the dense baseline under them is one."""
    out = []
    for rule in ("paper", "authors"):
        rows = [row("dense", 0.9, 10.0), row("eb-train", 0.8, 5.0, ratio=0.5, curve="ticket")]
        out.append(Member({"prune.rule": rule}, 0, report.load_run(write(tmp_path / rule, 0, rows))))
    every = lines(out)
    assert [(one.method, one.settings) for one in every] == [
        ("dense", {}), ("eb-train", {"prune.rule": "paper"}), ("eb-train", {"prune.rule": "authors"}),
    ]  # fmt: skip
    assert table.shown_axes(every) == ["prune.rule"]
    assert [table.name(one, every) for one in every] == ["Dense", "Eb-Train, p = 0.5, rule paper",
                                                         "Eb-Train, p = 0.5, rule authors"]  # fmt: skip


def test_methods_as_an_axis_still_meet_their_baseline(tmp_path: Path) -> None:
    runs = {"dense": [row("dense", 0.9, 10.0)], "snip": [row("snip", 0.8, 9.0, ratio=0.5, curve="masked")]}
    paths = {name: write(tmp_path / name, 3, rows) for name, rows in runs.items()}
    every = lines(Member({"methods": name}, 3, report.load_run(path)) for name, path in paths.items())
    assert baseline_of(every[1], every, "dense") is every[0]


def test_one_seed_says_so(tmp_path: Path) -> None:
    one = [member for member in members(tmp_path) if member.seed == 0]
    text = to_markdown(table.table(table.entries(lines(one), "dense"), "made up", "dense"))
    assert "n = 1 (one seed)" in text and "±" not in text


def cells_of(text: str) -> list[dict[str, Any]]:
    return list(csv_module.DictReader(io.StringIO(text)))


def test_every_shown_number_is_in_the_csv(tmp_path: Path) -> None:
    every = table.entries(lines(members(tmp_path)), "dense")
    shown = table.table(every, "made up", "dense")
    headings = [column.heading for column in shown.columns]
    assert headings[:4] == ["Method", "p", "Precision", "n"]
    rows = cells_of(csv(*table.records(every)))
    column = next(column for column in shown.columns if column.heading == "Accuracy (%)")
    for cell, line in zip(column.cells, rows, strict=True):
        assert cell[0].raw == float(line["accuracy"])
        half = (float(line["accuracy_high"]) - float(line["accuracy_low"])) / 2
        assert cell[2].raw == pytest.approx(half, rel=1e-9)
    assert [line["axis prune.ratio"] for line in rows] == ["any", "0.3", "0.5", "0.3", "0.5"]


def made_of(every: list[table.ComparedLine], axes: dict[str, list[Any]]) -> dict[str, bytes]:
    """{file name: bytes} of the figures of a grid's page."""
    return {f"{d.name}.{end}": data for d in figures.page_figures(every, axes, {}) for end, data in d.files.items()}


def test_figures_have_what_the_lines_have(tmp_path: Path) -> None:
    every = table.entries(lines(members(tmp_path)), "dense")
    axes = {"precision.search": list(SEARCHES), "prune.ratio": list(RATIOS), "seed": list(SEEDS)}
    files = made_of(every, axes)
    names = {name.partition(".")[0] for name in files}
    assert names == {"accuracy_energy", "by_precision_search", "by_prune_ratio"}
    curves = cells_of(files["by_prune_ratio.csv"].decode())
    assert {(line["line"], line["prune.ratio"]) for line in curves} == {
        (name, ratio) for name in ("Dense, fp32", "Eb-Train, fp32", "Eb-Train, fp8 → fp32") for ratio in ("0.3", "0.5")
    }
    assert all(files[f"{name}.svg"].startswith(b"<?xml") and files[f"{name}.png"][1:4] == b"PNG" for name in names)
    assert made_of(every, axes) == files  # the same bytes again


def test_draws_over_seeds_are_joined_by_what_they_have_in_common(tmp_path: Path) -> None:
    """Two seeds, two ratios, ranked and random channels at epochs 1 and 4; the rule's ticket and the dense network."""
    from ebsim.report.comparison import draw_epoch

    runs = []
    for seed, up in ((1, 0.0), (2, 0.02)):
        rows = [row("dense", 0.9 + up, 5.0), row("eb-train", 0.88 + up, 4.0, ratio=0.3, epoch_drawn=3 + seed)]
        for ratio in (0.3, 0.5):
            for method, loss in (("prune-at-epoch", 0.0), ("random-at-epoch", 0.1)):
                rows += [
                    row(method, 0.8 - loss + epoch / 100 + up, 4.0, ratio=ratio, epoch_drawn=epoch, label=f"At {epoch}")
                    for epoch in (4, 1)
                ]
        runs.append(Member({}, seed, report.load_run(write(tmp_path / f"{seed}", seed, rows))))
    every = lines(runs)
    found = draw_epoch.curves(every)
    assert list(found) == ["p = 0.3", "p = 0.3, random channels", "p = 0.5", "p = 0.5, random channels"]
    assert [[line.sample("epoch_drawn").mean for line in own] for own in found.values()] == [[1, 4]] * 4
    header, records = draw_epoch.data(every)
    told = {(r[0], r[1]): r for r in records}
    assert told["p = 0.3", 4][header.index("accuracy")] == pytest.approx(0.85)
    assert told["eb-train, p = 0.3", 4.5][header.index("n")] == 2
    assert told["dense, all", None][header.index("accuracy")] == pytest.approx(0.91)
    made = made_of(table.entries(every, "dense"), {"seed": [1, 2]})
    assert {"draw_epoch.svg", "draw_epoch.png", "draw_epoch.csv"} <= set(made)
    assert "draw_epoch.svg" not in made_of(table.entries(every[:2], "dense"), {"seed": [1, 2]})
