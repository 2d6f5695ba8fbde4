"""Masks and tickets with a valid digest and impossible content: a named error, and no memory taken for them."""

from __future__ import annotations

import copy
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ebsim
from ebsim.errors import DamagedError
from ebsim.files import load_tensors, save_tensors
from ebsim.tickets.ticket import load_ticket, save_ticket
from tests.training.toy import toy_network

Edit = Callable[[dict[str, torch.Tensor], dict[str, Any]], None]


def meta(place: str, value: Any) -> Edit:
    def edit(tensors: dict[str, torch.Tensor], info: dict[str, Any]) -> None:
        *path, last = place.split(".")
        for part in path:
            info = info[part]
        info[last] = value

    return edit


def tensor(name: str, value: Any) -> Edit:
    def edit(tensors: dict[str, torch.Tensor], info: dict[str, Any]) -> None:
        tensors[name] = value(tensors[name]) if callable(value) else value

    return edit


HUGE = 10**12
LAYERS: list[Any] = [
    [["1", HUGE], ["4", 8]], [["1", 6], ["4", 2**63]], [["1", -6], ["4", 20]], [["1", 6.0], ["4", 8]], [["1", "6"]],
    [["1", 6], ["1", 8]], [["1", True]], [[1, 6], [4, 8]], [["1"]], [[]], [], {}, None, 3, "ab", [["1", 14]] * 3,
    [["1", 6], ["4", 11]], [["1", 5], ["4", 3]], [None], [["1", None]],
]  # fmt: skip
MASKS: dict[str, Edit] = {
    **{f"layers {value!r}": meta("layers", value) for value in LAYERS},
    **{f"floor {value!r}": meta("kept_floor", value) for value in (None, 3, "1", [1], {"a": 1})},
    **{f"ignored {value!r}": meta("ignored", value) for value in (3, "1", [None], {"a": 1})},
    **{f"kind {value!r}": meta("kind", value) for value in (None, 3, "ebsim ticket", ["x"])},
    "no bits": lambda t, m: t.pop("bits"),
    "no layers": lambda t, m: m.pop("layers"),
    "bits of float": tensor("bits", lambda b: b.float()),
    "bits in a square": tensor("bits", lambda b: b[None]),
    "too few bits": tensor("bits", lambda b: b[:1]),
    "too many bits": tensor("bits", torch.zeros(9, dtype=torch.uint8)),
    "one number": tensor("bits", torch.tensor(3, dtype=torch.uint8)),
}
TICKETS: dict[str, Edit] = {
    **{f"layers {value!r}": meta("mask.layers", value) for value in LAYERS},
    **{f"example {value!r}": meta("example", value) for value in (
        [[[HUGE, 3, 6, 6], "float32"]], [[[2, 3, 6, 6], "system"]], [[[2, 3, 6, 6], "__name__"]], [[[-1], "float32"]],
        [[[2.5], "float32"]], [["x", "float32"]], [[None, None]], [[[2, 3, 6, 6]]], [], None, 7, [[[2, 3, 6, 6], None]],
    )},
    "no mask": lambda t, m: m.pop("mask"),
    "mask of text": meta("mask", "x"),
    "no architecture": lambda t, m: m.pop("architecture"),
    "no bits": lambda t, m: t.pop("mask"),
    "no weights": lambda t, m: [t.pop(name) for name in list(t) if name != "mask"],
    "a weight too many": tensor("state.nobody", torch.zeros(3)),
    "a weight of another shape": lambda t, m: t.update({name: w[:1] for name, w in t.items() if w.dim() == 4}),
}  # fmt: skip


def refused(path: Path, edit: Edit, load: Callable[[], object]) -> None:
    tensors, info = load_tensors(path)
    tensors, info = dict(tensors), copy.deepcopy(info)
    edit(tensors, info)
    save_tensors(path, tensors, info)
    tracemalloc.start()
    try:
        with pytest.raises(DamagedError):
            load()
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("case", MASKS)
def test_a_forged_mask_is_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / "mask"
    ebsim.channel_mask(toy_network(), 0.3).save(path)
    refused(path, MASKS[case], lambda: ebsim.ChannelMask.load(path))


@pytest.mark.parametrize("case", TICKETS)
def test_a_forged_ticket_is_refused(tmp_path: Path, case: str) -> None:
    path, model = tmp_path / "ticket", toy_network()
    mask = ebsim.channel_mask(model, 0.3)
    save_ticket(path, ebsim.compact(model, mask, torch.zeros(2, 3, 6, 6)), mask, {"seed": 0})

    def build(architecture: dict[str, Any]) -> nn.Module:
        return toy_network(architecture["seed"])

    assert load_ticket(path, build).mask == mask
    refused(path, TICKETS[case], lambda: load_ticket(path, build))
