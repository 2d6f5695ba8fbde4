"""Layer tables against fvcore, torch's flop counter, closed formulas and the published shapes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import hw_models
from ebsim.models import build
from ebsim.tickets import channel_mask, compact
from ebsim.tickets.shrinking.select import Select
from hw_models import Layer, WorkloadError
from hw_models.cost.vector_ops import pointwise
from hw_models.errors import WorkloadWarning
from hw_models.workload import reference_networks
from hw_models.workload.shapes import shapes
from hw_models.workload.trace import fvcore_macs

from .nets import Mixed, ScatteredBranch, forward_macs


def _by_name(layers: list[Layer]) -> dict[str, Layer]:
    return {layer.name: layer for layer in layers}


def test_every_operation_is_a_row_with_its_shape() -> None:
    rows = _by_name(hw_models.trace(Mixed(), (3, 16, 16)))
    assert [r.kind for r in rows.values()].count("conv") == 4
    stem = rows["stem"]
    assert (stem.macs, stem.channels, stem.size, stem.out, stem.kernel, stem.stride, stem.first, stem.bias) == (
        8 * 8 * 8 * 27,
        (3, 8),
        (16, 16),
        (8, 8),
        (3, 3),
        (2, 2),
        True,
        True,
    )
    assert rows["grouped"].macs == 12 * 64 * 2 * 9 and rows["grouped"].groups == 4
    assert rows["depthwise"].macs == 12 * 64 * 25 and not rows["depthwise"].first
    assert rows["relu"].kind == "relu" and rows["add"].inputs == 2 * rows["add"].outputs == 2 * 512
    assert rows["max_pool2d_with_indices"].kernel == (2, 2)
    assert rows["cat"].kind == "concat" and rows["mul"].kind == "mul" and rows["sigmoid"].kind == "activation"
    assert rows["head"].weights == 16 * 5 + 5 and rows["head.addmm"].weights == 0  # shared: counted once
    assert rows["loss"].inputs == 5


def test_parameters_are_all_counted() -> None:
    for model, shape in ((Mixed(), (3, 16, 16)), (build("preresnet", classes=10, depth=29), (3, 8, 8))):
        assert sum(r.weights for r in hw_models.trace(model, shape)) == sum(p.numel() for p in model.parameters())


def test_tracing_changes_neither_model_nor_random_state() -> None:
    model = Mixed().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    hw_models.trace(model, (3, 16, 16))
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_selection_and_scatter_are_listed_with_their_traffic() -> None:
    rows = _by_name(hw_models.trace(ScatteredBranch(), (3, 8, 8)))
    assert rows["index_select"].kind == rows["index_add"].kind == "select"
    assert rows["index_select"].outputs == 6 * 64 and rows["index_add"].inputs == 14 * 64
    assert rows["branch"].sources == ("index_select",) and not rows["branch"].first


@pytest.mark.parametrize(("name", "options"), [("preresnet", {"depth": 29}), ("resnet", {"depth": 18})])
def test_a_shrunk_network_moves_what_its_selections_really_move(name: str, options: dict[str, Any]) -> None:
    """Each selection runs on real data: every channel picked, written, and its gradient sent back, once."""
    model = build(name, classes=10, **options)
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.1, 1.0, generator=generator)
    small = compact(model, channel_mask(model, 0.6), torch.zeros(2, 3, 16, 16)).train()
    ran: dict[str, tuple[int, int, int]] = {}

    def see(path: str) -> Any:
        def hook(module: Any, args: Any, out: torch.Tensor) -> None:
            source = args[0].detach().clone().fill_(1.0).requires_grad_()
            picked = module.forward(source)
            (gradient,) = torch.autograd.grad(picked.sum(), source)
            assert gradient.shape == args[0].shape and int(gradient.count_nonzero()) == int(picked.count_nonzero())
            ran[path] = int(picked.count_nonzero()) // 2, out.numel() // 2, gradient.numel() // 2  # of one image

        return hook

    hooks = [
        module.register_forward_hook(see(path))
        for path, module in small.named_modules()
        if path.startswith("selections.")
    ]
    small(torch.randn(2, 3, 16, 16, generator=generator))
    for hook in hooks:
        hook.remove()
    rows = [r for r in hw_models.trace(small, (3, 16, 16)) if r.kind == "select"]
    sources = [r.channels[0] * r.size[0] * r.size[1] for r in rows]
    assert ran == {r.name: (r.inputs, r.outputs, n) for r, n in zip(rows, sources, strict=True)}
    moves = pointwise(shapes(rows)).elements
    assert moves[0].sum() == sum(read + written for read, written, _ in ran.values())
    assert moves[1].sum() == sum(read + source for read, _, source in ran.values())
    assert ran and all(read < max(written, source) for read, written, source in ran.values())


class Picks(nn.Module):
    """Drops a channel, permutes, and fills two with zeros: what shrinking writes between layers that disagree."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 1)
        self.pick = Select([4, -1, 0, 2, -1, 1], 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pick(self.conv(x)).relu()
        return x + 1


def test_zero_filling_is_no_copy_of_its_own() -> None:
    rows = hw_models.trace(Picks(), (3, 4, 4))
    assert [(r.name, r.kind) for r in rows] == [
        ("conv", "conv"),
        ("pick", "select"),
        ("relu", "relu"),
        ("add", "add"),
        ("loss", "loss"),
    ]
    pick = rows[1]
    assert (pick.inputs, pick.outputs, pick.channels, pick.sources) == (4 * 16, 6 * 16, (5, 6), ("conv",))
    assert rows[2].sources == ("pick",)
    assert pointwise(shapes([pick])).elements[:, 0].tolist() == [(4 + 6) * 16, (4 + 5) * 16]


def test_a_padding_that_others_read_too_stays() -> None:
    class Padded(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = nn.functional.pad(x, [0, 0, 0, 0, 0, 1])
            return x.index_select(1, torch.tensor([0, 3], device=x.device)).sum() + x.sum()

    assert [r.op for r in hw_models.trace(Padded(), (3, 4, 4))][:2] == ["constant_pad_nd", "index_select"]


def test_a_weight_computed_from_a_parameter_is_that_parameter() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.Conv2d(4, 5, 3, bias=False))
    first, second = (r for r in hw_models.trace(model, (3, 8, 8)) if r.kind == "conv")
    assert first.first and first.weights > 0 and not second.first and second.weights == 180


def test_an_unknown_operation_is_a_row_not_a_silence() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.flip(torch.special.erfcx(x), [3]).cumprod(3)

    with pytest.warns(WorkloadWarning, match=r"^cumprod in \(root\)"):  # the other two are known to multiply nothing
        rows = hw_models.trace(Odd(), (3, 4, 4))
    assert [(r.kind, r.op, r.macs, r.inputs) for r in rows[:3]] == [
        ("other", op, 0, 48) for op in ("special_erfcx", "flip", "cumprod")
    ]


def test_macs_agree_with_fvcore_and_with_torch() -> None:
    model = Mixed()
    rows = hw_models.trace(model, (3, 16, 16))
    assert forward_macs(rows) == sum(fvcore_macs(model, (3, 16, 16)).values())
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, 16, 16))
    assert 2 * forward_macs(rows) == counter.get_total_flops()


