"""Where a saving comes from: the steps sum exactly, and each says what it claims, by independent counts."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

import hw_models
from ebsim.pricing.reprice import reprice
from ebsim.report.tables import energy, saving_steps, sensitivity
from ebsim.report.tables.highlights import highlights, pareto
from ebsim.report.tables.saving_steps import MASKS, RETRAINING, SEARCH_PRECISION, SELECTIONS, SavingSteps
from ebsim.runs.load import Run, load_run
from tests.report import many, sample


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Dense, and EB Train in FF, re-init, LF and LL at five ratios."""
    return load_run(sample.write(tmp_path_factory.mktemp("many") / "run", many.content(21)))


def joules(one: SavingSteps) -> dict[str, float]:
    return {step.name: step.joules for step in one.steps}


def test_the_steps_sum_to_the_joule(run: Run) -> None:
    every = saving_steps.saving_steps(run)
    assert len(every) == len(run.rows) - 1
    assert run.dense is not None
    for one, row in zip(every, run.rows[1:], strict=True):
        assert one.start == run.dense.energy.joules and one.end == row.energy.joules
        total = math.fsum([one.start, *(step.joules for step in one.steps)])
        assert total == pytest.approx(one.end, rel=1e-12)


def test_they_sum_where_weights_are_averaged(tmp_path: Path) -> None:
    """The averaging is work of its training: it belongs to the retraining, not to the drawing of masks."""
    files = sample.content(blocks=1)
    rows = files["results.json"]["rows"]
    plain = load_run(sample.write(tmp_path / "plain", files))
    rows[1]["ledger"][-1]["weight_averages"] = 7
    sample.price(rows, files["networks.json"])
    averaged = load_run(sample.write(tmp_path / "averaged", files))
    before, one = (saving_steps.saving_steps(run)[0] for run in (plain, averaged))
    assert one.end > before.end
    assert math.fsum([one.start, *(step.joules for step in one.steps)]) == pytest.approx(one.end, rel=1e-12)
    assert joules(one)[MASKS] == joules(before)[MASKS] and joules(one)[RETRAINING] > joules(before)[RETRAINING]


@pytest.mark.parametrize("chip", ["tpu-like-7nm", "eyeriss-like-65nm"])
def test_they_sum_on_another_accelerator(run: Run, chip: str) -> None:
    priced = reprice(run, chip, hypothetical=True)
    every = saving_steps.saving_steps(priced, tuple(highlights(priced)))
    assert len(every) == 3
    for one in every:
        assert math.fsum([one.start, *(step.joules for step in one.steps)]) == pytest.approx(one.end, rel=1e-12)


def test_each_step_is_what_it_says(run: Run) -> None:
    """On MACs alone every step follows from counts: epochs, images and MACs per image."""
    counted = reprice(run, model="macs")
    mac = counted.chip.constants["mac.fp32"].value * 1e-12 if "mac.fp32" in counted.chip.constants else None
    first, *_ = saving_steps.saving_steps(counted)
    row = run.results["rows"][1]
    search, retrain = row["ledger"]

    def per_image(network: str) -> int:
        layers = run.networks[network]
        return sum(layer.get("macs", 0) * (2 if layer.get("first") else 3) for layer in layers)

    def forward(network: str) -> int:
        return sum(layer.get("macs", 0) for layer in run.networks[network])

    def spent(entry: dict[str, object], network: str) -> float:
        images = int(str(entry["images_per_epoch"])) * int(str(entry["epochs"]))
        return per_image(network) * images + forward(network) * int(str(entry["eval_images"]))

    assert counted.dense is not None
    pj = counted.dense.energy.joules / spent(run.results["rows"][0]["ledger"][0], "dense")
    assert mac is None or pj == pytest.approx(mac)
    found = joules(first)
    assert found[RETRAINING] == pytest.approx(pj * spent(retrain, "dense"))
    smaller = spent(retrain, retrain["network"]) - spent(retrain, "dense")
    assert found["smaller network: MACs"] == pytest.approx(pj * smaller)
    assert first.steps[0].joules == pytest.approx(pj * spent(search, "dense") - counted.dense.energy.joules)
    assert found[MASKS] == found[SELECTIONS] == 0


