"""compact against the masked network: every kind of wiring, both modes, gradients; and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ebsim import models
from ebsim.errors import CompactError, ConfigError
from ebsim.tickets import ChannelMask, apply_mask, bn_layers, channel_mask, compact
from tests.oracle.masked import assert_same, randomise
from tests.tickets.networks import NETWORKS, Residual, Shuffled, UnknownOps, Wired, unit

CONSERVATIVE = {"Repeated", "SpatialAttention", "TiedWeights", "UnknownOps", "Folded", "FilledInPlace"}


def images(n: int = 6, side: int = 8, channels: int = 3) -> torch.Tensor:
    return torch.randn(n, channels, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.85])
def test_every_wiring_computes_what_the_masked_network_computes(name, ratio):
    torch.manual_seed(3)
    model = randomise(NETWORKS[name]())
    shrunk = assert_same(model, channel_mask(model, ratio), images())
    assert parameters(shrunk) < parameters(model)
    assert bool(shrunk.notes) == (name in CONSERVATIVE)


@pytest.mark.parametrize("name", NETWORKS)
def test_random_masks_are_exact_too(name):
    """Any bits, not only those of a ranking: down to one channel per layer."""
    model = randomise(NETWORKS[name]())
    g = torch.Generator().manual_seed(5)
    for density in (0.05, 0.5):
        parts = []
        for count in bn_layers(model).values():
            part = torch.rand(count, generator=g) < density
            part[int(torch.randint(count, (), generator=g))] = True
            parts.append(part)
        assert_same(model, ChannelMask(torch.cat(parts), bn_layers(model)), images())


def shrinks_well(name: str, depth: int, side: int, ratio: float) -> None:
    model = randomise(models.build(name, classes=5, input_shape=(3, side, side), depth=depth))
    shrunk = assert_same(model, channel_mask(model, ratio), images(4, side))
    assert parameters(shrunk) < (1 - ratio) * parameters(model)
    assert not shrunk.notes


@pytest.mark.parametrize("ratio", [0.3, 0.7])
def test_own_network(ratio):
    shrinks_well("preresnet", 20, 8, ratio)


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
@pytest.mark.parametrize(
    ("name", "depth", "side"), [("preresnet", 101, 8), ("vgg", 16, 32), ("resnet", 18, 16), ("resnet", 50, 16)]
)
def test_own_networks_at_full_size(name, depth, side, ratio):
    shrinks_well(name, depth, side, ratio)


def test_nothing_pruned_leaves_the_dense_network_without_selections():
    model = randomise(models.build("preresnet", classes=5, input_shape=(3, 8, 8), depth=11))
    shrunk = compact(model, channel_mask(model, 0), images())
    assert len(shrunk.selections) == 0
    assert list(shrunk.state_dict()) == list(model.state_dict())
    assert torch.equal(shrunk.eval()(images()), model.eval()(images()))


def test_the_widths_are_the_masks():
    model = randomise(models.build("vgg", classes=5, depth=11))
    mask = channel_mask(model, 0.6)
    shrunk = compact(model, mask, images(2, 32))
    assert bn_layers(shrunk) == mask.kept()
    assert {m.out_channels for m in shrunk.modules() if isinstance(m, nn.Conv2d)} == set(mask.kept().values())
    linear = next(m for m in shrunk.modules() if isinstance(m, nn.Linear))
    assert linear.in_features == list(mask.kept().values())[-1]


def test_a_residual_stream_is_not_copied():
    """In a pre-activation network all that is selected is the input of a block's first BatchNorm, and the last one."""
    model = randomise(models.build("preresnet", classes=5, input_shape=(3, 8, 8), depth=29))
    shrunk = compact(model, channel_mask(model, 0.5), images())
    picks = [n for n in shrunk.graph.nodes if str(n.target).startswith("selections")]
    assert len(picks) == 3 * 3 + 1
    assert all(isinstance(shrunk.get_submodule(u.target), nn.BatchNorm2d) for n in picks for u in n.users)


def test_the_model_is_left_alone_and_everything_about_it_carries_over():
    model = randomise(Residual())
    model.train()
    model.b.eval()
    model.a[0].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    model.b[1].num_batches_tracked += 7
    shrunk = compact(model, channel_mask(model, 0.5), images())
    model.b[1].num_batches_tracked -= 7
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert type(model) is Residual and model.training and not model.b[1].training
    assert shrunk.training and not shrunk.b.training and not shrunk.get_submodule("b.1").training
    assert not shrunk.get_parameter("a.0.weight").requires_grad
    assert shrunk.get_submodule("b.1").num_batches_tracked == 7
    assert {k for k in shrunk.state_dict()} == set(before)
    assert all(m.inplace is False for m in model.modules() if isinstance(m, nn.ReLU))


def test_it_depends_on_architecture_and_mask_alone():
    one, two = randomise(Residual(), 1), randomise(Residual(), 2)
    mask = channel_mask(one, 0.6)
    a, b = compact(one, mask, images()), compact(two, mask, images(2, 16).float())
    assert str(a.graph) == str(b.graph)
    assert {k: v.shape for k, v in a.state_dict().items()} == {k: v.shape for k, v in b.state_dict().items()}
    a.load_state_dict(b.state_dict())
    apply_mask(two, mask)
    torch.testing.assert_close(a.eval()(images()), two.eval()(images()))


