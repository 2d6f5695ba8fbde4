"""Channel masks against the plain definition, and their files against damage."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ebsim.errors import ConfigError, DamagedError, DivergedError
from ebsim.files import save_tensors
from ebsim.tickets import ChannelMask, apply_mask, bn_layers, channel_mask, gammas, masks_from_gammas, masks_from_scores
from tests.oracle import tickets as oracle

sizes = st.lists(st.integers(1, 9), min_size=1, max_size=5)
coarse = st.integers(-6, 6).map(lambda k: k / 4)  # few values, so that ties are common


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 5, 3),
        nn.BatchNorm2d(5),
        nn.BatchNorm2d(4, affine=False),
    )
    for bn in (model[1], model[4]):
        nn.init.normal_(bn.weight)
        nn.init.normal_(bn.bias)
    return model


@settings(max_examples=200, deadline=None)
@given(sizes, st.data(), st.sampled_from([0, 0.1, 0.25, 0.3, 0.5, 0.7, 0.9, 0.99]), st.integers(0, 3))
def test_a_mask_is_what_the_definition_says(sizes, data, ratio, floor):
    values = data.draw(st.lists(coarse, min_size=sum(sizes), max_size=sum(sizes)))
    layers = {f"l{i}": n for i, n in enumerate(sizes)}
    mask = masks_from_gammas(torch.tensor(values), layers, ratio, floor)
    assert mask.bits.tolist() == oracle.kept(values, ratio, sizes, floor)
    plain = masks_from_gammas(torch.tensor(values), layers, ratio, 0)
    assert int((~plain.bits).sum()) == round(ratio * len(values))
    raised = [name for name in layers if mask[name].tolist() != plain[name].tolist()]
    assert list(mask.kept_floor) == raised
    assert mask.ratio == pytest.approx(1 - sum(mask.bits.tolist()) / len(values))
    assert mask.kept() == {name: int(mask[name].sum()) for name in layers}


@settings(max_examples=100, deadline=None)
@given(st.lists(coarse, min_size=2, max_size=20), st.sampled_from([0, 0.3, 0.5, 0.9]))
def test_threshold_ties_are_the_authors(values, ratio):
    scores = torch.tensor(values).abs()
    mask = masks_from_scores(scores, {"a": len(values)}, [ratio], 0, ties="threshold")[0]
    assert mask.bits.tolist() == oracle.kept_by_authors(values, ratio)


def test_several_ratios_at_once_are_the_single_ones():
    scores = torch.rand(300).mul(40).round()
    layers = {"a": 100, "b": 200}
    together = masks_from_scores(scores, layers, [0.7, 0.1, 0.5])
    assert together == [masks_from_gammas(scores, layers, p) for p in (0.7, 0.1, 0.5)]


def test_scores_keep_their_sign_and_gammas_do_not():
    values = torch.tensor([-3.0, 1.0, 2.0])
    assert masks_from_scores(values, {"a": 3}, [1 / 3])[0].bits.tolist() == [False, True, True]
    assert masks_from_gammas(values, {"a": 3}, 1 / 3).bits.tolist() == [True, False, True]


def test_a_network_is_ranked_over_all_its_layers_in_module_order():
    model = network()
    assert bn_layers(model) == {"1": 8, "4": 5}
    assert torch.equal(gammas(model), torch.cat([model[1].weight, model[4].weight]))
    assert channel_mask(model, 0.4) == masks_from_gammas(gammas(model), bn_layers(model), 0.4)
    assert gammas(model.to(torch.bfloat16)).dtype == torch.float32
    assert gammas(model.double()).dtype == torch.float64


def test_applying_a_mask_zeroes_gamma_and_beta_of_the_pruned_only():
    model = network()
    before = [t.detach().clone() for bn in (model[1], model[4]) for t in (bn.weight, bn.bias)]
    mask = channel_mask(model, 0.5)
    apply_mask(model, mask)
    after = [t for bn in (model[1], model[4]) for t in (bn.weight, bn.bias)]
    for bits, old, new in zip([mask["1"], mask["1"], mask["4"], mask["4"]], before, after, strict=True):
        assert torch.equal(new, old * bits)


def test_a_mask_cannot_be_changed():
    mask = channel_mask(network(), 0.5)
    digest = mask.digest
    mask.bits.zero_()
    mask["1"].zero_()
    with pytest.raises(AttributeError):
        mask.flags = None
    with pytest.raises(ValueError, match="read-only"):
        mask.flags[0] = False
    with pytest.raises(TypeError):
        mask.layers["1"] = 3
    assert mask.digest == digest


def test_equality_digest_and_distance_follow_bits_and_layers():
    a = ChannelMask(torch.tensor([1, 0, 1, 1]), {"x": 2, "y": 2})
    b = ChannelMask(torch.tensor([1, 1, 1, 0]), {"x": 2, "y": 2})
    c = ChannelMask(torch.tensor([1, 0, 1, 1]), {"x": 3, "y": 1})
    assert a.distance(b) == 0.5
    assert a.distance(a) == 0
    assert len({a.digest, b.digest, c.digest}) == 3
    assert a == ChannelMask(a.bits, a.layers) and a != b and a != c
    with pytest.raises(ConfigError, match="different networks"):
        a.distance(c)
    with pytest.raises(KeyError, match="'z'"):
        a["z"]


@pytest.mark.parametrize("ratio", [1, -0.1, 1.5, float("nan")])
def test_a_ratio_outside_zero_to_one_is_refused(ratio):
    with pytest.raises(ConfigError, match="prune ratio"):
        channel_mask(network(), ratio)


def test_what_cannot_be_ranked_is_refused_by_name():
    model = network()
    with torch.no_grad():
        model[4].weight[2] = float("nan")
    with pytest.raises(DivergedError, match="4"):
        channel_mask(model, 0.5)
    with pytest.raises(ConfigError, match="no BatchNorm"):
        channel_mask(nn.Sequential(nn.Conv2d(3, 3, 1)), 0.5)
    with pytest.raises(ConfigError, match="does not fit"):
        masks_from_gammas(torch.ones(3), {"a": 4}, 0.5)
    with pytest.raises(ConfigError, match="another network"):
        apply_mask(network(), ChannelMask(torch.ones(13), {"1": 8, "5": 5}))


def test_a_saved_mask_comes_back(tmp_path):
    mask = masks_from_gammas(torch.arange(13.0), {"a": 4, "b": 9}, 0.5)
    mask.save(tmp_path / "m.safetensors")
    again = ChannelMask.load(tmp_path / "m.safetensors")
    assert again == mask
    assert again.kept_floor == mask.kept_floor == ("a",)


def test_a_damaged_or_foreign_mask_file_is_named(tmp_path):
    path = tmp_path / "m.safetensors"
    channel_mask(network(), 0.5).save(path)
    whole = path.read_bytes()
    for i in range(0, len(whole), 7):
        path.write_bytes(whole[:i])
        with pytest.raises(DamagedError, match=r"m\.safetensors"):
            ChannelMask.load(path)
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 4]) + whole[i + 1 :])
        with pytest.raises(DamagedError, match=r"m\.safetensors"):
            ChannelMask.load(path)
    save_tensors(path, {"bits": torch.ones(1)}, {"kind": "something else"})
    with pytest.raises(DamagedError, match="something else"):
        ChannelMask.load(path)
    with pytest.raises(DamagedError, match="missing"):
        ChannelMask.load(tmp_path / "absent.safetensors")