def test_a_disagreement_with_fvcore_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hw_models.workload.trace.fvcore_macs", lambda *a: {"stem": 1})
    with pytest.raises(WorkloadError, match=r"'(stem|grouped|depthwise|point|head)'.*by fvcore"):
        hw_models.trace(Mixed(), (3, 16, 16))


def test_three_passes_agree_with_torchs_backward_where_it_is_right() -> None:
    """groups = 1: forward + input gradient (not of the first layer) + weight gradient."""
    from hw_models.workload.op_counts import step_macs

    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(6 * 16, 3)
    )
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 12, 12)).sum().backward()
    assert 2 * step_macs(hw_models.trace(model, (3, 12, 12))) == counter.get_total_flops()


def test_a_shape_that_does_not_fit_is_named() -> None:
    with pytest.raises(WorkloadError, match=r"\(3, 2, 2\)"):
        hw_models.trace(nn.Sequential(nn.Conv2d(3, 4, 5)), (3, 2, 2))


def test_a_forward_that_reads_values_still_traces() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x) * (1.0 if float(x.sum()) >= 0 else 2.0)

    assert hw_models.trace(Reads(), (3, 6, 6), check=False)[0].macs == 4 * 16 * 27


def test_rows_survive_json() -> None:
    rows = hw_models.trace(Mixed(), (3, 16, 16))
    assert [Layer.from_dict(d) for d in json.loads(json.dumps([r.to_dict() for r in rows]))] == rows


