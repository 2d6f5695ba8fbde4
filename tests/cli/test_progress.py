"""What a run tells while it goes on is what its results say afterwards, in lines that fit any log."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ebsim import pipeline
from ebsim.commands.progress import RemainingTime, TerminalProgress, event_line
from ebsim.files import read_json
from ebsim.report.display.value import quantity
from ebsim.runs.inventory import progress_lines
from ebsim.training.progress import part_of

TINY = """\
name = "tiny"
methods = ["dense", "eb-train"]
[data]
subset = 60
[model]
depth = 11
[train]
epochs = 5
milestones = []
batch_size = 30
threads = 1
[prune]
ratio = [0.3, 0.5]
threshold = 0.9
window = 2
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run through the terminal's progress into a text; its folder and that text."""
    root = tmp_path_factory.mktemp("progress")
    (root / "tiny.toml").write_text(TINY)
    log = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ebsim.report.figures.PLOTS", ())  # plotting is most of what a tiny run takes
        done = pipeline.run(root / "tiny.toml", runs_dir=root, progress=TerminalProgress(Console(file=log, width=60)))
    return done.path, log.getvalue()


def kept(path: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in progress_lines(path) if line["kind"] == kind]


def test_every_row_is_announced_and_ends_with_its_own_numbers(run: tuple[Path, str]) -> None:
    path, _ = run
    rows = read_json(path / "results.json")["rows"]
    tasks = [(line["method"], line["ratio"], line["number"], line["total"]) for line in kept(path, "task")]
    assert tasks == [("dense", None, 1, 3), ("eb-train", 0.3, 2, 3), ("eb-train", 0.5, 3, 3)]
    for line, row in zip(kept(path, "result"), rows, strict=True):
        for key in ("label", "ratio", "accuracy", "epoch_drawn"):
            assert line[key] == row[key]
        assert line["joules"] == pytest.approx(row["energy"]["joules"], rel=1e-12)


def test_joules_so_far_grow_to_what_the_row_ends_with(run: tuple[Path, str]) -> None:
    """Of each row: rising epoch by epoch, and with its last epoch the energy that results.json has."""
    path, log = run
    results = read_json(path / "results.json")["rows"]
    told: list[list[float]] = []
    for line in progress_lines(path):
        if line["kind"] == "task":
            told.append([])
        elif line["kind"] == "epoch":
            told[-1].append(line["joules"])
    assert [len(own) for own in told] == [5, 2, 2]  # a ticket emerged at epoch 3: two epochs are left to each
    for own, row in zip(told, results, strict=True):
        assert own == sorted(own) and own[0] > 0
        assert own[-1] == pytest.approx(row["energy"]["joules"], rel=1e-12)
    search = results[1]["energy"]["stages"][0]["joules"]
    assert told[1][0] > search  # what was trained for the dense row is charged to the ticket too
    assert f"{quantity(results[0]['energy']['joules'], 'J')} so far" in log


def test_which_training_of_a_row_it_is(run: tuple[Path, str]) -> None:
    _, log = run
    assert "  dense: epochs 1 to 5\n" in log
    assert log.count("  retrain, stage 2 of 2: epochs 4 to 5\n") == 2


@pytest.mark.parametrize(
    ("stages", "stage", "said"),
    [
        (("search", "retrain"), "dense-0123", "search, stage 1 of 2"),
        (("search", "retrain"), "ticket-0123", "retrain, stage 2 of 2"),
        (("train",), "masked-0123", "train"),
        ((), "masked-0123", "masked-0123"),
    ],
)
def test_the_part_of_a_row(stages: tuple[str, ...], stage: str, said: str) -> None:
    assert part_of(stage, stages) == said


def test_an_emergence_says_what_the_rule_saw() -> None:
    event = {"kind": "mask", "ratio": 0.5, "epoch": 9, "distance": 0.05, "largest": 0.0812, "threshold": 0.1}
    event |= {"emerged": True, "rule": "paper", "window": 5}
    assert event_line(event) == "  ticket p = 0.5 emerged at epoch 9 (mask distance 0.081 < 0.1 over 5 epochs)"
    event |= {"rule": "authors"}
    assert event_line(event).endswith("(mask distance 0.081 <= 0.1 to the masks before it)")
    del event["rule"]  # as runs before this wrote it
    assert event_line(event) == "  ticket p = 0.5 emerged at epoch 9"


def test_mask_distances_are_those_of_the_run(run: tuple[Path, str]) -> None:
    path, _ = run
    [masks] = read_json(path / "masks.json").values()
    told = kept(path, "mask")
    assert told
    for line in told:
        own = masks["ratios"][f"{line['ratio']:g}"]
        assert line["distance"] == pytest.approx(own["distances"][line["epoch"] - 1], abs=1e-12)
        assert line["emerged"] == (own["emerged"] == line["epoch"])
    assert {line["ratio"] for line in told if line["emerged"]} == {0.3, 0.5}


def test_the_log_is_plain_lines_and_can_be_followed_elsewhere(run: tuple[Path, str]) -> None:
    path, log = run
    assert "\x1b" not in log and "\r" not in log
    lines = log.splitlines()
    assert "[2/3] eb-train p = 0.3" in lines and any("emerged at epoch" in line for line in lines)
    assert any("EB Train p = 0.5: " in line and "J modelled on horowitz-45nm" in line for line in lines)
    elsewhere = [text for line in progress_lines(path) if (text := event_line(line)) and line["kind"] != "epoch"]
    assert set(elsewhere) <= set(lines)
    assert sum(" epoch " in line and "left" in line for line in lines) == len(kept(path, "epoch"))


def test_what_a_run_keeps_of_its_progress_is_no_part_of_it(run: tuple[Path, str]) -> None:
    path, _ = run
    assert ".progress.jsonl" not in read_json(path / "MANIFEST.json")["files"]
    with (path / ".progress.jsonl").open("a") as stream:
        stream.write('{"kind": "torn')
    assert progress_lines(path)[-1]["kind"] == "result"


def test_the_outlook_counts_what_is_left() -> None:
    """By hand: 4 rows of N = 10 epochs at 2 s; dense trains 10, the first ticket 6."""
    look = RemainingTime()
    look.task(1, 4, 10)
    for _ in range(10):
        look.epoch(2.0)
    assert look.left(0) == pytest.approx(3 * 10 * 2.0)
    look.task(2, 4, 10)
    assert look.left(6) == pytest.approx((6 + 2 * 10) * 2.0)
    for _ in range(6):
        look.epoch(2.0)
    look.task(3, 4, 10)
    assert look.left(6) == pytest.approx((6 + 1 * 6) * 2.0)  # a row of tickets trained six
    assert RemainingTime().left(5) == 0.0
