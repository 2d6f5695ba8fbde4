"""Emergence under both rules against the plain definitions, on trajectories that settle and that do not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ebsim.errors import ConfigError
from ebsim.tickets import EarlyBird, channel_mask, distance_map, emergence, gammas
from tests.oracle import tickets as oracle

LAYERS = {"a": 7, "b": 12, "c": 1, "d": 20}
FLOOR = {"sizes": list(LAYERS.values()), "floor": 1}


def trajectory(seed: int, epochs: int = 14, levels: int = 30) -> torch.Tensor:
    """Scales that start equal, then drift less and less; rounded to few levels, so that many tie."""
    g = torch.Generator().manual_seed(seed)
    cooling = float(torch.rand((), generator=g)) * 0.7
    rows, now, drift = [torch.full((40,), 0.5)], torch.rand(40, generator=g), 0.3
    for _ in range(epochs):
        rows.append((now * levels).round() / levels)
        now, drift = now + drift * torch.randn(40, generator=g), drift * cooling
    return torch.stack(rows)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 10**6), st.sampled_from([0.2, 0.5, 0.7, 0.95]), st.sampled_from([0.05, 0.1, 0.3]), st.integers(2, 6)
)
def test_both_rules_fire_where_their_definitions_do(seed, ratio, threshold, window):
    rows = trajectory(seed)
    plain = rows.tolist()
    expected = {
        "paper": oracle.paper(plain, ratio, threshold, window, **FLOOR),
        "authors": oracle.authors(plain, ratio, threshold, window),
    }
    for rule, epoch in expected.items():
        found = emergence(rows, LAYERS, ratio, rule, threshold=threshold, window=window)
        assert found.epoch == epoch, rule
        seen = (epoch or len(rows) - 1) - (1 if rule == "paper" else 0)
        assert len(found.distances) == seen


def test_the_rules_disagree_about_a_steady_drift():
    """Two of 40 channels swap at every epoch: 0.05 from one to the next, 0.2 over four."""
    rows = torch.arange(40.0).repeat(20, 1)
    for e in range(20):
        rows[e, e] += 100  # a new channel rises above the median, and the 21st falls below
        rows[e, 39 - e] -= 100
        if e:
            rows[e, :e] = rows[e - 1, :e]
            rows[e, 40 - e :] = rows[e - 1, 40 - e :]
    assert emergence(rows, {"a": 40}, 0.5, "paper").epoch == 6
    assert emergence(rows, {"a": 40}, 0.5, "authors").epoch is None


def test_the_earliest_epochs():
    """Constant masks: the paper's queue is full after epoch 6, the authors' after 5, as the untrained mask is empty."""
    rows = torch.arange(40.0).repeat(10, 1)
    rows[0] = 0.5
    assert emergence(rows, {"a": 40}, 0.5, "paper").epoch == 6
    assert emergence(rows, {"a": 40}, 0.5, "authors").epoch == 5
    rows[0] = rows[1]
    assert emergence(rows, {"a": 40}, 0.5, "authors").epoch == 4


@pytest.mark.parametrize("rule", ["paper", "authors"])
def test_in_a_training_loop_it_says_what_it_says_afterwards(rule):
    for seed in range(20):
        rows = trajectory(seed)
        model = nn.Sequential(*(nn.BatchNorm2d(n) for n in LAYERS.values()))
        eb = EarlyBird(0.5, rule=rule, threshold=0.2)
        answers = []
        for row in rows[1:]:  # nobody called start: with equal scales at the beginning that makes no difference
            for bn, part in zip(model, row.split(list(LAYERS.values())), strict=True):
                bn.weight.data.copy_(part)
            answers.append(eb.update(model))
        found = emergence(rows, LAYERS, 0.5, rule, threshold=0.2)
        assert eb.epoch == found.epoch
        assert eb.epoch is None or answers == [e >= eb.epoch for e in range(1, len(rows))]
        untrained = 5 if rule == "authors" else 0  # distances to the untrained mask are not there without it
        assert eb.distances[max(0, untrained - 1) :] == found.distances[untrained:]


def test_the_ticket_is_the_mask_at_emergence_with_the_floor():
    rows = trajectory(3)
    for rule in ("paper", "authors"):
        eb = EarlyBird(0.5, 0.9, rule=rule, layers=LAYERS)
        assert eb.ticket is None and eb.epoch is None
        while not eb.update(rows[eb._epochs + 1]):
            pass
        assert min(eb.ticket.kept().values()) >= 1
        assert eb.ticket.layers == LAYERS
        drawn = eb.ticket
        assert eb.update(rows[-1]) and eb.ticket is drawn
    model = nn.Sequential(nn.BatchNorm2d(40))
    model[0].weight.data.copy_(rows[5])
    eb = EarlyBird(0.5, window=1, threshold=1)
    eb.update(model)
    assert eb.update(model) and eb.ticket == channel_mask(model, 0.5) and eb.distances == [0.0]


def test_distances_of_all_pairs():
    rows = trajectory(5)
    masks = [oracle.kept(row, 0.3, **FLOOR) for row in rows.tolist()]
    expected = [[oracle.distance(a, b) for b in masks] for a in masks]
    assert distance_map(rows, LAYERS, 0.3).tolist() == expected
    found = emergence(rows, LAYERS, 0.3, threshold=1e-9)
    assert len(found.distances) > 5
    assert found.distances == [expected[e][e - 1] for e in range(2, 2 + len(found.distances))]


def test_one_early_bird_watches_one_network():
    model, other = (nn.Sequential(nn.BatchNorm2d(4)) for _ in range(2))
    eb = EarlyBird()
    eb.update(model)
    eb.update(gammas(model))
    with pytest.raises(ConfigError, match="another network"):
        eb.update(other)
    with pytest.raises(ConfigError, match="another network"):
        eb.update(torch.ones(5))
    with pytest.raises(ConfigError, match="before the first epoch"):
        eb.start(model)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ratio": 1},
        {"threshold": 0},
        {"window": 0},
        {"rule": "mine"},
        {"rule": "authors", "window": 1},
        {"min_channels": -1},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError):
        EarlyBird(**wrong)