def test_precision_steps_are_of_low_precision_rows_only(run: Run) -> None:
    every = {one.row: joules(one) for one in saving_steps.saving_steps(run)}
    for name, steps in every.items():
        assert (steps[SEARCH_PRECISION] < 0) == ("fp8" in name), name
        assert steps[MASKS] > 0
    assert all(steps[SELECTIONS] >= 0 for steps in every.values()) and any(
        steps[SELECTIONS] for steps in every.values()
    )


def test_a_run_priced_otherwise_has_no_steps(tmp_path: Path) -> None:
    """The energies of this file are not those of the model: nothing is shown that does not sum."""
    files = many.content(3)
    files["results.json"]["rows"][1]["energy"]["joules"] *= 1.001
    assert saving_steps.saving_steps(load_run(sample.write(tmp_path / "run", files))) == ()


def test_swings_are_those_of_an_accelerator_with_that_constant(run: Run) -> None:
    """The tornado against a run that is really priced with the constant at the end of its band."""
    name = highlights(run)[0]
    swing = next(one for one in sensitivity.swings(run) if one.row == name and one.constant == "dram.pj_per_bit")
    dram = run.chip.dram
    higher = dataclasses.replace(run.chip, dram=dataclasses.replace(dram, value=dram.value * dram.band))
    place = next(n for n, own in enumerate(saving_steps.row_labels.short(run.rows)) if own == name)
    energies = [hw_models.price(run.results["rows"][n]["ledger"], run.networks, higher).joules for n in (0, place)]
    assert swing.high == pytest.approx(1 - energies[1] / energies[0], rel=1e-9)
    assert swing.low != swing.high and min(swing.low, swing.high) < swing.saving < max(swing.low, swing.high)


def test_highlights_are_on_the_front_and_few(run: Run) -> None:
    best = highlights(run)
    assert len(best) == 3
    names = saving_steps.row_labels.short(run.rows)
    rows = [run.rows[names.index(name)] for name in best]
    others = [row for row in run.rows if row is not run.dense]
    for row in rows:
        assert not any(o.energy.joules < row.energy.joules and (o.accuracy or 0) > (row.accuracy or 0) for o in others)
    assert pareto([(1, 0.5), (2, 0.5), (2, 0.7), (0.5, 0.1)]) == [True, False, True, True]


def test_the_dominant_component_is_named(run: Run) -> None:
    text = "".join(map(str, energy.dominant(run)))
    assert run.dense is not None
    share = run.dense.energy.components["dram"] / run.dense.energy.joules
    assert text.startswith(f"{100 * share:.0f} % of the energy of Dense is dram")


def test_rows_with_fewer_and_with_more_dense_epochs_share_a_table(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """An Early-Bird row stops its dense training early; a lottery ticket trains the dense network twice."""
    from ebsim.report.figures import waterfall

    pair = (
        SavingSteps(
            "early",
            10.0,
            (saving_steps.SavingStep(saving_steps.FEWER, -6.0, 4), saving_steps.SavingStep(RETRAINING, 2.0)),
            6.0,
        ),
        SavingSteps("twice", 10.0, (saving_steps.SavingStep(saving_steps.MORE, 10.0, 40),), 20.0),
    )
    monkeypatch.setattr(saving_steps, "saving_steps", lambda *_: pair)
    monkeypatch.setattr(waterfall, "saving_steps", lambda *_: pair)
    (table,) = saving_steps.tables(run)
    names, early, twice = (["–" if cell == "–" else str(cell) for (cell,) in column.cells] for column in table.columns)
    assert names == ["dense baseline", saving_steps.FEWER, saving_steps.MORE, RETRAINING, "this row"]
    assert early[2] == "–" and twice[1] == twice[3] == "–"
    for axes, one in zip(waterfall.plot(run, 6.5).axes, pair, strict=False):
        ends = [bar.get_x() + bar.get_width() for bar in axes.patches]
        assert max(ends) == pytest.approx(max(one.start, one.end))
        places = {round(bar.get_y() + bar.get_height() / 2) for bar in axes.patches}
        assert places == {0, 4} | {1 + names[1:4].index(step.name) for step in one.steps}
