"""What happens to a shrunk network, a mask and a detector after they are made: saved, traced, exported, rebuilt."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ebsim import models
from ebsim.errors import CompactError, ConfigError
from ebsim.tickets import EarlyBird, Shrinker, apply_mask, bn_layers, channel_mask, compact
from ebsim.tickets.wrappers import bare
from tests.oracle.masked import assert_same, copied, randomise
from tests.tickets.field import SharedNorm
from tests.tickets.hostile import SizeBranches
from tests.tickets.networks import ModeDependent, Residual, Shuffled, UnknownOps, Wired, unit


def images(n: int = 6, side: int = 8) -> torch.Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def first(output: object) -> torch.Tensor:
    return output["main"] if isinstance(output, dict) else output  # type: ignore[index]


def shrunk(kind: type[nn.Module]) -> nn.Module:
    model = randomise(kind())
    return compact(model, channel_mask(model, 0.5), images()).eval()


def saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": saved,
    "deepcopy": copy.deepcopy,
    "symbolic_trace": torch.fx.symbolic_trace,
    "export": lambda model: torch.export.export(model, (images(),)).module(),
    "jit.trace": lambda model: torch.jit.trace(model, (images(),), strict=False),
}


@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python boolean:torch.jit.TracerWarning")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [Shuffled, ModeDependent, SizeBranches, SharedNorm])
def test_a_shrunk_network_goes_anywhere(kind, way):
    model = shrunk(kind)
    torch.testing.assert_close(first(WAYS[way](model)(images())), first(model(images())))


@pytest.mark.parametrize("kind", [Shuffled, ModeDependent])
def test_a_pickled_network_trains_on_as_the_original(kind):
    model = shrunk(kind)
    again = pickle.loads(pickle.dumps(model))
    assert again.mask == model.mask and again.notes == model.notes and str(again.graph) == str(model.graph)
    for one in (model, again):
        one.train()
        torch.manual_seed(0)
        first(one(images())).square().sum().backward()
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad) if a.grad is not None else b.grad is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the exporters, about themselves
@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("kind", [Shuffled, ModeDependent, SizeBranches, SharedNorm])
def test_onnx(kind, dynamo, tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    if dynamo:
        pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    model, x = shrunk(kind).float(), images().float()
    torch.onnx.export(model, (x,), tmp_path / "m.onnx", dynamo=dynamo)
    session = runtime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found[0]), first(model(x)), atol=1e-4, rtol=1e-3)


def test_another_process_rebuilds_it_from_architecture_mask_and_state(tmp_path: Path):
    model = models.build("preresnet", classes=5, input_shape=(3, 8, 8), depth=11, seed=3).double()
    small = compact(model, channel_mask(model, 0.5), images()).eval()
    small.mask.save(tmp_path / "mask")
    torch.save(small.state_dict(), tmp_path / "state")
    torch.save(small(images()), tmp_path / "expected")
    code = f"""
import torch, ebsim
with torch.device("meta"):
    dense = ebsim.models.build("preresnet", classes=5, input_shape=(3, 8, 8), depth=11).double()
