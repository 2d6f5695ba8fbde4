"""Figures: the right numbers drawn, the same bytes each time, nothing that a run can do breaks them."""

from __future__ import annotations

import csv
import io
import itertools
import math
import random
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ebsim.report import load_run, write_report
from ebsim.report.figures import layers, masks, style
from ebsim.report.tables.highlights import pareto
from ebsim.report.tables.per_layer import per_layer
from ebsim.report.tables.training_lines import training_lines
from ebsim.runs.load import Run
from tests.report import sample

NAMES = {
    "accuracy_energy", "energy_stages", "energy_components", "waterfall", "tornado", "mask_distance", "mask_map",
    "curves", "energy_layers", "roofline",
}  # fmt: skip


def sheet(folder: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "figures" / f"{name}.csv").read_text())))


def test_every_figure_is_there_as_svg_png_and_csv(folder: Path) -> None:
    files = {path.name for path in (folder / "figures").iterdir()}
    assert files == {f"{name}.{kind}" for name in NAMES for kind in ("svg", "png", "csv")}
    for name in NAMES:
        root = ElementTree.parse(folder / "figures" / f"{name}.svg").getroot()
        with Image.open(folder / "figures" / f"{name}.png") as image:
            assert image.width in (650, 1350)  # 3.25 or 6.75 inches at 200 dpi
            ratio = image.width / image.height
        width, height = (float(root.attrib[side].removesuffix("pt")) for side in ("width", "height"))
        assert width / height == pytest.approx(ratio, rel=0.01)


def test_no_date_or_version_is_stored(folder: Path) -> None:
    for name in NAMES:
        svg, png = ((folder / "figures" / f"{name}.{kind}").read_bytes() for kind in ("svg", "png"))
        assert b"dc:date" not in svg and b"atplotlib" not in svg.split(b"</metadata>")[0] and b"Software" not in png


def test_the_distance_line_is_what_the_rule_compares(run: Run) -> None:
    """Slow oracle: the first epoch whose line lies under the threshold is the epoch of emergence."""
    for panel in masks.panels(run):
        line = masks.criterion(run, panel.masks)
        under = [e for e, value in enumerate(line, start=1) if value is not None and value < run.record.prune.threshold]
        assert under[0] == panel.masks.emerged
        for epoch, value in enumerate(line, start=1):
            past = panel.masks.distances[max(0, epoch - 5) : epoch]
            assert value == (max(past) if epoch >= 5 else None)


def test_the_authors_rule_compares_the_newest_mask_with_the_older_ones(tmp_path: Path) -> None:
    files = sample.content(blocks=1)
    files["results.json"]["prune"]["rule"] = "authors"
    run = load_run(sample.write(tmp_path / "run", files))
    panel = masks.panels(run)[0]
    for epoch, value in enumerate(masks.criterion(run, panel.masks), start=1):
        older = [panel.masks.map[epoch][e] for e in range(epoch - 4, epoch) if epoch >= 4]
        assert value == (max(older) if older else None)


def test_curves_csv_holds_every_epoch(folder: Path, run: Run) -> None:
    rows = sheet(folder, "curves")
    assert len(rows) == sum(map(len, run.curves.values()))
    assert {row["line"] for row in rows} == {"Dense", "p = 0.3", "p = 0.5", "p = 0.7"}
    ticket = next(line for line in training_lines(run) if line.name == "p = 0.5")
    assert ticket.start is not None and ticket.start.epoch == ticket.drawn == run.rows[2].epoch_drawn


def test_map_csv_is_the_upper_triangle(folder: Path, run: Run) -> None:
    rows = sheet(folder, "mask_map")
    side = sample.EPOCHS + 1
    assert len(rows) == 3 * side * (side - 1) // 2
    row = dict(rows[123])
    found = run.masks[row["trajectory"]].ratios[row["ratio"]].map[int(row["epoch_b"])][int(row["epoch_a"])]
    assert float(row["distance"]) == found


def test_layer_energies_sum_to_the_network_and_follow_its_order(run: Run) -> None:
    import hw_models

    costs = per_layer(run)
    assert list(costs) == ["Dense", "p = 0.3", "p = 0.5", "p = 0.7"]
    for name, key in zip(costs, run.networks, strict=True):
        layers = [hw_models.Layer.from_dict(layer) for layer in run.networks[key]]
        whole = hw_models.training_cost(layers, "horowitz-45nm", bits="fp32", batch=128).total / 128
        assert sum(cost.total for cost in costs[name].layers) == pytest.approx(whole, rel=1e-9)
        assert sum(sum(cost.passes.values()) for cost in costs[name].layers) == pytest.approx(whole, rel=1e-9)
        assert costs[name].total == pytest.approx(whole, rel=1e-9)
        assert [cost.layer for cost in costs[name].layers] == [one.name for one in layers if one.macs]


