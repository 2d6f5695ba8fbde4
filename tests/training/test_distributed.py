"""Several processes against one: the same masks, counts and, up to the order of sums, the same losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ebsim import models, precision, tickets
from ebsim.config import Train
from ebsim.data.catalogue import PAPER
from ebsim.data.tensors import Decoded, Images, from_images
from ebsim.errors import ConfigError
from ebsim.files import digest
from ebsim.runs.store import Store
from ebsim.training import Trajectory
from ebsim.training import team as teams
from tests.training.ranks import in_ranks
from tests.training.test_trajectory import CPU, TRAIN, trajectory
from tests.training.toy import ToyData, toy_network


def state_digest(state: dict[str, torch.Tensor]) -> str:
    return digest({name: value.tolist() for name, value in state.items()})


def toy(root: Path, **options: Any) -> Trajectory:
    stage = Store(root, writable=teams.team().leader).stage("dense", {"toy": 1})
    keep = {"keep": lambda gammas: len(gammas) == 4}
    return Trajectory(stage, toy_network, ToyData(), TRAIN, seed=3, device=CPU, **{**keep, **options})


@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_train_what_one_trains(tmp_path: Path, size: int) -> None:
    alone = trajectory(tmp_path / "alone")
    alone.extend(5)

    def work(rank: int) -> Any:
        run = toy(tmp_path / "team")
        run.extend(5)
        past = run.state_at(2)  # it was not kept: all train it again
        kept = run.state_at(3)
        return [run.gammas.tolist(), run.curve, [state_digest(s) for s in (run.state_at(5), past, kept)]]

    first, *others = in_ranks(size, tmp_path, work)
    gammas, curve, states = first
    for other in others:
        assert other[0] == gammas and other[2] == states
        assert [row["loss"] for row in other[1]] == [row["loss"] for row in curve]
    torch.testing.assert_close(torch.tensor(gammas), alone.gammas, rtol=1e-4, atol=1e-5)
    for row, expected in zip(curve, alone.curve, strict=True):
        for key in ("epoch", "images", "steps", "test_images", "lr"):
            assert row[key] == expected[key]
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    layers = tickets.bn_layers(toy_network())
    for ours, theirs in zip(torch.tensor(gammas), alone.gammas, strict=True):
        assert tickets.masks_from_gammas(ours, layers, 0.3) == tickets.masks_from_gammas(theirs, layers, 0.3)


def test_an_epoch_that_nobody_tested_is_tested_by_all(tmp_path: Path) -> None:
    """Trained for a longer recipe that tests seldom, asked for by one that ends within it."""
    longer = TRAIN.model_copy(update={"epochs": 7, "eval_every": 100, "milestones": ()})
    shorter = longer.model_copy(update={"epochs": 3})

    def curves(root: Path) -> Any:
        stage = Store(root, writable=teams.team().leader).stage("dense", {"toy": 1})
        Trajectory(stage, toy_network, ToyData(), longer, seed=3, device=CPU).extend(5)
        run = Trajectory(stage, toy_network, ToyData(), shorter, seed=3, device=CPU)
        run.extend(3)
        return [[row.get("test_accuracy") for row in run.own_curve()] for _ in range(2)]

    alone = curves(tmp_path / "alone")
    assert alone[0][:2] == [None, None] and alone[0][2] is not None and alone[0] == alone[1]
    for found in in_ranks(2, tmp_path, lambda rank: curves(tmp_path / "team")):
        assert found == alone


def test_another_number_of_processes_goes_on(tmp_path: Path) -> None:
    """Two processes, then one, then three: one trajectory, which says who trained what."""

    def work(epochs: int) -> Any:
        def train(rank: int) -> Any:
            run = toy(tmp_path / "run")
            run.extend(epochs)
            return [run.history, state_digest(run.state_at(epochs))]

        return train

    in_ranks(2, tmp_path, work(2))
    toy(tmp_path / "run").extend(4)
    (history, state), *others = in_ranks(3, tmp_path, work(6))
    assert all(other[1] == state for other in others)
    assert [(item["first_epoch"], item["processes"]) for item in history] == [(1, 2), (3, 1), (5, 3)]


@pytest.mark.parametrize("spec", ["int8 stochastic", "bfp8 stochastic", "e4m3", "nvfp4 stochastic", "bf16"])
def test_shares_of_a_batch_are_rounded_as_the_whole_batch(tmp_path: Path, spec: str) -> None:
    x = torch.randn(7, 20, 3, generator=torch.Generator().manual_seed(0)) * 3

    def rounded(part: slice, shared: bool) -> torch.Tensor:
        net = torch.nn.Sequential(torch.nn.Conv1d(20, 20, 1))
        placement = precision.apply(net, {"rule": [{"phase": "forward", "activation": spec}]}, seed=5, compile=False)
        if shared:
            placement.share_batches(teams.team().largest)
        placement.set_step(3, first_sample=part.start)
        return net[0]._precision("forward", "activation", x[part], net[0]._precision.begin(True))

    whole = rounded(slice(0, 7), False)

    def work(rank: int) -> Any:
        return rounded(teams.team().part(7), True).tolist()

    assert torch.equal(torch.cat([torch.tensor(part) for part in in_ranks(2, tmp_path, work)]), whole)


@pytest.mark.parametrize("name", ["int8", "bfp8"])
def test_several_processes_train_in_a_low_precision(tmp_path: Path, name: str) -> None:
    """Rounding makes steps of differences in the last bit, so that losses agree as far as one epoch lets them."""
    alone = trajectory(tmp_path / "alone", backend=name)
    alone.extend(1)

    def work(rank: int) -> Any:
        run = toy(tmp_path / "team", backend=name)
        run.extend(1)
        return [run.gammas.tolist(), run.curve[-1]["loss"]]

    first, second = in_ranks(2, tmp_path, work)
    assert first == second
    assert first[1] == pytest.approx(alone.curve[-1]["loss"], rel=0.02)
    torch.testing.assert_close(torch.tensor(first[0]), alone.gammas, rtol=0.02, atol=0.01)


def test_what_several_processes_cannot_do_is_refused(tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        said = []
        for options in ({"backend": "mxfp8"}, {"stats_every": 1}):
            try:
                toy(tmp_path / str(rank) / str(len(said)), **options).extend(1)
            except ConfigError as error:
                said.append(str(error))
        return said

    for said in in_ranks(2, tmp_path, work):
        assert "weight_gradient, activation: mxfp8 takes several samples together" in said[0]
        assert "done in one process" in said[1]


def test_more_devices_than_processes_is_told(tmp_path: Path) -> None:
    """A grid's worker and `ebsim.run` train in one process; a key that they would not heed is not passed over."""
    from ebsim import pipeline

    (tmp_path / "a.toml").write_text(
        'name = "a"\n[data]\nsubset = 40\n[train]\nepochs = 1\nmilestones = []\ndevices = 2\n'
    )
    with pytest.raises(ConfigError, match=r"train\.devices = 2: 1 process"):
        pipeline.run(tmp_path / "a.toml", runs_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def images(count: int, classes: int, seed: int) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.arange(count) % classes)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "depth"), [("preresnet", 20), ("vgg", 16)])