def test_other_image_and_batch_sizes_than_the_example():
    for model in map(randomise, (Residual(), Shuffled())):
        mask = channel_mask(model, 0.5)
        shrunk = compact(model, mask, images(1, 8)).eval()
        apply_mask(model, mask)
        for x in (images(1, 16), images(5, 10)):
            torch.testing.assert_close(shrunk(x), model.eval()(x), rtol=1e-10, atol=1e-12)


def test_a_shrunk_network_can_be_copied_moved_and_shrunk_again():
    model = randomise(Residual())
    shrunk = compact(model, channel_mask(model, 0.3), images())
    again = copy.deepcopy(shrunk)
    assert torch.equal(again(images()), shrunk(images()))
    again.get_submodule("a.0").weight.data.zero_()
    assert not torch.equal(again.eval()(images()), shrunk.eval()(images()))
    assert shrunk.float()(images().float()).dtype == torch.float32
    assert_same(shrunk.double(), channel_mask(shrunk, 0.5), images())


def test_channels_last_stays_channels_last_and_gives_the_same_numbers():
    model = randomise(models.build("preresnet", classes=5, input_shape=(3, 8, 8), depth=11))
    plain = compact(model, channel_mask(model, 0.5), images())
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    layouts = []
    for pick in last.selections.values():
        pick.register_forward_hook(lambda m, i, o: layouts.append(o.is_contiguous(memory_format=torch.channels_last)))
    y = last(images().contiguous(memory_format=torch.channels_last))
    assert len(layouts) == len(last.selections) == 3 and all(layouts)
    torch.testing.assert_close(y, plain(images()), rtol=1e-10, atol=1e-12)


def test_unknown_operations_are_named():
    model = randomise(UnknownOps())
    with pytest.warns(UserWarning, match="not shrunk everywhere"):
        shrunk = compact(model, channel_mask(model, 0.5), images())
    assert any("cumsum" in note for note in shrunk.notes) and any("ln" in note for note in shrunk.notes)


class Branching(Wired):
    def between(self, a, b):
        return b if b.sum() > 0 else -b


class ViewOverwritten(Wired):
    def between(self, a, b):
        half = b[:, :6]
        half.mul_(2)
        return b


def test_what_cannot_be_shrunk_is_refused_with_the_reason():
    model = Wired()
    mask = channel_mask(model, 0.5)
    with pytest.raises(CompactError, match=r"Branching cannot be shrunk: its forward branches on tensor values"):
        compact(Branching(), mask, images())
    with pytest.raises(CompactError, match="does not accept the example input"):
        compact(model, mask, images(channels=5))
    with pytest.raises(ConfigError, match="another network"):
        compact(Residual(), mask, images())
    with pytest.raises(CompactError, match=r"overwrites getitem.*not in place"):
        compact(ViewOverwritten(), mask, images())
    empty = ChannelMask(torch.zeros(8 + 12 + 6), bn_layers(model))
    with pytest.raises(CompactError, match=r"keeps no channel of a\.1.*min_channels"):
        compact(model, empty, images())


def test_dead_convolutions_and_empty_slices_leave_a_shape():
    """Depthwise channels that two masks kill between them, and a half that is wholly pruned."""

    class Disjoint(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.d, self.e = unit(3, 4), unit(4, 4, groups=4), unit(2, 3)
            self.head = nn.Conv2d(4 + 3, 2, 1)

        def forward(self, x):
            x = self.a(x)
            return self.head(torch.cat([self.d(x), self.e(x.chunk(2, 1)[1])], 1))

    model = randomise(Disjoint())
    bits = torch.tensor([1, 1, 0, 0, *[0, 0, 1, 1], *[1, 0, 1]])
    shrunk = assert_same(model, ChannelMask(bits, bn_layers(model)), images())
    assert shrunk.get_submodule("d.0").weight.numel() == 9
    assert shrunk.get_submodule("e.0").in_channels == 1


@pytest.mark.parametrize("backend", ["bfp8", "fp8", "fp32"])
def test_a_network_in_a_low_precision_shrinks_as_the_plain_one(backend):
    """With an optimizer attached; the network itself keeps its precision."""
    import warnings

    from ebsim import precision

    model = randomise(models.build("preresnet", classes=5, input_shape=(3, 8, 8), depth=11)).float()
    mask, x = channel_mask(model, 0.5), images().float()
    plain = compact(model, mask, x)
    placement = precision.apply(model, backend, compile=False)
    placement.attach(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        shrunk = compact(model, mask, x)
    assert [str(one.message) for one in told] == (
        [] if backend == "fp32"
        else ["the precision placed on the network is not on the shrunk one; apply it to that"]
    )  # fmt: skip
    assert not shrunk.notes
    assert {n: type(m) for n, m in shrunk.named_modules()} == {n: type(m) for n, m in plain.named_modules()}
    assert all("_precision" not in vars(m) for m in shrunk.modules())
    state = plain.state_dict()
    assert [n for n, t in shrunk.state_dict().items() if t.shape != state[n].shape] == []
    rounded = [m for m in model.modules() if hasattr(type(m), "_plain")]
    assert bool(rounded) == (backend != "fp32") and {m._precision.name for m in rounded} <= set(placement.modules)
    precision.remove(model)
    again = compact(model, mask, x).state_dict()
    assert all(torch.equal(t, again[n]) for n, t in shrunk.state_dict().items())