def test_layers_have_bars_of_their_own_or_those_of_their_blocks() -> None:
    few = [f"features.{number}.conv" for number in range(40)]
    assert layers._groups(few) == {name: name for name in few}
    resnet = [
        "conv1",
        *(f"layer{stage}.{block}.conv{n}" for stage in (1, 2, 3) for block in range(11) for n in (1, 2, 3)),
    ]
    groups = layers._groups([*resnet, "fc"])
    assert groups["layer2.10.conv3"] == "layer2.10" and len(set(groups.values())) == 35
    nameless = [f"conv{number}" for number in range(500)]
    assert len(set(layers._groups(nameless).values())) <= layers.MOST


@given(st.lists(st.floats(-100, 100), max_size=8), st.floats(0.1, 10))
def test_labels_are_moved_apart_and_keep_their_order(places: list[float], gap: float) -> None:
    moved = style.spread(places, gap)
    order = sorted(range(len(places)), key=lambda i: places[i])
    for low, high in itertools.pairwise(order):
        assert moved[high] - moved[low] >= gap - 1e-6
    if all(b - a >= gap for a, b in itertools.pairwise(sorted(places))):
        assert moved == pytest.approx(places)
    assert math.isclose(sum(moved), sum(places), abs_tol=1e-6)


def test_the_front_is_what_no_other_point_beats() -> None:
    dice = random.Random(0)
    for _ in range(200):
        points = [(dice.randrange(5), dice.randrange(5)) for _ in range(6)]
        for (joules, accuracy), kept in zip(points, pareto(points), strict=True):
            beaten = any((e < joules and a >= accuracy) or (e <= joules and a > accuracy) for e, a in points)
            assert kept == (not beaten)


def variant(**changes: Any) -> dict[str, Any]:
    return sample.content(blocks=1) | changes


def least() -> dict[str, Any]:
    """One dense row, one epoch, no masks, a copy of its profile that nobody reads any more."""
    files = variant(**{"masks.json": {}, "hardware.toml": "schema = 99\n"})
    results = files["results.json"]
    results.update(rows=results["rows"][:1], hardware="no-such-chip")
    results["train"].update(epochs=1, milestones=[])
    results["rows"][0].update(saving_vs_dense=None)
    files["curves.json"] = {sample.DENSE: [{"epoch": 1, "loss": 0.0, "accuracy": None}]}
    return files


def no_ticket() -> dict[str, Any]:
    """The rule never fired: nothing drawn, nothing retrained, and no dense row beside it."""
    files = variant()
    results = files["results.json"]
    results["rows"] = [
        results["rows"][2]
        | {
            "epoch_drawn": None,
            "emerged": False,
            "accuracy": None,
            "best_accuracy": None,
            "parameters": None,
            "macs": None,
            "channels_kept": None,
            "curve": sample.DENSE,
            "train_pflops_paper": None,
            "saving_vs_dense": None,
            "notes": ["no ticket emerged within 40 epochs; nothing was retrained"],
        }
    ]
    for masks_of in files["masks.json"][sample.DENSE]["ratios"].values():
        masks_of["emerged"] = None
    return files


def many() -> dict[str, Any]:
    """Eight methods at three ratios in two precisions, two trajectories."""
    files = variant()
    dense, *tickets = files["results.json"]["rows"]
    rows = [dense]
    for number in range(8):
        for row in tickets:
            joules = row["energy"]["joules"] * (1 + number / 9)
            rows.append(
                row
                | {
                    "method": f"m{number}",
                    "label": f"Method number {number}",
                    "accuracy": row["accuracy"] - number / 450,
                    "energy": row["energy"] | {"joules": joules},
                    "search_precision": "fp8" if number > 5 else "fp32",
                    "curve": f"c{number}-{row['ratio']}",
                }
            )
            files["curves.json"][f"c{number}-{row['ratio']}"] = files["curves.json"][row["curve"]]
    files["results.json"]["rows"] = rows
    files["masks.json"]["dense-fp8"] = files["masks.json"][sample.DENSE]
    return files


@pytest.mark.parametrize("make", [least, no_ticket, pytest.param(many, marks=pytest.mark.slow)])
def test_unusual_runs_are_drawn(tmp_path: Path, make: Any) -> None:
    folder = sample.write(tmp_path / "run", make())
    names = {path.name for path in write_report(folder)}
    assert {"report.html", "report.md", "results.csv"} <= names
    page = (folder / "report.html").read_text()
    if make is least:
        assert "could not be read again" in page and "energy_layers.svg" not in names and "mask_map.svg" not in names
    if make is no_ticket:
        assert "no ticket emerged within 40 epochs" in page and "curves.svg" in names
    if make is many:
        assert len(training_lines(load_run(folder))) == 25
