"""A trajectory is a pure function of its identity: continued, interrupted, replayed or damaged, the same bits."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from ebsim import tickets
from ebsim.config import Train
from ebsim.errors import DamagedError, DivergedError
from ebsim.runs.ledger import entry
from ebsim.runs.store import Store
from ebsim.training import Averaging, Checkpoint, Trajectory
from tests.training.toy import Recorder, ToyData, toy_network

TRAIN = Train(epochs=8, batch_size=20, lr=0.1, milestones=(4, 6), l1=1e-3)
CPU = torch.device("cpu")


def trajectory(root: Path, *, train: Train = TRAIN, data: ToyData | None = None, **options: object) -> Trajectory:
    stage = Store(root).stage("dense", {"toy": 1})
    return Trajectory(stage, toy_network, data or ToyData(), train, seed=3, device=CPU, **options)  # type: ignore[arg-type]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def reference(epochs: int) -> nn.Module:
    """The same training written out slowly: for-loop SGD, no framework of ours."""
    model, data = toy_network().to(memory_format=torch.channels_last), ToyData()
    momentum = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for epoch in range(1, epochs + 1):
        lr = TRAIN.lr * (0.1 if epoch > 4 else 1) * (0.1 if epoch > 6 else 1)
        for x, y in data.train_batches(20, seed=3, epoch=epoch, memory_format=torch.channels_last):
            model.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            with torch.no_grad():
                for module in model.modules():
                    if isinstance(module, nn.BatchNorm2d):
                        module.weight.grad += TRAIN.l1 * torch.sign(module.weight)
                for name, p in model.named_parameters():
                    momentum[name] = TRAIN.momentum * momentum[name] + (p.grad + TRAIN.weight_decay * p)
                    p -= lr * momentum[name]
    return model


def test_the_loop_is_the_recipe(tmp_path: Path) -> None:
    run = trajectory(tmp_path)
    run.extend(8)
    expected = reference(8).state_dict()
    for name, value in run.state_at(8).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    assert [row["lr"] for row in run.curve] == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2)


def test_counts_are_what_the_loop_really_used(tmp_path: Path) -> None:
    data = ToyData()
    run = trajectory(tmp_path, data=data)
    run.extend(3)
    assert sum(data.served) == sum(row["images"] for row in run.curve) == 3 * 45
    assert len(data.served) == sum(row["steps"] for row in run.curve) == 3 * 3
    assert [row["epoch"] for row in run.curve] == [1, 2, 3]
    assert run.gammas.shape == (4, 14)
    assert torch.equal(run.gammas[0], tickets.gammas(toy_network()))


def test_continued_in_pieces_is_the_same(tmp_path: Path) -> None:
    whole = trajectory(tmp_path / "whole")
    whole.extend(8)
    for epoch in (2, 3, 7, 8):
        trajectory(tmp_path / "pieces").extend(epoch)  # a new object each time: everything comes from the files
    pieces = trajectory(tmp_path / "pieces")
    assert equal(whole.state_at(8), pieces.state_at(8))
    assert torch.equal(whole.gammas, pieces.gammas)
    assert pieces.trained == 0


def test_a_search_really_ends(tmp_path: Path) -> None:
    progress = Recorder()
    run = trajectory(tmp_path, progress=progress)
    assert run.extend(8, until=lambda gammas: len(gammas) >= 4) == 3
    assert [epoch for _, epoch in progress.epochs] == [1, 2, 3]
    assert run.extend(8, until=lambda gammas: len(gammas) >= 4) == 3
    assert run.trained == 3


def test_a_past_epoch_is_read_or_trained_again_to_the_same_bits(tmp_path: Path) -> None:
    progress = Recorder()
    kept = trajectory(tmp_path / "kept", keep=lambda gammas: len(gammas) == 4)
    kept.extend(8)
    bare = trajectory(tmp_path / "bare", progress=progress)
    bare.extend(8)
    assert equal(kept.state_at(3), bare.state_at(3))
    assert kept.trained == 8
    assert bare.trained == 11
    assert "epoch 3 was not kept" in progress.notes[-1]
    assert equal(bare.state_at(8), kept.state_at(8))
    assert equal(trajectory(tmp_path / "bare").state_at(3), kept.state_at(3))
    assert equal(kept.state_at(0), toy_network().state_dict())


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    clean = trajectory(tmp_path / "clean")
    clean.extend(6)
    run = trajectory(tmp_path / "hurt")
    run.extend(5)
    last = run.stage.folder / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-20])
    progress = Recorder()
    again = trajectory(tmp_path / "hurt", progress=progress)
    assert again.epoch == 4
    again.extend(6)
    assert equal(again.state_at(6), clean.state_at(6))
    assert "passed over a damaged checkpoint" in progress.notes[0]


def test_no_whole_checkpoint_left_is_an_error_and_nothing_is_overwritten(tmp_path: Path) -> None:
    run = trajectory(tmp_path)
    run.extend(3)
    for path in run.stage.folder.glob("*.safetensors"):
        path.write_bytes(b"rubbish")
    with pytest.raises(DamagedError, match="no whole checkpoint is left"):
        trajectory(tmp_path).extend(4)
    assert {p.read_bytes() for p in run.stage.folder.glob("*.safetensors")} == {b"rubbish"}


def test_a_checkpoint_of_another_stage_is_not_loaded(tmp_path: Path) -> None:
    run = trajectory(tmp_path)
    run.extend(2)
    other = Trajectory(Store(tmp_path).stage("dense", {"toy": 2}), toy_network, ToyData(), TRAIN, seed=3, device=CPU)
    os.link(run.stage.folder / "last.safetensors", other.stage.folder / "last.safetensors")
    with pytest.raises(DamagedError, match="not of"):
        other.extend(3)


def test_a_bad_number_stops_before_the_weights_and_the_checkpoint(tmp_path: Path) -> None:
    run = trajectory(tmp_path, data=ToyData(poison=(3, 1)))
    with pytest.raises(DivergedError, match="step 2 of the epoch"):
        run.extend(8)
    clean = trajectory(tmp_path / "clean")
    clean.extend(2)
    again = trajectory(tmp_path)
    assert again.epoch == 2
    assert equal(again.state_at(2), clean.state_at(2))


def test_no_update_is_applied_from_the_bad_step_on() -> None:
    from ebsim.training import TrainStep, make_optimizer, train_epoch

    model = toy_network()
    before: dict[str, torch.Tensor] = {}
    done: list[int] = []

    def after(step: int) -> None:
        done.append(step)
        before.update({name: p.detach().clone() for name, p in model.named_parameters()})

    batches = ToyData(poison=(1, 2)).train_batches(10, seed=0, epoch=1, memory_format=torch.contiguous_format)
    sgd = make_optimizer(model, lr=0.1, momentum=0.9, weight_decay=0)
    with pytest.raises(DivergedError):
        train_epoch(TrainStep(model, model, sgd, l1=0.0), batches, after_step=after)
    assert done == [1, 2]
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_sparsity_is_pushed_on_gammas_only(tmp_path: Path) -> None:
    pushed = trajectory(tmp_path / "a", train=TRAIN.model_copy(update={"l1": 0.05}))
    free = trajectory(tmp_path / "b", train=TRAIN.model_copy(update={"l1": 0.0}))
    pushed.extend(2)
    free.extend(2)
    assert pushed.gammas[-1].abs().sum() < free.gammas[-1].abs().sum()


def test_a_sensor_has_columns_of_its_own(tmp_path: Path) -> None:
    def meter(work: Callable[[], object]) -> dict[str, object]:
        work()
        return {"measured_joules": 2.5, "measured_source": "a test"}

    bare, metered = trajectory(tmp_path / "bare"), trajectory(tmp_path / "metered", meter=meter)
    bare.extend(2)
    metered.extend(2)
    assert equal(bare.state_at(2), metered.state_at(2))
    assert [row["measured_joules"] for row in metered.curve] == [2.5, 2.5]
    facts = {"batch_size": 20, "draws": 0, "channels": 14, "l1": True}
    assert entry("search", "dense", metered.curve, "fp32", **facts)["measured_joules"] == 5.0
    assert "measured_joules" not in entry("search", "dense", bare.curve, "fp32", **facts)
    half = [*metered.curve, {**metered.curve[0], "measured_joules": None}]
    assert entry("search", "dense", half, "fp32", **facts)["measured_joules"] is None


def test_the_average_is_that_of_the_last_epochs(tmp_path: Path) -> None:
    run = trajectory(tmp_path, averaging=Averaging(6), keep=lambda gammas: len(gammas) > 6)
    run.extend(7)
    run.extend(8)
    with_average = Checkpoint.load(run.stage.folder / "last.safetensors", run.stage.id)
    for name, value in toy_network().named_parameters():
        states = [run.state_at(epoch)[name] for epoch in (6, 7, 8)]
        torch.testing.assert_close(with_average.extra[f"module.{name}"], sum(states) / 3)
        assert value.shape == with_average.extra[f"module.{name}"].shape
    assert 0 <= run.curve[-1]["average_accuracy"] <= 1
    assert "average_accuracy" not in run.curve[5]


@pytest.mark.slow
def test_killed_at_any_moment_the_same_call_ends_in_the_same_bits(tmp_path: Path) -> None:
    """SIGKILL at random moments of a forked child, until one attempt gets through."""
    clean = trajectory(tmp_path / "clean")
    clean.extend(8)
    rng, kills = random.Random(0), 0
    for trial in range(80):
        folder = tmp_path / f"{trial}"
        for _ in range(1000):
            child = os.fork()
            if child == 0:
                trajectory(folder).extend(8)
                os._exit(0)
            time.sleep(rng.uniform(0.002, 0.1))
            os.kill(child, signal.SIGKILL)
            if os.waitpid(child, 0)[1] == 0:
                break
            kills += 1
        run = trajectory(folder)
        assert run.epoch == 8
        assert equal(run.state_at(8), clean.state_at(8))
        assert torch.equal(run.gammas, clean.gammas)
        assert {event["epoch"] for event in run.stage.events() if event["event"] == "epoch"} <= set(range(1, 9))
    assert kills > 80


def test_a_sound_checkpoint_of_another_moment_is_no_checkpoint(tmp_path: Path) -> None:
    """The newest state under the name of a kept one was once read as that."""
    run = trajectory(tmp_path, keep=lambda gammas: len(gammas) == 3)
    run.extend(4)
    folder, second = run.stage.folder, run.state_at(2)
    (folder / "epoch-00002.safetensors").write_bytes((folder / "last.safetensors").read_bytes())
    again = trajectory(tmp_path, keep=lambda gammas: len(gammas) == 3)
    again.extend(4)
    assert equal(again.state_at(2), second)