def test_real_networks_on_image_tensors(tmp_path: Path, name: str, depth: int) -> None:
    train = Train(epochs=4, batch_size=64, lr=0.02, milestones=())
    names = tuple("abcdefghij")
    decoded = Decoded(images(320, 10, 0), images(100, 10, 1), names, "random")

    def run(root: Path) -> Trajectory:
        data = from_images(decoded, name="noise", label="noise", recipe=PAPER)
        stage = Store(root, writable=teams.team().leader).stage("dense", {"network": name})

        def network() -> torch.nn.Module:
            return models.build(name, depth=depth, classes=10, input_shape=(3, 32, 32), seed=1)

        found = Trajectory(stage, network, data, train, seed=1, device=CPU)
        found.extend(2)
        return found

    alone = run(tmp_path / "alone")

    def work(rank: int) -> Any:
        found = run(tmp_path / "team")
        return [found.gammas.tolist(), [row["loss"] for row in found.curve]]

    first, second = in_ranks(2, tmp_path, work)
    assert first == second
    losses = [row["loss"] for row in alone.curve]
    print(name, [abs(a - b) / b for a, b in zip(first[1], losses, strict=True)])
    # Five steps: VGG16 on noise multiplies a difference in the last bit by some 400 in them.
    assert first[1][0] == pytest.approx(losses[0], rel=1e-5 if name == "preresnet" else 1e-4)
    layers = tickets.bn_layers(models.build(name, depth=depth, classes=10, input_shape=(3, 32, 32), seed=1))
    for ours, theirs in zip(torch.tensor(first[0]), alone.gammas, strict=True):
        masks = [tickets.masks_from_gammas(row, layers, 0.5) for row in (ours, theirs)]
        print(name, "mask distance", masks[0].distance(masks[1]))