@pytest.mark.parametrize(
    ("name", "shape", "make"),
    [
        ("resnet18", (3, 224, 224), lambda tv: tv.models.resnet18(weights=None)),
        ("resnet50", (3, 224, 224), lambda tv: tv.models.resnet50(weights=None)),
    ],
)
def test_reference_tables_equal_the_traced_networks(name: str, shape: Any, make: Any) -> None:
    from ebsim.torchvision_shim import import_torchvision

    traced = hw_models.trace(make(import_torchvision()), shape, check=name == "resnet18")
    ours = reference_networks.network(name)
    assert [r.numbers for r in ours] == [r.numbers for r in traced]


def test_reference_vgg16_equals_the_traced_network() -> None:
    traced = hw_models.trace(build("vgg", classes=100, depth=16), (3, 32, 32))
    strip = ("conv", "bn", "relu", "maxpool", "linear")
    assert [r.numbers for r in reference_networks.vgg16() if r.kind in strip] == [
        r.numbers for r in traced if r.kind in strip
    ]


@pytest.mark.parametrize(("name", "size"), [("preresnet101", 32), ("preresnet101-digits", 8)])
def test_reference_preresnet_equals_the_traced_network(name: str, size: int) -> None:
    traced = hw_models.trace(build("preresnet", classes=10, depth=101), (3, size, size), check=False)
    assert [r.numbers for r in reference_networks.network(name)] == [r.numbers for r in traced]
    convolutions = {r.name for r in traced if r.kind in ("conv", "linear")}
    assert convolutions == {r.name for r in reference_networks.network(name) if r.kind in ("conv", "linear")}


def test_published_sizes() -> None:
    pre = hw_models.trace(build("preresnet", classes=10, depth=101), (3, 32, 32), check=False)
    assert round(forward_macs(pre) / 1e6, 2) == 154.06
    assert sum(r.channels[1] for r in pre if r.kind == "bn") == 7_408
    assert round(forward_macs(reference_networks.vgg16()) / 1e6, 2) == 313.25
    assert round(forward_macs(reference_networks.resnet18()) / 1e6, 2) == 1814.07
    assert round(forward_macs(reference_networks.resnet50()) / 1e6, 2) == 4089.18


def test_everything_but_trace_works_without_torch() -> None:
    code = (
        "import sys; import hw_models; from hw_models import reference, training_cost, load, price\n"
        "training_cost(reference.vgg16(), load('horowitz-45nm')).total\n"
        "assert 'torch' not in sys.modules and 'fvcore' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class _TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Linear(6, 4)

    def forward(self, image: Tensor, vector: Tensor) -> Tensor:
        return self.a(image).mean((2, 3)) + self.b(vector)


def test_several_inputs_and_wrapped_networks() -> None:
    model = _TwoInputs()
    layers = {layer.name: layer for layer in hw_models.trace(model, ((3, 8, 8), (6,)))}
    assert layers["a"].macs == 4 * 36 * 27 and layers["b"].macs == 24
    single = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    plain = hw_models.trace(single, (3, 8, 8))
    assert (
        hw_models.trace(torch.compile(single), (3, 8, 8))
        == plain
        == hw_models.trace(nn.DataParallel(single), (3, 8, 8))
    )