mask = ebsim.ChannelMask.load({str(tmp_path / "mask")!r})
small = ebsim.compact(dense, mask, torch.empty(2, 3, 8, 8, device="meta")).eval()
small.load_state_dict(torch.load({str(tmp_path / "state")!r}), assign=True)
x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
assert torch.equal(small(x), torch.load({str(tmp_path / "expected")!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_masks_and_detectors_can_be_saved():
    model = Wired()
    mask = channel_mask(model, 0.5, ignore="a.*")
    again = pickle.loads(pickle.dumps(mask))
    assert again == mask and again.ignored == mask.ignored == ("a.1",) and again.kept_floor == mask.kept_floor
    one = EarlyBird(0.5, threshold=0.9, window=2)
    for epoch in range(2):
        one.update(torch.arange(26.0).roll(epoch))
    state = io.BytesIO()
    torch.save(one.state_dict(), state)
    state.seek(0)
    other = EarlyBird(0.5, threshold=0.9, window=2)
    other.load_state_dict(torch.load(state))  # plain values and tensors: nothing is unpickled
    third = pickle.loads(pickle.dumps(one))
    for eb in (one, other, third):
        assert eb.update(torch.arange(26.0).roll(2)) and eb.epoch == 3
    assert one.ticket == other.ticket == third.ticket and one.distances == other.distances == third.distances
    with pytest.raises(ConfigError, match=r"ratio = 0\.3.*0\.5"):
        EarlyBird(0.3, threshold=0.9, window=2).load_state_dict(one.state_dict())


# -- masks ------------------------------------------------------------------------------------------


def test_layers_can_be_left_out():
    model = randomise(Residual())
    mask = channel_mask(model, 0.5, ignore=["a.*", "last.1"])
    layers = bn_layers(model)
    assert mask.ignored == ("a.1", "last.1") and all(mask.kept()[n] == layers[n] for n in mask.ignored)
    rest = len(mask) - sum(layers[n] for n in mask.ignored)
    assert int((~mask.bits).sum()) == round(0.5 * rest)
    assert "2 layers ignored" in repr(mask)
    assert_same(model, mask, images())
    with pytest.raises(ConfigError, match="no BatchNorm layer is named 'stem'"):
        channel_mask(model, 0.5, ignore="stem")
    eb = EarlyBird(0.5, threshold=1.0, window=1, ignore=["a.*", "last.1"])
    eb.update(model)
    assert eb.update(model) and eb.ticket == mask


@pytest.mark.parametrize("wrap", [nn.DataParallel, AveragedModel, lambda m: torch.compile(m, backend="eager")])
def test_masks_of_wrapped_networks_fit_the_bare_one_and_back(wrap):
    model = randomise(Residual())
    wrapped = wrap(model)
    mask = channel_mask(wrapped, 0.5)
    assert mask == channel_mask(model, 0.5)
    small = compact(wrapped, mask, images())
    around = wrap(copied(model))
    apply_mask(around, mask)
    expected = bare(around)
    torch.testing.assert_close(small.eval()(images()), expected.eval()(images()), rtol=1e-10, atol=1e-12)


# -- where it is called -----------------------------------------------------------------------------


def test_contexts_around_the_call():
    model = randomise(Residual())
    mask, expected = channel_mask(model, 0.5), compact(model, channel_mask(model, 0.5), images()).eval()(images())
    with torch.inference_mode():
        small = compact(model, mask, images())
    small.train()(images()).sum().backward()  # its parameters can be trained
    x = images()
    torch.set_default_device("meta")
    try:
        small = compact(model, mask, x)
    finally:
        torch.set_default_device(None)
    assert torch.equal(small.eval()(images()), expected)
    with torch.device("meta"):
        small = compact(model, mask, x)
    assert torch.equal(small.eval()(images()), expected)


def test_random_numbers_are_not_consumed():
    model = randomise(ModeDependent())
    torch.manual_seed(5)
    compact(model, channel_mask(model, 0.5), images())
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))


def test_a_branch_by_size_is_checked_when_the_network_runs():
    model = randomise(SizeBranches())
    small = compact(model, channel_mask(model, 0.5), images()).eval()
    with pytest.raises(CompactError, match="goes by the size of its input"):
        small(images(side=16))
    assert small(images(3)).shape == (3, 4)


class Structured(Wired):
    """Several inputs, nested and by name; an OrderedDict as output."""

    def forward(self, x, others, gain=None):
        b = self.b(self.a(x + others["more"][0]))
        b = b if gain is None else b * gain
        return OrderedDict(out=self.head(self.last(b).mean((2, 3))), maps=[b])


def test_several_inputs_and_structured_outputs():
    model = randomise(Structured())
    mask = channel_mask(model, 0.5)
    inputs = (images(), {"more": [images() * 2]})
    small = compact(model, mask, inputs).eval()
    apply_mask(model, mask)
    expected, found = model.eval()(*inputs), small(*inputs)
    assert type(found) is OrderedDict and list(found) == ["out", "maps"]
    torch.testing.assert_close(found["out"], expected["out"], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found["maps"][0], expected["maps"][0], rtol=1e-10, atol=1e-12)


def test_one_trace_serves_many_masks_and_weights(monkeypatch):
    from ebsim.tickets.shrinking import shrinker as module

    one, two = randomise(Residual(), 1), randomise(Residual(), 2)
    runs = []
    check = module.check_same
    monkeypatch.setattr(module, "check_same", lambda *given: (runs.append(1), check(*given)))
    shrinker = Shrinker(one, images())
    for mask in (channel_mask(one, 0.5), channel_mask(one, 0.7)):
        for model in (one, two):
            found, expected = shrinker.shrink(model, mask), compact(model, mask, images(), verify=False)
            assert str(found.graph) == str(expected.graph)
            assert all(
                torch.equal(a, b)
                for a, b in zip(found.state_dict().values(), expected.state_dict().values(), strict=True)
            )
    assert len(runs) == 2  # every mask once


def test_verification_finds_a_wrong_rule(monkeypatch):
    from ebsim.tickets.shrinking.rules import registry
    from ebsim.tickets.shrinking.rules.elementwise import Same

    monkeypatch.setitem(registry.RULES, torch.exp, (Same(),))  # exp(0) is 1

    class Wrong(Wired):
        def between(self, a, b):
            return torch.exp(b)

    model = randomise(Wrong())
    with pytest.raises(CompactError, match="differ from the masked network"):
        compact(model, channel_mask(model, 0.5), images())
    with pytest.raises(CompactError, match="differ from the masked network"):
        compact(model, channel_mask(model, 0.5), torch.zeros(1, 3, 8, 8))
    compact(model, channel_mask(model, 0.5), images(), verify=False)


def test_notes_speak_only_of_what_costs_channels():
    model = randomise(UnknownOps())
    with pytest.warns(UserWarning, match="not shrunk everywhere"):
        small = compact(model, channel_mask(model, 0.5), images())
    assert all("ln" in note or "cumsum" in note for note in small.notes)


def test_what_the_copy_lacks_is_named():
    model = nn.Sequential(unit(3, 8), nn.Conv2d(8, 2, 1))
    model[0].register_forward_hook(lambda m, i, o: o + 1)
    with pytest.warns(UserWarning, match="0 has a hook, which was followed once"):
        compact(model, channel_mask(model, 0.5), images())


class Frozen(Wired):
    """Functional dropout goes by the mode of a module that is no layer."""

    def parts(self):
        self.block = Dropping()

    def between(self, a, b):
        return self.block(b)


class Dropping(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.5, self.training)


def test_modules_in_different_modes():
    model = randomise(Frozen()).train()
    model.a[1].eval()  # a layer keeps its mode
    mask = channel_mask(model, 0.5)
    small, expected = compact(model, mask, images()), copied(model)
    apply_mask(expected, mask)
    torch.manual_seed(0)
    found = small(images())
    torch.manual_seed(0)
    torch.testing.assert_close(found, expected(images()), rtol=1e-10, atol=1e-12)
    model.block.eval()  # a graph has the mode of the whole network
    with pytest.raises(CompactError, match=r"mixture of modes.*train\(\) or eval\(\)"):
        compact(model, mask, images())


def test_the_cheaper_exact_form():
    from ebsim.tickets.shrinking.forward_cost import cost

    model = randomise(models.build("preresnet", classes=5, input_shape=(3, 16, 16), depth=11))
    x = images(4, 16)
    shrinker = Shrinker(model, x)
    dense = cost(shrinker.shrink(model, channel_mask(model, 0), verify=False), shrinker.call)
    mask = channel_mask(model, 0.03)
    with pytest.warns(UserWarning, match=r"costs more than cutting saves.*keep_where_dearer"):
        cut = compact(model, mask, x)
    with pytest.warns(UserWarning, match="BatchNorm layers are not cut"):
        small = compact(model, mask, x, keep_where_dearer=True)
    prices = [cost(one, shrinker.call).total for one in (small, dense_form(model, x), cut)]
    assert prices[0] < prices[1] < prices[2] and prices[1] == dense.total
    masked = copied(model)
    apply_mask(masked, mask)
    for mode in (True, False):
        found, expected = small.train(mode)(x), masked.train(mode)(x)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    deep = channel_mask(model, 0.7)
    plain, free = (shrinker.shrink(model, deep, keep_where_dearer=keep) for keep in (False, True))
    assert str(plain.graph) == str(free.graph)  # there cutting everything is the cheapest


def dense_form(model: nn.Module, x: torch.Tensor) -> nn.Module:
    return compact(model, channel_mask(model, 0), x)


def test_what_a_pass_costs():
    """MACs as fvcore counts them; elements by hand."""
    from ebsim.tickets.shrinking.forward_cost import cost

    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, groups=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 4, 2))
    shrinker = Shrinker(model, torch.zeros(2, 3, 2, 2))
    found = cost(shrinker.shrink(model, channel_mask(model, 0)), shrinker.call)
    assert found.macs == 4 * 4 * 27 + 2 * 16
    assert found.elements == (12 + 16) + (16 + 16) + (16 + 16) + (16 + 2)


def test_attributes_of_the_dense_network():
    class Named(Wired):
        def __init__(self):
            super().__init__()
            self.num_classes, self.config = 4, {"size": (8, 8)}
            self.callback = lambda: None

        def forward_features(self, x):
            return self.b(self.a(x))

    model = randomise(Named())
    small = compact(model, channel_mask(model, 0.5), images())
    assert small.num_classes == 4 and small.config == {"size": (8, 8)}
    assert pickle.loads(pickle.dumps(small)).num_classes == 4
    for name in ("forward_features", "callback"):
        with pytest.raises(AttributeError, match=f"'{name}' belongs to the class of the dense network"):
            getattr(small, name)
    assert not hasattr(small, "nothing_of_the_kind")
