"""Every method at toy size: nothing is trained twice, rows add up, ledgers say what was done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import hw_models
from ebsim import tickets
from ebsim.experiment.context import ExperimentContext
from ebsim.experiment.result import MethodResult, accuracies
from ebsim.experiment.training_stages import dense_training
from ebsim.grid.dry_run import DryRunContext, StageNames, StubTrajectory
from ebsim.methods import METHODS
from ebsim.pipeline import results
from tests.methods.toy_context import Data, context, epochs_trained

N = 4


Charged = list[tuple[MethodResult, list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def charged() -> Charged:
    """Of `everything`: each row, and what its context had charged to it when it was finished."""
    return []


@pytest.fixture(scope="module")
def everything(
    tmp_path_factory: pytest.TempPathFactory, charged: Charged
) -> tuple[ExperimentContext, dict[str, list[MethodResult]], Path]:
    """All methods in one run."""
    root = tmp_path_factory.mktemp("everything")
    toy = context(root, prune={"ratio": [0.3, 0.7]}, precision={"low": "fp8"})

    def note(row: MethodResult) -> None:
        charged.append((row, list(toy.charged)))

    return toy, {name: method.results(toy, note) for name, method in METHODS.items()}, root


def rows(found: dict[str, list[MethodResult]], *names: str) -> list[MethodResult]:
    return [row for name in names for row in found[name]]


def test_every_row_is_named_and_finished(everything: Any) -> None:
    _, found, _ = everything
    for name, method in METHODS.items():
        assert len(found[name]) == {(): 1, ("ratio",): 2, ("ratio", "epoch"): 4}[method.over]
        for row in found[name]:
            assert row.method == name
            assert row.curve is not None
            assert row.accuracy is not None
            assert row.label
    assert len({(row.label, row.ratio) for row in rows(found, *METHODS)}) == sum(map(len, found.values()))
    json.dumps([row.to_dict() for row in rows(found, *METHODS)])


def test_the_energy_so_far_rests_on_the_ledger_of_the_row(everything: Any, charged: Charged) -> None:
    """What progress prices while a row is trained is, at its end, the very ledger of the row; its stages are named."""
    for row, entries in charged:
        assert entries == row.ledger, row.label
        trainings = [entry["stage"] for entry in row.ledger if entry["stage"] != "score"]
        assert trainings == list(METHODS[row.method].stages), row.label


def test_all_that_can_share_the_dense_training_does(everything: Any) -> None:
    """Early-Bird tickets, slimming, lottery ticket, draws and the baseline together: N dense epochs, counted."""
    _, found, root = everything
    trained = epochs_trained(root)
    dense = found["dense"][0].trajectory
    sharing = rows(found, "eb-train", "eb-train-fl", "network-slimming", "lottery-ticket", "thinet", "prune-at-epoch")
    assert {row.trajectory for row in sharing} == {dense}
    kinds = [stage.split("-")[0] for stage in trained]
    assert trained[dense] == N
    assert kinds.count("dense") == 2  # fp32, and the low precision of LF and LL
    assert all(count <= N for count in trained.values())


def test_equal_stages_are_trained_once(everything: Any) -> None:
    """A draw at epoch N, fine-tuned, is network slimming."""
    _, found, _ = everything
    late = {row.ratio: row.curve for row in found["prune-at-epoch"] if row.epoch_drawn == N}
    assert late == {row.ratio: row.curve for row in found["network-slimming"]}


def test_the_epochs_of_each_method(everything: Any) -> None:
    _, found, _ = everything
    emerged = found["eb-train"][0].epoch_drawn
    assert emerged == 3  # threshold 1, window 2: as soon as two distances are known
    expected = {
        "dense": [N],
        "eb-train": [emerged, N - emerged],
        "eb-train-reinit": [emerged, N],
        "eb-train-rewind": [emerged, N],
        "random-ticket": [emerged, N - emerged],
        "network-slimming": [N, N],
        "thinet": [N, 10, N],  # ten layers of the network are looked at
        "sfp": [N],
        "sfp-pretrained": [N, N],
        "lottery-ticket": [N, N],
        "snip": [1, N],
        "grasp": [3, N],
        "synflow": [100, N],
        "prune-at-best": [N, N],
    }
    for name, epochs in expected.items():
        for row in found[name]:
            assert [entry["epochs"] for entry in row.ledger] == epochs, name
    for row in found["prune-at-epoch"]:
        assert [entry["epochs"] for entry in row.ledger] == [row.epoch_drawn, N]


def test_images_in_the_ledger_are_those_that_were_served(tmp_path: Path) -> None:
    toy = context(tmp_path, prune={"ratio": [0.5]})
    assert isinstance(toy.data, Data)
    row = METHODS["eb-train"].results(toy)[0]
    assert sum(toy.data.served) == sum(entry["images"] for entry in row.ledger)


def test_averaged_weights_are_counted_and_priced(tmp_path: Path) -> None:
    """SWA of bfp8 from epoch 3 of 4 on: retraining updates a mean of all weights, a search of no known end does not."""
    toy = context(tmp_path, prune={"ratio": [0.5]}, precision={"low": "bfp8"})
    found = METHODS["eb-train-ll"].results(toy)[0]
    search, retrain = found.ledger
    drawn = found.epoch_drawn
    assert drawn is not None and found.averaged and "weight_averages" not in search
    assert retrain["weight_averages"] == sum(epoch >= 3 for epoch in range(drawn + 1, N + 1)) > 0
    chip = hw_models.load("horowitz-45nm")
    with_, without = (
        hw_models.price([entry], toy.networks, chip) for entry in (retrain, {**retrain, "weight_averages": 0})
    )
    weights = sum(row["weights"] for row in toy.networks[retrain["network"]] if "weights" in row)
    each = (
        chip.ops["multiply"].value + 2 * chip.ops["add"].value + 64 * chip.dram_read.value + 32 * chip.dram_write.value
    )
    assert with_.joules - without.joules == pytest.approx(retrain["weight_averages"] * weights * each * 1e-12)

    dry = DryRunContext(
        toy.experiment,
        Data(),
        StageNames(tmp_path / "dry"),
        torch.device("cpu"),
        make_trajectory=StubTrajectory,
    )
    (planned,) = METHODS["eb-train-ll"].results(dry)
    counts = ("epochs", "images", "steps", "eval_images", "evaluations", "statistics_images", "weight_averages")
    assert planned.epoch_drawn == drawn
    assert {key: planned.ledger[1][key] for key in counts} == {key: retrain[key] for key in counts}


def test_no_credit_for_single_weights_but_the_honest_count_beside_it(everything: Any) -> None:
    toy, found, _ = everything
    priced = {
        (row["method"], row["ratio"]): row
        for row in results.results(
            toy, rows(found, "dense", "snip", "lottery-ticket"), hw_models.load("horowitz-45nm")
        )["rows"]
    }
    dense = priced["dense", None]
    images = 4 * 45
    for ratio in (0.3, 0.7):
        snip, lottery = priced["snip", ratio], priced["lottery-ticket", ratio]
        assert lottery["train_macs"] == 2 * dense["train_macs"]
        assert snip["train_macs"] == dense["train_macs"] * (images + 20) / images  # one batch of 20 is scored
        assert dense["train_macs_sparse"] == dense["train_macs"]
        assert dense["train_macs"] < lottery["train_macs_sparse"] < lottery["train_macs"]
        assert snip["parameters"] == dense["parameters"]
        assert snip["weights_kept"] == pytest.approx(1 - ratio, abs=1e-3)
        assert "no" in snip["notes"][-1]


def test_the_sparse_count_by_hand(everything: Any) -> None:
    """Non-zero weights times the positions where each is used, three passes (two for the first layer)."""
    toy, found, _ = everything
    row = found["lottery-ticket"][0]
    entry = row.ledger[-1]
    weights = toy.trajectories[row.curve].state_at(N)
    total = 0
    for layer in toy.networks["dense"]:
        if layer.get("macs"):
            weight = weights[f"{layer['name']}.weight"]
            positions = layer["macs"] // weight.numel()
            total += int((weight != 0).sum()) * positions * (2 if layer.get("first") else 3)
    found_sparse = results._sparse_macs(entry, results._table(toy, "dense"))
    # A kept weight may be zero by chance, never the other way round.
    assert found_sparse == pytest.approx(total * entry["images"], rel=1e-3)


def test_random_tickets_have_the_widths_and_nothing_else_of_the_ticket(everything: Any) -> None:
    toy, found, _ = everything
    real, drawn, uniform = (found[name][0] for name in ("eb-train", "random-ticket", "random-uniform"))
    masks = [toy.masks[row.network] for row in (real, drawn, uniform)]
    assert masks[0].kept() == masks[1].kept()
    assert masks[0] != masks[1]
    assert masks[2].kept() == {name: max(1, round(0.7 * size)) for name, size in toy.layers.items()}


def test_a_ticket_that_does_not_emerge_leaves_nothing_to_retrain(tmp_path: Path) -> None:
    toy = context(tmp_path, prune={"ratio": [0.5], "threshold": 1e-9, "window": 5})
    for name in ("eb-train", "random-ticket"):
        (row,) = METHODS[name].results(toy)
        assert not row.emerged
        assert row.accuracy is None
        assert "nothing was retrained" in row.notes[0]
        assert [entry["epochs"] for entry in row.ledger] == [N]


def test_accuracies_stop_at_this_experiments_last_epoch(tmp_path: Path) -> None:
    """Somebody else may have trained the shared stages further."""
    short = {"ratio": [0.5]}
    METHODS["network-slimming"].results(context(tmp_path, train={"epochs": 6}, prune=short))
    (after,) = METHODS["network-slimming"].results(context(tmp_path, prune=short))
    (alone,) = METHODS["network-slimming"].results(context(tmp_path / "alone", prune=short))
    assert after.accuracy == alone.accuracy
    assert [entry["epochs"] for entry in after.ledger] == [N, N]


def test_inherit_carries_the_weights_and_fine_tune_starts_the_schedule_again(tmp_path: Path) -> None:
    toy = context(tmp_path, prune={"ratio": [0.5]})
    (eb,) = METHODS["eb-train"].results(toy)
    (slim,) = METHODS["network-slimming"].results(toy)
    for row, epoch, first in ((eb, 3, 4), (slim, N, 1)):
        trajectory = toy.trajectories[row.curve]
        dense = toy.dense_network()
        dense.load_state_dict(dense_training(toy).trajectory.state_at(epoch))
        expected = tickets.compact(dense, toy.masks[row.network], toy.example()).state_dict()
        start = trajectory.state_at(trajectory.first)
        assert all(torch.equal(start[name], value) for name, value in expected.items())
        assert trajectory.curve[0]["epoch"] == first
    assert toy.trajectories[slim.curve].curve[0]["lr"] == 0.1


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "random"])
def test_other_criteria_rank_and_have_a_stage_of_their_own(tmp_path: Path, criterion: str) -> None:
    plain, other = context(tmp_path), context(tmp_path, prune={"criterion": criterion, "ratio": [0.5]})
    (row,) = METHODS["eb-train"].results(other)
    assert row.emerged
    scored = [entry for entry in row.ledger if entry["stage"] == "score"]  # a gradient at each of the 3 looks
    assert [(entry["epochs"], entry["images"]) for entry in scored] == ([(3, 60)] if criterion == "taylor" else [])
    assert dense_training(plain).stage != row.trajectory
    assert dense_training(context(tmp_path, prune={"criterion": "gamma"})).stage == dense_training(plain).stage
    again = context(tmp_path / "again", prune={"criterion": criterion, "ratio": [0.5]})
    assert METHODS["eb-train"].results(again)[0].network == row.network


def test_what_cannot_be_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    from ebsim import config
    from ebsim.errors import ConfigError

    file = tmp_path / "x.toml"
    file.write_text('name = "x"\nmethods = ["prune-at-epoch"]\n')
    with pytest.raises(ConfigError, match="names no epoch"):
        config.load(file)
    with pytest.raises(ConfigError, match=r"prune.draw_epochs.*after train.epochs = 160"):
        config.load(file, {"prune.draw_epochs": [10, 170]})
    with pytest.raises(ConfigError, match=r"prune.gating.*deeper than 34"):
        config.load(file, {"methods": ["dense"], "prune.gating": "authors", "model.name": "resnet", "model.depth": 50})


def test_drawn_before_training(tmp_path: Path) -> None:
    toy = context(tmp_path, prune={"ratio": [0.5], "draw_epochs": [0]})
    (row,) = METHODS["prune-at-epoch"].results(toy)
    assert [entry["epochs"] for entry in row.ledger] == [0, N]
    (priced,) = results.results(toy, [row], hw_models.load("horowitz-45nm"))["rows"]
    assert priced["accuracy"] is not None


def test_the_best_of_averaged_weights_is_one_of_theirs() -> None:
    """Epochs of raw weights do not compete with the averaged network's accuracy."""
    curve = [
        {"test_accuracy": 0.5},
        {"test_accuracy": 0.37, "average_accuracy": 0.41},
        {"test_accuracy": 0.36, "average_accuracy": 0.42},
    ]
    found = accuracies(curve)
    assert (found["accuracy"], found["best_accuracy"], found["averaged"]) == (0.42, 0.42, True)
    assert accuracies(curve[:1])["best_accuracy"] == 0.5


def test_energies_of_a_growing_ledger_are_those_of_each_priced_alone(everything: Any) -> None:
    """What is kept between calls are costs of single steps; the same joules to the bit, and no step priced twice."""
    context, found, _ = everything
    known: dict[Any, Any] = {}
    entries = [entry for name in METHODS for row in found[name] for entry in row.ledger]
    networks = context.networks
    for last in (1, len(entries) // 2, len(entries)):
        kept = hw_models.price(entries[:last], networks, "horowitz-45nm", known=known)
        assert kept == hw_models.price(entries[:last], networks, "horowitz-45nm")
    before = dict(known)
    hw_models.price(entries, networks, "horowitz-45nm", known=known)
    assert known == before and len({key for key in known if key[0] != "table"}) < 3 * len(entries)
