"""Checkpoints with a valid digest and impossible content: refused by name before they are used."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ebsim.errors import DamagedError
from ebsim.files import load_tensors, save_tensors
from ebsim.training import Trajectory
from tests.training.test_trajectory import trajectory

Tensors = dict[str, torch.Tensor]
Meta = dict[str, Any]
WEIGHT = "model/0.weight"


def put(place: str, value: Any) -> Callable[[Tensors, Meta], None]:
    def edit(tensors: Tensors, meta: Meta) -> None:
        if place in tensors or isinstance(value, torch.Tensor):
            tensors[place] = value(tensors[place]) if callable(value) else value
            return
        *path, last = place.split(".")
        table: Any = meta
        for part in path:
            table = table[int(part) if part.isdigit() else part]
        table[last] = value

    return edit


def drop(place: str) -> Callable[[Tensors, Meta], None]:
    def edit(tensors: Tensors, meta: Meta) -> None:
        (tensors if place in tensors else meta).pop(place)

    return edit


FORGED: dict[str, Callable[[Tensors, Meta], None]] = {
    **{f"meta without {key}": drop(key) for key in ("stage", "epoch", "step", "curve")},
    **{f"epoch {value!r}": put("epoch", value) for value in (-1, 1, 3, 2.0, "2", None, True, [2], 10**30)},
    **{f"step {value!r}": put("step", value) for value in (-1, 1.5, "6", None, {}, 2**60)},
    **{f"curve {value!r}": put("curve", value) for value in ([], {}, None, 3, "x", [{}], [{"epoch": 1}], [[], []])},
    **{f"stage {value!r}": put("stage", value) for value in ("dense-000000000000", None, 3, ["x"])},
    "a row without a loss": lambda t, m: m["curve"][0].pop("loss"),
    "a row of text": put("curve.0.loss", "low"),
    "a row of half an image": put("curve.1.images", 2.5),
    "a row of minus one image": put("curve.1.images", -1),
    "rows out of order": lambda t, m: m["curve"].reverse(),
    "history of text": put("history", "x"),
    "history of lists": put("history", [[1]]),
    "no scales": drop("gammas"),
    "flat scales": put("gammas", lambda g: g.flatten()),
    "whole scales": put("gammas", lambda g: g.to(torch.int64)),
    "one row of scales": put("gammas", lambda g: g[:1]),
    "infinite scales": put("gammas", lambda g: g / 0),
    "no scale is a number": put("gammas", lambda g: g * float("nan")),
    "scales of another network": put("gammas", lambda g: g[:, :5]),
    "no weight": drop(WEIGHT),
    "a weight too many": put("model/9.weight", torch.zeros(3)),
    "a weight of another shape": put(WEIGHT, lambda w: w[:2]),
    "a weight of one number": put(WEIGHT, torch.zeros(())),
    "a weight of float64": put(WEIGHT, lambda w: w.double()),
    "a weight of bits": put(WEIGHT, lambda w: w > 0),
    "an empty weight": put(WEIGHT, torch.zeros(0)),
    "momentum of nobody": put("momentum/nobody", torch.zeros(3)),
    "momentum of one number": put("momentum/0.weight", torch.zeros(1)),
    "momentum of float64": put("momentum/0.weight", lambda w: w.double()),
    "an average that nobody keeps": put("extra/module.0.weight", torch.zeros(2)),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("forged")
    trajectory(root).extend(2)
    return root


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_checkpoint_is_refused(finished: Path, tmp_path: Path, case: str) -> None:
    root = tmp_path / "copy"
    shutil.copytree(finished, root)
    place = trajectory(root).stage.folder
    (place / "previous.safetensors").unlink()
    tensors, meta = load_tensors(place / "last.safetensors")
    tensors, meta = dict(tensors), copy.deepcopy(meta)
    FORGED[case](tensors, meta)
    save_tensors(place / "last.safetensors", tensors, meta)
    before = (place / "last.safetensors").read_bytes()

    def use() -> Trajectory:
        run = trajectory(root)
        run.state_at(run.epoch)
        run.extend(4)
        return run

    with pytest.raises(DamagedError):
        use()
    assert (place / "last.safetensors").read_bytes() == before


def test_a_checkpoint_of_an_earlier_version_is_read(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    place = trajectory(tmp_path / "copy").stage.folder
    tensors, meta = load_tensors(place / "last.safetensors")
    del meta["history"]
    for key in ("ebsim", "code"):
        del meta["environment"][key]
    save_tensors(place / "last.safetensors", tensors, meta)
    run = trajectory(tmp_path / "copy")
    run.extend(3)
    old, new = run.history
    assert (old["first_epoch"], new["first_epoch"]) == (1, 3) and "code" not in old and "code" in new
